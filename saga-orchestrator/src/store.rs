//! The SQL of `sagas`, `saga_events` and `ignored_inputs`. A row and its history entry are one statement.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub mod definitions;
pub mod flows;
pub mod history;
pub mod lists;
mod new_sagas;
pub mod old_sagas;
mod unfinished;

use flow::{Flow, Kept, Request};
use messages::{Money, SagaId, Timestamp, UserId};
use rust_decimal::Decimal;
use service_runtime::batch::{Answers, Batch};
use service_runtime::conditional::Table;
use service_runtime::database::{Session, StoreError};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgExecutor, Postgres, Row as _};
use uuid::Uuid;

pub use self::new_sagas::{Identity, NewSaga, NewSagas, forget_keys};
pub use self::unfinished::{Unfinished, unfinished};
use crate::registry::Flows;
use crate::saga::{Attention, Checkout, Ignored, Saga, State, Transition};

/// A stored saga.
#[derive(Debug, Clone)]
pub enum Stored {
    Saga(Box<Saga>),
    /// It runs by a definition that this release does not know: it must not be touched.
    UnknownDefinition {
        saga_id: SagaId,
        name: String,
        version: i32,
    },
}

/// Sagas that move: each from the version before its own.
pub struct Sagas {
    pub session: Session,
    pub flows: Arc<Flows>,
}

impl Table for Sagas {
    type Key = SagaId;
    type Row = Stored;
    type Write = Transition;
    const NAME: &'static str = "sagas";

    fn key(transition: &Transition) -> SagaId {
        transition.saga.saga_id
    }

    async fn compare_and_set(&self, moves: &[&Transition]) -> Result<HashMap<SagaId, Stored>, StoreError> {
        let (sagas, entries) = (|| moves.iter().map(|m| &m.saga), || moves.iter().map(|m| &m.entry));
        let update = sqlx::query(
            "WITH new AS (
                 SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::bigint[]) AS version,
                        UNNEST($3::text[]) AS status, UNNEST($4::text[]) AS step, UNNEST($5::text[]) AS cause,
                        UNNEST($6::text[]) AS reason, UNNEST($7::timestamptz[]) AS deadline_at,
                        UNNEST($8::timestamptz[]) AS updated_at, UNNEST($9::text[]) AS input,
                        UNNEST($10::uuid[]) AS event_id, UNNEST($11::text[]) AS entry_reason,
                        UNNEST($12::float8[]) * interval '1 ms' AS resend_first,
                        UNNEST($13::bool[]) AS resolved_by_hand, UNNEST($14::timestamptz[]) AS at,
                        UNNEST($15::text[]) AS actor, UNNEST($16::text[]) AS evidence, UNNEST($17::text[]) AS kept
             ), moved AS (
                 UPDATE sagas
                 SET version = new.version, status = new.status, step = new.step, cause = new.cause,
                     reason = new.reason, deadline_at = new.deadline_at, updated_at = new.updated_at,
                     resolved_by_hand = new.resolved_by_hand, kept = new.kept::json,
                     -- A move that stays where it is (operator.retried) goes on counting.
                     attempts = CASE WHEN sagas.step = new.step THEN attempts ELSE 0 END,
                     next_attempt_at = LEAST(now() + new.resend_first, new.deadline_at),
                     -- Nearly always unchanged, which spares all indexes a new entry.
                     sweep_at = LEAST(sweep_at, now() + new.resend_first, new.deadline_at),
                     needs_attention_since = CASE WHEN sagas.step = new.step THEN needs_attention_since END,
                     attention_reason = CASE WHEN sagas.step = new.step THEN attention_reason END
                 FROM new WHERE sagas.saga_id = new.saga_id AND sagas.version = new.version - 1
                 RETURNING new.*
             ), history AS (
                 INSERT INTO saga_events (saga_id, seq, input, event_id, status, step, reason, at, actor, evidence)
                 SELECT saga_id, version, input, event_id, status, step, entry_reason, at, actor, evidence FROM moved
             )
             SELECT saga_id FROM moved",
        )
        .bind(sagas().map(|s| s.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.version).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.state.status()).collect::<Vec<_>>())
        .bind(sagas().map(Saga::step_name).collect::<Vec<_>>())
        .bind(sagas().map(Saga::cause).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.reason.as_deref()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.deadline).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.updated_at).collect::<Vec<_>>())
        .bind(entries().map(|e| &*e.input).collect::<Vec<_>>())
        .bind(entries().map(|e| e.event_id.map(Uuid::from)).collect::<Vec<_>>())
        .bind(entries().map(|e| e.reason.as_deref()).collect::<Vec<_>>())
        .bind(sagas().map(|s| milliseconds(s.flow.repeat.first)).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.resolved_by_hand).collect::<Vec<_>>())
        .bind(entries().map(|e| e.at).collect::<Vec<_>>())
        .bind(entries().map(|e| e.operator.as_ref().map(|o| o.by.as_str())).collect::<Vec<_>>())
        .bind(entries().map(|e| Some(e.operator.as_ref()?.act.settled()?.evidence.as_str())).collect::<Vec<_>>())
        .bind(sagas().map(|s| (!s.kept.is_empty()).then(|| s.kept.to_json())).collect::<Vec<_>>());
        let moved = ids(&self.session.rows(update).await?)?;
        let stored = sagas().filter(|saga| moved.contains(&saga.saga_id));
        Ok(stored.map(|saga| (saga.saga_id, Stored::Saga(Box::new(saga.clone())))).collect())
    }

    async fn read(&self, sagas: Vec<SagaId>) -> Result<HashMap<SagaId, Stored>, StoreError> {
        to_sagas(&self.flows, &self.session.rows(wanted(sagas)).await?)
    }

    async fn held(&self, sagas: Vec<SagaId>) -> Result<HashSet<SagaId>, StoreError> {
        let held = sqlx::query(
            "WITH free AS MATERIALIZED (
                 SELECT saga_id FROM sagas WHERE saga_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
             )
             SELECT saga_id FROM sagas WHERE saga_id = ANY($1) AND saga_id NOT IN (SELECT saga_id FROM free)",
        );
        let wanted: Vec<Uuid> = sagas.into_iter().map(Uuid::from).collect();
        ids(&self.session.rows(held.bind(wanted)).await?)
    }
}

