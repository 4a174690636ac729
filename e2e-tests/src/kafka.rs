//! An outside program on Kafka, such as `kcat`: it publishes what it likes, and reads what is on a topic.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;
use service_runtime::kafka::{KafkaSettings, Record, TopicFollower, TopicReader};

use crate::{Batch, broker, eventually, raw_producer};

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

impl From<Record> for Seen {
    fn from(record: Record) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            partition: record.partition,
            offset: record.offset,
            key: text(record.key.as_deref().unwrap_or_default()),
            body: record.body,
            headers: record.headers.iter().map(|(name, value)| (text(name), text(value))).collect(),
        }
    }
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

    /// The same, as a producer does whose clock says so, in ms since 1970.
    pub async fn publish_at(&self, timestamp_ms: i64, topic: &str, key: &str, body: &[u8]) -> Result<(i32, i64)> {
        self.send(FutureRecord::to(&self.name(topic)).key(key).payload(body).timestamp(timestamp_ms)).await
    }

    /// Publishes once more what was found: its key, body and headers. Answers its partition and offset.
    pub async fn publish_again(&self, topic: &str, seen: &Seen) -> Result<(i32, i64)> {
        let add = |headers: OwnedHeaders, (key, value): (&String, &String)| {
            headers.insert(Header { key, value: Some(value) })
        };
        let headers = seen.headers.iter().fold(OwnedHeaders::new(), add);
        let topic = self.name(topic);
        self.send(FutureRecord::to(&topic).key(&seen.key).payload(&seen.body[..]).headers(headers)).await
    }

    /// What is written to these topics from now on.
    pub async fn follow(&self, topics: &[&str]) -> Result<TopicFollower> {
        let settings = KafkaSettings::at(&self.address, &self.prefix)?;
        Ok(TopicFollower::open(&settings, "e2e-follower", topics).await?)
    }

    /// Publishes a record that names its event in the header `ce_type`, as participants of users' flows do.
    pub async fn publish_event(&self, topic: &str, event: &str, key: &str, body: &[u8]) -> Result<(i32, i64)> {
        let header = Header { key: "ce_type", value: Some(event) };
        let name = self.name(topic);
        let record = FutureRecord::to(&name).key(key).payload(body).headers(OwnedHeaders::new().insert(header));
        self.send(record).await
    }

    /// Publishes records, by key, in order. Much faster than one by one.
    pub async fn publish_all(&self, topic: &str, records: &[(String, Vec<u8>)]) -> Result<()> {
        self.send_all(&self.producer()?, topic, records).await
    }

    async fn send_all(&self, producer: &FutureProducer, topic: &str, records: &[(String, Vec<u8>)]) -> Result<()> {
        let (name, mut sent) = (self.name(topic), Vec::new());
        for (key, body) in records {
            let record = FutureRecord::to(&name).key(key).payload(body);
            sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for delivery in sent {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
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

    /// Publishes records as one batch that is compressed by this codec: gzip, snappy, lz4 or zstd.
    pub async fn publish_compressed(&self, codec: &str, topic: &str, records: &[(String, Vec<u8>)]) -> Result<()> {
        let mut config = broker::client(&self.address)?;
        config.set("partitioner", "murmur2_random").set("compression.type", codec).set("linger.ms", "50");
        // Before they are compressed; the broker looks at what comes of it.
        config.set("message.max.bytes", "16000000");
        self.send_all(&config.create()?, topic, records).await
    }

    /// Publishes a batch as no client library does. Answers its partition and offset.
    pub async fn publish_raw(&self, topic: &str, partition: i32, batch: &Batch<'_>) -> Result<(i32, i64)> {
        let offset = raw_producer::produce(&self.address, &self.name(topic), partition, batch).await?;
        Ok((partition, offset))
    }

    /// All that is on a topic now.
    pub async fn records(&self, topic: &str) -> Result<Vec<Seen>> {
        let settings = KafkaSettings::at(&self.address, &self.prefix)?;
        let mut reader = TopicReader::open(&settings, "e2e-reader", topic).await?;
        let mut records = Vec::new();
        while let Some(record) = reader.next().await? {
            records.push(Seen::from(record));
        }
        Ok(records)
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
        let delivery = self.producer()?.send(record, LIMIT).await.map_err(|(error, _)| error)?;
        Ok((delivery.partition, delivery.offset))
    }

    fn producer(&self) -> Result<FutureProducer> {
        let timeout = LIMIT.as_millis().to_string();
        Ok(broker::client(&self.address)?
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", timeout)
            .create()?)
    }

    /// How many partitions a topic has.
    pub async fn partitions(&self, topic: &str) -> Result<i32> {
        let (config, name) = (broker::client(&self.address)?, self.name(topic));
        let count = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            partition_count(&consumer, &name)
        });
        count.await?
    }

    fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }
}

fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    ensure!(count > 0, "there is no topic {topic}");
    Ok(i32::try_from(count)?)
}
