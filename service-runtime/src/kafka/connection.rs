//! librdkafka's producer: its settings, what it reports, and the thread that polls it. Where it sends nothing though its
//! topic is there, another one takes its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _};
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::KafkaSettings;
use super::producer::{QuietContext, Told};
use super::progress::Renewals;
use crate::Fatal;
use crate::metrics::{KafkaTraffic, Metrics};

/// How often the thread that hears of deliveries looks whether its producer is still there.
const LOOKS: Duration = Duration::from_millis(500);

/// What could not be sent for this long is given up, and sent again by its stored row.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic whose records fail for so long, though Kafka says that it is there, is known wrongly: librdkafka takes what it
/// hears of a topic that was deleted and made anew for out of date.
const STUCK: Duration = Duration::from_secs(5);

/// How long a broker may take to say whether a topic is there.
const ASKED: Duration = Duration::from_secs(2);

/// Where deliveries are told.
type Delivered = mpsc::UnboundedSender<(Told, Result<(), String>)>;

/// The producer that there is now.
pub(super) struct Connection {
    settings: KafkaSettings,
    service: String,
    metrics: Metrics,
    delivered: Delivered,
    refusing: Arc<Refusing>,
    client: RwLock<Arc<BaseProducer<ConnectionContext>>>,
}

/// A quiet one that counts its traffic, and passes on what became of records.
pub(super) struct ConnectionContext {
    traffic: KafkaTraffic,
    /// Deliveries are heard of on another thread. To wake a task from there is a system call, so what comes at once
    /// goes to one task, which tells the others.
    delivered: Delivered,
    refusing: Arc<Refusing>,
}

/// The topics that did not take their last record. Most records are sent without anybody who waits for them: a topic
/// that this service may not write to would be noticed by nobody.
#[derive(Default)]
struct Refusing(Mutex<HashMap<String, Refusal>>);

struct Refusal {
    /// Since the first one, or since Kafka was asked about such a topic.
    since: Instant,
    last: Instant,
    /// Whether the last one looks as if the topic was not known to be there.
    seems_unknown: bool,
}

impl Connection {
    /// Connects in the background.
    pub fn open(
        settings: &KafkaSettings,
        service: &str,
        metrics: &Metrics,
        delivered: Delivered,
    ) -> Result<Arc<Self>, Fatal> {
        let refusing = Arc::<Refusing>::default();
        let client = connect(settings, service, metrics, &delivered, &refusing)?;
        let connection = Arc::new(Self {
            settings: settings.clone(),
            service: service.to_owned(),
            metrics: metrics.clone(),
            delivered,
            refusing,
            client: RwLock::new(Arc::new(client)),
        });
        let polled = Arc::downgrade(&connection);
        let thread = std::thread::Builder::new().name("kafka-producer".to_owned()).spawn(move || poll(&polled));
        thread.map_err(|error| Fatal::new(format!("the Kafka producer's thread can't be started: {error}")))?;
        Ok(connection)
    }

    /// The producer. To be given back soon.
    pub fn client(&self) -> Arc<BaseProducer<ConnectionContext>> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what became of a record.
    pub fn note(&self, topic: &str, result: Result<(), &KafkaError>) {
        self.refusing.note(topic, result);
    }

    /// Has another producer take the place of this one. What this one has not sent fails, and is sent again.
    fn renew(&self, topic: &str) {
        warn!(service = self.service, topic, "the topic is there, and takes no records: the producer is made anew");
        match connect(&self.settings, &self.service, &self.metrics, &self.delivered, &self.refusing) {
            Ok(client) => *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client),
            Err(error) => warn!(%error, "the producer stays as it is"),
        }
    }
}

/// Polls the producer as long as somebody else has it too. Here it is closed as well, which may take its time.
fn poll(connection: &Weak<Connection>) {
    let (mut kept, mut renewals, mut were_there) = (None, Renewals::default(), Vec::new());
    while let Some(client) = connection.upgrade().map(|connection| connection.client()) {
        client.poll(LOOKS);
        let stuck = client.context().refusing.stuck();
        if stuck.is_empty() {
            renewals.all_well(Instant::now());
            if client.context().refusing.lock().is_empty() {
                were_there.clear();
            }
        } else {
            let are_there: Vec<String> = stuck.into_iter().filter(|topic| is_there(&client, topic)).collect();
            // Twice in a row: what fails after the first time was sent, or could have been, when Kafka was back already.
            if let Some(topic) = are_there.iter().find(|topic| were_there.contains(*topic))
                && renewals.due(Instant::now())
                && let Some(connection) = connection.upgrade()
            {
                connection.renew(topic);
            }
            were_there = are_there;
            client.context().refusing.count_anew();
        }
        // The last one who has it closes it: here, and at the latest a round after it was replaced.
        kept = Some(client);
    }
    drop(kept);
}

