//! The SQL of `flows` and `flow_changes`: which flows were published, and which version new sagas start by.

use messages::Timestamp;
use service_runtime::database::{Session, StoreError};
use sqlx::{FromRow, PgPool, Row as _};

/// What an operator does with a published version: it stands in `flow_changes.change`, beside PUBLISHED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Activated,
    Retired,
}

impl Change {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Activated => "ACTIVATED",
            Self::Retired => "RETIRED",
        }
    }
}

/// A flow to be published.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    pub name: &'a str,
    pub version: i32,
    pub digest: &'a str,
    pub source: &'a str,
    pub built_in: bool,
    pub by: &'a str,
    pub reason: &'a str,
}

/// A row of `flows`, without its source.
#[derive(Debug, Clone, FromRow)]
pub struct Published {
    pub name: String,
    pub version: i32,
    pub digest: String,
    pub built_in: bool,
    pub published_by: String,
    pub reason: String,
    pub published_at: Timestamp,
}

/// A row of `flow_changes`.
#[derive(Debug, Clone, FromRow)]
pub struct Changed {
    pub name: String,
    pub version: i32,
    pub change: String,
    pub actor: String,
    pub reason: String,
    pub at: Timestamp,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The same file is there.
    Same,
    /// Another file is there, of this digest.
    Other(String),
}

/// Stores a flow, once: what is there under its name and version stays.
pub async fn publish(session: &Session, flow: Publication<'_>) -> Result<Stored, StoreError> {
    let insert = sqlx::query(
        "WITH stored AS (
             INSERT INTO flows (name, version, digest, source, built_in, published_by, reason)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT DO NOTHING
             RETURNING name, version
         ), noted AS (
             INSERT INTO flow_changes (name, version, change, actor, reason)
             SELECT name, version, 'PUBLISHED', $6, $7 FROM stored
         )
         SELECT name FROM stored",
    );
    let insert = insert.bind(flow.name).bind(flow.version).bind(flow.digest).bind(flow.source).bind(flow.built_in);
    if !session.rows(insert.bind(flow.by).bind(flow.reason)).await?.is_empty() {
        return Ok(Stored::New);
    }
    // It is there, and never changes.
    let there = sqlx::query("SELECT digest FROM flows WHERE name = $1 AND version = $2");
    let rows = session.rows(there.bind(flow.name).bind(flow.version)).await?;
    let digest: String = rows.first().map(|row| row.try_get("digest")).transpose()?.unwrap_or_default();
    Ok(if digest == flow.digest { Stored::Same } else { Stored::Other(digest) })
}

/// Notes that a version was activated or retired; false where there is no such version.
pub async fn change(
    session: &Session,
    (name, version): (&str, i32),
    change: Change,
    by: &str,
    reason: &str,
) -> Result<bool, StoreError> {
    let insert = sqlx::query(
        "INSERT INTO flow_changes (name, version, change, actor, reason)
         SELECT name, version, $3, $4, $5 FROM flows WHERE name = $1 AND version = $2
         RETURNING change_id",
    );
    let insert = insert.bind(name).bind(version).bind(change.as_str()).bind(by).bind(reason);
    Ok(!session.rows(insert).await?.is_empty())
}

/// For what nothing may have been decided yet, so that a version is activated without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecided {
    /// For this version: a file that is published again, by a job that runs each night, moves nothing back.
    Version,
    /// For any version of the flow: a release activates none beside an active one.
    Flow,
}

/// Activates a version, unless it (or any version of its flow) was activated or retired before.
pub async fn activate_once(
    session: &Session,
    (name, version): (&str, i32),
    undecided: Undecided,
    by: &str,
    reason: &str,
) -> Result<(), StoreError> {
    let insert = sqlx::query(
        "INSERT INTO flow_changes (name, version, change, actor, reason)
         SELECT $1, $2, 'ACTIVATED', $3, $4
         WHERE NOT EXISTS (SELECT 1 FROM flow_changes
                           WHERE name = $1 AND ($5 OR version = $2) AND change <> 'PUBLISHED')",
    );
    let insert = insert.bind(name).bind(version).bind(by).bind(reason).bind(undecided == Undecided::Flow);
    session.rows(insert).await?;
    Ok(())
}

/// How many changes there are: as long as it is the same, nothing has changed. (Not the greatest number: numbers are
/// given before a transaction commits, so a smaller one may appear later.)
pub async fn change_count(session: &Session) -> Result<i64, StoreError> {
    let rows = session.rows(sqlx::query("SELECT count(*) AS changes FROM flow_changes")).await?;
    Ok(rows.first().map(|row| row.try_get("changes")).transpose()?.unwrap_or_default())
}

/// Every published flow.
pub async fn published(session: &Session) -> Result<Vec<Published>, StoreError> {
    let select = sqlx::query(
        "SELECT name, version, digest, built_in, published_by, reason, published_at FROM flows ORDER BY name, version DESC",
    );
    let rows = session.rows(select).await?;
    rows.iter().map(|row| Ok(Published::from_row(row)?)).collect()
}

/// Every change, oldest first.
pub async fn changes(session: &Session) -> Result<Vec<Changed>, StoreError> {
    let select = sqlx::query("SELECT name, version, change, actor, reason, at FROM flow_changes ORDER BY change_id");
    let rows = session.rows(select).await?;
    rows.iter().map(|row| Ok(Changed::from_row(row)?)).collect()
}

/// The file of a published flow.
pub async fn source(session: &Session, name: &str, version: i32) -> Result<Option<String>, StoreError> {
    let select = sqlx::query("SELECT source FROM flows WHERE name = $1 AND version = $2");
    let rows = session.rows(select.bind(name).bind(version)).await?;
    Ok(rows.first().map(|row| row.try_get("source")).transpose()?)
}

/// How many sagas have not ended, by flow and version.
pub async fn running(pool: &PgPool) -> Result<Vec<(String, i32, i64)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT definition, definition_version, count(*) FROM sagas
         WHERE status IN ('RUNNING', 'COMPENSATING') OR status = 'WAITING' GROUP BY definition, definition_version",
    )
    .fetch_all(pool)
    .await?)
}

/// How many sagas of one version wait for something outside, by the step at which they do. It reads them all.
pub async fn waiting(pool: &PgPool, name: &str, version: i32) -> Result<Vec<(String, i64)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT step::text, count(*) FROM sagas
         WHERE status = 'WAITING' AND definition = $1 AND definition_version = $2 GROUP BY step",
    )
    .bind(name)
    .bind(version)
    .fetch_all(pool)
    .await?)
}
