//! The SQL that removes old orders. One that was made by hand stays while it is PENDING.

use service_runtime::database::StoreError;
use service_runtime::retention::{AT_ONCE, Removal, Removed, Rows};
use sqlx::PgPool;

/// The table `orders`.
#[derive(Clone)]
pub struct Orders(pub PgPool);

impl Rows for Orders {
    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        let (removed, looked_at, last) = sqlx::query_as(
            "WITH horizon AS (
                 INSERT INTO retention_horizon (order_id) VALUES ($1)
                 ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id, moved_at = now()
                 WHERE retention_horizon.order_id < EXCLUDED.order_id
             ), old AS (
                 SELECT order_id FROM orders WHERE order_id > $2 AND order_id < $1 ORDER BY order_id LIMIT $4
             ), removed AS (
                 DELETE FROM orders USING old
                 WHERE orders.order_id = old.order_id AND orders.updated_at < $3
                   AND (orders.saga_id IS NOT NULL OR orders.status <> 'PENDING')
                 RETURNING orders.order_id
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
