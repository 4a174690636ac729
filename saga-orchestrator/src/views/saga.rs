//! `GET /sagas/{id}`: where a saga stands, how it got there, and what happens next.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use flow::{Flow, Happened, Role};
use messages::schema::Amount;
use messages::{Currency, EventId, OrderId, SagaId, Timestamp, TimestampText, UserId};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;
use service_runtime::database::{StoreError, again_if_lost};
use service_runtime::http::description::{DatabaseProblems, IdProblems, PROBLEM_JSON};
use service_runtime::http::{PathText, Problem};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::{Views, story, summary};
use crate::described;
use crate::outcome::{Outcome, money, of_unknown_definition, parse_id};
use crate::registry::Flows;
use crate::saga::flows::is_pay_first;
use crate::saga::{Effect, OrderCall, Saga, State as SagaState};
use crate::store::history::{self, Entry, Repetition};
use crate::store::{self, Stored};

// The outcome's fields are written out: `flatten` would lose the amount's exact digits.
/// The outcome's fields, then how it came about.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaBody {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    #[schema(schema_with = described::statuses)]
    pub status: &'static str,
    /// What is pending, or how it ended.
    #[schema(schema_with = described::any_step)]
    pub step: String,
    pub reason: Option<String>,
    #[schema(value_type = UserId)]
    pub user_id: String,
    /// Absent where the flow is about no money, and so is `currency`.
    #[schema(value_type = Option<Amount>, nullable = false)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option", skip_serializing_if = "Option::is_none")]
    pub total_amount: Option<Decimal>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    pub created_at: TimestampText,
    pub updated_at: TimestampText,
    pub definition: String,
    /// What `orderId` is the id of, in the flow's word: `orderId`, or `tripId`.
    pub subject: String,
    /// The request by which a saga of a user's flow was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>, nullable = false)]
    pub input: Option<Box<RawValue>>,
    /// What is kept of its replies: an object of fields for each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>, nullable = false)]
    pub kept: Option<Box<RawValue>>,
    /// What its client was answered, where it goes on behind the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerBody>,
    /// From its beginning to its end, or till now.
    pub duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_attention: Option<AttentionBody>,
    pub resolved_by_hand: bool,
    /// What happens next. Absent once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingBody>,
    pub history: Vec<HistoryBody>,
    pub ignored: Vec<IgnoredBody>,
    /// The trace of the request that began it, and of all that was done for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The same as the header that goes along with commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What happened, and what happens next, in sentences.
    pub summary: Vec<String>,
    /// Whether an operator's cancel counts now, for the dashboard.
    #[serde(skip)]
    pub may_be_cancelled: bool,
    /// The flow that it runs by, for the dashboard.
    #[serde(skip)]
    pub flow: Arc<Flow>,
}

impl SagaBody {
    /// What it is about: `500 USD`.
    pub fn money(&self) -> Option<String> {
        money(self.total_amount, self.currency.as_ref())
    }
}

/// Why a person should look at it, and since when.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttentionBody {
    pub since: TimestampText,
    pub reason: String,
}

/// An answer that was given before the end.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerBody {
    pub at: TimestampText,
    /// The HTTP status.
    #[schema(minimum = 200, maximum = 599)]
    pub status: u16,
    #[schema(value_type = serde_json::Value)]
    pub body: Box<RawValue>,
}

/// What is asked of another service, and repeated until it answers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingBody {
    #[serde(flatten)]
    pub effect: EffectBody,
    /// How often it was repeated.
    pub attempts: i32,
    /// When it is repeated, unless it is answered before.
    pub next_attempt_at: TimestampText,
    /// When the step counts as timed out. Absent where nothing times out: it is repeated for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<TimestampText>,
    /// The command as it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub message: Option<Box<RawValue>>,
}

/// A command on Kafka, a call of the order service, or a signal that is waited for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectBody {
    /// The command's topic, the call's method and path, or the signal's kind and what it has to name.
    pub effect: String,
    /// The command's `eventId`: a repetition carries the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<EventId>,
}

