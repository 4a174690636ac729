//! A new saga by a request over HTTP: stores it, waits for its end, or until its flow answers, and answers with the outcome.
//! The steps don't run in here: a client that hangs up changes nothing. Those that events start: [`crate::start_topic`].

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flow::{Flow, Request};
use messages::{OrderId, SagaId, TRACEPARENT, Timestamp, TraceContext};
use service_runtime::batch::Backoff;
use service_runtime::database::{ANSWER_LIMIT, StoreError};
use service_runtime::http::{Caller, INTERNAL, Preferences, Problem};
use service_runtime::trace;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::coordinator::{ApplyError, Begun, Coordinator};
use crate::intake::{Intake, NOT_STORED, Place};
use crate::outcome::Outcome;
use crate::saga::flows::is_checkout;
use crate::saga::{FlowOutcome, Saga, State, Transition, start};
use crate::store::{KnownBy, NewSaga};
use crate::waiters::{OFTEN, Waiter};
use service_runtime::http::IdempotencyKey;

/// How long the row is waited for that says how far a saga is whose client is answered before its end.
const LATEST_LIMIT: Duration = Duration::from_millis(500);

/// How long an outcome is waited for once the client has closed its sending side. It may still read, so it gets an answer:
/// 202 after this time. Most such clients are gone, and would hold the places of others until the limit.
const WAIT_WHEN_SENDING_ENDED: Duration = Duration::from_secs(5);

/// Says that this request did not start the saga, but an earlier one with its key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Which of its preferences an answer follows (RFC 7240, section 3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A saga that takes long to its pivot has this as its limit where its flow has none: longer than anything is kept.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The saga that a request asks for.
pub struct Wanted {
    pub flow: Arc<Flow>,
    pub request: Arc<Request>,
    /// The request's body, where another version of the flow reads it otherwise.
    pub body: Option<String>,
    pub idempotency_key: Option<IdempotencyKey>,
    /// Whether it may be a new one. One that was begun before, under the request's key, is answered all the same.
    pub permitted: Result<(), Problem>,
}

/// A saga that begins now, however it was asked for. It is about `subject`.
pub fn new_saga(
    flow: &Arc<Flow>,
    saga_id: SagaId,
    subject: OrderId,
    request: Arc<Request>,
    traceparent: String,
    now: Timestamp,
) -> Transition {
    let expires_at = now + flow.limit().unwrap_or(NO_LIMIT);
    start(flow.clone(), saga_id, subject, request, expires_at, Some(traceparent), now)
}

