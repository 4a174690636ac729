//! The SQL that removes old payments with the gateway's rows about them, and that knows of what was removed. A payment
//! whose money is not settled (CHARGING, REFUNDING) stays, however old it is: what the gateway holds for it is known by
//! nothing else.

use messages::OrderId;
use service_runtime::database::StoreError;
use service_runtime::retention::{AT_ONCE, Removal, Removed, Rows};
use sqlx::PgPool;

/// The table `payments`, with `gateway_requests` and `gateway_ledger`.
#[derive(Clone)]
pub struct Payments(pub PgPool);

impl Rows for Payments {
    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        let (removed, looked_at, last) = sqlx::query_as(
            "WITH horizon AS (
                 INSERT INTO retention_horizon (order_id) VALUES ($1)
                 ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id, moved_at = now()
                 WHERE retention_horizon.order_id < EXCLUDED.order_id
             ), old AS (
                 SELECT order_id FROM payments WHERE order_id > $2 AND order_id < $1 ORDER BY order_id LIMIT $4
             ), removed AS (
                 DELETE FROM payments USING old
                 WHERE payments.order_id = old.order_id AND payments.updated_at < $3
                   AND payments.status NOT IN ('CHARGING', 'REFUNDING')
                 RETURNING payments.order_id
             ), requests AS (
                 DELETE FROM gateway_requests USING removed
                 WHERE idempotency_key = ANY(ARRAY[removed.order_id || ':charge', removed.order_id || ':refund'])
             ), ledger AS (
                 DELETE FROM gateway_ledger USING removed WHERE gateway_ledger.order_id = removed.order_id
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

impl Payments {
    /// Whether the order is below the horizon and has no row: its saga has ended, and a charge would be another one.
    pub async fn were_removed(&self, order_id: OrderId) -> Result<bool, StoreError> {
        let removed = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM retention_horizon WHERE order_id > $1)
                AND NOT EXISTS (SELECT FROM payments WHERE order_id = $1)",
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
