//! The consumer loop: a task per record, so that a slow one holds nobody up; what the tasks share (statements,
//! commits) is batched below them, by [`crate::batch`].
//!
//! It promises: a record's offset is committed only after its handler has answered and its reply, or its copy on
//! the dead-letter topic, is acknowledged by the broker. Everything may therefore come again, and nothing is lost.
//! While a dead letter is not acknowledged, its partition is paused, and only that one. And it goes on by itself
//! whatever becomes of Kafka: where it does not get on ([`super::watch`]), another member takes the place of this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use faults::Bug;
use messages::groups::Group;
use messages::{OutgoingRecord, dead_letter_topic};
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::closing::ClosesOnThread;
use super::group::GroupState;
use super::letters::Letters;
use super::member::{Change, Member, Membership, Name, Renewal};
use super::processing::{Place, Shared, process};
use super::producer::Producer;
use super::watch::Watch;
use super::{KafkaSettings, Record, predecessor, require_topics, to_record};
use crate::database::StoreError;
use crate::metrics::{ConsumerMetrics, Count, Metrics};
use crate::trace::Tracer;
use crate::{CancellationToken, Fatal};

/// How long the last commit and the leaving of the group may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(1000);

/// How long the loop waits for room before it pauses its partitions. A pause is expensive: librdkafka forgets what it has
/// fetched, and a partition that is resumed waits for the fetch under way, up to `fetch.wait.max.ms`.
const PATIENCE: Duration = Duration::from_secs(1);

/// Two instances of one name shut each other out again within this time.
const RIVALRY: Duration = Duration::from_secs(30);

/// A refusal has ended when records came for so long without another one.
const REFUSAL_ENDS: Duration = Duration::from_secs(10);

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
    /// It is not the time for it, for this reason. Records that are held so are limited by `kafka_max_in_flight`; what comes
    /// behind them stays in Kafka.
    #[error("{0}")]
    NotNow(String),
}

/// What a service does with a record. Must be idempotent: a record may come more than once.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, record: &Record) -> impl Future<Output = Result<Handled, Retry>> + Send;
}

impl<H: Handler> Handler for Arc<H> {
    fn handle(&self, record: &Record) -> impl Future<Output = Result<Handled, Retry>> + Send {
        H::handle(self, record)
    }
}

/// A member of a consumer group: of the one that is named as its service, or of one of its own.
pub struct Consumer {
    membership: Arc<Membership>,
    watch: Watch,
    renewals: Count,
    /// Where the topics come from, if there may be more of them later.
    growing: Option<watch::Receiver<Vec<String>>>,
    tracer: Tracer,
    settings: KafkaSettings,
    service: &'static str,
}

/// Why a member is consumed no more.
enum End {
    Shutdown,
    Asked(Change),
    /// The group has shut it out.
    ShutOut(RDKafkaErrorCode),
}

impl Consumer {
    /// Checks that all topics of a service's groups and their dead-letter topics are there, and has a group that reads topics
    /// of an earlier one begin where that one was. It joins no group: a service that can't start disturbs none. Returns the
    /// partition count that all topics share.
    ///
    /// # Errors
    /// When Kafka can't be reached within `startup_timeout_ms`, a topic is missing, the counts differ, or offsets can't be
    /// read or committed.
    pub async fn prepare(settings: &KafkaSettings, service: &str, groups: &[Group]) -> Result<u32, Fatal> {
        let topics: Vec<String> =
            groups.iter().flat_map(|group| group.topics).map(|topic| (*topic).to_owned()).collect();
        let partitions = require_topics(settings, service, &topics).await?;
        let letters: Vec<String> = topics.iter().map(|topic| dead_letter_topic(topic)).collect();
        require_topics(settings, service, &letters).await?;
        for group in groups {
            predecessor::take_over(settings, service, *group, partitions).await?;
        }
        Ok(partitions)
    }

    /// Joins a group whose topics have so many partitions: see [`Self::prepare`].
    pub fn open(
        settings: &KafkaSettings,
        service: &'static str,
        (group, partitions): (Group, u32),
        metrics: &Metrics,
        tracer: &Tracer,
    ) -> Result<Self, Fatal> {
        let membership = Membership::of(settings, service, (group, partitions), metrics)?;
        Ok(Self::over(membership, settings, service, None, (metrics, tracer)))
    }

