//! What the four databases hold about one order, in plain types. Statuses are the words that are stored, known or not.

use std::collections::BTreeMap;

use flow::CHECKOUTS;
use uuid::Uuid;

use super::sums::{Amount, Sums};

/// All that is stored about one order.
#[derive(Debug, Clone)]
pub struct Case {
    pub order_id: Uuid,
    pub saga: Option<Saga>,
    pub order: Option<Order>,
    pub payment: Option<Payment>,
    pub reservation: Option<Reservation>,
    /// What moved money, in the order in which it did.
    pub ledger: Vec<Movement>,
    /// What the gateway decided on this order's two keys, and on those that its ledger has.
    pub decisions: Vec<Decision>,
}

/// A row of `sagas`, and a summary of its `saga_events`, read by one statement.
#[derive(Debug, Clone)]
pub struct Saga {
    pub saga_id: Uuid,
    /// What it is about: an order, or what its flow calls its subject.
    pub order_id: Uuid,
    /// The flow that it runs by.
    pub flow: String,
    pub status: String,
    pub step: String,
    pub version: i64,
    pub amount: Amount,
    /// It has moved within the grace, by its database's clock.
    pub moved_lately: bool,
    /// It is WAITING, and its limit, if it has one, did not pass before the grace began.
    pub waits: bool,
    /// Why a person should look at it, in words.
    pub attention: Option<String>,
    /// An operator has settled a compensation outside of the system: [`History::resolved`] tells which.
    pub resolved_by_hand: bool,
    pub history: History,
}

/// `saga_events` of one saga. (`saga_id`, `seq`) is its key, so count, first and last tell whether there are gaps.
#[derive(Debug, Clone)]
pub struct History {
    pub entries: i64,
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// Where the last entry says that it led to.
    pub status: Option<String>,
    pub step: Option<String>,
    /// The compensations that an operator has settled, and answers for what they would have undone. By their steps.
    pub resolved: Vec<String>,
}

/// A row of `orders`.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// `None`: made by hand, and no concern of a saga; or placed directly, and not taken up by its saga.
    pub saga_id: Option<Uuid>,
    /// Placed by itself: a saga is started for it.
    pub placed: bool,
    pub status: String,
    /// `None` in a tombstone, which a cancel left that came before its create.
    pub amount: Option<Amount>,
    /// The pieces of each product that it is of, where its goods are counted.
    pub items: BTreeMap<String, i64>,
}

/// A row of `payments`.
#[derive(Debug, Clone)]
pub struct Payment {
    pub saga_id: Uuid,
    pub status: String,
    pub amount: Amount,
}

/// A row of `reservations`.
#[derive(Debug, Clone)]
pub struct Reservation {
    pub saga_id: Uuid,
    pub status: String,
    /// The pieces of each product that were handed over for it, by the ledger.
    pub handed_over: BTreeMap<String, i64>,
}

/// A row of `gateway_ledger`.
#[derive(Debug, Clone)]
pub struct Movement {
    pub key: String,
    pub kind: String,
    pub amount: Amount,
}

/// A row of `gateway_requests`.
#[derive(Debug, Clone)]
pub struct Decision {
    pub key: String,
    pub kind: String,
    pub outcome: String,
    pub amount: Amount,
}

impl Saga {
    /// Whether it is a checkout, all of whose steps are the platform's own.
    pub fn is_checkout(&self) -> bool {
        CHECKOUTS.contains(&self.flow.as_str())
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "COMPLETED" | "FAILED")
    }

    /// Whether an operator has settled this compensation.
    pub fn has_resolved(&self, compensation: &str) -> bool {
        self.history.resolved.iter().any(|step| step == compensation)
    }

    /// `COMPENSATING/PAYMENT_REFUND`.
    pub fn place(&self) -> String {
        format!("{}/{}", self.status, self.step)
    }
}

impl Case {
    /// An order that nothing is known of.
    pub fn new(order_id: Uuid) -> Self {
        let (ledger, decisions) = (Vec::new(), Vec::new());
        Self { order_id, saga: None, order: None, payment: None, reservation: None, ledger, decisions }
    }

    /// A saga's order, and nothing else yet.
    pub fn of(saga: Saga) -> Self {
        let mut case = Self::new(saga.order_id);
        case.saga = Some(saga);
        case
    }

    /// What the customer has paid, less what was given back: by the gateway's own ledger.
    pub fn held(&self) -> Sums {
        self.ledger.iter().fold(Sums::default(), |sums, movement| match movement.kind.as_str() {
            "CHARGE" => sums.plus(&movement.amount),
            _ => sums.minus(&movement.amount),
        })
    }

    pub(super) fn movements(&self, kind: &str) -> Vec<&Movement> {
        self.ledger.iter().filter(|movement| movement.kind == kind).collect()
    }
}
