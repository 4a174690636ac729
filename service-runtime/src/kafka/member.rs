//! librdkafka's consumer: a member of the group that is named as its service. Where it does not get on, another one takes
//! its place.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rdkafka::consumer::{Consumer as _, StreamConsumer};

use super::KafkaSettings;
use super::closing::ClosesOnThread;
use super::group::{GroupContext, GroupState};
use super::offsets::Offsets;
use crate::Fatal;
use crate::metrics::Metrics;

pub(super) type Member = ClosesOnThread<GroupContext>;

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

/// What is needed to make a member, and the one that there is.
pub(super) struct Membership {
    settings: KafkaSettings,
    service: &'static str,
    /// By their names on Kafka.
    pub topics: Vec<String>,
    pub offsets: Arc<Offsets>,
    pub state: Arc<GroupState>,
    metrics: Metrics,
    /// Counts the members that got a name of their own.
    names: AtomicU32,
    /// Whoever takes it from here gives it back at once: the last one closes it.
    current: RwLock<Option<Arc<Member>>>,
}

impl Membership {
    /// Subscribes to `topics`, named as on Kafka.
    pub fn join(
        settings: &KafkaSettings,
        service: &'static str,
        topics: Vec<String>,
        state: GroupState,
        metrics: &Metrics,
    ) -> Result<Self, Fatal> {
        let membership = Self {
            settings: settings.clone(),
            service,
            topics,
            offsets: Arc::default(),
            state: Arc::new(state),
            metrics: metrics.clone(),
            names: AtomicU32::new(0),
            current: RwLock::default(),
        };
        membership.renew(Name::Same)?;
        Ok(membership)
    }

    /// The member that there is now. `None` once it was taken.
    pub fn current(&self) -> Option<Arc<Member>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The member, for the end.
    pub fn take(&self) -> Option<Arc<Member>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has another member take the place of the one that there is, which leaves the group behind our back. What it had in
    /// hand comes again.
    pub fn renew(&self, name: Name) -> Result<(), Fatal> {
        self.names.fetch_add((name == Name::New).into(), Ordering::Relaxed);
        let generation = self.state.begin_generation();
        self.offsets.all_revoked();
        drop(self.take());
        let context = GroupContext {
            offsets: self.offsets.clone(),
            state: self.state.clone(),
            traffic: self.metrics.kafka_traffic("consumer"),
            generation,
            commits_fail: AtomicBool::new(false),
        };
        let member = self.member(context)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ClosesOnThread::new(member)));
        Ok(())
    }

    fn member(&self, context: GroupContext) -> Result<StreamConsumer<GroupContext>, Fatal> {
        let (settings, service) = (&self.settings, self.service);
        // A member learns by its next heartbeat that the group parts the partitions anew, and all wait for the last.
        let heartbeat = (settings.kafka_session_timeout_ms / 3).min(500);
        let mut config = settings.client(service);
        config
            .set("group.id", settings.prefixed(service))
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
            let number = match self.names.load(Ordering::Relaxed) {
                0 => String::new(),
                number => format!("-{number}"),
            };
            config.set("group.instance.id", format!("{}-{service}{number}", settings.kafka_group_instance_id));
        }
        let member: StreamConsumer<GroupContext> = config
            .create_with_context(context)
            .map_err(|e| Fatal::new(format!("the Kafka consumer can't be made: {e}")))?;
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        member.subscribe(&names).map_err(|e| Fatal::new(format!("can't subscribe to {names:?}: {e}")))?;
        Ok(member)
    }
}
