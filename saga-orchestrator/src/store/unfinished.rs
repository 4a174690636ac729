//! How many sagas have not ended, and where they stand. It reads them all, by the sweeper's index: no more than
//! `CHECKOUT_MAX_UNFINISHED`, or no new ones were let in. Those that wait for something outside are not among them: they
//! may be many.

use service_runtime::database::StoreError;
use sqlx::{PgPool, Row as _};

use crate::registry::Flows;

/// The sagas at one place.
#[derive(Debug)]
pub struct Unfinished {
    pub flow: String,
    pub version: i32,
    /// Whether this release knows their definition.
    pub is_known: bool,
    pub status: String,
    pub step: String,
    pub count: i64,
    pub needing_attention: i64,
    /// Of the one that began first.
    pub oldest_age_seconds: f64,
}

/// How many of the sagas that wait a person should look at.
pub async fn waiting_that_need_attention(pool: &PgPool) -> Result<i64, StoreError> {
    // By the index of those that need attention.
    let count = "SELECT count(*) FROM sagas WHERE needs_attention_since IS NOT NULL AND status = 'WAITING'";
    Ok(sqlx::query_scalar(count).fetch_one(pool).await?)
}

/// One for each place where a saga stands.
pub async fn unfinished(pool: &PgPool, flows: &Flows) -> Result<Vec<Unfinished>, StoreError> {
    let rows = sqlx::query(
        "SELECT definition, definition_version, status::text AS status, step, count(*) AS count,
                count(needs_attention_since) AS needing_attention,
                EXTRACT(epoch FROM now() - min(created_at))::float8 AS oldest_age_seconds
         FROM sagas WHERE status IN ('RUNNING', 'COMPENSATING')
         GROUP BY definition, definition_version, status, step ORDER BY definition, definition_version, status, step",
    )
    .fetch_all(pool)
    .await?;
    let places = rows.iter().map(|row| {
        let (flow, version): (String, i32) = (row.try_get("definition")?, row.try_get("definition_version")?);
        Ok(Unfinished {
            is_known: flows.find(&flow, version).is_some(),
            flow,
            version,
            status: row.try_get("status")?,
            step: row.try_get("step")?,
            count: row.try_get("count")?,
            needing_attention: row.try_get("needing_attention")?,
            oldest_age_seconds: row.try_get("oldest_age_seconds")?,
        })
    });
    places.collect()
}
