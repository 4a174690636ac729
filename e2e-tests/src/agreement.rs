//! Whether the four databases agree about every checkout: the one check that is made after every crash.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use sqlx::FromRow;
use uuid::Uuid;

use crate::Databases;

/// What the databases hold of all sagas. Amounts are texts without trailing zeros, with their currency.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub sagas: Vec<Saga>,
    pub history: Vec<Move>,
    pub orders: Vec<Held>,
    pub payments: Vec<Held>,
    pub reservations: Vec<Held>,
    pub ledger: Vec<Entry>,
}

/// A row of `sagas`.
#[derive(Debug, Clone, FromRow)]
pub struct Saga {
    pub saga_id: Uuid,
    pub order_id: Uuid,
    pub status: String,
    pub step: String,
    pub version: i64,
    pub money: Option<String>,
}

/// A row of `saga_events`.
#[derive(Debug, Clone, FromRow)]
pub struct Move {
    pub saga_id: Uuid,
    pub seq: i64,
    pub status: String,
    pub step: String,
}

/// What a service holds for an order: a row of `orders`, `payments` or `reservations`.
#[derive(Debug, Clone, FromRow)]
pub struct Held {
    pub order_id: Uuid,
    pub saga_id: Option<Uuid>,
    pub status: String,
    /// Of a reservation, and of a tombstone in `orders`: none.
    pub money: Option<String>,
}

/// A row of `gateway_ledger`.
#[derive(Debug, Clone, FromRow)]
pub struct Entry {
    pub order_id: Uuid,
    pub kind: String,
    pub money: Option<String>,
}

impl Rows {
    /// Reads all of it. The statements are not one transaction: what still moves does not agree.
    pub async fn read(databases: &Databases) -> Result<Self> {
        Ok(Self {
            sagas: sqlx::query_as(
                "SELECT saga_id, order_id, status, step, version,
                        trim_scale(total_amount)::text || ' ' || currency AS money FROM sagas ORDER BY saga_id",
            )
            .fetch_all(&databases.orchestrator)
            .await?,
            history: sqlx::query_as("SELECT saga_id, seq, status, step FROM saga_events ORDER BY saga_id, seq")
                .fetch_all(&databases.orchestrator)
                .await?,
            orders: sqlx::query_as(
                "SELECT order_id, saga_id, status, trim_scale(total_amount)::text || ' ' || currency AS money
                 FROM orders",
            )
            .fetch_all(&databases.order)
            .await?,
            payments: sqlx::query_as(
                "SELECT order_id, saga_id, status, trim_scale(amount)::text || ' ' || currency AS money FROM payments",
            )
            .fetch_all(&databases.payment)
            .await?,
            reservations: sqlx::query_as("SELECT order_id, saga_id, status, NULL::text AS money FROM reservations")
                .fetch_all(&databases.inventory)
                .await?,
            ledger: sqlx::query_as(
                "SELECT order_id, kind, trim_scale(amount)::text || ' ' || currency AS money FROM gateway_ledger",
            )
            .fetch_all(&databases.payment)
            .await?,
        })
    }

    /// Only what belongs to these sagas.
    pub fn only(mut self, saga_ids: &[Uuid]) -> Self {
        self.sagas.retain(|saga| saga_ids.contains(&saga.saga_id));
        self.history.retain(|entry| saga_ids.contains(&entry.saga_id));
        let orders: BTreeSet<Uuid> = self.sagas.iter().map(|saga| saga.order_id).collect();
        for held in [&mut self.orders, &mut self.payments, &mut self.reservations] {
            held.retain(|row| orders.contains(&row.order_id));
        }
        self.ledger.retain(|entry| orders.contains(&entry.order_id));
        self
    }

    /// How many sagas have this status.
    pub fn count(&self, status: &str) -> usize {
        self.sagas.iter().filter(|saga| saga.status == status).count()
    }

    /// # Errors
    /// With every disagreement, in words.
    pub fn check(&self) -> Result<()> {
        let found = self.disagreements();
        ensure!(found.is_empty(), "the databases disagree:\n{}", found.join("\n"));
        Ok(())
    }

    fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        let known: BTreeSet<Uuid> = self.sagas.iter().map(|saga| saga.order_id).collect();
        let orders = by_order("orders", &self.orders, &known, &mut found);
        let payments = by_order("payments", &self.payments, &known, &mut found);
        let reservations = by_order("reservations", &self.reservations, &known, &mut found);
        for entry in self.ledger.iter().filter(|entry| !payments.contains_key(&entry.order_id)) {
            found.push(format!("gateway_ledger has a {} for order {}, payments has none", entry.kind, entry.order_id));
        }
        for saga in &self.sagas {
            let [order, payment, reservation] =
                [&orders, &payments, &reservations].map(|rows| rows.get(&saga.order_id));
            let mut wrong = self.wrong_history(saga);
            wrong.extend(wrong_rows(saga, order.copied(), payment.copied(), reservation.copied()));
            wrong.extend(self.wrong_ledger(saga, payment.copied()));
            let (id, status) = (saga.saga_id, &saga.status);
            found.extend(wrong.into_iter().map(|what| format!("saga {id} is {status}: {what}")));
        }
        found
    }

    /// The history has one row for each version, and ends where the saga stands.
    fn wrong_history(&self, saga: &Saga) -> Vec<String> {
        let of_saga = self.history.iter().filter(|entry| entry.saga_id == saga.saga_id);
        let entries: Vec<&Move> = of_saga.collect();
        let mut wrong = Vec::new();
        if !entries.iter().map(|entry| entry.seq).eq(1..=saga.version) {
            let seqs: Vec<i64> = entries.iter().map(|entry| entry.seq).collect();
            wrong.push(format!("version {}, but a history of {seqs:?}", saga.version));
        }
        if entries.last().map(|entry| (&entry.status, &entry.step)) != Some((&saga.status, &saga.step)) {
            wrong.push(format!("at {}, but its history ends with {:?}", saga.step, entries.last()));
        }
        wrong
    }

    /// At most one charge and one refund, of the saga's amount, and the net is what the status says.
    fn wrong_ledger(&self, saga: &Saga, payment: Option<&Held>) -> Vec<String> {
        let entries = self.ledger.iter().filter(|entry| entry.order_id == saga.order_id);
        let (mut charges, mut refunds, mut wrong) = (0, 0, Vec::new());
        for entry in entries {
            match entry.kind.as_str() {
                "CHARGE" => charges += 1,
                _ => refunds += 1,
            }
            if entry.money != saga.money {
                wrong.push(format!("about {:?}, but its {} moved {:?}", saga.money, entry.kind, entry.money));
            }
        }
        let expected: (i32, i32) = match payment.map(|payment| payment.status.as_str()) {
            Some("CHARGED") => (1, 0),
            Some("REFUNDED") => (1, 1),
            _ => (0, 0),
        };
        if (charges, refunds) != expected {
            let payment = payment.map(|payment| &payment.status);
            wrong.push(format!("payment {payment:?}, but {charges} charges and {refunds} refunds in the ledger"));
        }
        wrong
    }
}

/// Rows by order; a row of an order that no saga knows is a disagreement.
fn by_order<'a>(
    table: &str,
    rows: &'a [Held],
    known: &BTreeSet<Uuid>,
    found: &mut Vec<String>,
) -> BTreeMap<Uuid, &'a Held> {
    for row in rows.iter().filter(|row| !known.contains(&row.order_id)) {
        found.push(format!("{table} has order {}, which belongs to no saga", row.order_id));
    }
    rows.iter().map(|row| (row.order_id, row)).collect()
}