    /// A consumer beside the service's own, in a group of its own: its topics may become more, or others, while it runs.
    /// Without topics it has no client of Kafka. With each change its group parts the partitions anew, and only that group.
    ///
    /// A topic that is missing is reported by the consumer's state, and hinders no other topic. Its dead-letter topic has
    /// to be there when the first record is set aside.
    pub fn open_growing(
        settings: &KafkaSettings,
        service: &'static str,
        group: &'static str,
        topics: watch::Receiver<Vec<String>>,
        metrics: &Metrics,
        tracer: &Tracer,
    ) -> Self {
        let membership = Membership::without_topics(settings, service, group, GroupState::new(0), metrics);
        Self::over(membership, settings, service, Some(topics), (metrics, tracer))
    }

    fn over(
        membership: Membership,
        settings: &KafkaSettings,
        service: &'static str,
        growing: Option<watch::Receiver<Vec<String>>>,
        (metrics, tracer): (&Metrics, &Tracer),
    ) -> Self {
        let shown = membership.state.clone();
        let membership = Arc::new(membership);
        let ConsumerMetrics { partitions: gauges, renewals } =
            metrics.kafka_consumer(move || shown.trouble().is_none());
        Self {
            watch: Watch::new(settings, service, membership.clone(), growing.is_some(), gauges),
            membership,
            renewals,
            growing,
            tracer: tracer.clone(),
            settings: settings.clone(),
            service,
        }
    }

    /// Membership and owned partitions, kept up to date while the consumer runs.
    pub fn state(&self) -> Arc<GroupState> {
        self.membership.state.clone()
    }

    /// Consumes until `shutdown`; then finishes the records in hand, commits, and leaves the group.
    ///
    /// # Errors
    /// When the group has fenced this instance twice: another one carries the same `kafka_group_instance_id`.
    pub async fn run<H: Handler>(
        self,
        handler: H,
        producer: Producer,
        shutdown: CancellationToken,
    ) -> Result<(), Fatal> {
        let membership = self.membership;
        let shared = Arc::new(Shared {
            handler,
            producer,
            membership: membership.clone(),
            tracer: self.tracer,
            service: self.service,
            letters: Letters::default(),
            shutdown: shutdown.clone(),
        });
        let (ask, mut asked) = mpsc::channel(1);
        let watching = shutdown.child_token();
        if let Some(topics) = self.growing {
            tokio::spawn(pass_on(topics, ask.clone(), watching.clone()));
        }
        tokio::spawn(self.watch.run(ask, watching.clone()));
        let mut consuming =
            Consuming { shared, tasks: TaskTracker::new(), settings: &self.settings, asked: &mut asked };
        let mut shut_outs = ShutOuts::default();
        let group = membership.group;
        let outcome = loop {
            let end = match membership.current() {
                Some(member) => consuming.consume(&member).await,
                None => consuming.idle().await,
            };
            let Renewal { why, name } = match end {
                End::Shutdown => break Ok(()),
                End::Asked(Change::Topics(topics)) => {
                    info!(group, ?topics, "the topics to consume");
                    match membership.subscribe(&topics) {
                        Ok(()) => continue,
                        Err(error) => break Err(error),
                    }
                }
                End::Asked(Change::Renew(renewal)) => renewal,
                End::ShutOut(code) if shut_outs.is_first(Instant::now()) => {
                    let why = format!("its group has shut it out ({code}), as it does after a restart of Kafka");
                    Renewal { why, name: Name::Same }
                }
                End::ShutOut(code) => {
                    break Err(Fatal::new(format!(
                        "the consumer group {} has shut this instance out twice ({code}): does another instance run with the same KAFKA_GROUP_INSTANCE_ID?",
                        self.settings.prefixed(group)
                    )));
                }
            };
            warn!(group, %why, "the consumer is made anew");
            self.renewals.inc();
            if let Err(error) = membership.renew(name) {
                break Err(error);
            }
        };
        watching.cancel();
        let Consuming { tasks, shared, .. } = consuming;
        tasks.close();
        if tokio::time::timeout(Duration::from_millis(self.settings.shutdown_timeout_ms), tasks.wait()).await.is_err() {
            warn!(records = tasks.len(), "some records were not finished in time; they will come again");
        }
        drop(shared);
        let closed = tokio::task::spawn_blocking(move || {
            let Some(member) = membership.take() else { return };
            let _ = member.commit_consumer_state(CommitMode::Sync);
            drop(Arc::into_inner(member).and_then(ClosesOnThread::take));
        });
        // Without a broker it would wait for one.
        let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
        info!(group, "stopped consuming");
        outcome
    }
}

/// Passes on the topics to consume: those that are wanted now, and then each change.
async fn pass_on(mut topics: watch::Receiver<Vec<String>>, ask: mpsc::Sender<Change>, stop: CancellationToken) {
    topics.mark_changed();
    while let Some(Ok(())) = stop.run_until_cancelled(topics.changed()).await {
        let wanted = topics.borrow_and_update().clone();
        if ask.send(Change::Topics(wanted)).await.is_err() {
            break;
        }
    }
}

