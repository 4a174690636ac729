//! Signals: what happens outside and sagas wait for: a webhook, a scan, a person's decision. They come over HTTP (here) and
//! by a topic ([`crate::signal_topic`]); either way [`accept`] stores them first. Then a signal is [offered](offer) to the
//! sagas that wait for it, and a saga that begins to wait looks for one that came before. A process that dies in between
//! leaves both apart: they are looked for together, each minute. A saga takes a signal in the statement that moves it, so a
//! signal moves one saga, once.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flow::Misfit;
use messages::text::{check_name, check_prose};
use messages::{MAX_SIGNAL_ID, MAX_SIGNAL_MATCH, MAX_SIGNAL_PAYLOAD, SagaId, TimestampText, schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service_runtime::batch::Backoff;
use service_runtime::database::{StoreError, again_if_lost, within_limit};
use service_runtime::http::description::{BodyProblems, DatabaseProblems, PROBLEM_JSON};
use service_runtime::http::{JsonBody, PathText, Problem};
use service_runtime::retention::AT_ONCE;
use service_runtime::{CancellationToken, percent_encoded};
use sqlx::PgPool;
use tracing::{info, warn};
use utoipa::openapi::ObjectBuilder;
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

use crate::coordinator::{Applied, ApplyError, Coordinator};
use crate::registry::Flows;
use crate::saga::{Awaited, Input, Saga, Signal};
use crate::store::{NewSignal, StoredSignal, forget_signals};

/// How long a signal is kept, taken or not. One that comes longer before its saga waits for it is not found.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often those are removed that came longer ago.
const FORGET: Duration = Duration::from_secs(60);

/// How often sagas are looked for whose signal is there, and how many at a time.
const MEET: Duration = Duration::from_secs(60);
const APART: i64 = 1_000;

/// So often a match is tried that the database can't do.
const TRIES: usize = 5;

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(send, read))]
pub struct Described;

pub fn router(coordinator: Arc<Coordinator>) -> Router {
    Router::new().route("/signals/{kind}", post(send)).route("/signals/{kind}/{id}", get(read)).with_state(coordinator)
}

/// Something that happened outside.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Sent {
    /// What it names: the saga that waits for this kind of signal and this text takes it.
    #[serde(rename = "match")]
    #[schema(schema_with = matched)]
    matched: String,
    /// The sender's own id of it: sent again, it is the same signal. Without it each is another.
    #[serde(default)]
    #[schema(schema_with = own_id)]
    id: Option<String>,
    /// A JSON object, of at most 16 KiB: what a flow keeps of it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    payload: Option<Box<RawValue>>,
}

fn matched() -> ObjectBuilder {
    schema::prose(MAX_SIGNAL_MATCH)
}

fn own_id() -> ObjectBuilder {
    schema::name(MAX_SIGNAL_ID)
}

/// A stored signal, and the saga that has taken it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SignalBody {
    kind: String,
    id: String,
    #[serde(rename = "match")]
    matched: String,
    #[schema(value_type = Object)]
    payload: Option<Box<RawValue>>,
    received_at: TimestampText,
    /// The saga that has taken it. Absent until one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    saga_id: Option<SagaId>,
    /// At which of its steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_at: Option<TimestampText>,
}

impl From<StoredSignal> for SignalBody {
    fn from(signal: StoredSignal) -> Self {
        Self {
            kind: signal.kind,
            id: signal.id,
            matched: signal.matched,
            payload: RawValue::from_string(signal.payload).ok(),
            received_at: signal.received_at.into(),
            saga_id: signal.saga_id.map(SagaId::from),
            step: signal.step,
            matched_at: signal.matched_at.map(TimestampText),
        }
    }
}

