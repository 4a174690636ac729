//! An outside program on Kafka, such as `kcat`: it publishes what it likes, and reads what is on a topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;

use crate::eventually;

/// How long the broker may take for anything.
const LIMIT: Duration = Duration::from_secs(15);

/// Access to the topics of one installation, which are named here without their prefix.
#[derive(Clone)]
pub struct KafkaClient {
    address: String,
    prefix: String,
}

/// A record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub body: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl KafkaClient {
    pub fn new(address: &str, prefix: &str) -> Self {
        Self { address: address.to_owned(), prefix: prefix.to_owned() }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Publishes a record, to the partition that its key belongs to. Answers its partition and offset.
    pub async fn publish(&self, topic: &str, key: &str, body: &[u8]) -> Result<(i32, i64)> {
        self.send(FutureRecord::to(&self.name(topic)).key(key).payload(body)).await
    }

    /// Publishes a record without a key to each partition. Answers the partitions and offsets.
    pub async fn publish_everywhere(&self, topic: &str, body: &[u8]) -> Result<Vec<(i32, i64)>> {
        let name = self.name(topic);
        let mut places = Vec::new();
        for partition in 0..self.partitions(topic).await? {
            places.push(self.send(FutureRecord::<(), _>::to(&name).partition(partition).payload(body)).await?);
        }
        Ok(places)
    }

    /// All that is on a topic now.
    pub async fn records(&self, topic: &str) -> Result<Vec<Seen>> {
        let (config, name) = (self.config(), self.name(topic));
        tokio::task::spawn_blocking(move || read(&config, &name)).await?
    }

    /// The records on a topic whose body is JSON and fits, once there are as many as wanted.
    pub async fn wait_for(&self, topic: &str, count: usize, fits: impl Fn(&Value) -> bool) -> Result<Vec<Seen>> {
        let what = format!("{count} records on {topic}");
        eventually(&what, LIMIT, async || {
            let mut found = self.records(topic).await?;
            found.retain(|record| fits(&record.json()));
            Ok((found.len() >= count).then_some(found))
        })
        .await
    }

    /// The record on a topic's dead-letter topic that came from there.
    pub async fn dead_letter(&self, topic: &str, (partition, offset): (i32, i64)) -> Result<Seen> {
        let (partition, offset) = (partition.to_string(), offset.to_string());
        eventually(&format!("a record on {topic}.dlq from {partition}:{offset}"), LIMIT, async || {
            let records = self.records(&format!("{topic}.dlq")).await?;
            Ok(records.into_iter().find(|record| {
                record.headers.get("dlq_partition") == Some(&partition)
                    && record.headers.get("dlq_offset") == Some(&offset)
            }))
        })
        .await
    }

    async fn send<K: rdkafka::message::ToBytes + ?Sized>(
        &self,
        record: FutureRecord<'_, K, [u8]>,
    ) -> Result<(i32, i64)> {
        let producer: FutureProducer = self
            .config()
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", LIMIT.as_millis().to_string())
            .create()?;
        let delivery = producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
        Ok((delivery.partition, delivery.offset))
    }

    async fn partitions(&self, topic: &str) -> Result<i32> {
        let (config, name) = (self.config(), self.name(topic));
        let count = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            partition_count(&consumer, &name)
        });
        count.await?
    }

    fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.address)
            .set("group.id", "e2e-reader")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .set("log_level", "0");
        config
    }
}

fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    ensure!(count > 0, "there is no topic {topic}");
    Ok(i32::try_from(count)?)
}

/// Reads each partition from its beginning to what is its end now.
fn read(config: &ClientConfig, topic: &str) -> Result<Vec<Seen>> {
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    let mut missing = 0;
    let mut ends = Vec::new();
    for partition in 0..partition_count(&consumer, topic)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
        ends.push(high);
        missing += high - low;
        if high > low {
            assignment.add_partition_offset(topic, partition, Offset::Offset(low))?;
        }
    }
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + LIMIT;
    let mut records = Vec::new();
    while missing > 0 {
        ensure!(Instant::now() < deadline, "{topic} could not be read to its end: {missing} records are missing");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let end = ends.get(usize::try_from(message.partition())?).context("a partition that was asked for")?;
        if message.offset() < *end {
            missing -= 1;
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            records.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                key: text(message.key()),
                body: message.payload().map(<[u8]>::to_vec).ok_or_else(|| anyhow!("a record without a body"))?,
                headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
            });
        }
    }
    Ok(records)
}
