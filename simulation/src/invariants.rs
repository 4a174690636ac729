//! The rules, checked when something moves and at the end. They are those of `docs/ARCHITECTURE.md`; the last part is
//! what `e2e-tests/src/agreement.rs` asks of the real databases.

use inventory_service::reservation::Status as ReservationStatus;
use messages::{EventId, OutgoingRecord};
use order_service::order::Status as OrderStatus;
use payment_service::payment::{Answer, Call, Status as PaymentStatus};
use saga_orchestrator::saga::{Saga, State, Transition};

use crate::coverage::Seen;
use crate::databases::{Databases, Entry, Gateway, SagaRow};
use crate::world::World;

/// So long after the last fault every saga has ended: a repetition is at most 10 s away, and the steps that follow it
/// take no repetitions.
const ENDS_WITHIN: u64 = 30_000;

/// As long as a refused refund takes: ten repetitions until it needs attention, and a person who comes.
const SETTLED_WITHIN: u64 = 140_000;

impl World {
    /// A move of a saga that was just stored.
    pub fn check_move(&mut self, index: usize, before: Option<State>, moved: &Transition) {
        let saga = &moved.saga;
        if before.is_none_or(State::has_ended) {
            return self.broken(format!("saga {index} moved to {saga} from {before:?}"));
        }
        let cause = before.and_then(|state| state.cause(&saga.flow));
        if cause.is_some() && cause != saga.cause() {
            return self.broken(format!("the cause of saga {index} changed from {cause:?} to {saga}"));
        }
        if moved.entry.event_id.is_some_and(|id| self.forged.contains(&id)) {
            return self.broken(format!("saga {index} moved to {saga} by a reply that contradicts it"));
        }
        if moved.entry.input == "deadline.passed" {
            self.saw(Seen::DeadlinePassed);
        }
        self.note_operator(before, &moved.entry.input);
        match saga.state {
            State::Completed => {
                self.saw(Seen::EndCompleted);
                self.check_held(index, saga);
            }
            State::Failed { cause } => {
                match saga.flow.causes[cause].as_str() {
                    "PAYMENT_FAILED" => self.saw(Seen::EndPaymentFailed),
                    "INVENTORY_FAILED" => self.saw(Seen::EndInventoryFailed),
                    "TIMED_OUT" => self.saw(Seen::EndTimedOut),
                    "CANCELLED" => self.saw(Seen::EndCancelled),
                    "ORDER_REFUSED" => self.saw(Seen::EndOrderRefused),
                    other => self.broken(format!("saga {index} failed for {other}, which is no cause of its flow")),
                }
                self.check_held(index, saga);
            }
            State::Running { .. } | State::Compensating { .. } => {}
        }
    }

    fn check_held(&mut self, index: usize, saga: &Saga) {
        if let Some(wrong) = wrongly_held(&self.databases, index, saga) {
            self.broken(format!("saga {index} is {saga}: {wrong}"));
        }
    }

    /// A call that moves money is announced by a stored row, and is not made for what a tombstone forbids.
    pub fn check_announced(&mut self, index: usize, call: &Call) {
        use PaymentStatus::{Charged, Charging, Failed, Refunded, Refunding};
        let status = self.databases.payments[index].as_ref().map(|stored| stored.row.status);
        // Another process may have gone on since the row was read.
        let announced = match call {
            Call::Charge { .. } => matches!(status, Some(Charging | Charged | Failed | Refunding | Refunded)),
            Call::Refund { .. } => matches!(status, Some(Refunding | Refunded)),
        };
        if !announced {
            self.broken(format!("the gateway is called though payment {index} is {status:?}: {call:?}"));
        }
    }

    /// Money has moved: once each way, and not for a saga that has given it back or ended without it.
    pub fn check_ledger(&mut self, index: usize, entry: Entry) {
        if self.databases.gateway[index].count(entry) > 1 {
            self.broken(format!("payment {index} moved twice: {entry:?}"));
        }
        let state = self.databases.sagas[index].as_ref().map(|row| row.saga.state);
        let ended = match entry {
            Entry::Charge => matches!(state, Some(State::Failed { .. }) | None),
            Entry::Refund => !matches!(state, Some(State::Compensating { .. })),
        };
        if ended {
            self.broken(format!("payment {index} moved ({entry:?}) though its saga is {state:?}"));
        }
    }

    /// Goods were set aside.
    pub fn check_reserved(&mut self, index: usize) {
        let state = self.databases.sagas[index].as_ref().map(|row| row.saga.state);
        if matches!(state, Some(State::Failed { .. }) | None) {
            self.broken(format!("goods were reserved though saga {index} is {state:?}"));
        }
    }

    /// A command that is sent again is the same, byte for byte.
    pub fn check_command_bytes(&mut self, record: &OutgoingRecord) {
        if !record.topic.ends_with(".command") {
            return;
        }
        let id = record.headers.iter().find(|(name, _)| *name == "ce_id").and_then(|(_, id)| id.parse().ok());
        let Some(id) = id else { return self.broken(format!("a command without an id: {record:?}")) };
        let first = self.commands.entry(id).or_insert_with(|| record.body.clone());
        if *first != record.body {
            let texts = [first, &record.body].map(|body| String::from_utf8_lossy(body).into_owned());
            self.broken(format!("a repeated command differs: {texts:?}"));
        }
    }