#[utoipa::path(
    post, path = "/signals/{kind}", operation_id = "sendSignal", tag = "Signals", summary = "Say that something happened that a saga waits for, or will wait for",
    params(("kind" = String, Path, description = "The kind of signal, as flows name it", example = "carrier.scanned")),
    request_body(content = Sent, example = json!({"match": "1Z999", "id": "scan-4711", "payload": {"depot": "LIS"}})),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "It was sent before, under this id", body = SignalBody),
        (status = 201, description = "It is stored; `sagaId` is there if a saga has taken it already", body = SignalBody, headers(("location" = String, description = "Where it is read"))),
        (status = 404, description = "No flow waits for signals of this kind", body = Problem, content_type = PROBLEM_JSON),
        (status = 409, description = "Another signal of this kind has this id", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 201, or 200 for one that was sent before. 404 for a kind that no flow waits for; 409 for another signal with this id;
/// 422 for what fits no flow.
async fn send(
    State(coordinator): State<Arc<Coordinator>>,
    PathText(kind): PathText,
    JsonBody(sent): JsonBody<Sent>,
) -> Result<Response, Problem> {
    let Sent { matched, id, payload } = sent;
    let id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let (signal, is_new) = accept(&coordinator, Arrived { kind, id, matched, payload }, Instant::now()).await?;
    let (kind, id) = (signal.kind.clone(), signal.id.clone());
    let signal = match signal.saga_id {
        Some(_) => signal,
        None => {
            // In a task of its own: a client that hangs up now must not leave its saga waiting for the next look.
            let (offering, offered) = (coordinator.clone(), signal.clone());
            let _ = coordinator.tasks.spawn(async move { offer(&offering, &offered).await }).await;
            let now = again_if_lost(|| within_limit(coordinator.signals.find(&kind, &id))).await;
            now.ok().flatten().unwrap_or(signal)
        }
    };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/signals/{}/{}", percent_encoded(&kind), percent_encoded(&id)))];
    Ok((status, location, Json(SignalBody::from(signal))).into_response())
}

#[utoipa::path(
    get, path = "/signals/{kind}/{id}", operation_id = "readSignal", tag = "Signals", summary = "What became of a signal",
    params(
        ("kind" = String, Path, description = "The kind of signal", example = "carrier.scanned"),
        ("id" = String, Path, description = "The sender's own id of it", example = "scan-4711"),
    ),
    responses(
        (status = 200, description = "The signal; `sagaId` is there if a saga has taken it", body = SignalBody), DatabaseProblems,
        (status = 404, description = "No such signal came within the last seven days", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn read(
    State(coordinator): State<Arc<Coordinator>>,
    PathText((kind, id)): PathText<(String, String)>,
) -> Result<Json<SignalBody>, Problem> {
    let found = again_if_lost(|| within_limit(coordinator.signals.find(&kind, &id))).await?;
    let none = || Problem::new(StatusCode::NOT_FOUND, "no such signal came within the last seven days");
    Ok(Json(found.ok_or_else(none)?.into()))
}

/// A signal as it has come, whichever way.
#[derive(Debug)]
pub struct Arrived {
    pub kind: String,
    pub id: String,
    pub matched: String,
    pub payload: Option<Box<RawValue>>,
}

/// Why a signal is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No flow waits for its kind; in words, with the kinds that are waited for.
    #[error("{0}")]
    UnknownKind(String),
    /// A field breaks a rule, or no flow can read it.
    #[error(transparent)]
    Unfit(#[from] Misfit),
    /// Another signal of its kind has its id.
    #[error("another {kind} has the id {id:?}: a signal that is sent again is the same")]
    Another { kind: String, id: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownKind(why) => Self::new(StatusCode::NOT_FOUND, why),
            Refused::Unfit(Misfit { field, why }) => Self::invalid_field(&field, why),
            Refused::Another { .. } => Self::new(StatusCode::CONFLICT, refused.to_string()),
            Refused::Store(error) => error.into(),
        }
    }
}

/// Checks a signal and stores it, once: the row as it stands, and whether it is new.
///
/// # Errors
/// See [`Refused`]. Nothing is stored then, unless the database's answer was lost: it may be sent again.
pub async fn accept(coordinator: &Coordinator, arrived: Arrived, at: Instant) -> Result<(StoredSignal, bool), Refused> {
    let Arrived { kind, id, matched, payload } = arrived;
    check_prose(&matched, MAX_SIGNAL_MATCH).map_err(|error| unfit("match", error))?;
    check_name(&id, MAX_SIGNAL_ID).map_err(|error| unfit("id", error))?;
    let payload = payload.as_deref().map_or("{}", RawValue::get);
    fits(&coordinator.flows, &kind, payload, at).await?;
    let new = NewSignal { signal_id: Uuid::now_v7(), kind, id, matched, payload: payload.to_owned() };
    let (signal, is_new) = coordinator.signals.store(&new).await?;
    let is_same = signal.matched == new.matched && same(&signal.payload, &new.payload);
    if !is_new && !is_same {
        return Err(Refused::Another { kind: new.kind, id: new.id });
    }
    Ok((signal, is_new))
}

fn unfit(field: &str, why: impl Display) -> Misfit {
    Misfit { field: field.to_owned(), why: why.to_string() }
}

/// Whether a flow waits for such a signal, by the flows that are published at the time `at` or later.
async fn fits(flows: &Flows, kind: &str, payload: &str, at: Instant) -> Result<(), Refused> {
    if !payload.starts_with('{') {
        return Err(unfit("payload", "must be a JSON object").into());
    }
    if payload.len() > MAX_SIGNAL_PAYLOAD {
        let why = format!("has {} bytes; at most {MAX_SIGNAL_PAYLOAD} are stored", payload.len());
        return Err(unfit("payload", why).into());
    }
    if judged(flows, kind, payload).is_ok() {
        return Ok(());
    }
    // A flow, or a version, that waits for it may have been published on another instance a moment ago.
    within_limit(flows.seen_since(at)).await?;
    match judged(flows, kind, payload) {
        // A flow of a newer release may wait for it. That release brings both together.
        Err(_) if flows.has_unreadable() => Ok(check_name(kind, MAX_SIGNAL_ID).map_err(|error| unfit("kind", error))?),
        judged => judged,
    }
}

/// Whether a flow that is known waits for such a signal.
fn judged(flows: &Flows, kind: &str, payload: &str) -> Result<(), Refused> {
    let mut first_misfit = None;
    for flow in flows.all() {
        for (_, wait) in flow.waits().filter(|(_, wait)| wait.signal == kind) {
            match wait.read(payload) {
                Ok(_) => return Ok(()),
                Err(misfit) => drop(first_misfit.get_or_insert(misfit)),
            }
        }
    }
    let within = |Misfit { field, why }| match field.is_empty() {
        true => unfit("payload", why),
        false => unfit(&format!("payload.{field}"), why),
    };
    Err(first_misfit.map_or_else(|| unknown_kind(flows, kind), |misfit| within(misfit).into()))
}

fn unknown_kind(flows: &Flows, kind: &str) -> Refused {
    let flows = flows.all();
    let kinds: BTreeSet<&str> =
        flows.iter().flat_map(|flow| flow.waits()).map(|(_, wait)| wait.signal.as_str()).collect();
    let known = match kinds.is_empty() {
        true => "no flow waits for any".to_owned(),
        false => kinds.into_iter().collect::<Vec<_>>().join(", "),
    };
    let kind: String = kind.chars().take(80).collect();
    Refused::UnknownKind(format!("no flow waits for signals of the kind {kind:?}; known: {known}"))
}

/// Whether two texts are the same JSON.
fn same(one: &str, other: &str) -> bool {
    let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).ok();
    one == other || read(one).is_some_and(|one| read(other) == Some(one))
}

/// Offers a signal to the sagas that wait for it, until one takes it.
pub async fn offer(coordinator: &Arc<Coordinator>, signal: &StoredSignal) {
    patiently(|| offer_once(coordinator, signal)).await;
}

async fn offer_once(coordinator: &Arc<Coordinator>, signal: &StoredSignal) -> Result<(), StoreError> {
    let key = Awaited { kind: &signal.kind, matched: signal.matched.clone() }.key();
    for saga_id in coordinator.signals.waiting_for(key).await? {
        if take(coordinator, saga_id, signal).await? {
            break;
        }
    }
    Ok(())
}

/// Looks for the signal that a saga waits for: it may have come before.
pub async fn look(coordinator: &Arc<Coordinator>, saga: &Saga) {
    let Some(awaited) = saga.awaited() else {
        let (saga_id, step) = (saga.saga_id, saga.step_name());
        return warn!(%saga_id, step, "a saga waits for a signal that names nothing: only its limit ends the wait");
    };
    patiently(|| look_once(coordinator, saga.saga_id, &awaited)).await;
}

async fn look_once(coordinator: &Arc<Coordinator>, saga_id: SagaId, awaited: &Awaited<'_>) -> Result<(), StoreError> {
    let found = coordinator.signals.unmatched(awaited.kind, &awaited.matched);
    for signal in &within_limit(found).await? {
        if take(coordinator, saga_id, signal).await? {
            break;
        }
    }
    Ok(())
}

/// Does it again a few times if the database can't do it now. Done twice it is done once. After that [`meet`] does it.
async fn patiently<W: Future<Output = Result<(), StoreError>>>(work: impl Fn() -> W) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    for tries in 1.. {
        match work().await {
            Ok(()) => return,
            Err(error) if tries == TRIES => {
                warn!(error = error.for_log(), "a signal can't be matched now; it is tried again within a minute");
                return;
            }
            Err(_) => tokio::time::sleep(backoff.delay()).await,
        }
    }
}

