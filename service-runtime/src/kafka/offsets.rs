//! Which offset may be committed while records finish in any order: the lowest one that is not finished.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// One partition of one topic, under its name on Kafka.
pub(super) type TopicPartition = (String, i32);

/// The records in hand, by partition. A partition that is revoked is forgotten: what finishes later is ignored,
/// even if the partition has come back meanwhile, since each assignment has an epoch of its own.
#[derive(Default)]
pub(super) struct Offsets {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    epoch: u64,
    partitions: HashMap<TopicPartition, Progress>,
}

struct Progress {
    epoch: u64,
    unfinished: BTreeSet<i64>,
    /// The offset after the last one received.
    next: i64,
    /// Up to where all are finished; what was last handed out to be committed.
    position: i64,
}

impl Offsets {
    /// Notes a record as received and answers the epoch that it belongs to.
    pub(super) fn received(&self, partition: TopicPartition, offset: i64) -> u64 {
        let mut inner = self.lock();
        let epoch = inner.epoch;
        let progress = inner.partitions.entry(partition).or_insert_with(|| Progress {
            epoch,
            unfinished: BTreeSet::new(),
            next: offset,
            position: offset,
        });
        progress.unfinished.insert(offset);
        progress.next = progress.next.max(offset + 1);
        progress.epoch
    }

    /// Notes a record as finished. If the position to commit (the next offset to read) moved, `store` gets it,
    /// under the lock: positions are stored in order.
    pub(super) fn finished(&self, partition: &TopicPartition, offset: i64, epoch: u64, store: impl FnOnce(i64)) {
        let mut inner = self.lock();
        let progress = inner.partitions.get_mut(partition).filter(|progress| progress.epoch == epoch);
        let Some(progress) = progress else { return };
        progress.unfinished.remove(&offset);
        let position = progress.unfinished.first().copied().unwrap_or(progress.next);
        if position > progress.position {
            progress.position = position;
            store(position);
        }
    }

    /// Forgets partitions that now belong to someone else.
    pub(super) fn revoked(&self, partitions: impl Iterator<Item = TopicPartition>) {
        let mut inner = self.lock();
        inner.epoch += 1;
        for partition in partitions {
            inner.partitions.remove(&partition);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Offsets {
        fn position_after(&self, offset: i64, epoch: u64) -> Option<i64> {
            let mut stored = None;
            self.finished(&partition(), offset, epoch, |position| stored = Some(position));
            stored
        }
    }

    fn partition() -> TopicPartition {
        ("t".into(), 0)
    }

    #[test]
    fn the_position_is_the_lowest_unfinished_offset() {
        let offsets = Offsets::default();
        let epoch = (5..8).map(|offset| offsets.received(partition(), offset)).max().unwrap();
        assert_eq!(offsets.position_after(6, epoch), None, "5 is still in hand");
        assert_eq!(offsets.position_after(5, epoch), Some(7));
        assert_eq!(offsets.position_after(7, epoch), Some(8));
    }

    #[test]
    fn nothing_is_stored_for_a_partition_that_was_revoked_even_after_it_came_back() {
        let offsets = Offsets::default();
        let old = offsets.received(partition(), 5);
        offsets.revoked([partition()].into_iter());
        assert_eq!(offsets.position_after(5, old), None);
        let new = offsets.received(partition(), 5);
        assert_eq!(offsets.position_after(5, old), None);
        assert_eq!(offsets.position_after(5, new), Some(6));
    }

    #[test]
    fn gaps_in_the_offsets_are_passed() {
        let offsets = Offsets::default();
        let epoch = offsets.received(partition(), 5);
        offsets.received(partition(), 9);
        assert_eq!(offsets.position_after(5, epoch), Some(9));
        assert_eq!(offsets.position_after(9, epoch), Some(10));
    }
}
