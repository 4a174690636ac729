//! The SQL of `sagas`, `saga_events` and `ignored_inputs`. A row and its history entry are one statement.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub mod announced;
mod claim;
pub mod definitions;
pub mod flows;
pub mod history;
pub mod lists;
mod new_sagas;
pub mod old_sagas;
mod signals;
mod unfinished;

use flow::{Flow, Kept, Request};
use messages::{EventId, Items, Money, SagaId, Timestamp, UserId};
use rust_decimal::Decimal;
use service_runtime::batch::{Answers, Batch};
use service_runtime::conditional::Table;
use service_runtime::database::{DatabaseClock, Session, StoreError};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgExecutor, PgPool, Postgres, Row as _};
use tracing::warn;
use uuid::Uuid;

pub use self::claim::{Due, Sweep, claim_due};
pub use self::new_sagas::{Identity, KnownBy, NewSaga, NewSagas, forget_keys};
pub use self::signals::{NewSignal, SignalStore, StoredSignal, forget_signals};
pub use self::unfinished::{Unfinished, unfinished, waiting_that_need_attention};
use crate::registry::Flows;
use crate::saga::{Answered, Attention, Checkout, Ignored, Marked, Saga, State, Transition};

/// Where sagas are stored.
pub struct Database<'a> {
    pub pool: &'a PgPool,
    pub clock: DatabaseClock,
    /// Whether each saga that ends leaves an entry in `outbox`.
    pub is_announced: bool,
}

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

/// How long a saga whose step has reported progress is left alone, unless its limit comes first.
const WAITING_REPETITION: Duration = Duration::from_secs(300);

/// A saga that waits for a signal has nothing to repeat: it is looked at when its limit passes, and by [`crate::signals::meet`].
const AT_ITS_LIMIT: Duration = Duration::from_secs(1_000 * 24 * 3600);

macro_rules! moves {
    ($waits:literal, $free:literal, $may_move:literal, $set:literal, $taken:literal, $announced:literal) => {
        concat!(
            "WITH new AS (
                 SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::bigint[]) AS version,
                        UNNEST($3::text[]) AS status, UNNEST($4::text[]) AS step, UNNEST($5::text[]) AS cause,
                        UNNEST($6::text[]) AS reason, UNNEST($7::timestamptz[]) AS deadline_at,
                        UNNEST($8::timestamptz[]) AS updated_at, UNNEST($9::text[]) AS input,
                        UNNEST($10::uuid[]) AS event_id, UNNEST($11::text[]) AS entry_reason,
                        UNNEST($12::float8[]) * interval '1 ms' AS resend_first,
                        UNNEST($13::bool[]) AS resolved_by_hand, UNNEST($14::timestamptz[]) AS at,
                        UNNEST($15::text[]) AS actor, UNNEST($16::text[]) AS evidence, UNNEST($17::text[]) AS kept",
            $waits,
            "), ",
            $free,
            "moved AS (
                 UPDATE sagas
                 SET version = new.version, status = new.status, step = new.step, cause = new.cause,
                     reason = new.reason, deadline_at = new.deadline_at, updated_at = new.updated_at,
                     resolved_by_hand = new.resolved_by_hand, kept = new.kept::json,
                     -- A move that stays where it is (operator.retried) goes on counting.
                     attempts = CASE WHEN sagas.step = new.step THEN attempts ELSE 0 END,
                     next_attempt_at = LEAST(now() + new.resend_first, new.deadline_at),",
            $set,
            "FROM new WHERE sagas.saga_id = new.saga_id AND sagas.version = new.version - 1",
            $may_move,
            "    RETURNING new.*
             ), ",
            $taken,
            "history AS (
                 INSERT INTO saga_events (saga_id, seq, input, event_id, status, step, reason, at, actor, evidence)
                 SELECT saga_id, version, input, event_id, status, step, entry_reason, at, actor, evidence FROM moved
             )",
            $announced,
            "
             SELECT saga_id FROM moved"
        )
    };
}