/// Whether Kafka has a topic, and takes records for it.
fn is_there(client: &BaseProducer<ConnectionContext>, topic: &str) -> bool {
    let Ok(metadata) = client.client().fetch_metadata(Some(topic), ASKED) else { return false };
    let has_leaders = |topic: &rdkafka::metadata::MetadataTopic| {
        !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0)
    };
    metadata.topics().first().is_some_and(|topic| topic.error().is_none() && has_leaders(topic))
}

fn connect(
    settings: &KafkaSettings,
    service: &str,
    metrics: &Metrics,
    delivered: &Delivered,
    refusing: &Arc<Refusing>,
) -> Result<BaseProducer<ConnectionContext>, Fatal> {
    let traffic = metrics.kafka_traffic("producer");
    settings
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
        .set("message.timeout.ms", MESSAGE_TIMEOUT.as_millis().to_string())
        .set("queue.buffering.max.kbytes", settings.kafka_producer_queue_kbytes.to_string())
        // As the dead-letter topics take: a copy has more headers than its original.
        .set("message.max.bytes", "2097152")
        .set("statistics.interval.ms", "2000")
        .create_with_context(ConnectionContext { traffic, delivered: delivered.clone(), refusing: refusing.clone() })
        .map_err(|error| Fatal::new(format!("the Kafka producer can't be made: {error}")))
}

impl Refusing {
    /// Says once that a topic takes no records, and once that it does again.
    fn note(&self, topic: &str, result: Result<(), &KafkaError>) {
        let mut refusing = self.lock();
        match result {
            Ok(()) if !refusing.is_empty() && refusing.remove(topic).is_some() => {
                info!(topic, "Kafka takes records again");
            }
            Ok(()) => {}
            Err(error) => {
                let code = error.rdkafka_error_code();
                let seems_unknown = code.is_some_and(seems_unknown);
                let now = Instant::now();
                let refusal = refusing.entry(topic.to_owned()).or_insert_with(|| {
                    warn!(topic, %error, "Kafka does not take records; the rows send them again");
                    Refusal { since: now, last: now, seems_unknown }
                });
                // What a producer had not sent when it was replaced says nothing of the topic.
                if !matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)) {
                    (refusal.last, refusal.seems_unknown) = (now, seems_unknown);
                }
            }
        }
    }

    /// The topics whose records have failed for long, for a reason that may be this side's.
    fn stuck(&self) -> Vec<String> {
        let is_stuck = |refusal: &Refusal| refusal.seems_unknown && refusal.last.duration_since(refusal.since) >= STUCK;
        self.lock().iter().filter(|(_, refusal)| is_stuck(refusal)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Only what fails from now on counts.
    fn count_anew(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|refusal| refusal.since = now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that nobody was found to send the record to.
fn seems_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        LeaderNotAvailable, MessageTimedOut, NotLeaderForPartition, UnknownPartition, UnknownTopic,
        UnknownTopicOrPartition,
    };
    matches!(
        code,
        LeaderNotAvailable
            | MessageTimedOut
            | NotLeaderForPartition
            | UnknownPartition
            | UnknownTopic
            | UnknownTopicOrPartition
    )
}

/// What is read of librdkafka's statistics: running totals since the client was made.
#[derive(Deserialize)]
struct Totals {
    tx: i64,
    tx_bytes: i64,
    rx_bytes: i64,
}

impl ClientContext for ConnectionContext {
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

impl rdkafka::producer::ProducerContext for ConnectionContext {
    type DeliveryOpaque = Told;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Told) {
        match result {
            Ok(message) => self.refusing.note(message.topic(), Ok(())),
            Err((error, message)) => self.refusing.note(message.topic(), Err(error)),
        }
        if !told.is_closed() {
            let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.to_string());
            let _ = self.delivered.send((told, result));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_stuck_if_it_is_unknown_for_long_and_not_if_it_refuses() {
        let refusing = Refusing::default();
        let failed = KafkaError::MessageProduction;
        let note = |topic: &str, code| refusing.note(topic, Err(&failed(code)));
        note("gone", RDKafkaErrorCode::MessageTimedOut);
        note("gone", RDKafkaErrorCode::PurgeQueue);
        note("forbidden", RDKafkaErrorCode::TopicAuthorizationFailed);
        note("back", RDKafkaErrorCode::UnknownTopic);
        refusing.note("back", Ok(()));
        assert_eq!(refusing.stuck(), Vec::<String>::new(), "not for long");
        let long_ago = Instant::now().checked_sub(2 * STUCK).unwrap();
        refusing.lock().values_mut().for_each(|refusal| refusal.since = long_ago);
        assert_eq!(refusing.stuck(), ["gone"]);
        refusing.count_anew();
        assert_eq!(refusing.stuck(), Vec::<String>::new(), "nothing has failed since");
    }
}
