//! Producing records. A send returns at once; whoever needs to know that the broker has it awaits the delivery.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use messages::{OutgoingRecord, TRACEPARENT};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::connection::Connection;
use super::{KafkaSettings, headers, spans};
use crate::Fatal;
use crate::metrics::Metrics;
use crate::trace::Span;

/// A producer; clones share one connection and one queue.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
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
pub(super) type Told = Box<oneshot::Sender<Result<(), String>>>;

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

impl Producer {
    /// A producer for `service`. It connects in the background.
    pub fn open(settings: &KafkaSettings, service: &str, metrics: &Metrics) -> Result<Self, Fatal> {
        let (delivered, deliveries) = mpsc::unbounded_channel();
        let connection = Connection::open(settings, service, metrics, delivered)?;
        tokio::spawn(tell(deliveries));
        let (topic_prefix, waiting) = (settings.kafka_topic_prefix.clone(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { connection, topic_prefix, waiting }) })
    }

    /// Queues a record for one of the contract's topics. Within a span, the sending is a span that the record's
    /// `traceparent` names.
    pub fn send(&self, record: &OutgoingRecord) -> Delivery {
        let span = spans::send(record);
        let traceparent = span.context().map(|context| context.to_string());
        let given = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let kept = given.filter(|(name, _)| traceparent.is_none() || *name != TRACEPARENT.as_bytes());
        let headers = kept.chain(traceparent.iter().map(|context| (TRACEPARENT.as_bytes(), context.as_bytes())));
        let delivery = self.produce(&record.topic, Some(record.key.as_bytes()), &record.body, headers);
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
        let client = self.shared.connection.client();
        let _ = tokio::task::spawn_blocking(move || client.flush(limit)).await;
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives librdkafka what waits. In the order in which it was sent: the lock is held.
    fn hand_over(&self) {
        let client = self.connection.client();
        for Waiting { topic, key, body, headers, told } in self.waiting().drain(..) {
            let record = BaseRecord::<[u8], [u8], Told>::with_opaque_to(&topic, told).payload(&body).headers(headers);
            let record = match &key {
                Some(key) => record.key(key.as_slice()),
                None => record,
            };
            if let Err((error, record)) = client.send(record) {
                self.connection.note(&topic, Err(&error));
                let _ = record.delivery_opaque.send(Err(error.to_string()));
            }
        }
    }
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