    /// The same command to the same row gets the same reply, byte for byte.
    pub fn check_reply_bytes(&mut self, command: EventId, row_version: u32, reply: &OutgoingRecord) {
        match self.replies.get(&(command, row_version)) {
            None => drop(self.replies.insert((command, row_version), reply.body.clone())),
            Some(first) if *first == reply.body => self.saw(Seen::ReplyRepeated),
            Some(first) => {
                let texts = [first, &reply.body].map(|body| String::from_utf8_lossy(body).into_owned());
                self.broken(format!("the same command to the same row got two replies: {texts:?}"));
            }
        }
    }

    /// After the last fault everything ends before long.
    pub fn check_progress(&mut self) {
        if self.now < self.calm_at + ENDS_WITHIN {
            return;
        }
        let late = self.now >= self.calm_at + SETTLED_WITHIN;
        let rows = self.databases.sagas.iter().zip(&self.databases.gateway);
        let mut active = rows.filter(|(row, gateway)| {
            row.as_ref().is_some_and(|row| !row.saga.state.has_ended()) && (late || !refund_is_refused(gateway))
        });
        if let Some((Some(row), _)) = active.next() {
            let rule =
                format!("{} s after the last fault a saga is still {}", (self.now - self.calm_at) / 1000, row.saga);
            self.broken(rule);
        }
    }

    /// Nothing is pending any more: the databases agree.
    pub fn check_the_end(&mut self) {
        for index in 0..self.planned.len() {
            let wrong = match &self.databases.sagas[index] {
                None => known_elsewhere(&self.databases, index),
                Some(row) if !row.saga.state.has_ended() => Some("nothing is pending, and it has not ended".to_owned()),
                Some(row) => wrong_history(row).or_else(|| wrongly_held(&self.databases, index, &row.saga)),
            };
            if let Some(wrong) = wrong {
                let saga = self.databases.sagas[index].as_ref().map(|row| row.saga.to_string());
                return self.broken(format!("at the end saga {index} is {saga:?}: {wrong}"));
            }
        }
    }
}

/// An order is never known to one database only.
fn known_elsewhere(databases: &Databases, index: usize) -> Option<String> {
    let known = databases.orders[index].is_some()
        || databases.payments[index].is_some()
        || databases.reservations[index].is_some()
        || !databases.gateway[index].ledger.is_empty();
    known.then(|| "another database knows its order".to_owned())
}

fn refund_is_refused(gateway: &Gateway) -> bool {
    matches!(gateway.refund, Some(Answer::Declined { .. }))
}

/// One entry for each version, and the last tells where the saga stands.
fn wrong_history(row: &SagaRow) -> Option<String> {
    let gapless = row.history.iter().map(|entry| entry.seq).eq(1..=row.saga.version);
    let agrees = row.history.last().is_some_and(|entry| entry.state == row.saga.state);
    (!gapless || !agrees).then(|| format!("its history is {:?}", row.history))
}

/// What the services hold for a saga that has ended, where it is not what its end says.
fn wrongly_held(databases: &Databases, index: usize, saga: &Saga) -> Option<String> {
    let (order, payment) = (databases.orders[index].as_ref(), databases.payments[index].as_ref().map(|p| &p.row));
    let (reservation, gateway) = (databases.reservations[index].as_ref().map(|r| &r.row), &databases.gateway[index]);
    let payment_is = payment.map(|payment| payment.status);
    let reservation_is = reservation.map(|reservation| reservation.status);
    let order_is = order.map(|order| order.status);

    use PaymentStatus::{Charged, Charging, Refunding};
    // What a person has settled is still held by the gateway, which refused to give it back.
    let settled = saga.resolved_by_hand && payment_is == Some(Refunding) && refund_is_refused(gateway);
    let agrees = if saga.state == State::Completed {
        order_is == Some(OrderStatus::Confirmed)
            && payment_is == Some(Charged)
            && reservation_is == Some(ReservationStatus::Reserved)
    } else {
        order_is == Some(OrderStatus::Cancelled)
            && (settled || !matches!(payment_is, Some(Charging | Charged | Refunding)))
            && reservation_is != Some(ReservationStatus::Reserved)
    };
    if !agrees {
        return Some(format!("order {order_is:?}, payment {payment_is:?}, reservation {reservation_is:?}"));
    }
    let moved = (gateway.count(Entry::Charge), gateway.count(Entry::Refund));
    let expected = match payment_is {
        Some(Charged | Refunding) => (1, 0),
        Some(PaymentStatus::Refunded) => (1, 1),
        _ => (0, 0),
    };
    if moved != expected {
        return Some(format!("payment {payment_is:?}, but the ledger has {:?}", gateway.ledger));
    }
    let money = saga.request.money.expect("every checkout is about money");
    let amounts = gateway.ledger.iter().map(|(_, amount)| *amount).chain(payment.map(|payment| payment.money));
    let mut amounts = amounts.chain(order.and_then(|order| order.contents.as_ref()).map(|contents| contents.money));
    let owners = [order.and_then(|o| o.saga_id), payment.map(|p| p.saga_id), reservation.map(|r| r.saga_id)];
    if amounts.any(|amount| amount != money) || owners.into_iter().flatten().any(|owner| owner != saga.saga_id) {
        return Some(format!("rows of another saga or amount: {order:?}, {payment:?}, {reservation:?}"));
    }
    None
}
