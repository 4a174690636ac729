//! `POST /checkout`: stores a saga, waits for its end, answers with the outcome. The steps don't run in here: a
//! client that hangs up changes nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use messages::schema::{CurrencyInUse, NewUserId};
use messages::{AmountText, Currency, Money, OrderId, SagaId, TRACEPARENT, TraceContext};
use serde::Deserialize;
use service_runtime::batch::Backoff;
use service_runtime::database::{ANSWER_LIMIT, StoreError};
use service_runtime::http::description::{BodyProblems, DatabaseProblems, PROBLEM_JSON};
use service_runtime::http::{Caller, INTERNAL, JsonBody, Problem};
use service_runtime::trace;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use utoipa::{OpenApi, ToSchema};

use crate::coordinator::{ApplyError, Begun, Coordinator};
use crate::idempotency::{IdempotencyKey, TakenKey};
use crate::intake::{Intake, NOT_STORED, Place};
use crate::outcome::Outcome;
use crate::prefer::Preferences;
use crate::saga::{Checkout, Saga, State as SagaState, flows, start};
use crate::store::NewSaga;
use crate::waiters::Waiter;

/// How often a waiting request looks at the row itself, for the case that the reply goes to another instance: seldom
/// while its partition is this instance's (or Kafka is away), often when it is not, or has moved.
const POLL: Duration = Duration::from_secs(1);
const POLL_ELSEWHERE: Duration = Duration::from_millis(200);

/// How long an outcome is waited for once the client has closed its sending side. It may still read, so it gets an answer:
/// 202 after this time. Most such clients are gone, and would hold the places of others until the limit.
const WAIT_WHEN_SENDING_ENDED: Duration = Duration::from_secs(5);

/// Tells that this request did not start the checkout, but an earlier one with its key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Which of its preferences an answer follows (RFC 7240, section 3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Describes the route.
#[derive(OpenApi)]
#[openapi(paths(checkout))]
pub struct Described;

pub fn router(intake: Intake) -> Router {
    Router::new().route("/checkout", post(checkout)).with_state(Arc::new(intake))
}

/// What is ordered, by whom, and which failure is to be tried out.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CheckoutRequest {
    #[schema(value_type = NewUserId)]
    user_id: String,
    total_amount: AmountText,
    /// USD unless given.
    #[schema(value_type = Option<CurrencyInUse>)]
    currency: Option<String>,
    /// The payment is to be declined. For trying that out: refused where ALLOW_FORCED_FAILURES is off.
    #[serde(default)]
    force_payment_fail: bool,
    /// The goods are to be out of stock. Likewise.
    #[serde(default)]
    force_inventory_fail: bool,
}

impl CheckoutRequest {
    /// By the rules of this release and of those before it: a request that is repeated is found again.
    fn validated(self) -> Result<Checkout, Problem> {
        let currency = self.currency.as_deref().map_or(Ok(Currency::USD), str::parse);
        let currency = currency.map_err(|error| Problem::invalid_field("currency", error))?;
        Ok(Checkout {
            user_id: self.user_id.try_into().map_err(|error| Problem::invalid_field("userId", error))?,
            money: Money::parse(&self.total_amount.0, currency)
                .map_err(|error| Problem::invalid_field("totalAmount", error))?,
            force_payment_fail: self.force_payment_fail,
            force_inventory_fail: self.force_inventory_fail,
        })
    }
}

/// What `POST /checkout` makes of a request's body, for `fuzz/`.
#[cfg(fuzzing)]
pub async fn read_checkout(request: axum::extract::Request) -> Result<Checkout, Problem> {
    use axum::extract::FromRequest as _;
    let JsonBody(request) = JsonBody::<CheckoutRequest>::from_request(request, &()).await?;
    request.validated()
}