/// Has a saga take a signal; whether it did. It does not where it waits for something else now, where it can't read the
/// payload, and where another saga has taken the signal.
async fn take(coordinator: &Arc<Coordinator>, saga_id: SagaId, signal: &StoredSignal) -> Result<bool, StoreError> {
    let read = |saga: &Saga| {
        let wait = saga.wait().filter(|wait| wait.signal == signal.kind).ok_or("it waits for something else")?;
        let values = wait.read(&signal.payload).map_err(|misfit| misfit.to_string())?;
        let StoredSignal { signal_id, kind, matched, .. } = signal.clone();
        Ok(Input::Signal(Signal { signal_id, kind, matched, values }))
    };
    match coordinator.apply_signal(saga_id, read, coordinator.clock.now()).await {
        Ok(Applied::Moved(_)) => {
            info!(%saga_id, kind = signal.kind, id = signal.id, "a saga has taken a signal");
            Ok(true)
        }
        Err(ApplyError::Store(error)) => Err(error),
        Ok(Applied::Ignored(_))
        | Err(ApplyError::Contradiction(_) | ApplyError::UnknownSaga(_) | ApplyError::UnknownDefinition { .. }) => {
            Ok(false)
        }
    }
}

/// Has sagas look again whose signal is stored, until `stop`: at once, and then each minute. It reads the free signals, and
/// not the sagas that wait, which may be very many more.
pub async fn meet(coordinator: Arc<Coordinator>, stop: CancellationToken) {
    let together = || {
        let coordinator = coordinator.clone();
        within_limit(async move {
            for saga_id in coordinator.signals.apart(APART).await? {
                // One of a flow that this release does not know is left to the release that does.
                if let Ok(saga) = coordinator.stored(saga_id).await {
                    look(&coordinator, &saga).await;
                }
            }
            Ok(())
        })
    };
    // What a process has left behind that died. If it fails, the next look does it.
    let _ = together().await;
    service_runtime::looking::keep_looking(MEET, "sagas whose signal is there", stop, together).await;
}

/// Removes signals that came longer than [`KEPT`] ago, until `stop`.
pub async fn forget_old(pool: PgPool, stop: CancellationToken) {
    service_runtime::looking::keep_looking(FORGET, "old signals", stop, || {
        within_limit(async {
            while forget_signals(&pool, KEPT, AT_ONCE).await? == AT_ONCE.unsigned_abs() {}
            Ok(())
        })
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_json_is_the_same_however_it_is_written() {
        assert!(same(r#"{"a":1,"b":[2]}"#, r#"{ "b": [2], "a": 1 }"#));
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(200), "]".repeat(200));
        assert!(!same(&deep("1"), &deep("2")) && same(&deep("1"), &deep("1")), "too deep to be read");
        assert!(!same(r#"{"a":1}"#, r#"{"a":2}"#) && !same("{}", r#"{"a":null}"#));
    }
}
