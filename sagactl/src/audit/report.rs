//! What an audit has found, for people and for programs.

use std::fmt;
use std::time::Duration;

use humantime::format_duration;
use messages::TimestampText;
use serde::Serialize;
use uuid::Uuid;

use super::invariants::{Invariant, Violation};
use super::rows::{Case, Saga};
use super::sums::Sums;

/// How many of a kind are listed one by one. All are counted.
const MOST_LISTED: usize = 1000;

/// How many of these the text shows; JSON shows all.
const MOST_SHOWN: usize = 20;

/// The outcome of an audit. In JSON durations are in seconds and money is an object of decimal strings by currency.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Since when orders are kept: older ones are removed and were not looked at. `None`: all are kept.
    pub kept_from: Option<TimestampText>,
    /// How many sagas were looked at, and how they stand.
    pub sagas: u64,
    pub completed: u64,
    pub failed: u64,
    /// Those that moved within the grace: of them only that is asked which holds at any moment.
    pub in_flight: u64,
    /// Those that wait for something outside, and did so before the grace began.
    pub waiting: u64,
    /// How many rows about orders were looked at, over all participants.
    pub rows: u64,
    /// How many products were looked at.
    pub products: u64,
    /// Why the stock could not be checked, if it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock_unchecked: Option<String>,
    /// How many looked wrong at first, and were read again.
    pub suspects: u64,
    /// Unfinished sagas that wait for a person, with what they hold.
    pub need_attention: Listed,
    /// Sagas that ended with a compensation that an operator has settled, with the money that is still held.
    pub resolved_by_hand: Listed,
    /// By invariant; those that hold are not in it.
    pub violated: Vec<Violated>,
    pub at_risk: Sums,
    #[serde(rename = "grace_seconds", serialize_with = "as_seconds")]
    pub grace: Duration,
    #[serde(rename = "took_seconds", serialize_with = "as_seconds")]
    pub took: Duration,
}

/// An invariant that does not hold.
#[derive(Debug, Serialize)]
pub struct Violated {
    pub invariant: Invariant,
    pub promise: &'static str,
    #[serde(flatten)]
    pub orders: Listed,
}

/// Some orders: all are counted and added up, the first ones are listed.
#[derive(Debug, Default, Serialize)]
pub struct Listed {
    pub count: u64,
    pub at_risk: Sums,
    pub first: Vec<Item>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Absent where it is about a product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
    pub saga_id: Option<Uuid>,
    pub what: String,
    pub at_risk: Sums,
}

impl Report {
    /// Nothing is violated, and all of it was checked.
    pub fn all_hold(&self) -> bool {
        self.violated.is_empty() && self.stock_unchecked.is_none()
    }

    /// Counts a saga that was looked at.
    pub(super) fn count(&mut self, case: &Case, saga: &Saga) {
        self.sagas += 1;
        match saga.status.as_str() {
            "COMPLETED" => self.completed += 1,
            "FAILED" => self.failed += 1,
            _ => {}
        }
        if saga.resolved_by_hand && saga.has_ended() {
            self.resolved_by_hand.add(item(case, saga.place(), case.held()));
        } else if let Some(why) = saga.attention.as_ref().filter(|_| !saga.has_ended()) {
            self.need_attention.add(item(case, format!("{}: {why}", saga.place()), case.held()));
        } else if saga.moved_lately {
            self.in_flight += 1;
        } else if saga.waits {
            self.waiting += 1;
        }
    }

    /// Adds what is wrong with an order.
    pub(super) fn add(&mut self, case: &Case, violations: Vec<Violation>) {
        // One order's money counts once in the whole, however many invariants it violates.
        let most = violations.iter().fold(Sums::default(), |most, violation| most.most(&violation.at_risk));
        self.at_risk.add(&most);
        for Violation { invariant, what, at_risk } in violations {
            self.violates(invariant, item(case, what, at_risk));
        }
    }

