//! Participants' replies, from Kafka to the coordinator.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flow::{Flow, RawEvent};
use messages::{Event, groups};
use service_runtime::kafka::{GroupState, Handled, Handler, Record, Retry};
use tracing::warn;

use crate::coordinator::{Applied, ApplyError, Coordinator};
use crate::passed_over::PassedOver;
use crate::registry::is_built_in;
use crate::saga::flows::is_checkout;
use crate::saga::{Input, Reply, Saga};

/// What the consumers of replies know of their groups.
pub struct Groups {
    /// Of built-in flows, as long as all goes well.
    pub replies: Arc<GroupState>,
    /// Of built-in flows that turn back.
    pub failures: Arc<GroupState>,
    /// Of users' flows.
    pub flows: Arc<GroupState>,
}

impl Groups {
    /// The partitions whose replies to sagas of this flow come to this instance.
    pub fn owned(&self, flow: &Flow) -> Vec<u32> {
        if !is_built_in(flow) {
            return self.flows.owned();
        }
        let (owned, failures) = (self.replies.owned(), self.failures.owned());
        // While the two groups part their partitions differently, most sagas need only the one.
        match owned.iter().copied().filter(|partition| failures.contains(partition)).collect::<Vec<_>>() {
            both if both.is_empty() => owned,
            both => both,
        }
    }

    /// Whether replies to sagas of this flow, on this partition, may go to another instance now.
    pub fn may_go_elsewhere(&self, flow: &Flow, partition: u32) -> bool {
        match is_built_in(flow) {
            true => [&self.replies, &self.failures].iter().any(|group| group.may_go_elsewhere(partition)),
            false => self.flows.may_go_elsewhere(partition),
        }
    }
}

/// What the readers of replies share.
pub struct Replies {
    coordinator: Arc<Coordinator>,
    /// Events of sagas that nobody knows, since the start.
    unknown: AtomicU64,
    passed_over: Arc<PassedOver>,
}

/// Replies of the platform's participants: a topic for each event.
pub struct PlatformReplies(pub Arc<Replies>);

/// Replies of users' participants: a topic for each flow, and the event's name in the header `ce_type`. And those of the platform's
/// participants that no built-in flow waits for.
pub struct FlowReplies(pub Arc<Replies>);

impl Handler for PlatformReplies {
    /// Done once the move is stored; the command that it leads to need not be sent yet, since the row sends it
    /// again.
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let event = match Event::decode(&record.topic, &record.body) {
            Ok(event) => event,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let saga_id = event.saga_id();
        let read = |saga: &Saga| match is_checkout(&saga.flow) {
            true => Ok(Cow::Owned(Input::from(Reply::from(event)))),
            false => {
                let event = RawEvent::read(&record.body).map_err(|misfit| misfit.to_string())?;
                Reply::read(saga, &record.topic, &event).map(|reply| Cow::Owned(reply.into()))
            }
        };
        let coordinator = &self.0.coordinator;
        self.0.applied(record, coordinator.apply_read(saga_id, read, coordinator.clock.now()).await)
    }
}

impl Handler for FlowReplies {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        if groups::FLOWS.topics.contains(&record.topic.as_str()) {
            return PlatformReplies(self.0.clone()).handle(record).await;
        }
        let event = match RawEvent::read(&record.body) {
            Ok(event) => event,
            Err(misfit) => return Ok(Handled::DeadLetter(format!("not a valid message: {misfit}"))),
        };
        let Some(name) = record.header("ce_type") else {
            return Ok(Handled::DeadLetter("it has no header `ce_type`, which names its event".to_owned()));
        };
        let read = |saga: &Saga| match saga.flow.reply_topic() == record.topic {
            true => Reply::read(saga, name, &event).map(|reply| Cow::Owned(reply.into())),
            false => Err(format!("it is on topic {}, and its saga runs by the flow {}", record.topic, saga.flow.name)),
        };
        let coordinator = &self.0.coordinator;
        self.0.applied(record, coordinator.apply_read(event.saga_id, read, coordinator.clock.now()).await)
    }
}

impl Replies {
    pub fn new(coordinator: Arc<Coordinator>, passed_over: Arc<PassedOver>) -> Self {
        Self { coordinator, unknown: AtomicU64::new(0), passed_over }
    }

    /// What becomes of a record, by what became of its reply.
    fn applied(&self, record: &Record, applied: Result<Applied, ApplyError>) -> Result<Handled, Retry> {
        match applied {
            Ok(_) => Ok(Handled::Done),
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(ApplyError::Contradiction(why)) => Ok(Handled::DeadLetter(why)),
            Err(error @ ApplyError::UnknownSaga(saga_id)) => {
                let count = self.unknown.fetch_add(1, Ordering::Relaxed) + 1;
                warn!(%saga_id, topic = record.topic, offset = record.offset, %error, count, "event ignored");
                Ok(Handled::Done)
            }
            Err(ApplyError::UnknownDefinition { saga_id, definition }) => {
                self.passed_over.note(saga_id, &definition, Instant::now());
                Ok(Handled::Done)
            }
        }
    }
}