#[utoipa::path(
    post, path = "/checkout", operation_id = "checkout", tag = "Checkout", summary = "Take an order, charge it, reserve its goods, and tell the outcome",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same body by the same user, it is the same checkout",
            min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("Prefer" = Option<String>, Header, description = "RFC 7240. `respond-async`: answer at once, with 202. `wait=10`: after 10 s at the latest, and not after `CHECKOUT_WAIT_MS`", example = "respond-async, wait=10"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; what is none is not looked at",
            example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ),
    request_body(content = CheckoutRequest, examples(
        ("completed" = (value = json!({"userId": "u1", "totalAmount": 500}))),
        ("the payment is declined" = (value = json!({"userId": "u1", "totalAmount": 500, "forcePaymentFail": true}))),
        ("the goods are out of stock" = (value = json!({"userId": "u1", "totalAmount": "19.90", "currency": "EUR", "forceInventoryFail": true}))),
    )),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "COMPLETED: charged once, goods set aside, order confirmed", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "COMPLETED", "step": "COMPLETED",
                "reason": null, "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 402, description = "FAILED because of the payment: nothing was charged", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "FAILED", "step": "PAYMENT_FAILED",
                "reason": "declined: forcePaymentFail", "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 409, description = "FAILED for another cause, which `step` tells: all is undone", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "FAILED", "step": "INVENTORY_FAILED",
                "reason": "out of stock: forceInventoryFail", "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 202, description = "Still running; `Location` tells the end", body = Outcome, headers(
            ("location" = String, description = "Where the saga is read"), ("retry-after" = u32, description = "In how many seconds to look"),
            ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it"),
            ("preference-applied" = Option<String>, description = "What of `Prefer` was followed"))),
        (status = 422, description = "JSON of another shape, a value that breaks a rule, or a key that was used for another checkout", body = Problem, content_type = PROBLEM_JSON,
            example = json!({"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "`totalAmount` must be greater than 0", "field": "totalAmount"})),
        (status = 429, description = "Too many checkouts are waiting: nothing was stored", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
        (status = 503, description = "New checkouts are paused, too many are unfinished, or the database can't be reached: nothing was stored. Or: outcome unknown",
            body = Problem, content_type = PROBLEM_JSON, headers(
                ("retry-after" = Option<u32>, description = "In how many seconds to send the same request again. Absent: do not, `Location` tells"),
                ("location" = Option<String>, description = "The saga, if it is in doubt whether it was stored")),
            example = json!({"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "new checkouts are paused (the gateway is down): nothing was stored by this request"})),
    ),
)]
/// 200, 402 or 409 with the outcome; 202 with how far it is, when it takes longer or the client asked not to wait.
async fn checkout(
    State(intake): State<Arc<Intake>>,
    caller: Caller,
    TakenKey(idempotency_key): TakenKey,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CheckoutRequest>,
) -> Result<Response, Problem> {
    let checkout = request.validated()?;
    let preferences = Preferences::of(&headers);
    let (until, answer_by) = (Instant::now() + intake.wait, Instant::now() + preferences.wait(intake.wait));
    let (place, closed) = match intake.place()? {
        Place::Taken(permit) => (permit, None),
        Place::Closed(permit, why) => (permit, Some(Problem::unavailable(format!("{why}: {NOT_STORED}"), 5))),
    };
    let forbidden = permitted(&checkout, idempotency_key.as_ref(), intake.allow_forced_failures).err();
    let is_closed = forbidden.is_none() && closed.is_some();
    if let Some(refusal) = forbidden.or(closed) {
        // A repetition is no new checkout.
        let found = match &idempotency_key {
            Some(key) => intake.coordinator.of_key(&checkout.user_id, key).await.map_err(not_told)?,
            None => None,
        };
        let Some(found) = found else {
            if is_closed {
                intake.refused_as_closed();
            }
            return Err(refusal);
        };
        return replay(&intake, &caller, found, &checkout, preferences, answer_by, place).await;
    }
    let now = intake.coordinator.clock.now();
    let (saga_id, trace) = (intake.mint(), traceparent(&headers));
    let expires_at = now + intake.saga_timeout;
    let flow = flows::pay_first();
    let transition = start(flow, saga_id, OrderId::new(), checkout.clone(), expires_at, Some(trace), now);
    let started = transition.saga.clone();
    trace::set("saga.id", || saga_id.to_string().into());
    let waiter = intake.coordinator.waiters.register(saga_id);

    // In a task of its own: a client that hangs up now must not leave the effect undone. It keeps the place.
    let (coordinator, new) = (intake.coordinator.clone(), NewSaga { transition, idempotency_key });
    let has_key = new.idempotency_key.is_some();
    let stored = async move { store(coordinator, new, until).await.map(|begun| (begun, place)) };
    let stopping = async {
        intake.stop.cancelled().await;
        tokio::time::sleep(intake.stored_at_a_stop).await;
    };
    let begun = tokio::select! {
        begun = tokio::spawn(trace::carried(stored)) => begun,
        // One whole try is waited for in any case. Longer than that it takes where thousands want to be stored at once.
        () = tokio::time::sleep_until(until.max(Instant::now() + ANSWER_LIMIT) + POLL) => Ok(Err(unknown(saga_id, has_key))),
        () = stopping => return Err(unknown(saga_id, has_key)),
    };
    let begun = begun.map_err(|panic| Problem::internal(&format!("a checkout can't be stored: {panic}").into()))?;
    let (begun, place) = begun.inspect_err(|_| intake.refused_by_database())?;
    match begun {
        Begun::Started => {
            let latest = wait(&intake, &caller, waiter, started, answer_by).await;
            drop(place);
            Ok(answer(&latest, preferences, intake.wait))
        }
        Begun::Joined(found) => {
            // It waits for the other saga now, and counts once.
            drop(waiter);
            replay(&intake, &caller, *found, &checkout, preferences, answer_by, place).await
        }
    }
}

/// Whether this may become a new checkout, by the rules of this release. Some are stricter than those of releases before.
fn permitted(checkout: &Checkout, key: Option<&IdempotencyKey>, allow_forced: bool) -> Result<(), Problem> {
    checkout.user_id.check_new().map_err(|error| Problem::invalid_field("userId", error))?;
    checkout.money.currency().check_new().map_err(|error| Problem::invalid_field("currency", error))?;
    let forced =
        [("forcePaymentFail", checkout.force_payment_fail), ("forceInventoryFail", checkout.force_inventory_fail)];
    match forced.into_iter().find(|(_, is_forced)| *is_forced && !allow_forced) {
        Some((field, _)) => Err(Problem::invalid_field(field, "is not allowed here (ALLOW_FORCED_FAILURES)")),
        None => key.map_or(Ok(()), IdempotencyKey::check_new),
    }
}

/// Answers with the saga that has the request's key.
async fn replay(
    intake: &Intake,
    caller: &Caller,
    found: Saga,
    checkout: &Checkout,
    preferences: Preferences,
    answer_by: Instant,
    _place: OwnedSemaphorePermit,
) -> Result<Response, Problem> {
    if found.checkout != *checkout {
        let detail = "the `Idempotency-Key` was used for another checkout of this user: send a new key with a new body";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let waiter = intake.coordinator.waiters.register(found.saga_id);
    // It may have ended between the read that found it and the registration.
    let mut latest = intake.coordinator.stored(found.saga_id).await.unwrap_or(found);
    if !latest.state.has_ended() {
        latest = wait(intake, caller, waiter, latest, answer_by).await;
    }
    let mut answer = answer(&latest, preferences, intake.wait);
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(answer)
}

/// Stores the saga. After an error whose outcome is unknown it is stored again, which settles the question: there
/// is one row for an id, and one for a key. Where the question stays open until the wait limit, the answer says
/// just that. Only with a key may the client send the request again; and only without one it is told an id, since
/// under a key an earlier request's saga may be the one.
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
            Err(error) => return Err(not_told(error)),
        }
        if Instant::now() >= until {
            return Err(unknown(saga_id, new.idempotency_key.is_some()));
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

/// 503: the saga that has the key can't be told of now, and this request stored none. One of a newer release's
/// definition, that release can tell.
fn not_told(error: ApplyError) -> Problem {
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

/// Waits for the saga's end, at most until the limit or until this instance stops; and not for long for a client that has
/// closed its sending side, since it may be gone.
async fn wait(intake: &Intake, caller: &Caller, mut waiter: Waiter, begun: Saga, until: Instant) -> Saga {
    let mut latest = begun;
    let mut may_be_gone = std::pin::pin!(async {
        caller.sending_ended().await;
        tokio::time::sleep(WAIT_WHEN_SENDING_ENDED).await;
    });
    loop {
        tokio::select! {
            ended = waiter.woken() => return ended,
            () = intake.stop.cancelled() => return latest,
            () = &mut may_be_gone => return latest,
            () = tokio::time::sleep_until(until) => return latest,
            stored = poll(intake, latest.saga_id) => {
                latest = stored;
                if latest.state.has_ended() {
                    waiter.found_elsewhere();
                    return latest;
                }
            }
        }
    }
}

/// The row, a while from now.
async fn poll(intake: &Intake, saga_id: SagaId) -> Saga {
    let mut looked = Instant::now();
    loop {
        tokio::time::sleep(POLL_ELSEWHERE).await;
        if looked.elapsed() < POLL && !intake.may_be_answered_elsewhere(saga_id) {
            continue;
        }
        looked = Instant::now();
        if let Ok(saga) = intake.coordinator.stored(saga_id).await {
            return saga;
        }
    }
}

fn answer(saga: &Saga, preferences: Preferences, limit: Duration) -> Response {
    let status = match saga.state {
        SagaState::Completed => saga.flow.answer.done,
        SagaState::Failed { cause } => saga.flow.failed_status(&saga.flow.causes[cause]),
        SagaState::Running { .. } | SagaState::Compensating { .. } => 202,
    };
    // A flow's statuses are 200 to 599.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
    let location = [(header::LOCATION, format!("/sagas/{}", saga.saga_id))];
    let retry_after = (status == StatusCode::ACCEPTED).then_some([(header::RETRY_AFTER, "1")]);
    let body = Json(Outcome::from(saga));
    let mut answer = match retry_after {
        Some(retry_after) => (status, location, retry_after, body).into_response(),
        None => (status, location, body).into_response(),
    };
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
