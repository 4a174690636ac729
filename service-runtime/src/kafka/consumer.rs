//! The consumer loop: a task per record, so that a slow one holds nobody up; what the tasks share (statements,
//! commits) is batched below them, by [`crate::batch`].
//!
//! It promises: a record's offset is committed only after its handler has answered and its reply, or its copy on
//! the dead-letter topic, is acknowledged by the broker. Everything may therefore come again, and nothing is lost.
//! While a dead letter is not acknowledged, its partition is paused, and only that one.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use faults::Bug;
use futures::FutureExt as _;
use messages::{OutgoingRecord, dead_letter_topic};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::closing::ClosesOnThread;
use super::group::{GroupContext, GroupState};
use super::letters::{Letters, added_headers};
use super::offsets::{Offsets, TopicPartition};
use super::producer::{Delivery, Producer};
use super::{KafkaSettings, Record, require_topics, spans};
use crate::batch::{Backoff, panic_text};
use crate::database::StoreError;
use crate::metrics::{Count, Metrics, RecordCounts};
use crate::trace::{Span, Tracer};
use crate::{CancellationToken, Fatal};

/// How often a record may fail by its own fault before it is set aside.
const MAX_REFUSALS: u32 = 5;

/// How long the last commit and the leaving of the group may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(1000);

/// How long the loop waits for room before it pauses its partitions. A pause is dear: librdkafka forgets what it has
/// fetched, and a partition that is resumed waits for the fetch under way, up to `fetch.wait.max.ms`.
const PATIENCE: Duration = Duration::from_secs(1);

/// A log line for so many deliveries of one record that failed.
const WARN_EVERY: u32 = 5;

/// What became of a record.
#[derive(Debug)]
pub enum Handled {
    /// Nothing more to do.
    Done,
    /// It is answered by this record.
    Reply(OutgoingRecord),
    /// It can't be handled, ever, for this reason: it goes to its topic's dead-letter topic.
    DeadLetter(String),
}

/// Why a record has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Retry {
    /// The store failed; whether the record is at fault, it tells.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a service does with a record. Must be idempotent: a record may come more than once.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, record: &Record) -> impl Future<Output = Result<Handled, Retry>> + Send;
}

/// A member of the consumer group that is named as its service.
pub struct Consumer {
    inner: Arc<ClosesOnThread<GroupContext>>,
    offsets: Arc<Offsets>,
    state: Arc<GroupState>,
    counts: HashMap<String, RecordCounts>,
    tracer: Tracer,
    settings: KafkaSettings,
    service: &'static str,
}

impl Consumer {
    /// Checks that the topics and their dead-letter topics exist, and subscribes.
    pub async fn open(
        settings: &KafkaSettings,
        service: &'static str,
        topics: &[&str],
        metrics: &Metrics,
        tracer: &Tracer,
    ) -> Result<Self, Fatal> {
        let consumed: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let partitions = require_topics(settings, service, &consumed).await?;
        require_topics(settings, service, &topics.iter().map(|t| dead_letter_topic(t)).collect::<Vec<_>>()).await?;

        let offsets = Arc::new(Offsets::default());
        let state = Arc::new(GroupState::new(settings.prefixed(topics[0]), partitions));
        let counts = topics.iter().map(|topic| ((*topic).to_owned(), metrics.kafka_records(topic))).collect();
        let context = GroupContext {
            offsets: offsets.clone(),
            state: state.clone(),
            traffic: metrics.kafka_traffic("consumer"),
            lag: metrics.kafka_lag(),
            topic_prefix: settings.kafka_topic_prefix.clone(),
            commits_fail: AtomicBool::new(false),
        };
        // A member learns by its next heartbeat that the group parts the partitions anew, and all wait for the last.
        let heartbeat = (settings.kafka_session_timeout_ms / 3).min(500);
        let mut config = settings.client(service);
        config
            .set("group.id", settings.prefixed(service))
            .set("session.timeout.ms", settings.kafka_session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", heartbeat.to_string())
            .set("auto.offset.reset", "earliest")
            // Offsets are stored by `finish` below, and what is stored is committed twice a second.
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.interval.ms", "500")
            // Co-partitioned topics: the same partition of each goes to the same member.
            .set("partition.assignment.strategy", "range")
            .set("fetch.wait.max.ms", settings.kafka_fetch_wait_max_ms.to_string())
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            // For readiness: whether a broker is up and the group is joined. And for the metrics.
            .set("statistics.interval.ms", "2000");
        if !settings.kafka_group_instance_id.is_empty() {
            config.set("group.instance.id", format!("{}-{service}", settings.kafka_group_instance_id));
        }
        let inner: StreamConsumer<GroupContext> = config
            .create_with_context(context)
            .map_err(|e| Fatal::new(format!("the Kafka consumer can't be made: {e}")))?;
        let names: Vec<String> = topics.iter().map(|topic| settings.prefixed(topic)).collect();
        inner
            .subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>())
            .map_err(|e| Fatal::new(format!("can't subscribe to {names:?}: {e}")))?;
        let inner = Arc::new(ClosesOnThread::new(inner));
        Ok(Self { inner, offsets, state, counts, tracer: tracer.clone(), settings: settings.clone(), service })
    }

