//! Following topics: what is written to them from now on. In no group: it commits nothing and disturbs nobody.

use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;
use tracing::debug;

use super::closing::ClosesOnThread;
use super::producer::QuietContext;
use super::{KafkaSettings, Record, heard, to_record};
use crate::Fatal;

/// How long the broker may take for an answer.
const LIMIT: Duration = Duration::from_secs(15);

/// The records of some topics: of each partition in order, of different partitions in any.
pub struct TopicFollower {
    consumer: ClosesOnThread<StreamConsumer<QuietContext>>,
    topic_prefix: String,
}

impl TopicFollower {
    /// Finds out where `topics` end; what is written from then on is read. They have to be there. `client` is the name by
    /// which the broker knows the reader.
    ///
    /// # Errors
    /// When Kafka can't be reached.
    pub async fn open(settings: &KafkaSettings, client: &str, topics: &[&str]) -> Result<Self, Fatal> {
        let mut config = settings.client(client);
        config
            // librdkafka wants one of every consumer. The group is never joined.
            .set("group.id", settings.prefixed(client))
            .set("enable.auto.commit", "false")
            // An embedded broker does not wake a waiting fetch.
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "5");
        let topics: Vec<String> = topics.iter().map(|topic| settings.prefixed(topic)).collect();
        let servers = settings.kafka_bootstrap_servers.clone();
        let consumer: StreamConsumer<QuietContext> = config
            .create_with_context(QuietContext)
            .map_err(|error| Fatal::new(format!("the Kafka consumer can't be made: {error}")))?;
        let consumer = ClosesOnThread::new(consumer);
        let topic_prefix = settings.kafka_topic_prefix.clone();
        let open = tokio::task::spawn_blocking(move || match assign_ends(&consumer, &topics) {
            Ok(()) => Ok(Self { consumer, topic_prefix }),
            Err(error) => Err(heard::no_answer(&servers, &error.to_string())),
        });
        open.await.map_err(|error| Fatal::new(format!("the search for the topics' ends failed: {error}")))?
    }

    /// The next record; none when `limit` is over.
    pub async fn next(&self, limit: Duration) -> Option<Record> {
        let deadline = Instant::now() + limit;
        loop {
            match tokio::time::timeout_at(deadline, self.consumer.recv()).await.ok()? {
                Ok(message) => return Some(to_record(&message, &self.topic_prefix).0),
                // Lost brokers and the like: librdkafka tries on by itself.
                Err(error) => debug!(%error, "following"),
            }
        }
    }
}

fn assign_ends(consumer: &StreamConsumer<QuietContext>, topics: &[String]) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
        let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        for partition in partitions.iter().map(|partition| partition.id()) {
            let (_, end) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
            assignment.add_partition_offset(topic, partition, Offset::Offset(end))?;
        }
    }
    consumer.assign(&assignment)
}
