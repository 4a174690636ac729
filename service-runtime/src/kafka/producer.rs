//! Producing records. A send returns at once; whoever needs to know that the broker has it awaits the delivery.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use messages::{OutgoingRecord, TRACEPARENT};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::{KafkaSettings, headers, spans};
use crate::Fatal;
use crate::metrics::{KafkaTraffic, Metrics};
use crate::trace::Span;

/// How often the thread that hears of deliveries looks whether its producer is still there.
const LOOKS: Duration = Duration::from_millis(500);

/// A producer; clones share one connection and one queue.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held by the thread that polls it too.
    inner: Arc<BaseProducer<ProducerContext>>,
    topic_prefix: String,
    /// What was sent since the last hand-over to librdkafka.
    waiting: Mutex<Vec<Waiting>>,
}

/// A record that librdkafka has not got yet.
struct Waiting {
    topic: String,
    key: Option<Vec<u8>>,
    body: Vec<u8>,
    headers: OwnedHeaders,
    told: Told,
}

/// Told what became of a record. Boxed, since librdkafka keeps it as a pointer.
type Told = Box<oneshot::Sender<Result<(), String>>>;

/// Awaits the broker's acknowledgement (`acks=all`).
#[must_use = "a delivery that nobody awaits may fail unseen"]
pub struct Delivery(oneshot::Receiver<Result<(), String>>);

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

/// A quiet one that counts its traffic, and passes on what became of records.
struct ProducerContext {
    traffic: KafkaTraffic,
    /// Deliveries are heard of on another thread. To wake a task from there is a system call, so what comes at once
    /// goes to one task, which tells the others.
    delivered: mpsc::UnboundedSender<(Told, Result<(), String>)>,
    /// The topics that did not take their last record. Most records are sent without anybody who waits for them: a topic
    /// that this service may not write to would be noticed by nobody.
    refusing: Mutex<HashSet<String>>,
}

impl ProducerContext {
    /// Says once that a topic takes no records, and once that it does again.
    fn note(&self, topic: &str, result: Result<(), &KafkaError>) {
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) if !refusing.is_empty() && refusing.remove(topic) => info!(topic, "Kafka takes records again"),
            Ok(()) => {}
            Err(error) => {
                if refusing.insert(topic.to_owned()) {
                    warn!(topic, %error, "Kafka does not take records; the rows send them again");
                }
            }
        }
    }
}

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
            self.traffic.so_far(tx, tx_bytes, rx_bytes);
        }
    }
}

impl rdkafka::producer::ProducerContext for ProducerContext {
    type DeliveryOpaque = Told;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Told) {
        match result {
            Ok(message) => self.note(message.topic(), Ok(())),
            Err((error, message)) => self.note(message.topic(), Err(error)),
        }
        if !told.is_closed() {
            let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.to_string());
            let _ = self.delivered.send((told, result));
        }
    }
}

