//! Many sagas at once: the newest of a kind, and how many there are. Read only.

use flow::{Name, WAITING};
use messages::Timestamp;
use rust_decimal::Decimal;
use service_runtime::database::StoreError;
use service_runtime::retention::first_id_at;
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

/// Which sagas are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these, which are written into the statement. Empty: all.
    pub statuses: Vec<Name>,
    pub step: Option<Name>,
    /// Of any version.
    pub flow: Option<String>,
    pub needs_attention: bool,
    /// Nobody has answered in time what it asks for: it was repeated, or is due to be, or a person should look at it.
    pub is_stuck: bool,
    pub user_id: Option<String>,
    pub order_id: Option<Uuid>,
    /// Begun at this time or later.
    pub since: Option<Timestamp>,
    /// Begun before.
    pub until: Option<Timestamp>,
    /// Older than this saga: the last one of the page before.
    pub before: Option<Uuid>,
}

impl Filter {
    /// Whether all sagas fit it, on one page or another.
    pub fn is_all(&self) -> bool {
        let Self { statuses, step, flow, needs_attention, is_stuck, user_id, order_id, since, until, before: _ } = self;
        let is_given = !statuses.is_empty()
            || step.is_some()
            || flow.is_some()
            || *needs_attention
            || *is_stuck
            || user_id.is_some()
            || order_id.is_some()
            || since.or(*until).is_some();
        !is_given
    }
}

/// The currency of a saga that is about no money, in ISO 4217. Its amount is 0.
pub const NO_CURRENCY: &str = "XXX";

/// A row of a list, as it is stored: a saga of a newer release is listed as well.
#[derive(Debug, Clone, FromRow)]
pub struct Listed {
    pub saga_id: Uuid,
    pub order_id: Uuid,
    pub user_id: String,
    pub total_amount: Decimal,
    pub currency: String,
    pub status: String,
    pub step: String,
    pub reason: Option<String>,
    pub needs_attention_since: Option<Timestamp>,
    pub attention_reason: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub definition: String,
    pub definition_version: i32,
}

/// The sagas that stand at one place, of those that fit a filter.
#[derive(Debug, Clone, FromRow)]
pub struct Place {
    pub definition: String,
    pub definition_version: i32,
    pub status: String,
    pub step: String,
    pub sagas: i64,
}

/// At most `limit` sagas, newest first.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Listed>, StoreError> {
    let mut select = QueryBuilder::<Postgres>::new(
        "SELECT saga_id, order_id, user_id, total_amount, currency, status, step, reason, needs_attention_since,
                attention_reason, created_at, updated_at, definition, definition_version FROM ",
    );
    push_fitting(&mut select, filter);
    select.push(" ORDER BY saga_id DESC LIMIT ").push_bind(limit);
    // Not kept prepared: its texts are many, and each comes seldom.
    Ok(select.build_query_as().persistent(false).fetch_all(pool).await?)
}

/// Where the sagas stand that fit, and how many at each place. All are counted: it reads as many rows as a page of a filter
/// that is fenced.
pub async fn places(pool: &PgPool, filter: &Filter) -> Result<Vec<Place>, StoreError> {
    let mut select = QueryBuilder::<Postgres>::new(
        "SELECT definition, definition_version, status::text AS status, step, count(*) AS sagas FROM ",
    );
    push_fitting(&mut select, filter);
    select.push(
        " GROUP BY definition, definition_version, status, step
          ORDER BY count(*) DESC, definition, definition_version, status, step",
    );
    Ok(select.build_query_as().persistent(false).fetch_all(pool).await?)
}

