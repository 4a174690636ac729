//! librdkafka's consumer: a member of its group. Where it does not get on, another one takes its place.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use messages::groups::Group;
use rdkafka::consumer::{Consumer as _, StreamConsumer};

use super::KafkaSettings;
use super::closing::ClosesOnThread;
use super::group::{GroupContext, GroupState};
use super::offsets::Offsets;
use super::topic_counts::TopicCounts;
use crate::Fatal;
use crate::metrics::Metrics;

pub(super) type Member = ClosesOnThread<StreamConsumer<GroupContext>>;

/// What is asked of the loop over a consumer's records.
#[derive(Debug)]
pub(super) enum Change {
    /// To have another member take the place of the one that there is.
    Renew(Renewal),
    /// To consume these topics, named without the installation's prefix.
    Topics(Vec<String>),
}

/// Why another member takes the place of the one that there is.
#[derive(Debug)]
pub(super) struct Renewal {
    pub why: String,
    pub name: Name,
}

/// The name of a static member (`kafka_group_instance_id`) that takes the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// It gets the other's partitions at once.
    Same,
    /// The partitions are parted anew, once the other's session has ended. A group that has parted them while topics were
    /// missing would leave it at that: it answers a known name with what it had (seen with Kafka 4.1.1: a member without
    /// partitions, for as long as it ran).
    New,
}

/// So many sets of topics have an edition of their own: five hexadecimal digits.
const EDITIONS: u32 = 1 << 20;

/// What is needed to make a member, and the one that there is.
pub(super) struct Membership {
    settings: KafkaSettings,
    service: &'static str,
    /// Its name without the installation's prefix.
    pub group: &'static str,
    /// By their names on Kafka.
    topics: RwLock<Vec<String>>,
    pub offsets: Arc<Offsets>,
    pub state: Arc<GroupState>,
    pub counts: TopicCounts,
    metrics: Metrics,
    /// Stands in the names of static members. A group assigns a member that comes back under its name what it had, whatever
    /// it subscribes to now: so that a release that reads other topics, older or newer, is a new member.
    edition: Option<u32>,
    /// Counts the members that got a name of their own.
    names: AtomicU32,
    /// Whoever takes it from here gives it back at once: the last one closes it.
    current: RwLock<Option<Arc<Member>>>,
}

impl Membership {
    /// A member of a group whose topics stay as they are, with so many partitions each.
    pub fn of(
        settings: &KafkaSettings,
        service: &'static str,
        (group, partitions): (Group, u32),
        metrics: &Metrics,
    ) -> Result<Self, Fatal> {
        let topics: Vec<String> = group.topics.iter().map(|topic| (*topic).to_owned()).collect();
        let edition = Some(messages::partition_for_key(topics.join(" ").as_bytes(), EDITIONS));
        let without = Self::without_topics(settings, service, group.name, GroupState::new(partitions), metrics);
        let membership = Self { edition, ..without };
        membership.subscribe(&topics)?;
        Ok(membership)
    }

    /// One without topics, and so without a member.
    pub fn without_topics(
        settings: &KafkaSettings,
        service: &'static str,
        group: &'static str,
        state: GroupState,
        metrics: &Metrics,
    ) -> Self {
        state.set_idle(true);
        Self {
            settings: settings.clone(),
            service,
            group,
            topics: RwLock::default(),
            offsets: Arc::default(),
            state: Arc::new(state),
            counts: TopicCounts::new(metrics),
            metrics: metrics.clone(),
            edition: None,
            names: AtomicU32::new(0),
            current: RwLock::default(),
        }
    }

    /// The topics that are consumed, by their names on Kafka.
    pub fn topics(&self) -> Vec<String> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Consumes these topics from now on, named without the installation's prefix: by the member that there is, if there is
    /// one. It joins its group anew without having left it, so that a static member too is assigned partitions of a topic
    /// that is new: one that comes back under its name is assigned what it had. What was in hand comes again.
    pub fn subscribe(&self, topics: &[String]) -> Result<(), Fatal> {
        self.counts.show(topics);
        let mut names: Vec<String> = topics.iter().map(|topic| self.settings.prefixed(topic)).collect();
        names.sort();
        names.dedup();
        let before = {
            let mut current = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, names.clone())
        };
        if before == names {
            return Ok(());
        }
        self.state.set_idle(names.is_empty());
        let member = self.current().filter(|_| !names.is_empty());
        // A member that its group has shut out takes no subscription.
        match member.is_some_and(|member| subscribe(&member, &names).is_ok()) {
            true => Ok(()),
            false => self.renew(Name::Same),
        }
    }

    /// The member that there is now. `None` without topics, and once it was taken.
    pub fn current(&self) -> Option<Arc<Member>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The member, for the end.
    pub fn take(&self) -> Option<Arc<Member>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has another member take the place of the one that there is, which leaves the group behind our back. What it had in
    /// hand comes again. Without topics there is none afterwards.
    pub fn renew(&self, name: Name) -> Result<(), Fatal> {
        self.names.fetch_add((name == Name::New).into(), Ordering::Relaxed);
        let generation = self.state.begin_generation();
        self.offsets.all_revoked();
        drop(self.take());
        let topics = self.topics();
        if topics.is_empty() {
            return Ok(());
        }
        let context = GroupContext {
            offsets: self.offsets.clone(),
            state: self.state.clone(),
            traffic: self.metrics.kafka_traffic("consumer"),
            generation,
            commits_fail: AtomicBool::new(false),
        };
        let member = self.member(context)?;
        subscribe(&member, &topics)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ClosesOnThread::new(member)));
        Ok(())
    }

    fn member(&self, context: GroupContext) -> Result<StreamConsumer<GroupContext>, Fatal> {
        let (settings, group) = (&self.settings, self.group);
        // A member learns by its next heartbeat that the group parts the partitions anew, and all wait for the last.
        let heartbeat = (settings.kafka_session_timeout_ms / 3).min(500);
        let mut config = settings.client(self.service);
        config
            // The range assignor sorts members by their ids, which begin so: all groups of a service assign the same
            // partitions to the same process.
            .set("client.id", format!("{}-{}", self.service, settings.process))
            .set("group.id", settings.prefixed(group))
            .set("session.timeout.ms", settings.kafka_session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", heartbeat.to_string())
            .set("auto.offset.reset", "earliest")
            // Offsets are stored as records are finished, and what is stored is committed twice a second.
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.interval.ms", "500")
            // Co-partitioned topics: the same partition of each goes to the same member.
            .set("partition.assignment.strategy", "range")
            .set("fetch.wait.max.ms", settings.kafka_fetch_wait_max_ms.to_string())
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            // For readiness: whether a broker is up and the group is joined, and what is fetched. And for the metrics.
            .set("statistics.interval.ms", "2000");
        if !settings.kafka_group_instance_id.is_empty() {
            let edition = self.edition.map(|edition| format!("-{edition:05x}")).unwrap_or_default();
            let number = match self.names.load(Ordering::Relaxed) {
                0 => String::new(),
                number => format!("-{number}"),
            };
            config.set("group.instance.id", format!("{}-{group}{edition}{number}", settings.kafka_group_instance_id));
        }
        config.create_with_context(context).map_err(|e| Fatal::new(format!("the Kafka consumer can't be made: {e}")))
    }
}

fn subscribe(member: &StreamConsumer<GroupContext>, topics: &[String]) -> Result<(), Fatal> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    member.subscribe(&names).map_err(|e| Fatal::new(format!("can't subscribe to {names:?}: {e}")))
}
