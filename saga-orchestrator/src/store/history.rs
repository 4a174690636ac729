//! How one saga got where it is, and what is due for it. Read only.

use messages::{SagaId, Timestamp};
use service_runtime::database::StoreError;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

/// A row of `saga_events`.
#[derive(Debug, Clone, FromRow)]
pub struct Entry {
    pub seq: i64,
    pub at: Timestamp,
    pub input: String,
    pub event_id: Option<Uuid>,
    pub status: String,
    pub step: String,
    pub reason: Option<String>,
    pub actor: Option<String>,
    pub evidence: Option<String>,
}

/// A row of `ignored_inputs`.
#[derive(Debug, Clone, FromRow)]
pub struct Ignored {
    pub input: String,
    pub state: String,
    pub count: i64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// How often the pending effect was repeated, and when it is due again.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct Repetition {
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
}

/// The moves of a saga, oldest first.
pub async fn entries(database: impl PgExecutor<'_>, saga_id: SagaId) -> Result<Vec<Entry>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT seq, at, input, event_id, status, step, reason, actor, evidence
         FROM saga_events WHERE saga_id = $1 ORDER BY seq",
    )
    .bind(saga_id.as_uuid())
    .fetch_all(database)
    .await?)
}

/// The inputs of a saga that did not count.
pub async fn ignored(database: impl PgExecutor<'_>, saga_id: SagaId) -> Result<Vec<Ignored>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT input, state, count, first_at, last_at FROM ignored_inputs WHERE saga_id = $1 ORDER BY first_at",
    )
    .bind(saga_id.as_uuid())
    .fetch_all(database)
    .await?)
}

/// When the saga's effect is repeated. `None` for a saga that is not there.
pub async fn repetition(database: impl PgExecutor<'_>, saga_id: SagaId) -> Result<Option<Repetition>, StoreError> {
    let repetition = sqlx::query_as("SELECT attempts, next_attempt_at FROM sagas WHERE saga_id = $1");
    Ok(repetition.bind(saga_id.as_uuid()).fetch_optional(database).await?)
}