/// Begins the saga, or finds the one that the request's key belongs to, and answers as the flow and the client's
/// preferences have it: with its end or its flow's answer, or with 202 and how far it is.
///
/// # Errors
/// 429 and 503 where no new saga is taken, 422 for a key of another request, and what `permitted` says.
pub async fn begin(intake: &Intake, caller: &Caller, headers: &HeaderMap, wanted: Wanted) -> Result<Response, Problem> {
    let Wanted { flow, request, body, idempotency_key, permitted } = wanted;
    let preferences = Preferences::of(headers);
    let (until, answer_by) = (Instant::now() + intake.wait, Instant::now() + preferences.wait(intake.wait));
    let (place, closed) = match intake.place(&flow)? {
        Place::Taken(permit) => (permit, None),
        Place::Closed(permit, why) => (permit, Some(Problem::unavailable(format!("{why}: {NOT_STORED}"), 5))),
    };
    let is_same = |found: &Saga| match &body {
        // By the version that it was started by: its defaults may be others.
        Some(body) if found.flow.name == flow.name => {
            found.flow.read_start(body).is_ok_and(|request| request.input == found.request.input)
        }
        _ => found.flow.name == flow.name && found.request.input == request.input,
    };
    let repeated = async |found: Saga, place| {
        if !is_same(&found) {
            return Err(another_request());
        }
        Ok(replay(intake, caller, found, preferences, answer_by, place).await)
    };
    let forbidden = permitted.err();
    let is_closed = forbidden.is_none() && closed.is_some();
    if let Some(refusal) = forbidden.or(closed) {
        // A repetition is no new saga.
        let found = match &idempotency_key {
            Some(key) => intake.coordinator.of_key(&request.owner, key).await.map_err(not_known)?,
            None => None,
        };
        let Some(found) = found else {
            if is_closed {
                intake.refused_as_closed(&flow);
            }
            return Err(refusal);
        };
        return repeated(found, place).await;
    }
    let now = intake.coordinator.clock.now();
    let (saga_id, trace) = (intake.mint(&flow, now), traceparent(headers));
    let transition = new_saga(&flow, saga_id, OrderId::new_at(now), request.clone(), trace, now);
    let started = transition.saga.clone();
    trace::set("saga.id", || saga_id.to_string().into());
    let waiter = intake.coordinator.waiters.register(&started);

    let known_by = idempotency_key.map_or(KnownBy::Id, KnownBy::Key);
    // In a task of its own: a client that hangs up now must not leave the effect undone. It keeps the place.
    let (coordinator, new) = (intake.coordinator.clone(), NewSaga { transition, known_by });
    let has_key = new.known_by.key().is_some();
    let stored = async move { store(coordinator, new, until).await.map(|begun| (begun, place)) };
    let stopping = async {
        intake.stop.cancelled().await;
        tokio::time::sleep(intake.stored_at_a_stop).await;
    };
    let begun = tokio::select! {
        begun = tokio::spawn(trace::carried(stored)) => begun,
        // One whole try is waited for in any case. Longer than that it takes where thousands want to be stored at once.
        () = tokio::time::sleep_until(until.max(Instant::now() + ANSWER_LIMIT) + Duration::from_secs(1)) => Ok(Err(unknown(saga_id, has_key))),
        () = stopping => return Err(unknown(saga_id, has_key)),
    };
    let begun = begun.map_err(|panic| Problem::internal(&format!("a saga can't be stored: {panic}").into()))?;
    let (begun, place) = begun.inspect_err(|_| intake.refused_by_database(&flow))?;
    match begun {
        Begun::Started => {
            let latest = wait(intake, caller, waiter, started, answer_by).await;
            drop(place);
            Ok(answer(&latest, preferences, intake.wait))
        }
        Begun::Joined(found) => {
            // It waits for the other saga now, and counts once.
            drop(waiter);
            repeated(*found, place).await
        }
    }
}