    /// Membership and owned partitions, kept up to date while the consumer runs.
    pub fn state(&self) -> Arc<GroupState> {
        self.state.clone()
    }

    /// Consumes until `shutdown`; then finishes the records in hand, commits, and leaves the group.
    ///
    /// # Errors
    /// When the group has fenced this instance: another one carries the same `kafka_group_instance_id`, or Kafka was
    /// restarted after this instance was, and remembers its predecessor (seen with Kafka 4.1.1, by `dev/chaos`).
    pub async fn run<H: Handler>(
        self,
        handler: H,
        producer: Producer,
        shutdown: CancellationToken,
    ) -> Result<(), Fatal> {
        let shared = Arc::new(Shared {
            handler,
            producer,
            consumer: self.inner.clone(),
            offsets: self.offsets,
            counts: self.counts,
            tracer: self.tracer,
            service: self.service,
            letters: Letters::default(),
            shutdown: shutdown.clone(),
        });
        let tasks = TaskTracker::new();
        let limit = self.settings.kafka_max_in_flight;
        // Records that wait for their dead letters don't count: their partitions are paused already.
        let in_hand = || tasks.len().saturating_sub(shared.offsets.held());
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What Kafka refuses is said once, until something comes again.
        let mut told = Vec::new();
        let outcome = loop {
            let received = tokio::select! {
                // Looked at first: a stream of records must not put it off.
                biased;
                () = shutdown.cancelled() => break Ok(()),
                _ = looks.tick(), if shared.offsets.all_paused() => {
                    if in_hand() <= limit / 2 {
                        shared.offsets.resume_all(|is_held| shared.resume_unless(is_held).is_ok());
                    }
                    continue;
                }
                received = self.inner.recv() => received,
            };
            match received {
                Ok(message) => {
                    if !told.is_empty() {
                        told.clear();
                        info!(group = self.service, "Kafka is read again");
                    }
                    let record = to_record(&message, &self.settings.kafka_topic_prefix);
                    let partition = (message.topic().to_owned(), record.partition);
                    let epoch = shared.offsets.received(partition.clone(), record.offset);
                    if faults::planted(Bug::OffsetBeforeCommit) {
                        let _ = self.inner.store_offset(&partition.0, partition.1, record.offset);
                    }
                    tasks.spawn(process(shared.clone(), record, Place { partition, epoch }));
                }
                Err(KafkaError::MessageConsumptionFatal(code)) => {
                    break Err(Fatal::new(format!(
                        "the consumer group {} has shut this instance out ({code}): does another instance run with the same KAFKA_GROUP_INSTANCE_ID? If none does, Kafka was restarted and remembers this one's predecessor: start it again",
                        self.settings.prefixed(self.service)
                    )));
                }
                // librdkafka tries on by itself. Of lost brokers readiness tells.
                Err(error) => match error.rdkafka_error_code() {
                    Some(code) if !is_of_the_network(code) && !told.contains(&code) => {
                        told.push(code);
                        warn!(%error, group = self.service, "Kafka refuses to be read; trying on");
                    }
                    _ => debug!(%error, "consuming"),
                },
            }
            let room = async {
                while tasks.len() >= limit && in_hand() >= limit {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            if tokio::time::timeout(PATIENCE, room).await.is_err() {
                // Polling goes on while paused, which keeps the membership.
                let pause = || self.inner.assignment().and_then(|all| self.inner.pause(&all)).is_ok();
                shared.offsets.pause_all(pause);
            }
        };
        tasks.close();
        if tokio::time::timeout(Duration::from_millis(self.settings.shutdown_timeout_ms), tasks.wait()).await.is_err() {
            warn!(records = tasks.len(), "some records were not finished in time; they will come again");
        }
        drop(shared);
        let consumer = self.inner;
        let closed = tokio::task::spawn_blocking(move || {
            let _ = consumer.commit_consumer_state(CommitMode::Sync);
            drop(Arc::into_inner(consumer).and_then(ClosesOnThread::take));
        });
        // Without a broker it would wait for one.
        let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
        info!("stopped consuming");
        outcome
    }
}

/// Whether an error tells of brokers that can't be reached now, and not of what they refuse.
fn is_of_the_network(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, MessageTimedOut, OperationTimedOut, PartitionEOF, Resolve,
    };
    matches!(
        code,
        AllBrokersDown | BrokerTransportFailure | MessageTimedOut | OperationTimedOut | PartitionEOF | Resolve
    )
}

struct Shared<H> {
    handler: H,
    producer: Producer,
    consumer: Arc<ClosesOnThread<GroupContext>>,
    offsets: Arc<Offsets>,
    /// By topic.
    counts: HashMap<String, RecordCounts>,
    tracer: Tracer,
    service: &'static str,
    letters: Letters,
    shutdown: CancellationToken,
}

/// The assignment that a record came by.
struct Place {
    partition: TopicPartition,
    epoch: u64,
}

/// Sees one record through. Returns early, without storing its offset, only when the service stops or the partition
/// is no longer ours.
async fn process<H: Handler>(shared: Arc<Shared<H>>, record: Record, place: Place) {
    let span = spans::process(&shared.tracer, &record, shared.service);
    span.around(see_through(&shared, &record, &place, &span)).await;
}

async fn see_through<H: Handler>(shared: &Shared<H>, record: &Record, place: &Place, span: &Span) {
    let Some(handled) = shared.handle(record, place).await else { return };
    faults::reached("consumer.handled", &record.topic);
    let acknowledged = match &handled {
        Handled::Done => Some(()),
        Handled::Reply(reply) => {
            let acknowledged = shared.deliver(place, || shared.producer.send(reply)).await;
            faults::reached("consumer.answered", &record.topic);
            acknowledged
        }
        Handled::DeadLetter(why) => {
            span.fail(why);
            let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
            let trace_id = record.trace_id();
            let acknowledged = match shared.letters.has(record, Instant::now()) {
                true => {
                    debug!(topic, partition, offset, %why, trace_id, "a copy of it was dead-lettered before");
                    Some(())
                }
                false => {
                    let acknowledged = shared.set_aside(record, place, why).await;
                    let stored = acknowledged.is_some();
                    error!(topic, partition, offset, %why, stored, trace_id, "dead-lettered");
                    acknowledged.inspect(|()| shared.letters.note(record, Instant::now()))
                }
            };
            faults::reached("consumer.dead-lettered", &record.topic);
            acknowledged
        }
    };
    if acknowledged.is_none() {
        return;
    }
    shared.count(record, |counts| match handled {
        Handled::Done => &counts.done,
        Handled::Reply(_) => &counts.replied,
        Handled::DeadLetter(_) => &counts.dead_lettered,
    });
    let Place { partition, epoch } = place;
    shared.offsets.finished(partition, record.offset, *epoch, |position| {
        // rdkafka stores the given offset plus one. It fails for a partition that is no longer ours: rightly.
        let _ = shared.consumer.store_offset(&partition.0, partition.1, position - 1);
    });
}

impl<H: Handler> Shared<H> {
    /// Runs the handler until it answers. A record that fails by its own fault, a panic included, is tried a few
    /// times and then set aside.
    async fn handle(&self, record: &Record, place: &Place) -> Option<Handled> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut refusals = 0;
        loop {
            let attempt = async {
                faults::reached("consumer.received", &record.topic);
                self.handler.handle(record).await
            };
            let fault = match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(Ok(handled)) => return Some(handled),
                Ok(Err(Retry::Store(StoreError::Refused(why)))) => Some(why),
                Ok(Err(retry)) => {
                    debug!(topic = record.topic, offset = record.offset, why = %retry, "trying again");
                    None
                }
                Err(panic) => Some(format!("the handler panicked: {}", panic_text(&*panic))),
            };
            if let Some(why) = fault {
                refusals += 1;
                if refusals >= MAX_REFUSALS {
                    return Some(Handled::DeadLetter(why));
                }
            }
            self.count(record, |counts| &counts.retries);
            self.pause(place, &mut backoff).await?;
        }
    }

    fn count(&self, record: &Record, which: impl FnOnce(&RecordCounts) -> &Count) {
        // Only subscribed topics are consumed.
        if let Some(counts) = self.counts.get(&record.topic) {
            which(counts).inc();
        }
    }

    /// Sends a record to its dead-letter topic. While that does not take it, the record's partition is paused: what
    /// comes next may have to be set aside too, and would pile up. The other partitions go on.
    async fn set_aside(&self, record: &Record, place: &Place, why: &str) -> Option<()> {
        let send = || self.dead_letter(record, why);
        let Err(refused) = send().acknowledged().await else { return Some(()) };
        let Place { partition, epoch } = place;
        let one = || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&partition.0, partition.1);
            list
        };
        self.offsets.hold(partition, *epoch, || {
            let paused = self.consumer.pause(&one()).is_ok();
            let (topic, partition) = (&record.topic, record.partition);
            warn!(topic, partition, paused, why = refused, "a dead letter is not taken: its partition waits");
        });
        let acknowledged = self.deliver(place, send).await;
        self.offsets.release(partition, *epoch, || {
            let resumed = self.consumer.resume(&one()).is_ok();
            info!(topic = record.topic, partition = record.partition, resumed, "dead letters are taken again");
        });
        acknowledged
    }

    /// Sends until the broker acknowledges.
    async fn deliver(&self, place: &Place, send: impl Fn() -> Delivery) -> Option<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        for tries in 1.. {
            let Err(why) = send().acknowledged().await else { break };
            if tries % WARN_EVERY == 0 {
                warn!(tries, %why, "Kafka does not take a record; sending again");
            }
            self.pause(place, &mut backoff).await?;
        }
        Some(())
    }

    /// `None` when the service stops, or when the partition was revoked: then the record is somebody else's.
    async fn pause(&self, place: &Place, backoff: &mut Backoff) -> Option<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            () = tokio::time::sleep(backoff.delay()) => {
                self.offsets.is_current(&place.partition, place.epoch).then_some(())
            }
        }
    }

    /// Resumes what is assigned, but for what `is_held`.
    fn resume_unless(&self, is_held: &dyn Fn(&TopicPartition) -> bool) -> KafkaResult<()> {
        let mut free = TopicPartitionList::new();
        for element in self.consumer.assignment()?.elements() {
            if !is_held(&(element.topic().to_owned(), element.partition())) {
                free.add_partition(element.topic(), element.partition());
            }
        }
        self.consumer.resume(&free)
    }

    /// The record as it came, with headers that say where from and why.
    fn dead_letter(&self, record: &Record, why: &str) -> Delivery {
        let added = added_headers(record, why, self.service);
        let original = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let headers = original.chain(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        self.producer.produce(&dead_letter_topic(&record.topic), record.key.as_deref(), &record.body, headers)
    }
}

pub(super) fn to_record(message: &BorrowedMessage<'_>, topic_prefix: &str) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().strip_prefix(topic_prefix).unwrap_or(message.topic()).to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        body: message.payload().unwrap_or_default().to_vec(),
        headers: headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect(),
        timestamp_ms: message.timestamp().to_millis(),
    }
}
