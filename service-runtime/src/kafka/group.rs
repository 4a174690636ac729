//! What a consumer knows of its group, for readiness and for routing; and the callbacks that keep it up to date.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Partition;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Statistics, TopicPartitionList};
use tracing::{debug, info, warn};

use super::offsets::Offsets;
use crate::http::Check;
use crate::metrics::{ConsumerLag, KafkaTraffic};

/// Whether a consumer is a member of its group, and which partitions it owns. A member without partitions is
/// healthy: there may be more instances than partitions.
pub struct GroupState {
    joined: AtomicBool,
    broker_up: AtomicBool,
    /// The topic whose partitions are told by [`GroupState::owned`]; all topics of a group are co-partitioned.
    first_topic: String,
    partitions: u32,
    owned: RwLock<Vec<u32>>,
}

impl GroupState {
    pub(super) fn new(first_topic: String, partitions: u32) -> Self {
        let (joined, broker_up) = (AtomicBool::new(false), AtomicBool::new(true));
        Self { joined, broker_up, first_topic, partitions, owned: RwLock::default() }
    }

    /// The partitions whose records come to this instance, in order. While the group parts them anew, those of the
    /// last assignment: the best guess, since most stay where they were.
    pub fn owned(&self) -> Vec<u32> {
        self.owned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the records of this partition may go to another instance now: it is not this one's, or the group parts
    /// them anew. While no broker can be reached they go to nobody.
    pub fn may_go_elsewhere(&self, partition: u32) -> bool {
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner);
        let comes_here = self.joined.load(Ordering::Relaxed) && owned.contains(&partition);
        self.broker_up.load(Ordering::Relaxed) && !comes_here
    }

    /// The partition of records with this key.
    pub fn partition_of(&self, key: &str) -> u32 {
        messages::partition_for_key(key.as_bytes(), self.partitions)
    }

    /// For readiness: `None` when all is well, else what is wrong.
    pub fn trouble(&self) -> Option<&'static str> {
        match (self.broker_up.load(Ordering::Relaxed), self.joined.load(Ordering::Relaxed)) {
            (false, _) => Some("no broker can be reached"),
            (true, false) => Some("the consumer is not in its group yet"),
            (true, true) => None,
        }
    }

    /// As a readiness check, for a service that can't work without its consumer.
    pub fn check(&self) -> Check {
        self.trouble().map_or(Check::Ok, |why| Check::Failed(why.to_owned()))
    }

    fn set_broker_up(&self, up: bool) {
        let before = self.broker_up.swap(up, Ordering::Relaxed);
        match (before, up) {
            (true, false) => warn!("no Kafka broker can be reached; trying on"),
            (false, true) => info!("Kafka can be reached again"),
            _ => {}
        }
    }

    fn assign(&self, list: &TopicPartitionList) {
        let mut owned = self.owned.write().unwrap_or_else(PoisonError::into_inner);
        *owned = list.elements_for_topic(&self.first_topic).iter().map(|element| element.partition() as u32).collect();
        owned.sort_unstable();
        self.joined.store(true, Ordering::Relaxed);
        info!(partitions = list.count(), "joined the consumer group");
    }
}

/// The callbacks of a consumer.
pub(super) struct GroupContext {
    pub(super) offsets: Arc<Offsets>,
    pub(super) state: Arc<GroupState>,
    pub(super) traffic: KafkaTraffic,
    pub(super) lag: ConsumerLag,
    pub(super) topic_prefix: String,
    pub(super) commits_fail: AtomicBool,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log_librdkafka(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.traffic.so_far(statistics.tx, statistics.tx_bytes, statistics.rx_bytes);
        let up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        self.state.set_broker_up(up);
        if let Some(group) = statistics.cgrp {
            self.state.joined.store(group.state == "up" && group.join_state == "steady", Ordering::Relaxed);
        }
        for (name, topic) in &statistics.topics {
            let name = name.strip_prefix(&self.topic_prefix).unwrap_or(name);
            topic.partitions.values().for_each(|each| self.lag.show(name, each.partition, lag(each)));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AllBrokersDown)) {
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
        if let Rebalance::Revoke(list) = rebalance {
            let partitions =
                list.elements().into_iter().map(|e| (e.topic().to_owned(), e.partition())).collect::<Vec<_>>();
            self.offsets.revoked(partitions.into_iter());
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // librdkafka remembers a pause over a revocation; our reason for it is forgotten.
                let _ = consumer.resume(list);
                self.state.assign(list);
            }
            Rebalance::Revoke(_) => self.state.joined.store(false, Ordering::Relaxed),
            Rebalance::Error(error) => warn!(%error, "rebalance failed"),
        }
    }
}

/// How many of a partition's records are not done. Unlike librdkafka's own `consumer_lag` it counts those in hand.
/// `None` if the partition is not consumed here, or not yet.
fn lag(partition: &Partition) -> Option<i64> {
    let known = |offset: i64| (offset >= 0).then_some(offset);
    let end = known(partition.hi_offset).filter(|_| partition.fetch_state == "active")?;
    // Stored offsets are committed twice a second. A group that has done nothing yet begins with the first record.
    let done = known(partition.stored_offset.max(partition.committed_offset)).or(known(partition.lo_offset))?;
    Some((end - done).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(stored: i64, committed: i64) -> Partition {
        Partition {
            fetch_state: "active".to_owned(),
            lo_offset: 10,
            hi_offset: 100,
            app_offset: 100,
            stored_offset: stored,
            committed_offset: committed,
            ..Partition::default()
        }
    }

    #[test]
    fn the_lag_is_counted_from_what_is_done_not_from_what_was_received() {
        const UNKNOWN: i64 = -1001;
        assert_eq!(lag(&partition(95, 90)), Some(5));
        assert_eq!(lag(&partition(UNKNOWN, 90)), Some(10), "nothing done since the assignment");
        assert_eq!(lag(&partition(UNKNOWN, UNKNOWN)), Some(90), "a new group");
        assert_eq!(lag(&partition(100, 100)), Some(0));
    }

    #[test]
    fn a_partition_of_another_member_has_no_lag_here() {
        for state in ["none", "stopping", "stopped", "offset-query"] {
            assert_eq!(lag(&Partition { fetch_state: state.to_owned(), ..partition(95, 90) }), None, "{state}");
        }
        assert_eq!(lag(&Partition { hi_offset: -1001, ..partition(95, 90) }), None);
    }
}
