//! Which offset may be committed while records finish in any order: the lowest one that is not finished. And which
//! partitions are paused: all of them while too many records are in hand, one alone while a dead letter of its is not
//! acknowledged.

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
    all_paused: bool,
    partitions: HashMap<TopicPartition, Progress>,
}

struct Progress {
    epoch: u64,
    unfinished: BTreeSet<i64>,
    /// The offset after the last one received.
    next: i64,
    /// Up to where all are finished; what was last handed out to be committed.
    position: i64,
    /// Of the unfinished ones, those that wait for the acknowledgement of their dead letter.
    held: usize,
}

/// How far a partition has come since it was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// The offset after the last record that came.
    pub received: i64,
    /// Up to where all are finished.
    pub done: i64,
    /// It is paused: a dead letter of its is not acknowledged.
    pub is_held: bool,
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
            held: 0,
        });
        progress.unfinished.insert(offset);
        progress.next = progress.next.max(offset + 1);
        progress.epoch
    }

    /// Notes a record as finished. If the position to commit (the next offset to read) moved, `store` gets it,
    /// under the lock: positions are stored in order.
    pub(super) fn finished(&self, partition: &TopicPartition, offset: i64, epoch: u64, store: impl FnOnce(i64)) {
        let mut inner = self.lock();
        let Some(progress) = inner.current(partition, epoch) else { return };
        progress.unfinished.remove(&offset);
        let position = progress.unfinished.first().copied().unwrap_or(progress.next);
        if position > progress.position {
            progress.position = position;
            store(position);
        }
    }

    /// Forgets partitions that now belong to someone else. The next assignment begins with nothing paused.
    pub(super) fn revoked(&self, partitions: impl Iterator<Item = TopicPartition>) {
        let mut inner = self.lock();
        inner.epoch += 1;
        inner.all_paused = false;
        for partition in partitions {
            inner.partitions.remove(&partition);
        }
    }

    /// Forgets all partitions.
    pub(super) fn all_revoked(&self) {
        let partitions: Vec<TopicPartition> = self.lock().partitions.keys().cloned().collect();
        self.revoked(partitions.into_iter());
    }

    /// How far each partition has come of which something came.
    pub(super) fn reached(&self) -> HashMap<TopicPartition, Reached> {
        let reached = |progress: &Progress| Reached {
            received: progress.next,
            done: progress.position,
            is_held: progress.held > 0,
        };
        self.lock().partitions.iter().map(|(partition, progress)| (partition.clone(), reached(progress))).collect()
    }

    /// Whether a record of this epoch is still ours to finish.
    pub(super) fn is_current(&self, partition: &TopicPartition, epoch: u64) -> bool {
        self.lock().current(partition, epoch).is_some()
    }

    /// Notes that a record waits for its dead letter. The first one has `pause` called, under the lock.
    pub(super) fn hold(&self, partition: &TopicPartition, epoch: u64, pause: impl FnOnce()) {
        let mut inner = self.lock();
        let Some(progress) = inner.current(partition, epoch) else { return };
        progress.held += 1;
        if progress.held == 1 {
            pause();
        }
    }

    /// Notes that a record waits no more. The last one has `resume` called, under the lock; but not while all
    /// partitions are paused, which are resumed together.
    pub(super) fn release(&self, partition: &TopicPartition, epoch: u64, resume: impl FnOnce()) {
        let mut inner = self.lock();
        let all_paused = inner.all_paused;
        let Some(progress) = inner.current(partition, epoch) else { return };
        progress.held -= 1;
        if progress.held == 0 && !all_paused {
            resume();
        }
    }

    /// How many records wait for their dead letters.
    pub(super) fn held(&self) -> usize {
        self.lock().partitions.values().map(|progress| progress.held).sum()
    }

    /// Whether all partitions are paused.
    pub(super) fn all_paused(&self) -> bool {
        self.lock().all_paused
    }

    /// Pauses all partitions, by `pause`, which tells whether it did.
    pub(super) fn pause_all(&self, pause: impl FnOnce() -> bool) {
        let mut inner = self.lock();
        inner.all_paused = pause();
    }

    /// Resumes all partitions but those that are held, by `resume`, which is told which these are and tells whether
    /// it did.
    pub(super) fn resume_all(&self, resume: impl FnOnce(&dyn Fn(&TopicPartition) -> bool) -> bool) {
        let mut inner = self.lock();
        let resumed = resume(&|partition| inner.partitions.get(partition).is_some_and(|progress| progress.held > 0));
        inner.all_paused = !resumed;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A partition's progress, unless it was revoked since.
    fn current(&mut self, partition: &TopicPartition, epoch: u64) -> Option<&mut Progress> {
        self.partitions.get_mut(partition).filter(|progress| progress.epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
    fn a_partition_is_paused_by_the_first_dead_letter_that_waits_and_resumed_by_the_last() {
        let (offsets, calls) = (Offsets::default(), RefCell::new(Vec::new()));
        let epoch = (5..7).map(|offset| offsets.received(partition(), offset)).max().unwrap();
        let note = |call| calls.borrow_mut().push(call);

        offsets.hold(&partition(), epoch, || note("pause"));
        offsets.hold(&partition(), epoch, || note("pause again"));
        assert_eq!(offsets.held(), 2);
        offsets.release(&partition(), epoch, || note("resume early"));
        offsets.release(&partition(), epoch, || note("resume"));

        assert_eq!(offsets.held(), 0);
        assert_eq!(*calls.borrow(), ["pause", "resume"]);
    }

    #[test]
    fn resuming_all_leaves_out_a_held_partition_and_a_hold_that_ends_meanwhile_waits_for_it() {
        let offsets = Offsets::default();
        let (held, free) = (partition(), ("t".to_owned(), 1));
        let epoch = offsets.received(held.clone(), 5);
        offsets.received(free.clone(), 5);
        offsets.hold(&held, epoch, || ());

        offsets.pause_all(|| true);
        assert!(offsets.all_paused());
        let left_out = |is_held: &dyn Fn(&TopicPartition) -> bool| {
            assert!(is_held(&held) && !is_held(&free));
            false
        };
        offsets.resume_all(left_out);
        assert!(offsets.all_paused(), "it could not be done");
        offsets.release(&held, epoch, || panic!("all are paused: they are resumed together"));
        offsets.resume_all(|is_held| !is_held(&held));
        assert!(!offsets.all_paused());
    }

    #[test]
    fn a_revoked_partition_is_held_no_more() {
        let offsets = Offsets::default();
        let old = offsets.received(partition(), 5);
        offsets.hold(&partition(), old, || ());

        offsets.revoked([partition()].into_iter());

        assert_eq!(offsets.held(), 0);
        let new = offsets.received(partition(), 5);
        assert!(offsets.is_current(&partition(), new) && !offsets.is_current(&partition(), old));
        offsets.hold(&partition(), old, || panic!("it is another assignment now"));
        offsets.release(&partition(), old, || panic!("it is another assignment now"));
    }

    #[test]
    fn how_far_a_partition_has_come_is_known_until_it_is_revoked() {
        let offsets = Offsets::default();
        let epoch = (5..8).map(|offset| offsets.received(partition(), offset)).max().unwrap();
        offsets.finished(&partition(), 5, epoch, |_| ());
        offsets.hold(&partition(), epoch, || ());
        assert_eq!(offsets.reached()[&partition()], Reached { received: 8, done: 6, is_held: true });

        offsets.all_revoked();

        assert!(offsets.reached().is_empty() && !offsets.is_current(&partition(), epoch));
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
