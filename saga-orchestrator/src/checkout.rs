//! `POST /checkout`: stores a saga, waits for its end, answers with the outcome. The steps don't run in here: a
//! client that hangs up changes nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use messages::{AmountText, Currency, Money, OrderId, SagaId, UserIdError};
use serde::Deserialize;
use service_runtime::CancellationToken;
use service_runtime::batch::Backoff;
use service_runtime::database::StoreError;
use service_runtime::http::{JsonBody, Problem};
use service_runtime::kafka::GroupState;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::SagaSettings;
use crate::coordinator::Coordinator;
use crate::saga::definition::PAY_FIRST;
use crate::saga::{Cause, Checkout, Saga, State as SagaState, Transition, start};
use crate::status::Outcome;
use crate::waiters::Waiter;

/// How often a waiting request looks at the row itself, for the case that the reply went to another instance.
const POLL: Duration = Duration::from_secs(1);

/// Beyond so many sagas in flight on one partition, another one is used as well.
const SAGAS_PER_PARTITION: usize = 64;

/// With 64 partitions, 300 tries miss once in 112 mints; with 8 practically never.
const MINT_TRIES: usize = 300;

/// The way in for new sagas.
#[derive(Clone)]
pub struct Intake {
    coordinator: Arc<Coordinator>,
    group: Arc<GroupState>,
    places: Arc<Semaphore>,
    max_waiting: usize,
    wait: Duration,
    saga_timeout: Duration,
    stop: CancellationToken,
}

impl Intake {
    pub fn new(
        coordinator: Arc<Coordinator>,
        group: Arc<GroupState>,
        settings: &SagaSettings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            coordinator,
            group,
            places: Arc::new(Semaphore::new(settings.checkout_max_waiting)),
            max_waiting: settings.checkout_max_waiting,
            wait: Duration::from_millis(settings.checkout_wait_ms),
            saga_timeout: Duration::from_millis(settings.saga_timeout_ms),
            stop,
        }
    }

    /// An id whose replies come to this instance, where its waiter is; on few partitions while few sagas are in
    /// flight. librdkafka sends one request a partition: scattered over eight of them, 64 sagas in flight made a
    /// third more work for Kafka and for everyone behind it than on one. The choice moves on each second, so all
    /// partitions get their share over time.
    fn mint(&self) -> SagaId {
        let owned = self.group.owned();
        if owned.is_empty() {
            return SagaId::new();
        }
        let waiting = self.max_waiting - self.places.available_permits();
        let spread = (waiting / SAGAS_PER_PARTITION).clamp(1, owned.len());
        let second = service_runtime::now().timestamp() as usize;
        let wanted = owned[(second + rand::random_range(0..spread)) % owned.len()];
        // Each try hits one of all partitions at random; if all fail, the row is polled.
        let mut ids = (0..MINT_TRIES).map(|_| SagaId::new());
        ids.find(|id| self.group.partition_of(&id.to_string()) == wanted).unwrap_or_else(SagaId::new)
    }
}

pub fn router(intake: Intake) -> Router {
    Router::new().route("/checkout", post(checkout)).with_state(intake)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CheckoutRequest {
    user_id: String,
    total_amount: AmountText,
    currency: Option<String>,
    #[serde(default)]
    force_payment_fail: bool,
    #[serde(default)]
    force_inventory_fail: bool,
}

impl CheckoutRequest {
    fn validated(self) -> Result<Checkout, Problem> {
        let user_id = self.user_id.try_into();
        let currency = self.currency.as_deref().map_or(Ok(Currency::USD), str::parse);
        let currency = currency.map_err(|error| Problem::invalid_field("currency", error))?;
        Ok(Checkout {
            user_id: user_id.map_err(|error: UserIdError| Problem::invalid_field("userId", error))?,
            money: Money::parse(&self.total_amount.0, currency)
                .map_err(|error| Problem::invalid_field("totalAmount", error))?,
            force_payment_fail: self.force_payment_fail,
            force_inventory_fail: self.force_inventory_fail,
        })
    }
}

/// 200, 402 or 409 with the outcome; 202 with how far it is, when it takes longer or the client asked not to wait.
async fn checkout(
    State(intake): State<Intake>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CheckoutRequest>,
) -> Result<Response, Problem> {
    let checkout = request.validated()?;
    if intake.stop.is_cancelled() {
        return Err(Problem::unavailable("this instance is stopping: nothing was stored", 1));
    }
    let Ok(_place) = intake.places.clone().try_acquire_owned() else {
        let detail = "too many checkouts are waiting: nothing was stored";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(header::RETRY_AFTER, "1"));
    };
    let now = service_runtime::now();
    let (saga_id, trace) = (intake.mint(), traceparent(&headers));
    let new = start(&PAY_FIRST, saga_id, OrderId::new(), checkout, now + intake.saga_timeout, Some(trace), now);
    let until = Instant::now() + intake.wait;
    let waiter = intake.coordinator.waiters.register(saga_id);

    let begun = new.saga.clone();
    // In a task of its own: a client that hangs up now must not leave the effect undone.
    let stored = tokio::spawn(store(intake.coordinator.clone(), new, until)).await;
    stored.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an error of ours, which is in the log"))??;
    let saga = if prefers_async(&headers) { begun } else { wait(&intake, waiter, begun, until).await };
    Ok(answer(&saga))
}