/// The loop over the records of one member after the other.
struct Consuming<'a, H> {
    shared: Arc<Shared<H>>,
    tasks: TaskTracker,
    settings: &'a KafkaSettings,
    asked: &'a mut mpsc::Receiver<Change>,
}

impl<H: Handler> Consuming<'_, H> {
    /// Waits for topics.
    async fn idle(&mut self) -> End {
        tokio::select! {
            () = self.shared.shutdown.cancelled() => End::Shutdown,
            Some(change) = self.asked.recv() => End::Asked(change),
        }
    }

    async fn consume(&mut self, member: &Member) -> End {
        let Self { shared, tasks, settings, asked } = self;
        let (offsets, limit) = (&shared.membership.offsets, settings.kafka_max_in_flight);
        // Records that wait for their dead letters don't count: their partitions are paused already.
        let in_hand = || tasks.len().saturating_sub(offsets.held());
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (group, mut refusals) = (shared.membership.group, Refusals::default());
        loop {
            let received = tokio::select! {
                // Looked at first: a stream of records must not put it off.
                biased;
                () = shared.shutdown.cancelled() => return End::Shutdown,
                Some(change) = asked.recv() => return End::Asked(change),
                _ = looks.tick(), if offsets.all_paused() => {
                    if in_hand() <= limit / 2 {
                        shared.resume_all();
                    }
                    continue;
                }
                received = member.recv() => received,
            };
            match received {
                Ok(message) => {
                    if refusals.have_ended() {
                        info!(group, "Kafka is read again");
                    }
                    let (record, flaw) = to_record(&message, &settings.kafka_topic_prefix);
                    let partition = (message.topic().to_owned(), record.partition);
                    let epoch = offsets.received(partition.clone(), record.offset);
                    if faults::planted(Bug::OffsetBeforeCommit) {
                        let _ = member.store_offset(&partition.0, partition.1, record.offset);
                    }
                    tasks.spawn(process(shared.clone(), record, flaw, Place { partition, epoch }));
                }
                Err(KafkaError::MessageConsumptionFatal(code)) => return End::ShutOut(code),
                // librdkafka tries on by itself. Of lost brokers readiness tells.
                Err(error) => match error.rdkafka_error_code() {
                    Some(code) if !is_of_the_network(code) => {
                        if let Some(why) = unreadable(code) {
                            shared.membership.state.note_refusal(why);
                        }
                        if refusals.is_new(code) {
                            warn!(%error, group, "Kafka refuses to be read; trying on");
                        }
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
                shared.pause_all();
            }
        }
    }
}

/// When the group has shut this instance out. Kafka does so after a restart too, if it remembers an earlier member of this
/// name (seen with Kafka 4.1.1: an offset is committed while the member joins again); then it helps to join anew. Two
/// instances of one name shut each other out in turns, as soon as they have joined.
#[derive(Default)]
struct ShutOuts {
    last: Option<Instant>,
}

impl ShutOuts {
    /// Notes one. Whether it may be Kafka's own doing.
    fn is_first(&mut self, now: Instant) -> bool {
        self.last.replace(now).is_none_or(|last| now.duration_since(last) > RIVALRY)
    }
}

/// What Kafka refuses is logged once, until records have come for a while without it: one partition may be refused while
/// the others are read.
#[derive(Default)]
struct Refusals {
    codes: Vec<RDKafkaErrorCode>,
    last: Option<Instant>,
}

impl Refusals {
    fn is_new(&mut self, code: RDKafkaErrorCode) -> bool {
        self.last = Some(Instant::now());
        let is_new = !self.codes.contains(&code);
        if is_new {
            self.codes.push(code);
        }
        is_new
    }

    /// To be asked when a record came. True once.
    fn have_ended(&mut self) -> bool {
        let ended = self.last.is_some_and(|last| last.elapsed() >= REFUSAL_ENDS);
        if ended {
            *self = Self::default();
        }
        ended
    }
}

/// Why what Kafka has sent can't be read, if this error says so.
fn unreadable(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::BadCompression => Some("a batch of records can't be decompressed"),
        RDKafkaErrorCode::NotImplemented => {
            Some("a batch of records has a compression that this program does not know")
        }
        RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage => Some("a batch of records is damaged"),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_fence_within_half_a_minute_is_another_instances_doing() {
        let (mut shut_outs, begin) = (ShutOuts::default(), Instant::now());
        let after = [0, 3, 40, 60, 100].map(|second| shut_outs.is_first(begin + Duration::from_secs(second)));
        assert_eq!(after, [true, false, true, false, true]);
    }
}
