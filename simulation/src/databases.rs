//! The services' databases: maps with the same conditional writes as the SQL of each service's `store.rs`. A row's
//! place is its saga's place in the plan.

use inventory_service::reservation::{self, Reservation};
use messages::Money;
use order_service::order::{Order, Status as OrderStatus};
use payment_service::payment::{self, Payment};
use saga_orchestrator::saga::{HistoryEntry, Saga, Transition};

#[derive(Default)]
pub struct Databases {
    pub sagas: Vec<Option<SagaRow>>,
    pub orders: Vec<Option<Order>>,
    pub payments: Vec<Option<Versioned<Payment>>>,
    pub reservations: Vec<Option<Versioned<Reservation>>>,
    pub gateway: Vec<Gateway>,
}

/// A row of `sagas` with its `saga_events`.
pub struct SagaRow {
    pub saga: Saga,
    pub history: Vec<HistoryEntry>,
    pub attempts: u32,
    /// When the sweeper repeats the effect, in ms.
    pub next_attempt_at: u64,
}

/// A row, and how often it was written: what tells whether it has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    pub row: T,
    pub writes: u32,
}

/// The gateway's memory of an order: its decision on each key, and its ledger.
#[derive(Default)]
pub struct Gateway {
    pub charge: Option<payment::Answer>,
    pub refund: Option<payment::Answer>,
    pub ledger: Vec<(Entry, Money)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Charge,
    Refund,
}

impl Gateway {
    pub fn count(&self, entry: Entry) -> usize {
        self.ledger.iter().filter(|(of, _)| *of == entry).count()
    }
}

impl Databases {
    pub fn new(sagas: usize) -> Self {
        Self {
            sagas: (0..sagas).map(|_| None).collect(),
            orders: vec![None; sagas],
            payments: vec![None; sagas],
            reservations: vec![None; sagas],
            gateway: (0..sagas).map(|_| Gateway::default()).collect(),
        }
    }

    /// `saga-orchestrator/src/store.rs`, `NewSagas`: whether it was inserted.
    pub fn insert_saga(&mut self, index: usize, new: Transition, next_attempt_at: u64) -> bool {
        let place = &mut self.sagas[index];
        let free = place.is_none();
        if free {
            let Transition { saga, entry, .. } = new;
            let history = vec![entry];
            *place = Some(SagaRow { saga, history, attempts: 0, next_attempt_at });
        }
        free
    }

    /// `saga-orchestrator/src/store.rs`, `Sagas`: whether the stored version was the one before.
    pub fn move_saga(&mut self, index: usize, moved: &Transition, next_attempt_at: u64) -> bool {
        let Some(row) = &mut self.sagas[index] else { return false };
        let expected = row.saga.version == moved.saga.version - 1;
        if expected {
            // A move that stays where it is (operator.retried) goes on counting.
            let stays = row.saga.step_name() == moved.saga.step_name();
            let attention = row.saga.attention.take().filter(|_| stays);
            row.saga = Saga { attention, ..moved.saga.clone() };
            row.history.push(moved.entry.clone());
            row.attempts = if stays { row.attempts } else { 0 };
            row.next_attempt_at = next_attempt_at;
        }
        expected
    }

    /// `participant/src/store.rs`: whether the stored status was the expected one.
    pub fn write_payment(&mut self, index: usize, expected: Option<payment::Status>, row: &Payment) -> bool {
        write(&mut self.payments[index], expected, |stored| stored.status, row)
    }

    /// `participant/src/store.rs`: whether the stored status was the expected one.
    pub fn write_reservation(
        &mut self,
        index: usize,
        expected: Option<reservation::Status>,
        row: &Reservation,
    ) -> bool {
        write(&mut self.reservations[index], expected, |stored| stored.status, row)
    }

    /// `order-service/src/store.rs`, `Creates` and `leave_tombstone`: whether there was no such order.
    pub fn insert_order(&mut self, index: usize, order: Order) -> bool {
        let free = self.orders[index].is_none();
        if free {
            self.orders[index] = Some(order);
        }
        free
    }

    /// `order-service/src/store.rs`, `Transitions`: the order, if it was PENDING and of that saga.
    pub fn move_order(
        &mut self,
        index: usize,
        wanted: &order_service::order::Transition,
        now: messages::Timestamp,
    ) -> Option<Order> {
        let order = self.orders[index].as_mut()?;
        let expected =
            order.status == OrderStatus::Pending && (order.saga_id.is_none() || order.saga_id == wanted.saga_id);
        expected.then(|| {
            (order.status, order.updated_at) = (wanted.to, now);
            order.clone()
        })
    }
}

fn write<T: Clone, S: PartialEq>(
    place: &mut Option<Versioned<T>>,
    expected: Option<S>,
    status: fn(&T) -> S,
    row: &T,
) -> bool {
    let met = place.as_ref().map(|stored| status(&stored.row)) == expected;
    if met {
        let writes = place.as_ref().map_or(0, |stored| stored.writes) + 1;
        *place = Some(Versioned { row: row.clone(), writes });
    }
    met
}
