//! The SQL of `signals`: what happened outside, and which saga has taken it.

use std::time::Duration;

use messages::{SagaId, Timestamp};
use service_runtime::database::{Session, StoreError};
use sqlx::{FromRow, PgPool, Row as _};
use uuid::Uuid;

use super::milliseconds;

/// A row of `signals`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredSignal {
    pub signal_id: Uuid,
    pub kind: String,
    /// The sender's own id of it.
    pub id: String,
    /// What it names.
    #[sqlx(rename = "match")]
    pub matched: String,
    /// A JSON object.
    pub payload: String,
    pub received_at: Timestamp,
    /// The saga that has taken it.
    pub saga_id: Option<Uuid>,
    /// At which of its steps.
    pub step: Option<String>,
    pub matched_at: Option<Timestamp>,
}

/// Stores a signal, once: the row as it stands, and whether it is new.
pub async fn store(
    session: &Session,
    (kind, id): (&str, &str),
    matched: &str,
    payload: &str,
) -> Result<(StoredSignal, bool), StoreError> {
    let insert = sqlx::query(
        "INSERT INTO signals (signal_id, kind, id, match, payload) VALUES ($1, $2, $3, $4, $5::json)
         ON CONFLICT (kind, id) DO NOTHING
         RETURNING signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at",
    );
    let insert = insert.bind(Uuid::now_v7()).bind(kind).bind(id).bind(matched).bind(payload);
    if let Some(row) = session.rows(insert).await?.first() {
        return Ok((StoredSignal::from_row(row)?, true));
    }
    let found = find(session, kind, id).await?;
    let gone = || StoreError::NotSent("a signal was removed while it was sent again".into());
    Ok((found.ok_or_else(gone)?, false))
}

/// The signal of this kind and id.
pub async fn find(session: &Session, kind: &str, id: &str) -> Result<Option<StoredSignal>, StoreError> {
    let select = sqlx::query(
        "SELECT signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at
         FROM signals WHERE kind = $1 AND id = $2",
    );
    let rows = session.rows(select.bind(kind).bind(id)).await?;
    Ok(rows.first().map(StoredSignal::from_row).transpose()?)
}

/// The oldest signals of this kind that name this and that no saga has taken, at most `limit`.
pub async fn unmatched(
    session: &Session,
    kind: &str,
    matched: &str,
    limit: i64,
) -> Result<Vec<StoredSignal>, StoreError> {
    let select = sqlx::query(
        "SELECT signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at
         FROM signals WHERE kind = $1 AND match = $2 AND saga_id IS NULL ORDER BY received_at, signal_id LIMIT $3",
    );
    let rows = session.rows(select.bind(kind).bind(matched).bind(limit)).await?;
    rows.iter().map(|row| Ok(StoredSignal::from_row(row)?)).collect()
}

/// The sagas that wait for this (see [`crate::saga::Awaited::key`]), those that began first before the others, at most
/// `limit`.
pub async fn waiting_for(session: &Session, key: &str, limit: i64) -> Result<Vec<SagaId>, StoreError> {
    let select = sqlx::query("SELECT saga_id FROM sagas WHERE awaits = $1 ORDER BY saga_id LIMIT $2");
    let rows = session.rows(select.bind(key).bind(limit)).await?;
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>("saga_id")?.into())).collect()
}

/// Sagas that wait for a signal that is stored and that no saga has taken, at most `limit`, of more than that any. Each of
/// these signals costs one probe of an index.
pub async fn apart(session: &Session, limit: i64) -> Result<Vec<SagaId>, StoreError> {
    let select = sqlx::query(
        "SELECT saga_id FROM (SELECT DISTINCT kind || ' ' || match AS key FROM signals WHERE saga_id IS NULL) AS free
         JOIN sagas ON sagas.awaits = free.key ORDER BY random() LIMIT $1",
    );
    // Planned for what is there now: both may be few or very many.
    let rows = session.rows(select.bind(limit).persistent(false)).await?;
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>("saga_id")?.into())).collect()
}

/// Removes up to `limit` signals that came longer than `kept` ago; answers how many it were.
pub async fn forget(pool: &PgPool, kept: Duration, limit: i64) -> Result<u64, StoreError> {
    let forgotten = sqlx::query(
        "DELETE FROM signals
         WHERE signal_id IN (SELECT signal_id FROM signals WHERE received_at < now() - $1 * interval '1 ms'
                             ORDER BY received_at LIMIT $2
                             FOR UPDATE SKIP LOCKED)",
    );
    Ok(forgotten.bind(milliseconds(kept)).bind(limit).execute(pool).await?.rows_affected())
}
