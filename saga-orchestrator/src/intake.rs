//! The way in for new sagas: whether there is room for one more, and which id it gets.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use messages::SagaId;
use service_runtime::CancellationToken;
use service_runtime::http::Problem;
use service_runtime::kafka::GroupState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::SagaSettings;
use crate::coordinator::Coordinator;
use crate::gate::Gate;

/// What is known of a request that was refused. An earlier one with the same key may have been taken.
pub const NOT_STORED: &str = "nothing was stored by this request";

/// Beyond so many sagas in flight on one partition, another one is used as well.
const SAGAS_PER_PARTITION: usize = 512;

/// With 64 partitions, 300 tries miss once in 112 mints; with 8 practically never.
const MINT_TRIES: usize = 300;

/// The way in for new sagas.
pub struct Intake {
    pub coordinator: Arc<Coordinator>,
    group: Arc<GroupState>,
    gate: Arc<Gate>,
    places: Arc<Semaphore>,
    max_waiting: usize,
    /// How long a request waits for the outcome.
    pub wait: Duration,
    pub saga_timeout: Duration,
    pub allow_forced_failures: bool,
    pub stop: CancellationToken,
    /// How long a request whose saga is just being stored is waited for when the service stops.
    pub stored_at_a_stop: Duration,
}

/// How much sooner than the server gives up a request has to give its answer.
const TO_ANSWER: Duration = Duration::from_millis(500);

/// A request's place among those that wait, or why it gets none. Taken before the body is read, so that load which is
/// shed costs little.
pub enum Place {
    Taken(OwnedSemaphorePermit),
    /// No new checkouts are taken. One that is not new may still be asked for.
    Closed(OwnedSemaphorePermit, String),
}

impl FromRequestParts<Arc<Intake>> for Place {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, intake: &Arc<Intake>) -> Result<Self, Problem> {
        let permit = intake.places.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("too many checkouts are waiting: {NOT_STORED}");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(header::RETRY_AFTER, "1")
        })?;
        Ok(match intake.gate.refusal() {
            None => Self::Taken(permit),
            Some(why) => Self::Closed(permit, why),
        })
    }
}

impl Intake {
    pub fn new(
        coordinator: Arc<Coordinator>,
        group: Arc<GroupState>,
        gate: Arc<Gate>,
        settings: &SagaSettings,
        stop: CancellationToken,
        shutdown_timeout: Duration,
    ) -> Self {
        Self {
            coordinator,
            group,
            gate,
            places: Arc::new(Semaphore::new(settings.checkout_max_waiting)),
            max_waiting: settings.checkout_max_waiting,
            wait: Duration::from_millis(settings.checkout_wait_ms),
            saga_timeout: Duration::from_millis(settings.saga_timeout_ms),
            allow_forced_failures: settings.allow_forced_failures.get(),
            stop,
            stored_at_a_stop: shutdown_timeout.saturating_sub(TO_ANSWER),
        }
    }

    /// An id whose replies come to this instance, where its waiter is; on few partitions while few sagas are in
    /// flight. librdkafka sends one request a partition: scattered over eight of them, 64 sagas in flight made a
    /// third more work for Kafka and for everyone behind it than on one. The choice moves on each second, so all
    /// partitions get their share over time.
    pub fn mint(&self) -> SagaId {
        let owned = self.group.owned();
        if owned.is_empty() {
            return SagaId::new();
        }
        let waiting = self.max_waiting - self.places.available_permits();
        let spread = (waiting / SAGAS_PER_PARTITION).clamp(1, owned.len());
        let second = service_runtime::now().timestamp() as usize;
        // Evenly apart: neighbours mostly belong to the same instance of a participant.
        let apart = rand::random_range(0..spread) * owned.len() / spread;
        let wanted = owned[(second + apart) % owned.len()];
        // Each try hits one of all partitions at random; if all fail, the row is polled.
        let mut ids = (0..MINT_TRIES).map(|_| SagaId::new());
        ids.find(|id| self.group.partition_of(&id.to_string()) == wanted).unwrap_or_else(SagaId::new)
    }

    /// Whether a saga's replies may go to another instance now.
    pub fn may_be_answered_elsewhere(&self, saga_id: SagaId) -> bool {
        self.group.may_go_elsewhere(self.group.partition_of(&saga_id.to_string()))
    }
}
