//! How many sagas have not ended, and where they stand. It reads them all, by the sweeper's index: no more than
//! `CHECKOUT_MAX_UNFINISHED`, or no new ones were let in.

use service_runtime::database::StoreError;
use sqlx::{PgPool, Row as _};

use crate::registry::Flows;

/// The sagas at one place.
#[derive(Debug)]
pub struct Unfinished {
    pub status: String,
    pub step: String,
    pub count: i64,
    pub needing_attention: i64,
    /// Those that run by a definition which this release does not know.
    pub of_unknown_definition: i64,
    /// Of the one that began first.
    pub oldest_age_seconds: f64,
}

/// One for each place where a saga stands.
pub async fn unfinished(pool: &PgPool, flows: &Flows) -> Result<Vec<Unfinished>, StoreError> {
    let known = flows.all();
    let rows = sqlx::query(
        "SELECT status::text AS status, step, count(*) AS count, count(needs_attention_since) AS needing_attention,
                count(*) FILTER (WHERE (definition, definition_version)
                    NOT IN (SELECT * FROM UNNEST($1::text[], $2::int[]))) AS of_unknown_definition,
                EXTRACT(epoch FROM now() - min(created_at))::float8 AS oldest_age_seconds
         FROM sagas WHERE status IN ('RUNNING', 'COMPENSATING') GROUP BY status, step",
    )
    .bind(known.iter().map(|flow| flow.name.as_str()).collect::<Vec<_>>())
    .bind(known.iter().map(|flow| flow.version).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let places = rows.iter().map(|row| {
        Ok(Unfinished {
            status: row.try_get("status")?,
            step: row.try_get("step")?,
            count: row.try_get("count")?,
            needing_attention: row.try_get("needing_attention")?,
            of_unknown_definition: row.try_get("of_unknown_definition")?,
            oldest_age_seconds: row.try_get("oldest_age_seconds")?,
        })
    });
    places.collect()
}