/// A saga whose effect is due to be repeated.
pub struct Due {
    pub saga: Stored,
    /// A person should look at it, from now on.
    pub newly_needs_attention: bool,
    /// Its pending step has timed out, by the database's clock.
    pub deadline_passed: bool,
    /// The database's clock.
    pub now: Timestamp,
}

/// Claims up to `limit` due sagas of one flow, by these versions of it: notes the attempt and when the next one is due, so
/// that no other instance repeats the same. All by the database's clock. Sagas of a version that this release does not
/// know are left to a release that does. A claimed row that can't be read is an error of its own.
pub async fn claim_due(
    session: &Session,
    flows: &Flows,
    limit: i64,
    versions: &[Arc<Flow>],
) -> Result<Vec<Result<Due, StoreError>>, StoreError> {
    let Some(name) = versions.first().map(|flow| flow.name.as_str()) else { return Ok(Vec::new()) };
    let claim = sqlx::query(
        "WITH known AS (
             SELECT UNNEST($3::int[]) AS definition_version, UNNEST($4::float8[]) AS first, UNNEST($5::float8[]) AS most,
                    UNNEST($6::int[]) AS attention_after
         ), early AS (
             -- They have moved since they were noted to be looked at now.
             SELECT saga_id FROM sagas
             WHERE status IN ('RUNNING', 'COMPENSATING') AND sweep_at <= now() AND next_attempt_at > now()
               AND definition = $2
             LIMIT 10000
             FOR UPDATE SKIP LOCKED
         ), put_off AS (
             UPDATE sagas SET sweep_at = next_attempt_at FROM early WHERE sagas.saga_id = early.saga_id
         ), due AS (
             SELECT saga_id, definition_version, attempts + 1 AS tries, deadline_at
             FROM sagas
             WHERE status IN ('RUNNING', 'COMPENSATING') AND sweep_at <= now() AND next_attempt_at <= now()
               AND definition = $2 AND definition_version = ANY($3)
             ORDER BY sweep_at LIMIT $1
             FOR UPDATE SKIP LOCKED
         ), spaced AS (
             SELECT saga_id, tries, tries >= attention_after AND deadline_at IS NULL AS is_remarkable, LEAST(
                 now() + LEAST(first * power(2, LEAST(tries, 20)), most) * (1 - 0.25 * random()) * interval '1 ms',
                 CASE WHEN deadline_at > now() THEN deadline_at END) AS again_at
             FROM due JOIN known USING (definition_version)
         )
         UPDATE sagas
         SET attempts = tries, next_attempt_at = again_at, sweep_at = again_at,
             needs_attention_since = CASE
                 WHEN is_remarkable THEN COALESCE(needs_attention_since, now())
                 ELSE needs_attention_since END,
             attention_reason = CASE
                 WHEN is_remarkable
                 THEN COALESCE(attention_reason, format('%s was repeated %s times without success', step, tries))
                 ELSE attention_reason END
         FROM spaced WHERE sagas.saga_id = spaced.saga_id
         RETURNING sagas.saga_id, order_id, user_id, total_amount, currency, status, step, cause, reason,
                   force_payment_fail, force_inventory_fail, definition, definition_version, version, deadline_at,
                   expires_at, needs_attention_since, attention_reason, resolved_by_hand, traceparent, created_at,
                   updated_at, input::text, kept::text, COALESCE(deadline_at <= now(), false) AS deadline_passed,
                   COALESCE(needs_attention_since = now(), false) AS newly_needs_attention, now() AS now",
    )
    .bind(limit)
    .bind(name)
    .bind(versions.iter().map(|flow| flow.version).collect::<Vec<_>>())
    .bind(versions.iter().map(|flow| milliseconds(flow.repeat.first)).collect::<Vec<_>>())
    .bind(versions.iter().map(|flow| milliseconds(flow.repeat.most)).collect::<Vec<_>>())
    .bind(versions.iter().map(|flow| flow.repeat.attention_after.try_into().unwrap_or(i32::MAX)).collect::<Vec<i32>>());
    let due = session.rows(claim).await?;
    let due = due.iter().map(|row| {
        Ok(Due {
            saga: from_row(flows, row)?,
            newly_needs_attention: row.try_get("newly_needs_attention")?,
            deadline_passed: row.try_get("deadline_passed")?,
            now: row.try_get("now")?,
        })
    });
    Ok(due.collect())
}