impl Producer {
    /// A producer for `service`. It connects in the background.
    pub fn open(settings: &KafkaSettings, service: &str, metrics: &Metrics) -> Result<Self, Fatal> {
        let (delivered, deliveries) = mpsc::unbounded_channel();
        let traffic = metrics.kafka_traffic("producer");
        let context = ProducerContext { traffic, delivered, refusing: Mutex::default() };
        let inner: BaseProducer<ProducerContext> = settings
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
            .create_with_context(context)
            .map_err(|error| Fatal::new(format!("the Kafka producer can't be made: {error}")))?;
        let inner = Arc::new(inner);
        hear_of_deliveries(inner.clone())
            .map_err(|error| Fatal::new(format!("the Kafka producer's thread can't be started: {error}")))?;
        tokio::spawn(tell(deliveries));
        let (topic_prefix, waiting) = (settings.kafka_topic_prefix.clone(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { inner, topic_prefix, waiting }) })
    }

    /// Queues a record for one of the contract's topics. Within a span, the sending is a span that the record's
    /// `traceparent` names.
    pub fn send(&self, record: &OutgoingRecord) -> Delivery {
        let span = spans::send(record);
        let traceparent = span.context().map(|context| context.to_string());
        let given = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let kept = given.filter(|(name, _)| traceparent.is_none() || *name != TRACEPARENT.as_bytes());
        let headers = kept.chain(traceparent.iter().map(|context| (TRACEPARENT.as_bytes(), context.as_bytes())));
        let delivery = self.produce(record.topic, Some(record.key.as_bytes()), &record.body, headers);
        if span.is_recorded() { delivery.seen_by(span) } else { delivery }
    }

    /// Queues any record: of any topic (named without the installation's prefix), with any headers, with or without a
    /// key. Keys are partitioned as the Java clients do.
    pub fn produce<'a>(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        body: &[u8],
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Delivery {
        let headers = headers.fold(OwnedHeaders::new(), |all, (name, value)| headers::add(all, name, value));
        let (told, delivery) = oneshot::channel();
        let topic = format!("{}{topic}", self.shared.topic_prefix);
        let (key, body, told) = (key.map(<[u8]>::to_vec), body.to_vec(), Box::new(told));
        let mut waiting = self.shared.waiting();
        waiting.push(Waiting { topic, key, body, headers, told });
        if waiting.len() == 1 {
            // Whoever is about to send, as the others whose rows were stored by the same statement, does so first: a
            // request of many records costs as much as one of a single one, and so does what it leads to.
            let shared = self.shared.clone();
            tokio::spawn(async move { shared.hand_over() });
        }
        Delivery(delivery)
    }

    /// Waits for what is queued to be acknowledged, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        self.shared.hand_over();
        let inner = self.shared.inner.clone();
        let _ = tokio::task::spawn_blocking(move || inner.flush(limit)).await;
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives librdkafka what waits. In the order in which it was sent: the lock is held.
    fn hand_over(&self) {
        for Waiting { topic, key, body, headers, told } in self.waiting().drain(..) {
            let record = BaseRecord::<[u8], [u8], Told>::with_opaque_to(&topic, told).payload(&body).headers(headers);
            let record = match &key {
                Some(key) => record.key(key.as_slice()),
                None => record,
            };
            if let Err((error, record)) = self.inner.send(record) {
                self.inner.client().context().note(&topic, Err(&error));
                let _ = record.delivery_opaque.send(Err(error.to_string()));
            }
        }
    }
}

/// Polls the producer on a thread of its own, as long as somebody else has it too. There it is closed as well, which may
/// take its time.
fn hear_of_deliveries(producer: Arc<BaseProducer<ProducerContext>>) -> std::io::Result<()> {
    let poll = move || {
        while Arc::strong_count(&producer) > 1 {
            producer.poll(LOOKS);
        }
    };
    std::thread::Builder::new().name("kafka-producer".to_owned()).spawn(poll).map(drop)
}

/// Tells whoever waits what became of records, until the producer is closed.
async fn tell(mut deliveries: mpsc::UnboundedReceiver<(Told, Result<(), String>)>) {
    while let Some((told, result)) = deliveries.recv().await {
        let _ = told.send(result);
    }
}

impl Delivery {
    /// The same, with `span` ending once the broker has answered.
    fn seen_by(self, span: Span) -> Self {
        let (told, delivery) = oneshot::channel();
        tokio::spawn(async move {
            let acknowledged = self.acknowledged().await;
            if let Err(why) = &acknowledged {
                span.fail(why);
            }
            drop(span);
            let _ = told.send(acknowledged);
        });
        Self(delivery)
    }

    /// # Errors
    /// What the broker or the client said, in words. The record may or may not have been written.
    pub async fn acknowledged(self) -> Result<(), String> {
        self.0.await.unwrap_or_else(|_| Err("the producer has stopped".to_owned()))
    }
}
