//! Orders as they would be days later: their ids, which tell when they were minted, and their times set back in all four
//! databases. (A retention of a day can't be waited for.)

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use service_runtime::retention::{first_id_at, minted_at};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::Client;

impl Client {
    /// Makes an order, with all that is stored about it, so many days older. Answers the id that it has then.
    pub async fn age(&self, order_id: Uuid, days: i64) -> Result<Uuid> {
        let minted = minted_at(order_id).with_context(|| format!("{order_id} tells no time"))?;
        let mut bytes = order_id.into_bytes();
        bytes[..6].copy_from_slice(&first_id_at(minted - TimeDelta::days(days)).as_bytes()[..6]);
        let aged = Uuid::from_bytes(bytes);
        let ago = format!("interval '{days} days'");
        let row = format!("order_id = '{aged}', created_at = created_at - {ago}, updated_at = updated_at - {ago}");
        let entry = format!(
            "order_id = '{aged}', created_at = created_at - {ago},
             idempotency_key = replace(idempotency_key, '{order_id}', '{aged}')"
        );
        let databases = &self.databases;
        for (pool, table, change) in [
            (&databases.order, "orders", &row),
            (&databases.payment, "payments", &row),
            (&databases.payment, "gateway_requests", &entry),
            (&databases.payment, "gateway_ledger", &entry),
            (&databases.inventory, "reservations", &row),
            (&databases.orchestrator, "sagas", &row),
        ] {
            run(pool, format!("UPDATE {table} SET {change} WHERE order_id = '{order_id}'")).await?;
        }
        Ok(aged)
    }
}

async fn run(pool: &PgPool, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?;
    Ok(())
}