    /// Adds a product whose pieces don't add up.
    pub(super) fn add_product(&mut self, sku: String, what: String) {
        let item = Item { order_id: None, sku: Some(sku), saga_id: None, what, at_risk: Sums::default() };
        self.violates(Invariant::StockIsConserved, item);
    }

    fn violates(&mut self, invariant: Invariant, item: Item) {
        let place = self.violated.iter().position(|violated| violated.invariant == invariant);
        let place = place.unwrap_or_else(|| {
            let orders = Listed::default();
            self.violated.push(Violated { invariant, promise: invariant.promise(), orders });
            self.violated.len() - 1
        });
        self.violated[place].orders.add(item);
    }
}

fn item(case: &Case, what: String, at_risk: Sums) -> Item {
    let order_id = Some(case.order_id);
    Item { order_id, sku: None, saga_id: case.saga.as_ref().map(|saga| saga.saga_id), what, at_risk }
}

impl Listed {
    fn add(&mut self, item: Item) {
        self.count += 1;
        self.at_risk.add(&item.at_risk);
        if self.first.len() < MOST_LISTED {
            self.first.push(item);
        }
    }
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sagas, completed, failed, rows, in_flight, waiting, suspects, .. } = self;
        let (took, grace) = (self.took.as_secs_f64(), format_duration(self.grace));
        writeln!(
            f,
            "{sagas} sagas ({completed} COMPLETED, {failed} FAILED) and {rows} rows about orders in {took:.1} s"
        )?;
        if self.products > 0 {
            writeln!(f, "{} products, with all their movements", self.products)?;
        }
        writeln!(f, "{in_flight} sagas moved within {grace}: in flight, not judged by how they will end")?;
        if *waiting > 0 {
            writeln!(f, "{waiting} sagas are WAITING for something outside")?;
        }
        if let Some(why) = &self.stock_unchecked {
            writeln!(f, "NOT CHECKED: the stock could not be read: {why}")?;
        }
        if let Some(kept_from) = self.kept_from {
            writeln!(f, "orders from before {} are removed, and were not looked at", kept_from.0)?;
        }
        if *suspects > 0 {
            writeln!(f, "{suspects} orders looked wrong at first and were read again")?;
        }
        for (what, listed) in [
            ("need attention and hold", &self.need_attention),
            ("were resolved by hand and hold", &self.resolved_by_hand),
        ] {
            if listed.count > 0 {
                writeln!(f, "\n{} sagas {what} {}:\n{listed}", listed.count, listed.at_risk)?;
            }
        }
        for Violated { invariant: _, promise, orders } in &self.violated {
            writeln!(f, "\nVIOLATED: {promise}\n{} times, {} at risk:\n{orders}", orders.count, orders.at_risk)?;
        }
        let all = Invariant::ALL.len();
        match self.violated.len() {
            0 if self.stock_unchecked.is_some() => write!(f, "all invariants that could be checked hold"),
            0 => write!(f, "all {all} invariants hold"),
            some => write!(f, "\n{some} of {all} invariants are violated, {} at risk", self.at_risk),
        }
    }
}

/// A line for each; without the last line's end.
impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.first.iter().take(MOST_SHOWN).enumerate() {
            let Item { order_id, sku, saga_id, what, at_risk } = item;
            let line = if n > 0 { "\n" } else { "" };
            match (order_id, sku) {
                (Some(order_id), _) => {
                    let saga = saga_id.map(|saga_id| format!(" of saga {saga_id}")).unwrap_or_default();
                    write!(f, "{line}  order {order_id}{saga}: {what} ({at_risk})")?;
                }
                (None, sku) => write!(f, "{line}  product {}: {what}", sku.as_deref().unwrap_or_default())?,
            }
        }
        match self.count.saturating_sub(MOST_SHOWN as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more; --json lists the first {MOST_LISTED}"),
        }
    }
}