/// A move: what happened, where it led to, and what was asked for then.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryBody {
    pub seq: i64,
    pub at: TimestampText,
    /// How long it stood here: until the next move, or till now. Absent for an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    pub input: String,
    /// The event that told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    #[schema(schema_with = described::statuses)]
    pub status: String,
    #[schema(schema_with = described::any_step)]
    pub step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command that was sent then (its topic), or the call that was made (its method and path).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// The command's `eventId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<EventId>,
    /// The operator who made this move, and what proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// An input that did not count: it came late, or twice.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IgnoredBody {
    pub input: String,
    pub state: String,
    pub count: i64,
    pub first_at: TimestampText,
    pub last_at: TimestampText,
}

#[utoipa::path(
    get, path = "/sagas/{id}", operation_id = "readSaga", tag = "Sagas", summary = "Where a saga stands, how it got there, and what happens next",
    params(("id" = SagaId, Path, description = "The saga's id")),
    responses(
        (status = 200, description = "Its state and history", body = SagaBody), IdProblems, DatabaseProblems,
        (status = 409, description = "It runs by a definition that this release does not know", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 200 with state and history; 400 for what is no id; 404; 409 for one of a newer release's definition.
pub async fn saga(State(views): State<Views>, PathText(id): PathText) -> Result<Json<SagaBody>, Problem> {
    Ok(Json(one(&views, parse_id(&id)?).await?))
}

/// All that is known of a saga here.
///
/// # Errors
/// 404; 409 for one of a newer release's definition; 503 or 500 for the database's.
pub async fn one(views: &Views, saga_id: SagaId) -> Result<SagaBody, Problem> {
    let Some(stored) = again_if_lost(|| read(&views.pool, &views.flows, saga_id)).await? else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no saga {saga_id}")));
    };
    let (repetition, entries, ignored) = (stored.repetition, stored.entries, stored.ignored.into_iter());
    let saga = match stored.saga {
        Stored::Saga(saga) => *saga,
        Stored::UnknownDefinition { name, version, .. } => {
            return Err(of_unknown_definition(saga_id, &name, version));
        }
    };
    let ended = saga.state.has_ended();
    let now = views.clock.now();
    let outcome = Outcome::from(&saga);
    let mut body = SagaBody {
        saga_id,
        order_id: outcome.order_id,
        status: outcome.status,
        step: outcome.step,
        reason: outcome.reason,
        user_id: outcome.user_id,
        total_amount: outcome.total_amount,
        currency: outcome.currency,
        created_at: outcome.created_at,
        updated_at: outcome.updated_at,
        definition: format!("{} v{}", saga.flow.name, saga.flow.version),
        subject: saga.flow.start.subject.clone(),
        input: (!is_pay_first(&saga.flow)).then(|| RawValue::from_string(saga.request.input.to_json()).ok()).flatten(),
        kept: (!saga.kept.is_empty()).then(|| RawValue::from_string(saga.kept.to_json()).ok()).flatten(),
        answer: saga.answered.as_ref().and_then(|answered| {
            let body = RawValue::from_string(answered.body.clone()).ok()?;
            Some(AnswerBody { at: answered.at.into(), status: answered.status, body })
        }),
        duration_ms: milliseconds(saga.created_at, if ended { saga.updated_at } else { now }),
        needs_attention: saga
            .attention
            .as_ref()
            .map(|attention| AttentionBody { since: attention.since.into(), reason: attention.reason.clone() }),
        resolved_by_hand: saga.resolved_by_hand,
        pending: repetition.and_then(|repetition| pending(&saga, repetition)),
        history: history_of(&saga, entries, now),
        ignored: ignored
            .map(|ignored| IgnoredBody {
                input: ignored.input,
                state: ignored.state,
                count: ignored.count,
                first_at: ignored.first_at.into(),
                last_at: ignored.last_at.into(),
            })
            .collect(),
        trace_id: saga.trace_id().map(str::to_owned),
        traceparent: saga.traceparent.clone(),
        summary: Vec::new(),
        may_be_cancelled: may_be_cancelled(&saga),
        flow: saga.flow.clone(),
    };
    body.summary = match is_pay_first(&saga.flow) {
        true => summary::sentences(&body),
        false => story::sentences(&saga, &body),
    };
    Ok(body)
}

/// What goes back already is cancelled again without a change.
fn may_be_cancelled(saga: &Saga) -> bool {
    match saga.state {
        SagaState::Running { .. } => saga.state.next(&saga.flow, Happened::Cancelled(Role::Operator)).is_some(),
        SagaState::Compensating { .. } => true,
        SagaState::Completed | SagaState::Failed { .. } => false,
    }
}

/// What is stored of a saga.
struct Whole {
    saga: Stored,
    /// `None` once it has ended.
    repetition: Option<Repetition>,
    entries: Vec<Entry>,
    ignored: Vec<history::Ignored>,
}

/// In one snapshot: a saga that moves between two statements would stand elsewhere than where its history ends.
async fn read(pool: &PgPool, flows: &Flows, saga_id: SagaId) -> Result<Option<Whole>, StoreError> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let Some(saga) = store::read(&mut *snapshot, flows, saga_id).await? else { return Ok(None) };
    let ended = matches!(&saga, Stored::Saga(saga) if saga.state.has_ended());
    let repetition = if ended { None } else { history::repetition(&mut *snapshot, saga_id).await? };
    let entries = history::entries(&mut *snapshot, saga_id).await?;
    let ignored = history::ignored(&mut *snapshot, saga_id).await?;
    snapshot.commit().await?;
    Ok(Some(Whole { saga, repetition, entries, ignored }))
}

