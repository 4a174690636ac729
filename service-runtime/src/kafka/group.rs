//! What a consumer knows of its group, for readiness and for routing; and the callbacks that keep it up to date.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Topic;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Statistics, TopicPartitionList};
use tracing::{debug, info, warn};

use super::offsets::{Offsets, TopicPartition};
use crate::http::Check;
use crate::metrics::KafkaTraffic;

/// Whether a consumer is a member of its group, which partitions it owns, and whether they get on. A member without
/// partitions is healthy: there may be more instances than partitions.
pub struct GroupState {
    joined: AtomicBool,
    /// There is no topic to consume yet, so there is no member either.
    idle: AtomicBool,
    broker_up: AtomicBool,
    /// Counts the consumers that were made one after the other. What an earlier one still has to say is ignored.
    generation: AtomicU64,
    /// Of each topic; all topics of a group are co-partitioned. 0 while it is not known.
    partitions: AtomicU32,
    owned: RwLock<Vec<u32>>,
    /// What is assigned now, and which offset librdkafka fetches next.
    fetched: RwLock<HashMap<TopicPartition, Option<i64>>>,
    /// Why partitions don't get on, as the watch has found.
    hindrance: RwLock<Option<String>>,
    /// What Kafka's answers lacked of late.
    refusal: RwLock<Option<(Instant, &'static str)>>,
}

/// A refusal is worth telling for so long.
const OF_LATE: Duration = Duration::from_secs(60);

impl GroupState {
    /// Of a consumer whose topics have so many partitions each; 0: it is not known yet.
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            joined: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            broker_up: AtomicBool::new(true),
            generation: AtomicU64::new(0),
            partitions: AtomicU32::new(partitions),
            owned: RwLock::default(),
            fetched: RwLock::default(),
            hindrance: RwLock::default(),
            refusal: RwLock::default(),
        }
    }

    /// The partitions whose records come to this instance, in order. While the group parts them anew, those of the
    /// last assignment: the best guess, since most stay where they were.
    pub fn owned(&self) -> Vec<u32> {
        read(&self.owned).clone()
    }

    /// Whether the records of this partition may go to another instance now: it is not this one's, or the group parts
    /// them anew. While no broker can be reached they go to nobody.
    pub fn may_go_elsewhere(&self, partition: u32) -> bool {
        let comes_here = self.joined.load(Ordering::Relaxed) && read(&self.owned).contains(&partition);
        self.broker_up.load(Ordering::Relaxed) && !comes_here
    }

    /// The partition of records with this key. 0 while it is not known how many there are, as in the first seconds of a
    /// consumer whose topics grow.
    pub fn partition_of(&self, key: &str) -> u32 {
        messages::partition_for_key(key.as_bytes(), self.partitions.load(Ordering::Relaxed).max(1))
    }

    /// For readiness: `None` when all is well, else what is wrong.
    pub fn trouble(&self) -> Option<String> {
        if self.idle.load(Ordering::Relaxed) {
            return None;
        }
        let hindrance = read(&self.hindrance).clone();
        match (self.broker_up.load(Ordering::Relaxed), self.joined.load(Ordering::Relaxed)) {
            (false, _) => Some("no broker can be reached".to_owned()),
            (true, false) => hindrance.or_else(|| Some("the consumer is not in its group yet".to_owned())),
            (true, true) => hindrance,
        }
    }

    /// As a readiness check, for a service that can't work without its consumer.
    pub fn check(&self) -> Check {
        self.trouble().map_or(Check::Ok, Check::Failed)
    }

    /// Notes that a consumer takes the place of the one before. Returns its generation.
    pub(super) fn begin_generation(&self) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.unassign();
        generation
    }

    /// Whether there is nothing to consume.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// What is assigned, with the offset that is fetched next where it is known.
    pub(super) fn fetched(&self) -> HashMap<TopicPartition, Option<i64>> {
        read(&self.fetched).clone()
    }

    pub(super) fn set_hindrance(&self, why: Option<String>) {
        *write(&self.hindrance) = why;
    }

    pub(super) fn is_hindered(&self) -> bool {
        read(&self.hindrance).is_some()
    }

    /// Notes what is wrong with an answer of Kafka.
    pub(super) fn note_refusal(&self, why: &'static str) {
        *write(&self.refusal) = Some((Instant::now(), why));
    }

    /// What was wrong with Kafka's answers of late.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        read(&self.refusal).filter(|(at, _)| at.elapsed() < OF_LATE).map(|(_, why)| why)
    }

    /// How many partitions each topic has. It may be another number when Kafka comes back empty.
    pub(super) fn set_partitions(&self, partitions: u32) {
        let before = self.partitions.swap(partitions, Ordering::Relaxed);
        if before != partitions && before != 0 {
            info!(before, partitions, "the topics have another number of partitions");
        }
    }

    fn set_broker_up(&self, up: bool) {
        let before = self.broker_up.swap(up, Ordering::Relaxed);
        match (before, up) {
            (true, false) => warn!("no Kafka broker can be reached; trying on"),
            (false, true) => info!("Kafka can be reached again"),
            _ => {}
        }
    }

    pub(super) fn assign(&self, list: &TopicPartitionList) {
        let assigned = list.elements().into_iter().map(|one| (one.topic().to_owned(), one.partition()));
        let assigned: Vec<TopicPartition> = assigned.collect();
        // The same of each topic, once all members want the same topics.
        let first = assigned.first().map(|(topic, _)| topic);
        let of_first = assigned.iter().filter(|(topic, _)| Some(topic) == first);
        let mut owned: Vec<u32> = of_first.map(|(_, partition)| *partition as u32).collect();
        owned.sort_unstable();
        *write(&self.owned) = owned;
        *write(&self.fetched) = assigned.into_iter().map(|partition| (partition, None)).collect();
        self.joined.store(true, Ordering::Relaxed);
        info!(partitions = list.count(), "joined the consumer group");
    }

    fn unassign(&self) {
        self.joined.store(false, Ordering::Relaxed);
        write(&self.fetched).clear();
    }

    fn note_fetched(&self, topics: &HashMap<String, Topic>) {
        for ((topic, partition), fetched) in write(&self.fetched).iter_mut() {
            let found = topics.get(topic).and_then(|topic| topic.partitions.get(partition));
            *fetched = found.map(|found| found.next_offset).filter(|offset| *offset >= 0);
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The callbacks of a consumer.
pub(super) struct GroupContext {
    pub(super) offsets: Arc<Offsets>,
    pub(super) state: Arc<GroupState>,
    pub(super) traffic: KafkaTraffic,
    pub(super) generation: u64,
    pub(super) commits_fail: AtomicBool,
}

impl GroupContext {
    /// Whether this is the consumer that runs now, and not one before it that is still being closed.
    fn is_current(&self) -> bool {
        self.state.generation.load(Ordering::SeqCst) == self.generation
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log_librdkafka(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.traffic.so_far(statistics.tx, statistics.tx_bytes, statistics.rx_bytes);
        if !self.is_current() {
            return;
        }
        let up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        self.state.set_broker_up(up);
        if let Some(group) = statistics.cgrp {
            self.state.joined.store(group.state == "up" && group.join_state == "steady", Ordering::Relaxed);
        }
        self.state.note_fetched(&statistics.topics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) && self.is_current() {
            self.state.set_broker_up(false);
        }
        debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for GroupContext {
    /// What can't be committed comes again after a restart, all of it: said once, until a commit succeeds.
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        let failed =
            result.as_ref().err().filter(|error| error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset));
        let before = self.commits_fail.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) if !before => warn!(%error, "offsets can't be committed; trying on"),
            None if before => info!("offsets are committed again"),
            _ => {}
        }
    }

    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance
            && self.is_current()
        {
            let partitions =
                list.elements().into_iter().map(|e| (e.topic().to_owned(), e.partition())).collect::<Vec<_>>();
            self.offsets.revoked(partitions.into_iter());
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if !self.is_current() {
            return;
        }
        match rebalance {
            Rebalance::Assign(list) => {
                // librdkafka remembers a pause over a revocation; our reason for it is forgotten.
                let _ = consumer.resume(list);
                self.state.assign(list);
            }
            Rebalance::Revoke(_) => self.state.unassign(),
            Rebalance::Error(error) => warn!(%error, "rebalance failed"),
        }
    }
}
