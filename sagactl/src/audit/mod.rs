//! The audit: whether the four databases agree about every order. Read-only, for a live platform, in memory that does
//! not grow with the number of sagas.
//!
//! First every saga with all that is stored for it, then every row that no saga may know of. What looks wrong is read
//! again after a pause: only what is wrong both times is reported, since the databases can't be read in one moment.
//!
//! What is below the retention horizon is not looked at. The horizon is stored before anything below it is removed, so
//! a suspect counts only if it is not below the horizon that is read after it.

mod invariants;
mod reader;
mod report;
mod rows;
mod stock;
mod sums;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use messages::TimestampText;
use service_runtime::retention::minted_at;
use sqlx::Postgres;
use uuid::Uuid;

pub use invariants::{Invariant, Violation, violations};
pub use report::{Item, Listed, Report, Violated};
pub use rows::{Case, Decision, History, Movement, Order, Payment, Reservation, Saga};
pub use stock::{Stock, stock};
pub use sums::{Amount, Sums};

use crate::databases::{Databases, Unreadable};
use reader::{DECISIONS, LEDGER, ORDERS, PAYMENTS, RESERVATIONS, Reader, Table, horizon};

/// How an audit is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A saga that has moved within this time, by its database's clock, is in flight.
    pub grace: Duration,
    /// How long to wait before a suspect is read again.
    pub recheck: Duration,
}

/// Audits everything that is stored. `progress` is told after each batch what is being read, and how many so far.
///
/// # Errors
/// When a database can't be read: nothing is known then.
pub async fn audit(
    databases: &Databases,
    options: Options,
    progress: impl FnMut(&str, u64),
) -> Result<Report, Unreadable> {
    let mut audit = Audit::new(databases, options, progress).await?;
    audit.sagas().await?;
    audit.rows(&ORDERS).await?;
    audit.rows(&PAYMENTS).await?;
    audit.rows(&RESERVATIONS).await?;
    audit.rows(&LEDGER).await?;
    audit.rows(&DECISIONS).await?;
    audit.stock().await;
    audit.end(options.recheck).await
}

/// Audits only these orders.
///
/// # Errors
/// When a database can't be read.
pub async fn audit_orders(databases: &Databases, options: Options, orders: &[Uuid]) -> Result<Report, Unreadable> {
    let mut audit = Audit::new(databases, options, |_, _| ()).await?;
    for case in audit.reader.orders(orders).await? {
        audit.look_at(&case);
    }
    audit.end(options.recheck).await
}

struct Audit<'a, P> {
    reader: Reader<'a>,
    report: Report,
    /// What has to be read again. It grows with what is wrong, not with what there is.
    suspects: BTreeSet<(Uuid, Invariant)>,
    began: Instant,
    progress: P,
}

impl<'a, P: FnMut(&str, u64)> Audit<'a, P> {
    async fn new(databases: &'a Databases, options: Options, progress: P) -> Result<Self, Unreadable> {
        let (began, horizon) = (Instant::now(), horizon(databases).await?);
        let kept_from = minted_at(horizon);
        let report = Report { grace: options.grace, kept_from: kept_from.map(TimestampText), ..Report::default() };
        let reader = Reader { databases, grace: options.grace, horizon };
        Ok(Self { reader, report, suspects: BTreeSet::new(), began, progress })
    }

    async fn sagas(&mut self) -> Result<(), Unreadable> {
        let mut after = Uuid::nil();
        loop {
            let cases = self.reader.next_sagas(after).await?;
            let Some(last) = cases.iter().filter_map(|case| case.saga.as_ref()).map(|saga| saga.saga_id).max() else {
                return Ok(());
            };
            cases.iter().for_each(|case| self.look_at(case));
            after = last;
            (self.progress)("sagas", self.report.sagas);
        }
    }

    fn look_at(&mut self, case: &Case) {
        if let Some(saga) = &case.saga {
            self.report.count(case, saga);
        }
        self.suspects.extend(violations(case).into_iter().map(|violation| (case.order_id, violation.invariant)));
    }

    /// The other direction: rows of orders that no saga knows.
    async fn rows<K>(&mut self, table: &Table<K>) -> Result<(), Unreadable>
    where
        K: Clone + Send + Sync + Unpin + sqlx::Type<Postgres>,
        K: for<'q> sqlx::Encode<'q, Postgres> + for<'r> sqlx::Decode<'r, Postgres>,
    {
        let (mut after, mut rows) = (table.before_all.clone(), 0);
        while let Some(page) = self.reader.next_rows(table, &after).await? {
            for case in self.reader.orders(&page.unknown).await? {
                self.look_at(&case);
            }
            rows += page.rows as u64;
            after = page.last;
            (self.progress)(table.name, rows);
        }
        self.report.rows += rows;
        Ok(())
    }

    /// Last, and whether it can be read or not: what was found of money is reported in any case.
    async fn stock(&mut self) {
        match stock::stock(&self.reader.databases.inventory.pool).await {
            Ok(stock) => {
                self.report.products = stock.products;
                stock.wrong.into_iter().for_each(|(sku, what)| self.report.add_product(sku, what));
                (self.progress)("products", stock.products);
            }
            Err(error) => self.report.stock_unchecked = Some(error.to_string()),
        }
    }

    /// Reads the suspects again, and reports.
    async fn end(mut self, recheck: Duration) -> Result<Report, Unreadable> {
        let suspects: BTreeSet<Uuid> = self.suspects.iter().map(|(order_id, _)| *order_id).collect();
        let suspects: Vec<Uuid> = suspects.into_iter().collect();
        self.report.suspects = suspects.len() as u64;
        if !suspects.is_empty() {
            tokio::time::sleep(recheck).await;
            self.read_again(&suspects).await?;
        }
        self.shared_keys().await?;
        self.report.violated.sort_by_key(|violated| violated.invariant);
        self.report.took = self.began.elapsed();
        Ok(self.report)
    }

    async fn read_again(&mut self, suspects: &[Uuid]) -> Result<(), Unreadable> {
        for some in suspects.chunks(1000) {
            let mut cases = self.reader.orders(some).await?;
            let horizon = horizon(self.reader.databases).await?;
            cases.retain(|case| case.order_id >= horizon);
            cases.sort_by_key(|case| case.order_id);
            for case in cases {
                let mut still = violations(&case);
                still.retain(|violation| self.suspects.contains(&(case.order_id, violation.invariant)));
                self.report.add(&case, still);
            }
        }
        Ok(())
    }

    /// Told by one statement, which sees one moment: nothing to read again.
    async fn shared_keys(&mut self) -> Result<(), Unreadable> {
        for (user_id, orders) in self.reader.orders_sharing_a_key().await? {
            let cases = self.reader.orders(&orders).await?;
            let cases: HashMap<Uuid, Case> = cases.into_iter().map(|case| (case.order_id, case)).collect();
            // The first one is the key's; what the others hold is too much.
            for (n, case) in orders.iter().filter_map(|order_id| cases.get(order_id)).enumerate() {
                let what = format!("{} orders of user {user_id:?} have one idempotency key", orders.len());
                let at_risk = if n == 0 { Sums::default() } else { case.held() };
                self.report.add(case, vec![Violation { invariant: Invariant::OneOrderPerKey, what, at_risk }]);
            }
        }
        Ok(())
    }
}
