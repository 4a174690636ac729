//! Producing records. A send returns at once; whoever needs to know that the broker has it awaits the delivery.

use std::time::Duration;

use messages::OutgoingRecord;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::Producer as _;
use rdkafka::producer::future_producer::{DeliveryFuture, FutureProducer, FutureRecord};
use serde::Deserialize;
use tracing::debug;

use super::KafkaSettings;
use crate::Fatal;
use crate::metrics::{KafkaTraffic, Metrics};

/// A producer; clones share one connection and one queue.
#[derive(Clone)]
pub struct Producer {
    inner: FutureProducer<ProducerContext>,
    topic_prefix: String,
}

/// Awaits the broker's acknowledgement (`acks=all`).
#[must_use = "a delivery that nobody awaits may fail unseen"]
pub struct Delivery(Result<DeliveryFuture, String>);

/// Connection errors are told by the consumer's state, once; here they would be repeated for each try.
pub(super) struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log_librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
    }
}

/// A quiet one that counts its traffic.
struct ProducerContext(KafkaTraffic);

/// What is read of librdkafka's statistics: running totals since the client was made.
#[derive(Deserialize)]
struct Totals {
    tx: i64,
    tx_bytes: i64,
    rx_bytes: i64,
}

impl ClientContext for ProducerContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        QuietContext.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Ok(Totals { tx, tx_bytes, rx_bytes }) = serde_json::from_slice(statistics) {
            self.0.so_far(tx, tx_bytes, rx_bytes);
        }
    }
}

impl Producer {
    /// A producer for `service`. It connects in the background.
    pub fn open(settings: &KafkaSettings, service: &str, metrics: &Metrics) -> Result<Self, Fatal> {
        let inner = settings
            .client(service)
            .set("acks", "all")
            // A duplicate is harmless, since every handler is idempotent. An idempotent producer, though, can end in
            // a fatal state (a lost sequence number) in which it sends nothing any more.
            .set("enable.idempotence", "false")
            // Batching while busy: a lone record is sent at once, and what comes while a request is under way shares
            // the next one.
            .set("linger.ms", "0")
            .set("max.in.flight.requests.per.connection", "1")
            // The hash of the Java clients; librdkafka's own default would part the keys of other languages.
            .set("partitioner", "murmur2_random")
            // What could not be sent for this long is given up here, and sent again by its stored row.
            .set("message.timeout.ms", "10000")
            .set("queue.buffering.max.kbytes", settings.kafka_producer_queue_kbytes.to_string())
            // As the dead-letter topics take: a copy has more headers than its original.
            .set("message.max.bytes", "2097152")
            .set("statistics.interval.ms", "2000")
            .create_with_context(ProducerContext(metrics.kafka_traffic("producer")))
            .map_err(|error| Fatal::new(format!("the Kafka producer can't be made: {error}")))?;
        Ok(Self { inner, topic_prefix: settings.kafka_topic_prefix.clone() })
    }

    /// Queues a record for one of the contract's topics.
    pub fn send(&self, record: &OutgoingRecord) -> Delivery {
        let headers = record.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        self.produce(record.topic, Some(record.key.as_bytes()), &record.body, headers)
    }

    /// Queues any record: of any topic (named without the installation's prefix), with any headers, with or without a
    /// key. Keys are partitioned as the Java clients do.
    pub fn produce<'a>(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        body: &[u8],
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Delivery {
        let topic = format!("{}{topic}", self.topic_prefix);
        let headers =
            headers.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic).payload(body).headers(headers);
        if let Some(key) = key {
            record = record.key(key);
        }
        Delivery(self.inner.send_result(record).map_err(|(error, _)| error.to_string()))
    }

    /// Waits for what is queued to be acknowledged, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let inner = self.inner.clone();
        let _ = tokio::task::spawn_blocking(move || inner.flush(limit)).await;
    }
}

impl Delivery {
    /// # Errors
    /// What the broker or the client said, in words. The record may or may not have been written.
    pub async fn acknowledged(self) -> Result<(), String> {
        match self.0?.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error.to_string()),
            Err(_) => Err("the producer has stopped".to_owned()),
        }
    }
}