/// The `FROM` and the `WHERE` of a filter.
fn push_fitting(select: &mut QueryBuilder<Postgres>, filter: &Filter) {
    // Few, with an index of their own. The fence (OFFSET 0) keeps Postgres from walking through all the others in the
    // order of their ids instead, which is cheaper only where many are wanted. An order's and a user's sagas have an index
    // as well and are often fewer than all that are unfinished, so Postgres chooses there.
    let is_of_one = filter.order_id.is_some() || filter.user_id.is_some();
    if filter.needs_attention {
        select.push("(SELECT * FROM sagas WHERE needs_attention_since IS NOT NULL OFFSET 0) AS sagas WHERE true");
    } else if let Some(unfinished) = unfinished(&filter.statuses) {
        if is_of_one {
            select.push(format_args!("sagas WHERE {unfinished}"));
        } else {
            select.push(format_args!("(SELECT * FROM sagas WHERE {unfinished}"));
            if let Some(flow) = &filter.flow {
                select.push(format_args!(" AND definition = {}", quoted(flow)));
            }
            select.push(" OFFSET 0) AS sagas WHERE true");
        }
    } else {
        select.push("sagas WHERE true");
    }
    // Written out, not bound: a partial index is used only where its condition stands in the statement, and how rare a
    // step is can be told only of one that is known.
    if let [status] = &filter.statuses[..] {
        select.push(format_args!(" AND status = '{status}'"));
    } else if !filter.statuses.is_empty() {
        select.push(format_args!(" AND status IN ({})", listed(&filter.statuses)));
    }
    if let Some(step) = &filter.step {
        // The step of those that failed is their cause, which has an index.
        let column = if filter.statuses == ["FAILED"] { "cause" } else { "step" };
        select.push(format_args!(" AND {column} = '{step}'"));
    }
    if let Some(flow) = &filter.flow {
        select.push(format_args!(" AND definition = {}", quoted(flow)));
    }
    if filter.is_stuck {
        select.push(" AND (attempts > 0 OR next_attempt_at <= now() OR needs_attention_since IS NOT NULL)");
    }
    if let Some(user_id) = &filter.user_id {
        select.push(" AND user_id = ").push_bind(user_id.clone());
    }
    if let Some(order_id) = filter.order_id {
        select.push(" AND order_id = ").push_bind(order_id);
    }
    if let Some(since) = filter.since {
        select.push(" AND saga_id >= ").push_bind(first_id_at(since));
    }
    if let Some(until) = filter.until {
        select.push(" AND saga_id < ").push_bind(first_id_at(until));
    }
    if let Some(before) = filter.before {
        select.push(" AND saga_id < ").push_bind(before);
    }
}

/// The condition of these statuses, where all of them are of sagas that have not ended: of the two partial indexes that it
/// needs, each by itself.
fn unfinished(statuses: &[Name]) -> Option<String> {
    let (waiting, active): (Vec<Name>, Vec<Name>) = statuses.iter().cloned().partition(|status| *status == *WAITING);
    if !active.iter().all(|status| matches!(status.as_str(), "RUNNING" | "COMPENSATING")) {
        return None;
    }
    match (active.is_empty(), waiting.is_empty()) {
        (true, true) => None,
        (true, false) => Some(format!("status = '{WAITING}'")),
        (false, true) => Some(format!("status IN ({})", listed(&active))),
        (false, false) => Some(format!("(status IN ({}) OR status = '{WAITING}')", listed(&active))),
    }
}

/// Words as they stand in a statement's `IN`.
fn listed(words: &[Name]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    quoted.join(", ")
}

