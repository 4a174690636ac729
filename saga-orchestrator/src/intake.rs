//! The way in for new sagas: whether there is room for one more, and which id it gets.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use flow::Flow;
use messages::{SagaId, Timestamp};
use service_runtime::CancellationToken;
use service_runtime::http::{Check, Problem};
use service_runtime::metrics::Metrics;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::SagaSettings;
use crate::checkout::CheckoutFlow;
use crate::coordinator::Coordinator;
use crate::gate::Gate;
use crate::metrics::flows::{Refusal, Refused};
use crate::registry::Flows;
use crate::replies::Groups;

/// What is known of a request that was refused. An earlier one with the same key may have been taken.
pub const NOT_STORED: &str = "nothing was stored by this request";

/// Beyond so many sagas in flight on one partition, another one is used as well.
const SAGAS_PER_PARTITION: usize = 512;

/// With 64 partitions, 300 tries miss once in 112 mints; with 8 practically never.
const MINT_TRIES: usize = 300;

/// The way in for new sagas.
pub struct Intake {
    pub coordinator: Arc<Coordinator>,
    groups: Groups,
    gate: Arc<Gate>,
    places: Places,
    /// How long a request waits for the outcome.
    pub wait: Duration,
    pub allow_forced_failures: bool,
    pub checkout_flow: CheckoutFlow,
    pub stop: CancellationToken,
    /// How long a request whose saga is just being stored is waited for when the service stops.
    pub stored_at_a_stop: Duration,
}

/// How much sooner than the server gives up a request has to give its answer.
const TO_ANSWER: Duration = Duration::from_millis(500);

/// A request's place among those that wait, or why it gets none.
pub enum Place {
    Taken(OwnedSemaphorePermit),
    /// No new checkouts are taken. One that is not new may still be asked for.
    Closed(OwnedSemaphorePermit, String),
}

/// The places of the requests that wait. Clones share them.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    max: usize,
    refused: Refused,
}

impl Places {
    pub fn new(max: usize, metrics: &Metrics, flows: Arc<Flows>) -> Self {
        let (free, shown) = (Arc::new(Semaphore::new(max)), i64::try_from(max).unwrap_or(i64::MAX));
        metrics.gauge("checkout_waiting_max", "CHECKOUT_MAX_WAITING.").set(shown);
        let waiting = metrics.gauge("checkout_waiting", "Requests for a saga that have a place among those that wait.");
        let places = Self { free, max, refused: Refused::new(metrics, flows) };
        let looked_at = places.clone();
        metrics.before_shown(move || {
            waiting.set(i64::try_from(looked_at.taken()).unwrap_or(i64::MAX));
            Box::pin(std::future::ready(()))
        });
        places
    }

    fn taken(&self) -> usize {
        self.max - self.free.available_permits()
    }

    /// For readiness: whether nearly all are taken.
    pub fn check(&self) -> Check {
        let (taken, max) = (self.taken(), self.max);
        Check::unless_nearly_full(taken, max, || format!("{taken} of {max} places for waiting checkouts are taken"))
    }
}

impl Intake {
    pub fn new(
        coordinator: Arc<Coordinator>,
        groups: Groups,
        gate: Arc<Gate>,
        places: Places,
        settings: &SagaSettings,
        stop: CancellationToken,
        shutdown_timeout: Duration,
    ) -> Self {
        Self {
            coordinator,
            groups,
            gate,
            places,
            wait: Duration::from_millis(settings.checkout_wait_ms),
            allow_forced_failures: settings.allow_forced_failures.get(),
            checkout_flow: settings.checkout_flow.clone(),
            stop,
            stored_at_a_stop: shutdown_timeout.saturating_sub(TO_ANSWER),
        }
    }

    /// A place for a request that has been read: one that is still coming takes nothing from the others.
    pub fn place(&self, flow: &Flow) -> Result<Place, Problem> {
        let permit = self.places.free.clone().try_acquire_owned().map_err(|_| {
            self.places.refused.note(flow, Refusal::Waiting);
            let detail = format!("too many checkouts are waiting: {NOT_STORED}");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(header::RETRY_AFTER, "1")
        })?;
        Ok(match self.gate.refusal() {
            None if self.coordinator.flows.is_retired(flow) => {
                Place::Closed(permit, format!("no version of {} is active", flow.name))
            }
            None => Place::Taken(permit),
            Some(why) => Place::Closed(permit, why),
        })
    }

    /// Notes that a new checkout was refused because none are taken now.
    pub fn refused_as_closed(&self, flow: &Flow) {
        let is_paused = self.gate.is_paused() || self.coordinator.flows.is_retired(flow);
        let refusal = if is_paused { Refusal::Paused } else { Refusal::Unfinished };
        self.places.refused.note(flow, refusal);
    }

    /// Notes that a new checkout was refused, or its outcome is unknown, because of the database.
    pub fn refused_by_database(&self, flow: &Flow) {
        self.places.refused.note(flow, Refusal::Database);
    }

    /// An id of a saga that begins now, whose replies come to this instance, where its waiter is; on few partitions
    /// while few sagas are in flight. librdkafka sends one request a partition: scattered over eight of them, 64 sagas
    /// in flight made a third more work for Kafka and for everyone behind it than on one. The choice moves on each
    /// second, so all partitions get their share over time.
    pub fn mint(&self, flow: &Flow, now: Timestamp) -> SagaId {
        let owned = self.groups.owned(flow);
        if owned.is_empty() {
            return SagaId::new_at(now);
        }
        let spread = (self.places.taken() / SAGAS_PER_PARTITION).clamp(1, owned.len());
        let second = now.timestamp() as usize;
        // Evenly apart: neighbours mostly belong to the same instance of a participant.
        let apart = rand::random_range(0..spread) * owned.len() / spread;
        let wanted = owned[(second + apart) % owned.len()];
        // Each try hits one of all partitions at random; if all fail, the row is polled.
        let mut ids = (0..MINT_TRIES).map(|_| SagaId::new_at(now));
        ids.find(|id| self.partition_of(*id) == wanted).unwrap_or_else(|| SagaId::new_at(now))
    }

    /// Whether a saga's replies may go to another instance now.
    pub fn may_be_answered_elsewhere(&self, saga_id: SagaId, flow: &Flow) -> bool {
        self.groups.may_go_elsewhere(flow, self.partition_of(saga_id))
    }

    /// The partition of a saga's records: all topics have as many.
    fn partition_of(&self, saga_id: SagaId) -> u32 {
        self.groups.replies.partition_of(&saga_id.to_string())
    }
}
