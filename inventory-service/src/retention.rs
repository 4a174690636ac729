//! The SQL that removes old reservations, and that knows of what was removed.

use messages::OrderId;
use service_runtime::database::StoreError;
use service_runtime::retention::{AT_ONCE, Removal, Removed, Rows};
use sqlx::PgPool;

/// The table `reservations`.
#[derive(Clone)]
pub struct Reservations(pub PgPool);

impl Rows for Reservations {
    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        let (removed, looked_at, last) = sqlx::query_as(
            "WITH horizon AS (
                 INSERT INTO retention_horizon (order_id) VALUES ($1)
                 ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id, moved_at = now()
                 WHERE retention_horizon.order_id < EXCLUDED.order_id
             ), old AS (
                 SELECT order_id FROM reservations WHERE order_id > $2 AND order_id < $1 ORDER BY order_id LIMIT $4
             ), removed AS (
                 DELETE FROM reservations USING old
                 WHERE reservations.order_id = old.order_id AND reservations.updated_at < $3
                 RETURNING reservations.order_id
             )
             SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM old),
                    (SELECT order_id FROM old ORDER BY order_id DESC LIMIT 1)",
        )
        .bind(removal.before)
        .bind(removal.after)
        .bind(removal.unchanged_since)
        .bind(AT_ONCE)
        .fetch_one(&self.0)
        .await?;
        Ok(Removed::of(removed, looked_at, last))
    }
}

impl Reservations {
    /// Whether the order is below the horizon and has no row: its saga has ended, and nothing is done for it again.
    pub async fn were_removed(&self, order_id: OrderId) -> Result<bool, StoreError> {
        let removed = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM retention_horizon WHERE order_id > $1)
                AND NOT EXISTS (SELECT FROM reservations WHERE order_id = $1)",
        );
        Ok(removed.bind(order_id.as_uuid()).fetch_one(&self.0).await?)
    }

    /// Whether the order is below the horizon: its saga has ended. Asked once the order's row stands, it can't be missed:
    /// the horizon is stored before anything below it is removed.
    pub async fn is_below_horizon(&self, order_id: OrderId) -> Result<bool, StoreError> {
        let below = sqlx::query_scalar("SELECT EXISTS (SELECT FROM retention_horizon WHERE order_id > $1)");
        Ok(below.bind(order_id.as_uuid()).fetch_one(&self.0).await?)
    }
}