fn wrong_rows(saga: &Saga, order: Option<&Held>, payment: Option<&Held>, reservation: Option<&Held>) -> Vec<String> {
    let (order_is, payment_is, reservation_is): (&str, &[Option<&str>], &[Option<&str>]) = match saga.status.as_str() {
        "COMPLETED" => ("CONFIRMED", &[Some("CHARGED")], &[Some("RESERVED")]),
        "FAILED" => (
            "CANCELLED",
            &[None, Some("FAILED"), Some("REFUNDED"), Some("VOIDED")],
            &[None, Some("FAILED"), Some("RELEASED"), Some("VOIDED")],
        ),
        _ => return vec![format!("it has not ended ({})", saga.step)],
    };
    let mut wrong = Vec::new();
    let mut check = |what: &str, held: Option<&Held>, expected: &[Option<&str>]| {
        let status = held.map(|held| held.status.as_str());
        if !expected.contains(&status) {
            wrong.push(format!("{what} is {status:?}"));
        }
        if held.is_some_and(|held| held.saga_id != Some(saga.saga_id)) {
            wrong.push(format!("{what} belongs to another saga"));
        }
        if held.is_some_and(|held| held.money.is_some() && held.money != saga.money) {
            wrong.push(format!("{what} is about another amount than {:?}: {held:?}", saga.money));
        }
    };
    check("order", order, &[Some(order_is)]);
    check("payment", payment, payment_is);
    check("reservation", reservation, reservation_is);
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONEY: &str = "5 USD";

    fn held(order_id: Uuid, saga_id: Uuid, status: &str, money: Option<&str>) -> Held {
        Held { order_id, saga_id: Some(saga_id), status: status.to_owned(), money: money.map(str::to_owned) }
    }

    /// A completed checkout.
    fn completed() -> Rows {
        let (saga_id, order_id) = (Uuid::now_v7(), Uuid::now_v7());
        let (status, step) = ("COMPLETED".to_owned(), "COMPLETED".to_owned());
        let entry = |seq| Move { saga_id, seq, status: status.clone(), step: step.clone() };
        let money = Some(MONEY.to_owned());
        Rows {
            history: vec![entry(1), entry(2)],
            sagas: vec![Saga { saga_id, order_id, status: status.clone(), step, version: 2, money: money.clone() }],
            orders: vec![held(order_id, saga_id, "CONFIRMED", Some(MONEY))],
            payments: vec![held(order_id, saga_id, "CHARGED", Some(MONEY))],
            reservations: vec![held(order_id, saga_id, "RESERVED", None)],
            ledger: vec![Entry { order_id, kind: "CHARGE".to_owned(), money }],
        }
    }

    #[test]
    fn a_completed_checkout_agrees() {
        completed().check().unwrap();
    }

    #[test]
    fn each_disagreement_is_found() {
        type Fault = (&'static str, fn(&mut Rows));
        let faults: [Fault; 13] = [
            ("has not ended", |rows| rows.sagas[0].status = "RUNNING".to_owned()),
            ("order is Some(\"PENDING\")", |rows| rows.orders[0].status = "PENDING".to_owned()),
            ("order is None", |rows| rows.orders.clear()),
            ("payment is Some(\"REFUNDED\")", |rows| rows.payments[0].status = "REFUNDED".to_owned()),
            ("reservation is None", |rows| rows.reservations.clear()),
            ("another saga", |rows| rows.payments[0].saga_id = Some(Uuid::now_v7())),
            ("another amount", |rows| rows.orders[0].money = Some("6 USD".to_owned())),
            ("its CHARGE moved", |rows| rows.ledger[0].money = Some("6 USD".to_owned())),
            ("2 charges", |rows| rows.ledger.push(rows.ledger[0].clone())),
            ("0 charges", |rows| rows.ledger.clear()),
            ("a history of [1]", |rows| drop(rows.history.pop())),
            ("its history ends with", |rows| rows.history[1].step = "ORDER_CONFIRM".to_owned()),
            ("belongs to no saga", |rows| rows.orders.push(held(Uuid::now_v7(), Uuid::now_v7(), "PENDING", None))),
        ];
        for (expected, plant) in faults {
            let mut rows = completed();
            plant(&mut rows);
            let error = rows.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_failed_checkout_that_holds_money_is_found() {
        let mut rows = completed();
        rows.sagas[0].status = "FAILED".to_owned();
        rows.orders[0].status = "CANCELLED".to_owned();
        rows.history[1].status = "FAILED".to_owned();
        let error = rows.check().unwrap_err().to_string();
        assert!(error.contains("payment is Some(\"CHARGED\")"), "{error}");
        assert!(error.contains("reservation is Some(\"RESERVED\")"), "{error}");
    }
}