macro_rules! plain_moves {
    ($announced:literal) => {
        moves!(
            "",
            "",
            "",
            "
                     -- Nearly always unchanged, which spares all indexes a new entry.
                     sweep_at = LEAST(sweep_at, now() + new.resend_first, new.deadline_at),
                     needs_attention_since = CASE WHEN sagas.step = new.step THEN needs_attention_since END,
                     attention_reason = CASE WHEN sagas.step = new.step THEN attention_reason END
                 ",
            "",
            $announced
        )
    };
}

// The same for sagas that may wait, or are answered before their end. A move by a signal takes the signal in the same statement, or does not take place:
// a signal moves one saga, once, whatever dies.
macro_rules! waiting_moves {
    ($announced:literal) => {
        moves!(
            ", UNNEST($18::text[]) AS awaits, string_to_array(UNNEST($19::text[]), ',')::uuid[] AS progressed,
                        UNNEST($20::uuid[]) AS takes, UNNEST($21::bool[]) AS marked,
                        UNNEST($22::timestamptz[]) AS expires_at, UNNEST($23::timestamptz[]) AS answered_at,
                        UNNEST($24::int[]) AS answer_status, UNNEST($25::text[]) AS answer",
            "free AS MATERIALIZED (
                 SELECT signal_id FROM signals WHERE signal_id = ANY($20) AND saga_id IS NULL
                 ORDER BY signal_id FOR UPDATE
             ), ",
            " AND (new.takes IS NULL OR new.takes IN (SELECT signal_id FROM free))
             ",
            "
                     -- It changes its index with its status anyway.
                     sweep_at = CASE
                         WHEN sagas.status = new.status
                         THEN LEAST(sweep_at, now() + new.resend_first, new.deadline_at)
                         ELSE LEAST(now() + new.resend_first, new.deadline_at) END,
                     awaits = new.awaits, progressed = new.progressed, expires_at = new.expires_at,
                     -- The first answer stays.
                     answered_at = COALESCE(sagas.answered_at, new.answered_at),
                     answer_status = COALESCE(sagas.answer_status, new.answer_status),
                     answer = COALESCE(sagas.answer, new.answer::json),
                     needs_attention_since = CASE
                         WHEN new.marked THEN COALESCE(needs_attention_since, now())
                         WHEN new.marked IS NULL THEN needs_attention_since END,
                     attention_reason = CASE
                         WHEN new.marked THEN new.entry_reason
                         WHEN new.marked IS NULL THEN attention_reason END
                 ",
            "taken AS (
                 UPDATE signals SET saga_id = moved.saga_id, step = sagas.step, matched_at = now()
                 FROM moved JOIN sagas USING (saga_id) WHERE signals.signal_id = moved.takes
             ), ",
            $announced
        )
    };
}

// An entry for each saga that ends.
macro_rules! and_announced {
    ($moves:ident) => {
        $moves!(
            ", announced AS (
                 INSERT INTO outbox (id, what) SELECT saga_id, status FROM moved WHERE status IN ('COMPLETED', 'FAILED')
             )"
        )
    };
}

const MOVE: &str = plain_moves!("");
const ANNOUNCED_MOVE: &str = and_announced!(plain_moves);
const MOVE_THAT_MAY_WAIT: &str = waiting_moves!("");
const ANNOUNCED_MOVE_THAT_MAY_WAIT: &str = and_announced!(waiting_moves);

