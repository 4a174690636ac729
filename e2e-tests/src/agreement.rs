//! Whether the four databases agree about every checkout: the one check that is made after every crash. What that
//! means is `sagactl audit`'s to say.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use sagactl::audit::{Options, Report, audit, audit_orders};
use sagactl::databases;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::Databases;

/// Everything has ended: there is no grace, and nothing to wait for.
const AT_ONCE: Options = Options { grace: Duration::ZERO, recheck: Duration::ZERO };

/// The sagas that are stored.
#[derive(Debug, Clone)]
pub struct Rows {
    pub sagas: Vec<Saga>,
}

/// A row of `sagas`.
#[derive(Debug, Clone, FromRow)]
pub struct Saga {
    pub saga_id: Uuid,
    pub order_id: Uuid,
    pub status: String,
    pub step: String,
}

impl Rows {
    pub async fn read(databases: &Databases) -> Result<Self> {
        let sql = "SELECT saga_id, order_id, status, step FROM sagas ORDER BY saga_id";
        Ok(Self { sagas: sqlx::query_as(sql).fetch_all(&databases.orchestrator).await? })
    }

    /// How many sagas have this status.
    pub fn count(&self, status: &str) -> usize {
        self.sagas.iter().filter(|saga| saga.status == status).count()
    }
}

/// What is wrong in the databases, a saga that has not ended included, in words; none if all agrees.
pub async fn disagreement(databases: &Databases) -> Result<Option<String>> {
    let report = audit(&for_audit(databases), AT_ONCE, |_, _| ()).await?;
    Ok((!is_well(&report)).then(|| report.to_string()))
}

/// Checks that the databases agree about everything, and that nothing is unfinished.
pub async fn about_everything(databases: &Databases) -> Result<()> {
    disagreement(databases).await?.map_or(Ok(()), |wrong| bail!("the databases disagree:\n{wrong}"))
}

/// Checks that the databases agree about these orders, and that their sagas have ended.
pub async fn about(databases: &Databases, orders: &[Uuid]) -> Result<()> {
    let report = audit_orders(&for_audit(databases), AT_ONCE, orders).await?;
    ensure!(report.sagas == orders.len() as u64, "{} sagas for {} orders", report.sagas, orders.len());
    ensure!(is_well(&report), "the databases disagree:\n{report}");
    Ok(())
}

fn is_well(report: &Report) -> bool {
    // What waits for a person is no violation, but has not ended.
    report.all_hold() && report.need_attention.count == 0
}

fn for_audit(databases: &Databases) -> databases::Databases {
    let database = |name, pool: &PgPool| databases::Database { name, pool: pool.clone() };
    databases::Databases {
        order: database("order", &databases.order),
        payment: database("payment", &databases.payment),
        inventory: database("inventory", &databases.inventory),
        orchestrator: database("orchestrator", &databases.orchestrator),
    }
}