fn pending(saga: &Saga, repetition: Repetition) -> Option<PendingBody> {
    let effect = saga.effect();
    let message = match &effect {
        Effect::Send(record) => {
            std::str::from_utf8(&record.body).ok().map(|body| RawValue::from_string(body.to_owned()))
        }
        Effect::Call(_) | Effect::Await | Effect::Wake => None,
    };
    Some(PendingBody {
        effect: told(saga, &effect)?,
        attempts: repetition.attempts,
        next_attempt_at: repetition.next_attempt_at.into(),
        deadline_at: saga.deadline.map(TimestampText),
        message: message.and_then(Result::ok),
    })
}

/// An effect in a few words. `None` for the end, which asks for nothing.
fn told(saga: &Saga, effect: &Effect) -> Option<EffectBody> {
    let call = |effect: String| Some(EffectBody { effect, command_id: None });
    let patch = |status| call(format!("PATCH /orders/{}/status {status}", saga.order_id));
    match effect {
        Effect::Send(record) => Some(EffectBody { effect: record.topic.to_string(), command_id: saga.command_id() }),
        Effect::Call(OrderCall::Create { .. }) => call("POST /orders".to_owned()),
        Effect::Call(OrderCall::Confirm { .. }) => patch("CONFIRMED"),
        Effect::Call(OrderCall::Cancel { .. }) => patch("CANCELLED"),
        Effect::Await => {
            let awaited = saga.awaited().map(|awaited| awaited.key());
            call(format!("the signal {}", awaited.as_deref().unwrap_or("that nothing can match")))
        }
        Effect::Wake => None,
    }
}

/// The moves, each with what the state that it led to asked for.
fn history_of(saga: &Saga, entries: Vec<Entry>, now: Timestamp) -> Vec<HistoryBody> {
    let mut next: Vec<Option<Timestamp>> = entries.iter().skip(1).map(|entry| Some(entry.at)).collect();
    next.push((!saga.state.has_ended()).then_some(now));
    let cause = saga.cause();
    entries
        .into_iter()
        .zip(next)
        .map(|(entry, next)| {
            let state = SagaState::parse(&saga.flow, &entry.status, &entry.step, cause).ok();
            let then = state.map(|state| Saga { state, ..saga.clone() });
            let then = then.and_then(|then| told(&then, &then.effect()));
            HistoryBody {
                seq: entry.seq,
                at: entry.at.into(),
                duration_ms: next.map(|next| milliseconds(entry.at, next)),
                input: entry.input,
                event_id: entry.event_id.map(EventId::from),
                status: entry.status,
                step: entry.step,
                reason: entry.reason,
                command_id: then.as_ref().and_then(|then| then.command_id),
                effect: then.map(|then| then.effect),
                by: entry.actor,
                evidence: entry.evidence,
            }
        })
        .collect()
}

/// Clocks of several processes may disagree a little: never less than 0.
fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    (to - from).num_microseconds().unwrap_or(i64::MAX).max(0) as f64 / 1000.0
}
