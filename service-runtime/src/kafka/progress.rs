//! Whether the partitions of a consumer get on: records are there, and none comes. Pure: [`super::watch`] looks, this
//! judges.
//!
//! What holds records up behind the consumer is no standstill: a partition that is paused (too many records in hand, a
//! dead letter that is not acknowledged) is passed over, and a record counts as read when it has come, not when it is
//! done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::PartitionMarks;
use super::offsets::TopicPartition;

/// A partition stands still after so many looks, one after the other, at which nothing had moved since the one before.
const STILL: u32 = 4;

/// The pause after a consumer was made anew because of a standstill: at first, and at most. It doubles, since not every
/// standstill ends by it (a damaged batch does not), and each time all partitions of the group are parted anew.
const PAUSES: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));

/// A partition as one look finds it.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// What Kafka has. Asked for after the rest was read.
    pub marks: PartitionMarks,
    /// The offset that librdkafka fetches next.
    pub fetched: Option<i64>,
    /// The offset after the last record that came since the assignment.
    pub received: Option<i64>,
    /// Up to where all records are done since the assignment.
    pub done: Option<i64>,
    /// The consumer wants no records of it now.
    pub paused: bool,
}

/// A partition that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standstill {
    pub partition: TopicPartition,
    pub records: i64,
    pub since: Duration,
}

/// What was found at the last looks.
#[derive(Default)]
pub(super) struct Progress {
    partitions: HashMap<TopicPartition, Found>,
    /// The offsets after the last records that had come, of all partitions together.
    received: i64,
}

struct Found {
    at: i64,
    /// How often it was found there again, with records behind it.
    looks: u32,
    since: Instant,
}

/// When a consumer may be made anew because of a standstill.
#[derive(Default)]
pub(super) struct Renewals {
    last: Option<(Instant, Duration)>,
}

impl Standing {
    /// Whether the log ends before what came of it: it is another log, or has lost its end. What is fetched from there
    /// may never come.
    pub fn is_another_log(&self) -> bool {
        self.received.is_some_and(|received| received > self.marks.high)
    }

    /// How many of its records are not done. Behind the end of the log nothing of it is done.
    pub fn lag(&self) -> i64 {
        let PartitionMarks { low, high, committed, .. } = self.marks;
        let done = self.done.max(committed).unwrap_or(low).max(low);
        if done > high { high - low } else { high - done }
    }

    /// Up to where records have come: what came since the assignment, else where the group had committed. What was removed
    /// before it was read will not come.
    fn come(&self) -> i64 {
        let PartitionMarks { low, committed, .. } = self.marks;
        self.received.or(committed).unwrap_or(low).max(low)
    }

    /// Whether records were fetched that have not come yet: those of all partitions stand in one queue, and while it is
    /// full nothing more is fetched.
    fn is_queued(&self) -> bool {
        self.at() > self.come()
    }

    /// What is read next, by librdkafka where it says so.
    fn at(&self) -> i64 {
        self.fetched.unwrap_or_else(|| self.come())
    }

    /// How many records wait to be read.
    fn unread(&self) -> i64 {
        let (at, PartitionMarks { low, high, .. }) = (self.at(), self.marks);
        if (low..=high).contains(&at) { high - at } else { high - low }
    }
}

impl Progress {
    /// Notes a look at all partitions of the consumer. Returns those that stand still.
    pub fn look(&mut self, standings: &[(TopicPartition, Standing)], now: Instant) -> Vec<Standstill> {
        self.partitions.retain(|known, _| standings.iter().any(|(partition, _)| partition == known));
        let received = standings.iter().filter_map(|(_, standing)| standing.received).sum();
        let queue_moves = std::mem::replace(&mut self.received, received) != received;
        let mut still = Vec::new();
        for (partition, standing) in standings {
            let at = standing.at();
            let before = self.partitions.get_mut(partition).filter(|found| found.at == at);
            let waits_in_queue = queue_moves && standing.is_queued();
            let Some(found) = before.filter(|_| !standing.paused && !waits_in_queue && standing.unread() > 0) else {
                self.partitions.insert(partition.clone(), Found { at, looks: 0, since: now });
                continue;
            };
            found.looks += 1;
            if found.looks >= STILL {
                let (records, since) = (standing.unread(), now.duration_since(found.since));
                still.push(Standstill { partition: partition.clone(), records, since });
            }
        }
        still
    }
}

impl Renewals {
    /// Whether it is time. Counts as done then.
    pub fn due(&mut self, now: Instant) -> bool {
        let (first, most) = PAUSES;
        let pause = match self.last {
            None => first,
            Some((last, pause)) if now.duration_since(last) >= pause => (2 * pause).min(most),
            Some(_) => return false,
        };
        self.last = Some((now, pause));
        true
    }

    /// All partitions get on: the next standstill is another one. Those that come soon after a renewal may be the same.
    pub fn all_well(&mut self, now: Instant) {
        if self.last.is_some_and(|(last, pause)| now.duration_since(last) >= pause) {
            self.last = None;
        }
    }
}

