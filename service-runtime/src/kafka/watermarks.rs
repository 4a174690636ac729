//! How far topics reach, and how far a group has come: what `kafka-topics` and `kafka-consumer-groups --describe` tell.
//! No group is joined and nothing is committed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use messages::groups::Group;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::KafkaSettings;
use super::closing::ClosesOnThread;
use super::heard::{self, Heard};
use super::silence::FoundTopic;
use crate::Fatal;

/// How long the broker may take for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// One partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionMarks {
    pub partition: i32,
    /// The oldest record that is kept.
    pub low: i64,
    /// The next record's offset.
    pub high: i64,
    /// Up to where the group has committed. `None` without a group, or before its first commit.
    pub committed: Option<i64>,
}

impl PartitionMarks {
    /// How many records are kept. A compacted topic, or one with transactions, has fewer.
    pub fn records(&self) -> u64 {
        (self.high - self.low).max(0).unsigned_abs()
    }

    /// How many records the group has not committed yet: all that are kept, if it never committed any.
    pub fn lag(&self) -> u64 {
        let done = self.committed.unwrap_or(self.low).max(self.low);
        (self.high - done).max(0).unsigned_abs()
    }
}

/// Asks how far each of `topics` reaches, and how far `group` has come in them. A topic that is missing has no
/// partitions. `client` is the name by which the broker knows who asks. Names are without the installation's prefix.
///
/// # Errors
/// When Kafka can't be reached, or does not answer within 10 s.
pub async fn watermarks(
    settings: &KafkaSettings,
    client: &str,
    group: Option<&str>,
    topics: &[&str],
) -> Result<Vec<Vec<PartitionMarks>>, Fatal> {
    let servers = settings.kafka_bootstrap_servers.clone();
    let topics: Vec<String> = topics.iter().map(|topic| settings.prefixed(topic)).collect();
    let mut config = settings.client(client);
    // librdkafka wants a group of every consumer: it names whose offsets are asked for, and is not joined.
    config.set("group.id", settings.prefixed(group.unwrap_or(client))).set("enable.auto.commit", "false");
    let with_group = group.is_some();
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer<Heard> =
            config.create_with_context(Heard::default()).map_err(|error| error.to_string())?;
        let consumer = ClosesOnThread::new(consumer);
        let began = Instant::now();
        loop {
            let answer = topics.iter().map(|topic| {
                let found = marks(&consumer, topic, with_group)?.unwrap_or_default();
                found.into_iter().collect::<Result<Vec<_>, KafkaError>>()
            });
            match answer.collect() {
                Err(error) if is_electing(&error) && began.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                answer => return answer.map_err(|error: KafkaError| heard::why(&consumer, &error)),
            }
        }
    });
    let answer = asked.await.map_err(|error| Fatal::new(format!("the question about the topics failed: {error}")))?;
    answer.map_err(|why| heard::no_answer(&servers, &why))
}

/// The same of the topics of one of the platform's groups. Where it has not committed anything yet, its predecessor's offset
/// counts: that is where it will begin.
///
/// # Errors
/// As [`watermarks`].
pub async fn group_marks(
    settings: &KafkaSettings,
    client: &str,
    group: &Group,
) -> Result<Vec<Vec<PartitionMarks>>, Fatal> {
    let mut marks = watermarks(settings, client, Some(group.name), group.topics).await?;
    if let Some(predecessor) = group.formerly
        && marks.iter().flatten().any(|mark| mark.committed.is_none())
    {
        let former = watermarks(settings, client, Some(predecessor), group.topics).await?;
        for (marks, former) in marks.iter_mut().zip(&former) {
            for (mark, former) in marks.iter_mut().zip(former) {
                mark.committed = mark.committed.or(former.committed);
            }
        }
    }
    Ok(marks)
}

