//! The four databases, as `psql` shows them: rows as JSON, by the columns' names.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use service_runtime::pgpass;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use standalone::platform::Ports;
use standalone::postgres::{Database, PASSWORD_FILE};
use uuid::Uuid;

use crate::Service;

/// A connection pool to each. They connect when they are used, and again when a server was gone.
#[derive(Clone)]
pub struct Databases {
    pub order: PgPool,
    pub payment: PgPool,
    pub inventory: PgPool,
    pub orchestrator: PgPool,
}

impl Databases {
    /// A service's database.
    pub const fn of(&self, service: Service) -> &PgPool {
        match service {
            Service::Order => &self.order,
            Service::Payment => &self.payment,
            Service::Inventory => &self.inventory,
            Service::Orchestrator => &self.orchestrator,
        }
    }

    pub fn at(urls: &[(&'static str, String)]) -> Result<Self> {
        let mut pools = Vec::new();
        for (_, url) in urls {
            let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(5));
            pools.push(pool.connect_lazy(url)?);
        }
        let [order, payment, inventory, orchestrator] =
            pools.try_into().map_err(|_| anyhow::anyhow!("there are four databases"))?;
        Ok(Self { order, payment, inventory, orchestrator })
    }

    /// The order's row, in `order_db`.
    pub async fn orders(&self, order_id: Uuid) -> Result<Vec<Value>> {
        rows(&self.order, "SELECT to_jsonb(t)::text FROM orders t WHERE order_id = $1", order_id).await
    }

    /// The order's row, in `payment_db`.
    pub async fn payments(&self, order_id: Uuid) -> Result<Vec<Value>> {
        rows(&self.payment, "SELECT to_jsonb(t)::text FROM payments t WHERE order_id = $1", order_id).await
    }

    /// What the gateway did for the order, in order.
    pub async fn ledger(&self, order_id: Uuid) -> Result<Vec<Value>> {
        let sql = "SELECT to_jsonb(t)::text FROM gateway_ledger t WHERE order_id = $1 ORDER BY entry_id";
        rows(&self.payment, sql, order_id).await
    }

    /// The order's row, in `inventory_db`.
    pub async fn reservations(&self, order_id: Uuid) -> Result<Vec<Value>> {
        rows(&self.inventory, "SELECT to_jsonb(t)::text FROM reservations t WHERE order_id = $1", order_id).await
    }

    /// The saga's row, in `orchestrator_db`.
    pub async fn sagas(&self, saga_id: Uuid) -> Result<Vec<Value>> {
        rows(&self.orchestrator, "SELECT to_jsonb(t)::text FROM sagas t WHERE saga_id = $1", saga_id).await
    }

    /// How many sagas are stored, and how many of these have not ended.
    pub async fn saga_counts(&self) -> Result<(i64, i64)> {
        let sql =
            "SELECT count(*), count(*) FILTER (WHERE status IN ('RUNNING', 'WAITING', 'COMPENSATING')) FROM sagas";
        Ok(sqlx::query_as(sql).fetch_one(&self.orchestrator).await?)
    }
}

/// Where the databases at these ports are, by their short names, with the passwords of their data directory.
pub(crate) fn urls(ports: &Ports, data_dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let file = data_dir.join(PASSWORD_FILE);
    let entries = pgpass::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let url = |database: Database| {
        let fits = |entry: &&pgpass::Entry| entry.fits("127.0.0.1", database.port, database.database, database.user);
        let entry = entries.iter().find(fits);
        let entry = entry.with_context(|| format!("{} has no password of {}", file.display(), database.user))?;
        Ok((database.name, database.url(&entry.password)))
    };
    ports.databases().into_iter().map(url).collect()
}

async fn rows(pool: &PgPool, sql: &'static str, id: Uuid) -> Result<Vec<Value>> {
    let texts: Vec<String> = sqlx::query_scalar(sql).bind(id).fetch_all(pool).await?;
    texts.iter().map(|text| Ok(serde_json::from_str(text)?)).collect()
}
