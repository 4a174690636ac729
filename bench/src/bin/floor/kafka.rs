//! Kafka: records out, without a future for each; and batches in, from a thread that polls.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::Kafka;
use crate::message::Message;

/// The most records that are handed over together.
const MOST: usize = 500;

/// All records go to one partition, which is the cheapest for broker and client: one request carries them all.
const PARTITION: i32 = 0;

fn client(settings: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.kafka).set("allow.auto.create.topics", "false");
    config
}

/// Where records go out.
pub struct Producer {
    inner: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    name: &'static str,
}

impl Producer {
    pub fn open(settings: &Kafka, name: &'static str) -> Result<Self> {
        let mut config = client(settings);
        config.set("acks", "all").set("enable.idempotence", "false").set("linger.ms", "0");
        config.set("max.in.flight.requests.per.connection", "1").set("delivery.report.only.error", "true");
        Ok(Self { inner: config.create()?, topic: format!("{}{name}", settings.prefix), name })
    }

    pub fn send(&self, message: &Message) -> Result<()> {
        let (id, key) = (message.event_id.to_string(), message.saga_id.to_string());
        let time = message.timestamp.to_rfc3339();
        let all = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_type", self.name),
            ("ce_time", &time),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        let headers = OwnedHeaders::new_with_capacity(all.len());
        let headers = all.iter().fold(headers, |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let body = serde_json::to_vec(message)?;
        let record = BaseRecord::to(&self.topic).key(&key).payload(&body).headers(headers).partition(PARTITION);
        self.inner.send(record).map_err(|(error, _)| error.into())
    }
}

/// A record that has come, and where from.
pub struct Received {
    pub message: Message,
    pub topic: usize,
    offset: i64,
}

/// Where records come in.
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<BaseConsumer>,
    topics: Vec<String>,
}

impl Consumer {
    /// Subscribes as a group of its own; what comes is told by the receiver, batch by batch.
    pub fn open(settings: &Kafka, group: &str, names: &[&str]) -> Result<(Self, UnboundedReceiver<Vec<Received>>)> {
        let mut config = client(settings);
        config.set("group.id", format!("{}{group}", settings.prefix)).set("auto.offset.reset", "earliest");
        config.set("enable.auto.offset.store", "false").set("auto.commit.interval.ms", "500");
        config
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "2000")
            .set("fetch.queue.backoff.ms", "1");
        let inner: Arc<BaseConsumer> = Arc::new(config.create()?);
        let topics: Vec<String> = names.iter().map(|name| format!("{}{name}", settings.prefix)).collect();
        inner.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        let consumer = Self { inner, topics };
        let (sender, batches) = unbounded_channel();
        let polling = consumer.clone();
        thread::spawn(move || {
            if let Err(error) = polling.poll(&sender) {
                eprintln!("floor: {error:#}");
                std::process::exit(1);
            }
        });
        Ok((consumer, batches))
    }

    /// Waits for a record, then takes whatever has come with it.
    fn poll(&self, batches: &UnboundedSender<Vec<Received>>) -> Result<()> {
        loop {
            let (mut batch, mut patience) = (Vec::new(), Duration::from_secs(1));
            while batch.len() < MOST
                && let Some(polled) = self.inner.poll(patience)
            {
                match polled {
                    Ok(record) => {
                        let topic = self.topics.iter().position(|topic| topic == record.topic());
                        let topic = topic.ok_or_else(|| anyhow!("a record of {}", record.topic()))?;
                        let message = serde_json::from_slice(record.payload().unwrap_or_default())?;
                        batch.push(Received { message, topic, offset: record.offset() });
                        patience = Duration::ZERO;
                    }
                    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !batch.is_empty() {
                batches.send(batch)?;
            }
        }
    }

    /// Notes how far a batch has got, after its commit; librdkafka tells the broker, twice a second.
    pub fn store(&self, done: &[(usize, i64)]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (number, topic) in self.topics.iter().enumerate() {
            if let Some(last) = done.iter().filter(|(of, _)| *of == number).map(|(_, offset)| *offset).max() {
                list.add_partition_offset(topic, PARTITION, Offset::Offset(last + 1))?;
            }
        }
        Ok(self.inner.store_offsets(&list)?)
    }
}

impl Received {
    pub fn place(&self) -> (usize, i64) {
        (self.topic, self.offset)
    }
}