/// The marks of a topic's partitions, in order; an error for each that Kafka does not answer for, or that has no leader. `None`: there is no
/// such topic. Blocks its thread.
pub(super) fn marks(
    consumer: &BaseConsumer<Heard>,
    topic: &str,
    with_group: bool,
) -> Result<Option<Vec<Result<PartitionMarks, KafkaError>>>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let Some(found) = metadata.topics().first() else { return Ok(None) };
    let mut ids: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
    // librdkafka would wait for their leaders, and answer for no partition.
    let with_leader = |partition: &&MetadataPartition| partition.leader() >= 0;
    let led: HashSet<i32> = found.partitions().iter().filter(with_leader).map(|partition| partition.id()).collect();
    if ids.is_empty() {
        return match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
            Some(error) => Err(KafkaError::MetadataFetch(error)),
        };
    }
    ids.sort_unstable();
    let at = |offset| {
        let mut list = TopicPartitionList::new();
        for id in &led {
            list.add_partition_offset(topic, *id, offset)?;
        }
        Ok::<_, KafkaError>(list)
    };
    // Their beginnings and ends stand for times here. One request each, of each broker.
    let (mut low, mut high, mut committed) = (at(Offset::Invalid)?, at(Offset::Invalid)?, at(Offset::Invalid)?);
    if !led.is_empty() {
        low = consumer.offsets_for_times(at(Offset::Beginning)?, LIMIT).map_err(of_offsets)?;
        high = consumer.offsets_for_times(at(Offset::End)?, LIMIT).map_err(of_offsets)?;
        if with_group {
            committed = consumer.committed_offsets(at(Offset::Invalid)?, LIMIT).map_err(of_offsets)?;
        }
    }
    let marks = ids.iter().map(|partition| {
        if !led.contains(partition) {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable));
        }
        let known = |list: &TopicPartitionList| {
            let found = list.find_partition(topic, *partition);
            let found = found.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
            found.error()?;
            Ok::<_, KafkaError>(match found.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        };
        let bound = |list| known(list)?.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
        Ok(PartitionMarks {
            partition: *partition,
            low: bound(&low)?,
            high: bound(&high)?,
            committed: known(&committed)?,
        })
    });
    Ok(Some(marks.collect()))
}

/// A client by which offsets are asked for. It is never waited for: a closing that hung would end the watch, or hold up a start.
pub(super) type Asking = ClosesOnThread<BaseConsumer<Heard>>;

/// Asks what Kafka has, by the client of the last time if there is one. It is given back.
pub(super) fn ask(
    client: Option<Asking>,
    config: &ClientConfig,
    topics: &[String],
) -> (Option<Asking>, Result<Vec<FoundTopic>, KafkaError>) {
    let new = || config.create_with_context(Heard::default()).map(ClosesOnThread::new);
    let client = match client.map_or_else(new, Ok) {
        Ok(client) => client,
        Err(error) => return (None, Err(error)),
    };
    let found = topics.iter().map(|topic| match marks(&client, topic, true) {
        // A local error: no broker has answered, and none will for the next topic.
        Err(KafkaError::MetadataFetch(code)) if (code as i32) < 0 => Err(KafkaError::MetadataFetch(code)),
        found => Ok(found),
    });
    let found = found.collect();
    (Some(client), found)
}

/// Whether it is not known yet, or no more, who leads a partition or coordinates a group: so it is for a moment after partitions
/// were added, or Kafka was started.
fn is_electing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, LeaderNotAvailable, NotCoordinator, NotLeaderForPartition,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            LeaderNotAvailable
                | NotLeaderForPartition
                | NotCoordinator
                | CoordinatorNotAvailable
                | CoordinatorLoadInProgress
        )
    )
}

/// As an error of the question about offsets: one about metadata means that no broker has answered at all.
fn of_offsets(error: KafkaError) -> KafkaError {
    error.rdkafka_error_code().map_or(error, KafkaError::OffsetFetch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_never_committed_lags_by_all_that_is_kept() {
        let marks = |committed| PartitionMarks { partition: 0, low: 10, high: 15, committed };
        assert_eq!(marks(None).lag(), 5);
        assert_eq!(marks(Some(12)).lag(), 3);
        assert_eq!(marks(Some(15)).lag(), 0);
        // What it had not done was removed meanwhile.
        assert_eq!(marks(Some(4)).lag(), 5);
        assert_eq!(marks(None).records(), 5);
    }
}