/// Inputs that did not count, many in one statement.
pub struct IgnoredInputs(pub Session);

impl Batch for IgnoredInputs {
    type Item = (SagaId, Ignored);
    type Answer = ();
    const NAME: &'static str = "ignored inputs";

    async fn run(&self, items: &[(SagaId, Ignored)]) -> Answers<()> {
        // In key order, as every instance does, and each key once.
        let mut counts: BTreeMap<(SagaId, &str, &str), i64> = BTreeMap::new();
        for (saga_id, ignored) in items {
            *counts.entry((*saga_id, &*ignored.input, &ignored.state)).or_default() += 1;
        }
        let insert = sqlx::query(
            "INSERT INTO ignored_inputs (saga_id, input, state, count, first_at, last_at)
             SELECT saga_id, input, state, count, now(), now()
             FROM (SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::text[]) AS input, UNNEST($3::text[]) AS state,
                          UNNEST($4::bigint[]) AS count) AS new
             ON CONFLICT (saga_id, input, state)
             DO UPDATE SET count = ignored_inputs.count + EXCLUDED.count, last_at = EXCLUDED.last_at",
        )
        .bind(counts.keys().map(|(saga_id, ..)| saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(counts.keys().map(|(_, input, _)| *input).collect::<Vec<_>>())
        .bind(counts.keys().map(|(.., state)| *state).collect::<Vec<_>>())
        .bind(counts.values().copied().collect::<Vec<_>>());
        self.0.rows(insert).await?;
        Ok(items.iter().map(|_| Ok(())).collect())
    }
}

/// Reads a saga.
pub async fn read(database: impl PgExecutor<'_>, flows: &Flows, saga_id: SagaId) -> Result<Option<Stored>, StoreError> {
    let rows = wanted(vec![saga_id]).fetch_all(database).await?;
    Ok(to_sagas(flows, &rows)?.remove(&saga_id))
}

fn wanted(sagas: Vec<SagaId>) -> Query<'static, Postgres, PgArguments> {
    let ids: Vec<Uuid> = sagas.into_iter().map(Uuid::from).collect();
    // Columns by name: a release that adds one must not change the result of this one's prepared statement.
    sqlx::query(
        "SELECT saga_id, order_id, user_id, total_amount, currency, status, step, cause, reason, force_payment_fail,
                force_inventory_fail, definition, definition_version, version, deadline_at, expires_at,
                needs_attention_since, attention_reason, resolved_by_hand, traceparent, created_at, updated_at,
                input::text, kept::text
         FROM sagas WHERE saga_id = ANY($1)",
    )
    .bind(ids)
}

