//! Reading a topic through: from its beginning to what was its end when the reading began, one record at a time, as
//! `kcat -C -e` does. In no group: it commits nothing and disturbs nobody.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::time::Instant;
use tracing::debug;

use super::closing::ClosesOnThread;
use super::heard;
use super::producer::QuietContext;
use super::{KafkaSettings, Record, existing_topics, to_record};
use crate::Fatal;

/// How long the broker may take for an answer, or for the next record.
const LIMIT: Duration = Duration::from_secs(15);

/// After so many records others have their turn.
const YIELDS: usize = 64;

/// The records of one topic: of each partition in order, of different partitions in any.
pub struct TopicReader {
    consumer: ClosesOnThread<StreamConsumer<QuietContext>>,
    topic: String,
    topic_prefix: String,
    /// The offsets to stop before, of the partitions that are not read to their ends yet.
    ends: HashMap<i32, i64>,
    read: usize,
}

impl ConsumerContext for QuietContext {}

impl TopicReader {
    /// Finds out where `topic` begins and ends. `client` is the name by which the broker knows the reader.
    ///
    /// # Errors
    /// When Kafka can't be reached, or has no such topic.
    pub async fn open(settings: &KafkaSettings, client: &str, topic: &str) -> Result<Self, Fatal> {
        Self::open_tail(settings, client, topic, i64::MAX).await
    }

    /// The same, but only for the last `most` offsets of each partition.
    ///
    /// # Errors
    /// As [`TopicReader::open`].
    pub async fn open_tail(settings: &KafkaSettings, client: &str, topic: &str, most: i64) -> Result<Self, Fatal> {
        let reader = Self::open_if_there(settings, client, topic, most).await?;
        reader.ok_or_else(|| {
            let (servers, topic) = (&settings.kafka_bootstrap_servers, settings.prefixed(topic));
            Fatal::new(format!("Kafka at {servers} has no topic {topic}. `kafka-init` creates it"))
        })
    }

    /// The same; `None` if Kafka has no such topic.
    ///
    /// # Errors
    /// When Kafka can't be reached.
    pub async fn open_if_there(
        settings: &KafkaSettings,
        client: &str,
        topic: &str,
        most: i64,
    ) -> Result<Option<Self>, Fatal> {
        let mut config = settings.client(client);
        config
            // librdkafka wants one of every consumer. The group is never joined.
            .set("group.id", settings.prefixed(client))
            .set("enable.auto.commit", "false")
            // The last offset before the end need not be a record: a transaction's marker, or one that was compacted.
            .set("enable.partition.eof", "true")
            // Nothing is waited for: what comes later is not read.
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384");
        let (settings, client) = (settings.clone(), client.to_owned());
        let servers = settings.kafka_bootstrap_servers.clone();
        let (topic, topic_prefix) = (settings.prefixed(topic), settings.kafka_topic_prefix.clone());
        let consumer: StreamConsumer<QuietContext> = config
            .create_with_context(QuietContext)
            .map_err(|error| Fatal::new(format!("the Kafka consumer can't be made: {error}")))?;
        let consumer = ClosesOnThread::new(consumer);
        let open = tokio::task::spawn_blocking(move || {
            let ends = assign_all(&consumer, &topic, most).map_err(|error| match error {
                // Why, those are told who ask only.
                KafkaError::MetadataFetch(_) => existing_topics(&settings, &client, Duration::ZERO)
                    .err()
                    .unwrap_or_else(|| heard::no_answer(&servers, &error.to_string())),
                _ => Fatal::new(format!("the topic {topic} at {servers} can't be read: {error}")),
            })?;
            Ok(ends.map(|ends| Self { consumer, topic, topic_prefix, ends, read: 0 }))
        });
        open.await.map_err(|error| Fatal::new(format!("the reading of the topic failed: {error}")))?
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When nothing came for 15 s though the end is not reached.
    pub async fn next(&mut self) -> Result<Option<Record>, Fatal> {
        let deadline = Instant::now() + LIMIT;
        self.read += 1;
        if self.read.is_multiple_of(YIELDS) {
            // What has been fetched is there at once, and must not keep a service's one thread from all else.
            tokio::task::yield_now().await;
        }
        while !self.ends.is_empty() {
            let received = tokio::time::timeout_at(deadline, self.consumer.recv()).await.map_err(|_| {
                let (topic, partitions) = (&self.topic, self.ends.len());
                Fatal::new(format!("{topic} could not be read to its end: {partitions} partitions are missing"))
            })?;
            match received {
                Ok(message) => {
                    let Some(end) = self.ends.get(&message.partition()).copied() else { continue };
                    if message.offset() >= end - 1 {
                        self.ends.remove(&message.partition());
                    }
                    if message.offset() < end {
                        let (record, _) = to_record(&message, &self.topic_prefix);
                        return Ok(Some(record));
                    }
                }
                Err(KafkaError::PartitionEOF(partition)) => drop(self.ends.remove(&partition)),
                // Lost brokers and the like: librdkafka tries on by itself, and the limit tells.
                Err(error) => debug!(%error, "reading"),
            }
        }
        Ok(None)
    }
}

/// Assigns the partitions that have records, from `most` before their ends. Answers the ends; `None` if there is no such
/// topic.
fn assign_all(
    consumer: &StreamConsumer<QuietContext>,
    topic: &str,
    most: i64,
) -> Result<Option<HashMap<i32, i64>>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    if partitions.is_empty() {
        return Ok(None);
    }
    let (mut ends, mut assignment) = (HashMap::new(), TopicPartitionList::new());
    for partition in partitions.iter().map(|partition| partition.id()) {
        let (low, high) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
        if high > low {
            ends.insert(partition, high);
            assignment.add_partition_offset(topic, partition, Offset::Offset(low.max(high.saturating_sub(most))))?;
        }
    }
    consumer.assign(&assignment)?;
    Ok(Some(ends))
}