/// What [`MOVE_THAT_MAY_WAIT`] needs beside.
fn waiting<'q>(update: Query<'q, Postgres, PgArguments>, moves: &[&Transition]) -> Query<'q, Postgres, PgArguments> {
    let sagas = || moves.iter().map(|m| &m.saga);
    let given_now = |m: &&&Transition| m.saga.answered.as_ref().is_some_and(|answered| answered.at == m.entry.at);
    let answers = || moves.iter().map(move |m| Some(m).filter(given_now)?.saga.answered.as_deref());
    let progressed = |saga: &Saga| {
        let ids: Vec<String> = saga.progressed.iter().map(ToString::to_string).collect();
        (!ids.is_empty()).then(|| ids.join(","))
    };
    let marked = |marked: Marked| match marked {
        Marked::Unchanged => None,
        Marked::Set => Some(true),
        Marked::Cleared => Some(false),
    };
    update
        .bind(sagas().map(|saga| Some(saga.awaited()?.key())).collect::<Vec<_>>())
        .bind(sagas().map(progressed).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.takes).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| marked(m.marked)).collect::<Vec<_>>())
        .bind(sagas().map(|saga| saga.expires_at).collect::<Vec<_>>())
        .bind(answers().map(|answered| Some(answered?.at)).collect::<Vec<_>>())
        .bind(answers().map(|answered| Some(i32::from(answered?.status))).collect::<Vec<_>>())
        .bind(answers().map(|answered| Some(answered?.body.as_str())).collect::<Vec<_>>())
}

/// Leaves out a move by a signal that another move here takes.
fn each_signal_once<'a>(moves: &[&'a Transition]) -> Vec<&'a Transition> {
    let mut taken = HashSet::new();
    moves.iter().copied().filter(|m| m.takes.is_none_or(|signal| taken.insert(signal))).collect()
}

/// When the effect of a state that was just reached is repeated first.
fn first_repetition(saga: &Saga) -> Duration {
    match saga.wait() {
        Some(_) => AT_ITS_LIMIT,
        None if saga.is_waiting() => WAITING_REPETITION,
        None => saga.flow.repeat.first,
    }
}

/// Sagas that move: each from the version before its own.
pub struct Sagas {
    pub session: Session,
    pub flows: Arc<Flows>,
    /// Whether each saga that ends leaves an entry in `outbox`.
    pub is_announced: bool,
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
        let moves = each_signal_once(moves);
        let (sagas, entries) = (|| moves.iter().map(|m| &m.saga), || moves.iter().map(|m| &m.entry));
        // Of a flow whose sagas never wait, nor are answered early, what is about it is never set.
        let is_plain = |saga: &Saga| !saga.flow.may_wait() && !saga.flow.answers_early() && saga.attention.is_none();
        let may_wait = !sagas().all(is_plain);
        let statement = match (may_wait, self.is_announced) {
            (false, false) => MOVE,
            (false, true) => ANNOUNCED_MOVE,
            (true, false) => MOVE_THAT_MAY_WAIT,
            (true, true) => ANNOUNCED_MOVE_THAT_MAY_WAIT,
        };
        let update = sqlx::query(statement)
            .bind(sagas().map(|s| s.saga_id.as_uuid()).collect::<Vec<_>>())
            .bind(sagas().map(|s| s.version).collect::<Vec<_>>())
            .bind(sagas().map(Saga::status).collect::<Vec<_>>())
            .bind(sagas().map(Saga::step_name).collect::<Vec<_>>())
            .bind(sagas().map(Saga::cause).collect::<Vec<_>>())
            .bind(sagas().map(|s| s.reason.as_deref()).collect::<Vec<_>>())
            .bind(sagas().map(|s| s.deadline).collect::<Vec<_>>())
            .bind(sagas().map(|s| s.updated_at).collect::<Vec<_>>())
            .bind(entries().map(|e| &*e.input).collect::<Vec<_>>())
            .bind(entries().map(|e| e.event_id.map(Uuid::from)).collect::<Vec<_>>())
            .bind(entries().map(|e| e.reason.as_deref()).collect::<Vec<_>>())
            .bind(sagas().map(|s| milliseconds(first_repetition(s))).collect::<Vec<_>>())
            .bind(sagas().map(|s| s.resolved_by_hand).collect::<Vec<_>>())
            .bind(entries().map(|e| e.at).collect::<Vec<_>>())
            .bind(entries().map(|e| e.operator.as_ref().map(|o| o.by.as_str())).collect::<Vec<_>>())
            .bind(entries().map(|e| Some(e.operator.as_ref()?.act.settled()?.evidence.as_str())).collect::<Vec<_>>())
            .bind(sagas().map(|s| (!s.kept.is_empty()).then(|| s.kept.to_json())).collect::<Vec<_>>());
        let update = match may_wait {
            true => waiting(update, &moves),
            false => update,
        };
        let moved = ids(&self.session.rows(update).await?)?;
        let stored = sagas().filter(|saga| moved.contains(&saga.saga_id));
        Ok(stored.map(|saga| (saga.saga_id, Stored::Saga(Box::new(saga.clone())))).collect())
    }

    async fn read(&self, sagas: Vec<SagaId>) -> Result<HashMap<SagaId, Stored>, StoreError> {
        to_sagas(&self.flows, &self.session.rows(wanted(sagas)).await?)
    }

    async fn held(&self, moves: &[&Transition]) -> Result<HashSet<SagaId>, StoreError> {
        let held = sqlx::query(service_runtime::held_rows!("sagas", "saga_id"));
        let wanted: Vec<Uuid> = moves.iter().map(|m| m.saga.saga_id.as_uuid()).collect();
        ids(&self.session.rows(held.bind(wanted)).await?)
    }
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