impl std::fmt::Display for Standstill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition: (topic, partition), records, since } = self;
        write!(f, "{topic} [{partition}]: {records} records are there, none was read for {} s", since.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four looks a minute, to have round numbers.
    const EVERY: Duration = Duration::from_secs(15);

    fn standing(fetched: i64, high: i64) -> Standing {
        let marks = PartitionMarks { partition: 0, low: 0, high, committed: None };
        Standing { marks, fetched: Some(fetched), received: None, done: None, paused: false }
    }

    fn after(looks: Vec<Standing>) -> Vec<Standstill> {
        let (mut progress, mut now, mut still) = (Progress::default(), Instant::now(), Vec::new());
        for standing in looks {
            still = progress.look(&[(("t".to_owned(), 3), standing)], now);
            now += EVERY;
        }
        still
    }

    #[test]
    fn a_partition_with_records_of_which_none_comes_stands_still() {
        assert_eq!(after(vec![standing(57, 60); 4]), []);
        let expected = Standstill { partition: ("t".to_owned(), 3), records: 3, since: 4 * EVERY };
        assert_eq!(after(vec![standing(57, 60); 5]), std::slice::from_ref(&expected));
        assert_eq!(expected.to_string(), "t [3]: 3 records are there, none was read for 60 s");
    }

    #[test]
    fn neither_an_idle_partition_nor_one_that_moves_nor_one_that_is_paused_stands_still() {
        assert_eq!(after(vec![standing(60, 60); 9]), []);
        assert_eq!(after((0..9).map(|n| standing(n, 60)).collect()), []);
        assert_eq!(after(vec![Standing { paused: true, ..standing(57, 60) }; 9]), []);
        // It was paused, and may have been until a moment ago.
        let resumed = [vec![Standing { paused: true, ..standing(57, 60) }; 9], vec![standing(57, 60); 3]].concat();
        assert_eq!(after(resumed), []);
        let empty = Standing { marks: PartitionMarks { low: 57, ..standing(0, 57).marks }, ..standing(12, 57) };
        assert_eq!(after(vec![empty; 9]), [], "what was there was removed");
    }

    #[test]
    fn a_partition_whose_records_wait_in_a_queue_that_moves_does_not_stand_still() {
        // librdkafka has fetched up to 40 and fetches nothing, since its queue is full.
        let at = |received| Standing { received: Some(received), ..standing(40, 60) };
        assert_eq!(after((0..9).map(at).collect()), []);
        assert_eq!(after(vec![at(9); 6]).len(), 1, "the queue does not move either");
        assert_eq!(after(vec![at(40); 6]).len(), 1, "all that was fetched has come");
    }

    #[test]
    fn what_was_removed_before_it_came_does_not_wait_in_the_queue() {
        let (mut progress, mut still) = (Progress::default(), Vec::new());
        let marks = PartitionMarks { partition: 0, low: 40, high: 60, committed: Some(9) };
        for n in 0..9 {
            // Another partition's records come.
            let other = Standing { received: Some(n), ..standing(n, 60) };
            let removed = Standing { marks, ..standing(40, 60) };
            still = progress.look(&[(("t".to_owned(), 0), removed), (("t".to_owned(), 1), other)], Instant::now());
        }
        assert_eq!(still.len(), 1);
        assert_eq!(still[0].partition, ("t".to_owned(), 0));
    }

    #[test]
    fn a_position_behind_the_end_is_none_and_all_that_is_there_waits() {
        assert_eq!(after(vec![standing(57, 3); 5])[0].records, 3);
        assert_eq!(after(vec![standing(57, 0); 9]), [], "nothing is there");
        let received = |received| Standing { received: Some(received), ..standing(57, 3) };
        assert!(received(57).is_another_log());
        assert!(!received(3).is_another_log());
    }

    #[test]
    fn the_lag_is_counted_from_what_is_done_not_from_what_was_received() {
        let lag = |done, committed| {
            let marks = PartitionMarks { partition: 0, low: 10, high: 100, committed };
            Standing { marks, fetched: Some(100), received: Some(100), done, paused: false }.lag()
        };
        assert_eq!(lag(Some(95), Some(90)), 5);
        assert_eq!(lag(None, Some(90)), 10, "nothing done since the assignment");
        assert_eq!(lag(None, None), 90, "a new group");
        assert_eq!(lag(Some(100), Some(100)), 0);
        assert_eq!(lag(Some(157), Some(157)), 90, "another log: all of it is to be read");
    }

    #[test]
    fn a_standstill_that_does_not_end_renews_the_consumer_ever_more_seldom() {
        let (mut renewals, begin, mut due) = (Renewals::default(), Instant::now(), Vec::new());
        for second in 0..200 {
            let now = begin + Duration::from_secs(second);
            match due.last() {
                // For a while after each renewal nothing shows the standstill.
                Some(last) if second < last + 15 => renewals.all_well(now),
                _ if renewals.due(now) => due.push(second),
                _ => {}
            }
        }
        assert_eq!(due, [0, 20, 60, 140]);
        renewals.all_well(begin + Duration::from_secs(600));
        assert!(renewals.due(begin + Duration::from_secs(600)), "it is another standstill");
    }
}