/// 422: the key belongs to another request.
fn another_request() -> Problem {
    let detail = "the `Idempotency-Key` was used for another checkout of this user: send a new key with a new body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// Answers with the saga that has the request's key.
async fn replay(
    intake: &Intake,
    caller: &Caller,
    found: Saga,
    preferences: Preferences,
    answer_by: Instant,
    _place: OwnedSemaphorePermit,
) -> Response {
    let waiter = intake.coordinator.waiters.register(&found);
    // It may have ended, or answered, between the read that found it and the registration.
    let mut latest = intake.coordinator.stored(found.saga_id).await.unwrap_or(found);
    if !latest.has_news() {
        latest = wait(intake, caller, waiter, latest, answer_by).await;
    }
    let mut answer = answer(&latest, preferences, intake.wait);
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    answer
}

/// Stores the saga. After an error whose outcome is unknown it is stored again, which settles the question: there
/// is one row for an id, and one for a key. Where the question stays open until the wait limit, the answer says
/// just that. Only a request with a key may be sent again. Only an answer to one without a key names the saga's id: under
/// a key, an earlier request's saga may be the one.
async fn store(coordinator: Arc<Coordinator>, new: NewSaga, until: Instant) -> Result<Begun, Problem> {
    let saga_id = new.transition.saga.saga_id;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut maybe_stored = false;
    loop {
        match coordinator.start(new.clone()).await {
            Ok(begun) => return Ok(begun),
            Err(ApplyError::Store(StoreError::Unavailable(_))) => maybe_stored = true,
            // Nothing was done by this try; an earlier one may have stored it.
            Err(ApplyError::Store(_)) if maybe_stored => {}
            Err(ApplyError::Store(error @ (StoreError::NotSent(_) | StoreError::Locked(_)))) => {
                return Err(Problem::unavailable(format!("{NOT_STORED}: {error}"), 1).with_cause(error.cause()));
            }
            Err(ApplyError::Store(error @ StoreError::Refused(_))) => {
                let detail = format!("{NOT_STORED}: {INTERNAL}");
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).with_cause(error.cause()));
            }
            // The key is another saga's, so this one was not stored, whatever became of earlier tries.
            Err(error) => return Err(not_known(error)),
        }
        if Instant::now() >= until {
            return Err(unknown(saga_id, new.known_by.key().is_some()));
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// 503: whether the saga was stored, nobody can say now.
fn unknown(saga_id: SagaId, has_key: bool) -> Problem {
    let unknown = "outcome unknown: the database did not answer while the checkout was stored.";
    if has_key {
        let detail = format!("{unknown} Send the same request with the same key again");
        return Problem::outcome_unknown(detail).retry_after(1);
    }
    let detail =
        format!("{unknown} Its saga tells, once the database is back; it is unknown there (404) if nothing was stored");
    Problem::outcome_unknown(detail).with_saga(saga_id).with_header(header::LOCATION, format!("/sagas/{saga_id}"))
}

/// 503: the saga that has the key can't be read now, and this request stored none. One of a newer release's
/// definition, that release can tell.
pub fn not_known(error: ApplyError) -> Problem {
    let problem = Problem::unavailable(format!("{NOT_STORED}: {error}"), 1);
    match error {
        ApplyError::UnknownDefinition { saga_id, .. } => {
            problem.with_saga(saga_id).with_header(header::LOCATION, format!("/sagas/{saga_id}"))
        }
        ApplyError::Store(error @ StoreError::Refused(_)) => {
            let detail = format!("{NOT_STORED}: {INTERNAL}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).with_cause(error.cause())
        }
        ApplyError::Store(error) => problem.with_cause(error.cause()),
        ApplyError::UnknownSaga(_) | ApplyError::Contradiction(_) => problem,
    }
}

/// Waits for the saga's answer, or until it waits itself for something outside; at most until the limit or until this
/// instance stops; and not for long for a client that has closed its sending side, since it may be gone.
async fn wait(intake: &Intake, caller: &Caller, mut waiter: Waiter, begun: Saga, until: Instant) -> Saga {
    let began = Instant::now();
    let may_be_gone = async {
        caller.sending_ended().await;
        tokio::time::sleep(WAIT_WHEN_SENDING_ENDED).await;
    };
    tokio::select! {
        ended = waiter.woken() => return ended,
        () = intake.stop.cancelled() => {}
        () = may_be_gone => {}
        () = tokio::time::sleep_until(until) => {}
    }
    if began.elapsed() < OFTEN {
        // A client that did not want to wait.
        return begun;
    }
    // It has moved since it began, and may have ended a moment ago.
    let stored = intake.coordinator.stored(begun.saga_id);
    tokio::time::timeout(LATEST_LIMIT, stored).await.ok().and_then(Result::ok).unwrap_or(begun)
}

fn answer(saga: &Saga, preferences: Preferences, limit: Duration) -> Response {
    let status = match (&saga.answered, saga.state) {
        (Some(answered), _) => answered.status,
        (None, State::Completed) => saga.flow.answer.done,
        (None, State::Failed { cause }) => saga.flow.failed_status(&saga.flow.causes[cause]),
        (None, State::Running { .. } | State::Compensating { .. }) => 202,
    };
    // A flow's statuses are 200 to 599.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
    let location = [(header::LOCATION, format!("/sagas/{}", saga.saga_id))];
    let retry_after = if saga.is_waiting() { "30" } else { "1" };
    let is_answered = saga.answered.is_some() || saga.state.has_ended();
    let retry_after = (!is_answered).then_some([(header::RETRY_AFTER, retry_after)]);
    let body = match &saga.answered {
        Some(answered) => ([(header::CONTENT_TYPE, "application/json")], answered.body.clone()).into_response(),
        None if is_checkout(&saga.flow) => Json(Outcome::from(saga)).into_response(),
        None => Json(FlowOutcome(saga)).into_response(),
    };
    let mut answer = (status, location, retry_after, body).into_response();
    if let Some(applied) = preferences.applied(limit, status) {
        answer.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    answer
}

/// The request's own W3C trace context if it has a valid one, else a new one.
fn traceparent(headers: &HeaderMap) -> String {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let given = given.filter(|given| given.parse::<TraceContext>().is_ok());
    given.map_or_else(|| trace::new_trace(true).to_string(), str::to_owned)
}