/// A text as it stands in a statement: written out, since the index of users' sagas is a partial one.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A saga's times and where it stands.
#[derive(Debug, Clone, FromRow)]
pub struct Recent {
    pub status: String,
    pub step: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The newest sagas since a time, at most `limit`, newest first.
pub async fn recent(pool: &PgPool, since: Timestamp, limit: i64) -> Result<Vec<Recent>, StoreError> {
    let recent = sqlx::query_as(
        "SELECT status, step, created_at, updated_at FROM sagas WHERE saga_id >= $1 ORDER BY saga_id DESC LIMIT $2",
    );
    Ok(recent.bind(first_id_at(since)).bind(limit).fetch_all(pool).await?)
}

/// How sagas of a flow fared at one of its steps, or at one of its undos.
#[derive(Debug, Clone, FromRow)]
pub struct StepFigures {
    pub status: String,
    pub step: String,
    /// How many have left it as it should be.
    pub passed: i64,
    /// How many have turned back there: it was refused, late, or cancelled.
    pub failed: i64,
    /// The median and the slowest hundredth of how long they stood there, in ms. NULL: none has left it.
    pub quantiles: Option<Vec<f64>>,
}

/// How the newest sagas of a version of a flow fared at each step: of those that began since a time, at most `limit`.
pub async fn step_figures(
    pool: &PgPool,
    (name, version): (&str, i32),
    since: Timestamp,
    limit: i64,
) -> Result<Vec<StepFigures>, StoreError> {
    let mut select = QueryBuilder::<Postgres>::new("WITH newest AS (SELECT saga_id FROM sagas WHERE definition = ");
    select.push(quoted(name)).push(" AND definition_version = ").push_bind(version);
    select.push(" AND saga_id >= ").push_bind(first_id_at(since));
    select.push(" ORDER BY saga_id DESC LIMIT ").push_bind(limit);
    // A move that stays where it was (an operator had the step repeated) is no end of a stay.
    select.push(
        "), moves AS (
             SELECT saga_id, seq, at, status, step, lag(status) OVER saga AS status_before, lag(step) OVER saga AS step_before
             FROM (SELECT saga_id, seq, at, replace(status, 'WAITING', 'RUNNING') AS status, step
                   FROM newest JOIN saga_events USING (saga_id)) AS moves WINDOW saga AS (PARTITION BY saga_id ORDER BY seq)
         ), stays AS (
             SELECT status, step, lead(status) OVER saga AS next,
                    EXTRACT(epoch FROM lead(at) OVER saga - at)::float8 * 1000 AS ms
             FROM moves WHERE step_before IS NULL OR (status_before, step_before) <> (status, step)
             WINDOW saga AS (PARTITION BY saga_id ORDER BY seq)
         )
         SELECT status, step,
                count(*) FILTER (WHERE next IN ('RUNNING', 'COMPLETED') OR (status = 'COMPENSATING' AND next IS NOT NULL)) AS passed,
                count(*) FILTER (WHERE status = 'RUNNING' AND next IN ('COMPENSATING', 'FAILED')) AS failed,
                percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY ms) FILTER (WHERE ms IS NOT NULL) AS quantiles
         FROM stays WHERE status IN ('RUNNING', 'COMPENSATING') GROUP BY status, step",
    );
    Ok(select.build_query_as().persistent(false).fetch_all(pool).await?)
}

/// A move, as the history has it.
#[derive(Debug, Clone, FromRow)]
pub struct Move {
    pub saga_id: Uuid,
    pub seq: i64,
    pub at: Timestamp,
    pub input: String,
    pub status: String,
    pub step: String,
    pub reason: Option<String>,
}

/// The newest moves after a time, at most `limit`, newest first.
pub async fn moves_since(pool: &PgPool, after: Timestamp, limit: i64) -> Result<Vec<Move>, StoreError> {
    let mut select = QueryBuilder::<Postgres>::new(
        "SELECT saga_id, seq, at, input, status, step, reason FROM saga_events WHERE at > ",
    );
    // Written out: that a time is near the end can be told only of one that is known.
    select.push(format_args!("'{}'", after.to_rfc3339())).push(" ORDER BY at DESC LIMIT ").push_bind(limit);
    Ok(select.build_query_as().persistent(false).fetch_all(pool).await?)
}

/// The moves of these sagas after the last one that is known of each.
pub async fn moves_of(pool: &PgPool, known: &[(Uuid, i64)]) -> Result<Vec<Move>, StoreError> {
    let moves = sqlx::query_as(
        "SELECT saga_events.saga_id, saga_events.seq, at, input, status, step, reason
         FROM UNNEST($1::uuid[], $2::bigint[]) AS known (saga_id, seq)
         JOIN saga_events ON saga_events.saga_id = known.saga_id AND saga_events.seq > known.seq
         ORDER BY saga_id, saga_events.seq",
    );
    let (ids, seqs): (Vec<_>, Vec<_>) = known.iter().copied().unzip();
    Ok(moves.bind(ids).bind(seqs).fetch_all(pool).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_fenced_unless_it_is_of_an_order_or_a_user() {
        let statuses: Vec<Name> = ["RUNNING", "WAITING"].into_iter().filter_map(Name::new).collect();
        let unfinished = Filter { statuses, ..Filter::default() };
        let fenced = |filter: Filter| {
            let mut select = QueryBuilder::<Postgres>::new("");
            push_fitting(&mut select, &filter);
            let text = select.into_string();
            assert!(text.contains("(status IN ('RUNNING') OR status = 'WAITING')"), "{text}");
            text.contains("OFFSET 0")
        };
        assert!(fenced(unfinished.clone()));
        assert!(fenced(Filter { flow: Some("trip".to_owned()), ..unfinished.clone() }));
        assert!(!fenced(Filter { order_id: Some(Uuid::nil()), ..unfinished.clone() }));
        assert!(!fenced(Filter { user_id: Some("u1".to_owned()), flow: Some("trip".to_owned()), ..unfinished }));
    }
}