fn to_sagas(flows: &Flows, rows: &[PgRow]) -> Result<HashMap<SagaId, Stored>, StoreError> {
    rows.iter().map(|row| Ok((row.try_get::<Uuid, _>("saga_id")?.into(), from_row(flows, row)?))).collect()
}

/// The sagas that a statement names in its first column.
fn ids(rows: &[PgRow]) -> Result<HashSet<SagaId>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

fn from_row(flows: &Flows, row: &PgRow) -> Result<Stored, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("a row of sagas can't be read: {why}").into());
    let (name, version) = (row.try_get::<&str, _>("definition")?, row.try_get("definition_version")?);
    let Some(flow) = flows.find(name, version) else {
        let saga_id = row.try_get::<Uuid, _>("saga_id")?.into();
        return Ok(Stored::UnknownDefinition { saga_id, name: name.to_owned(), version });
    };
    let (status, step, cause) = (row.try_get("status")?, row.try_get("step")?, row.try_get("cause")?);
    let kept = row.try_get::<Option<&str>, _>("kept")?.map_or_else(|| Ok(Kept::default()), Kept::parse);
    Ok(Stored::Saga(Box::new(Saga {
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        version: row.try_get("version")?,
        state: State::parse(&flow, status, step, cause).map_err(|error| unreadable(error.to_string()))?,
        reason: row.try_get("reason")?,
        request: Arc::new(request(&flow, row)?),
        kept: kept.map_err(|error| unreadable(error.to_string()))?,
        flow,
        deadline: row.try_get("deadline_at")?,
        expires_at: row.try_get("expires_at")?,
        attention: row
            .try_get::<Option<Timestamp>, _>("needs_attention_since")?
            .map(|since| {
                let reason = row.try_get::<Option<String>, _>("attention_reason")?;
                Ok::<_, sqlx::Error>(Attention { since, reason: reason.unwrap_or_default() })
            })
            .transpose()?,
        resolved_by_hand: row.try_get("resolved_by_hand")?,
        traceparent: row.try_get("traceparent")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })))
}

/// What a saga was started by. That of a checkout has columns of its own, so that people can search it.
fn request(flow: &Flow, row: &PgRow) -> Result<Request, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("the input of a saga can't be read: {why}").into());
    if let Some(input) = row.try_get::<Option<&str>, _>("input")? {
        return flow.read_stored_start(input).map_err(|misfit| unreadable(misfit.to_string()));
    }
    let currency = row.try_get::<&str, _>("currency")?.parse();
    let amount: Decimal = row.try_get("total_amount")?;
    let user_id = UserId::try_from(row.try_get::<String, _>("user_id")?);
    let money = currency.and_then(|currency| Money::new(amount, currency));
    let checkout = Checkout {
        user_id: user_id.map_err(|error| unreadable(error.to_string()))?,
        money: money.map_err(|error| unreadable(error.to_string()))?,
        force_payment_fail: row.try_get("force_payment_fail")?,
        force_inventory_fail: row.try_get("force_inventory_fail")?,
    };
    Ok(checkout.into())
}

/// For Postgres to multiply an interval with.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
