//! Sagas that have long ended, and the horizon below which they are removed.

use service_runtime::database::StoreError;
use service_runtime::retention::AT_ONCE;
use sqlx::PgPool;
use uuid::Uuid;

use messages::Timestamp;

/// A saga that may be old enough, by its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Candidate {
    pub order_id: Uuid,
    pub ended: bool,
    pub updated_at: Timestamp,
}

/// The database's clock.
pub async fn now(pool: &PgPool) -> Result<Timestamp, StoreError> {
    Ok(sqlx::query_scalar("SELECT now()").fetch_one(pool).await?)
}

/// The stored horizon: every order with a smaller id is old. `None`: nothing was removed yet.
pub async fn horizon(pool: &PgPool) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar("SELECT order_id FROM retention_horizon").fetch_optional(pool).await?)
}

/// Every order with a smaller id has a saga that has ended: the horizon, or the lowest order below it whose saga has not
/// (of a process whose clock was far behind when it minted the id).
pub async fn ended_below(pool: &PgPool) -> Result<Option<Uuid>, StoreError> {
    let ended_below = sqlx::query_scalar(
        "SELECT LEAST(order_id, (SELECT sagas.order_id FROM sagas
                                 WHERE sagas.order_id < retention_horizon.order_id
                                   AND (status IN ('RUNNING', 'COMPENSATING') OR status = 'WAITING')
                                 ORDER BY sagas.order_id LIMIT 1))
         FROM retention_horizon",
    );
    Ok(ended_below.fetch_optional(pool).await?)
}

/// Moves the horizon. It never goes back.
pub async fn move_horizon(pool: &PgPool, to: Uuid) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO retention_horizon (order_id) VALUES ($1)
         ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id, moved_at = now()
         WHERE retention_horizon.order_id < EXCLUDED.order_id",
    )
    .bind(to)
    .execute(pool)
    .await?;
    Ok(())
}

/// The lowest [`AT_ONCE`] sagas of `from` <= order < `before`, in the order of their orders.
pub async fn candidates(pool: &PgPool, from: Uuid, before: Uuid) -> Result<Vec<Candidate>, StoreError> {
    let candidates = sqlx::query_as(
        "SELECT order_id, status IN ('COMPLETED', 'FAILED') AS ended, updated_at
         FROM sagas WHERE order_id >= $1 AND order_id < $2 ORDER BY order_id LIMIT $3",
    );
    Ok(candidates.bind(from).bind(before).bind(AT_ONCE).fetch_all(pool).await?)
}

/// Removes the lowest sagas below the horizon, with their histories; answers how many they were. One that has not
/// ended would stay; and one that was resolved by hand does: who settled it, and by what evidence, stands nowhere else.
pub async fn remove(pool: &PgPool, before: Uuid) -> Result<i64, StoreError> {
    // Written out: of a limit that is not known Postgres expects a tenth of the table, and then plans to read all of the
    // history rather than to look up theirs.
    const { assert!(AT_ONCE == 1000) };
    let removed = sqlx::query_scalar(
        "WITH old AS (
             SELECT saga_id FROM sagas WHERE order_id < $1 AND status IN ('COMPLETED', 'FAILED') AND NOT resolved_by_hand
             ORDER BY order_id LIMIT 1000
         ), removed AS (
             DELETE FROM sagas USING old WHERE sagas.saga_id = old.saga_id RETURNING sagas.saga_id
         ), history AS (
             DELETE FROM saga_events USING removed WHERE saga_events.saga_id = removed.saga_id
         ), ignored AS (
             DELETE FROM ignored_inputs USING removed WHERE ignored_inputs.saga_id = removed.saga_id
         )
         SELECT count(*) FROM removed",
    );
    Ok(removed.bind(before).fetch_one(pool).await?)
}