macro_rules! wanted {
    () => {
        // Columns by name: a release that adds one must not change the result of this one's prepared statement.
        "SELECT saga_id, order_id, user_id, total_amount, currency, status, step, cause, reason, force_payment_fail,
                force_inventory_fail, definition, definition_version, version, deadline_at, expires_at,
                needs_attention_since, attention_reason, resolved_by_hand, traceparent, created_at, updated_at,
                input::text, kept::text, progressed, answered_at, answer_status, answer::text
         FROM sagas WHERE saga_id = ANY($1)"
    };
}

/// Of these sagas, those whose clients can be answered (see [`Saga::has_news`]).
pub async fn with_news(session: &Session, flows: &Flows, sagas: Vec<SagaId>) -> Result<Vec<Saga>, StoreError> {
    let has_news = concat!(wanted!(), " AND (status IN ('COMPLETED', 'FAILED', 'WAITING') OR answered_at IS NOT NULL)");
    let rows = session.rows(sqlx::query(has_news).bind(uuids(sagas))).await?;
    let sagas = rows.iter().filter_map(|row| match from_row(flows, row) {
        Ok(Stored::Saga(saga)) => Some(*saga),
        Ok(Stored::UnknownDefinition { .. }) => None,
        // The others' clients are answered.
        Err(error) => {
            warn!(error = error.for_log(), "a saga that a client waits for can't be read");
            None
        }
    });
    Ok(sagas.collect())
}

fn wanted(sagas: Vec<SagaId>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(wanted!()).bind(uuids(sagas))
}

fn uuids(sagas: Vec<SagaId>) -> Vec<Uuid> {
    sagas.into_iter().map(Uuid::from).collect()
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
    let progressed = row.try_get::<Option<Vec<Uuid>>, _>("progressed")?;
    Ok(Stored::Saga(Box::new(Saga {
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        version: row.try_get("version")?,
        state: State::parse(&flow, status, step, cause).map_err(|error| unreadable(error.to_string()))?,
        reason: row.try_get("reason")?,
        request: Arc::new(request(&flow, row)?),
        kept: kept.map_err(|error| unreadable(error.to_string()))?,
        progressed: progressed.into_iter().flatten().map(EventId::from).collect(),
        flow,
        answered: answered(row)?,
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

fn answered(row: &PgRow) -> Result<Option<Arc<Answered>>, StoreError> {
    let Some(at) = row.try_get("answered_at")? else { return Ok(None) };
    let status = row.try_get::<i32, _>("answer_status")?;
    let unreadable = |_| StoreError::Refused(format!("a stored answer has the status {status}").into());
    let status = status.try_into().map_err(unreadable)?;
    Ok(Some(Arc::new(Answered { at, status, body: row.try_get("answer")? })))
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
        items: Items::default(),
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