/// Stores the saga. After an error whose outcome is unknown it is stored again, which settles the question: there
/// is one row for an id. Where the question stays open until the wait limit, the answer says just that.
async fn store(coordinator: Arc<Coordinator>, new: Transition, until: Instant) -> Result<(), Problem> {
    let saga_id = new.saga.saga_id;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut maybe_stored = false;
    loop {
        match coordinator.start(new.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ StoreError::NotSent(_)) if !maybe_stored => {
                return Err(Problem::unavailable(format!("nothing was stored: {error}"), 1));
            }
            Err(error @ StoreError::Refused(_)) if !maybe_stored => {
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("nothing was stored: {error}")));
            }
            Err(StoreError::Unavailable(_)) => maybe_stored = true,
            Err(StoreError::NotSent(_) | StoreError::Refused(_)) => {}
        }
        if Instant::now() >= until {
            let detail = "outcome unknown: the database failed while the checkout was stored. Its saga tells, once \
                          the database is back; it is unknown there (404) if nothing was stored";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                .with_saga(saga_id)
                .with_header(header::LOCATION, format!("/sagas/{saga_id}")));
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// Waits for the saga's end, at most until the limit or until this instance stops.
async fn wait(intake: &Intake, mut waiter: Waiter, begun: Saga, until: Instant) -> Saga {
    let mut latest = begun;
    loop {
        tokio::select! {
            ended = waiter.woken() => return ended,
            () = intake.stop.cancelled() => return latest,
            () = tokio::time::sleep_until(until) => return latest,
            stored = poll(intake, latest.saga_id) => {
                latest = stored;
                if latest.state.has_ended() {
                    return latest;
                }
            }
        }
    }
}

/// The row, a while from now.
async fn poll(intake: &Intake, saga_id: SagaId) -> Saga {
    loop {
        tokio::time::sleep(POLL).await;
        if let Ok(saga) = intake.coordinator.stored(saga_id).await {
            return saga;
        }
    }
}

fn answer(saga: &Saga) -> Response {
    let status = match saga.state {
        SagaState::Completed => StatusCode::OK,
        SagaState::Failed { cause: Cause::PaymentFailed } => StatusCode::PAYMENT_REQUIRED,
        SagaState::Failed { .. } => StatusCode::CONFLICT,
        SagaState::Running { .. } | SagaState::Compensating { .. } => StatusCode::ACCEPTED,
    };
    let location = [(header::LOCATION, format!("/sagas/{}", saga.saga_id))];
    let retry_after = (status == StatusCode::ACCEPTED).then_some([(header::RETRY_AFTER, "1")]);
    let body = Json(Outcome::from(saga));
    match retry_after {
        Some(retry_after) => (status, location, retry_after, body).into_response(),
        None => (status, location, body).into_response(),
    }
}

/// RFC 7240, section 4.1.
fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

/// The request's own W3C trace context if it has a valid one, else a new one.
fn traceparent(headers: &HeaderMap) -> String {
    let given = headers.get("traceparent").and_then(|value| value.to_str().ok());
    match given {
        Some(given) if is_traceparent(given) => given.to_owned(),
        _ => format!("00-{:032x}-{:016x}-01", rand::random::<u128>().max(1), rand::random::<u64>().max(1)),
    }
}

/// W3C Trace Context, section 3.2: version 00, then trace id, parent id and flags, in lower-case hex.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts[..], ["00", trace, parent, flags]
        if hex(trace, 32) && nonzero(trace) && hex(parent, 16) && nonzero(parent) && hex(flags, 2))
}
