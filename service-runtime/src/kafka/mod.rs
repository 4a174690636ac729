//! Kafka as the services see it: records in plain types, a consumer that runs a handler for each, a producer.
//! No type of rdkafka leaves this module.

mod closing;
mod connection;
mod consumer;
mod creation;
mod follower;
mod group;
mod headers;
mod heard;
mod letters;
mod member;
mod offsets;
mod predecessor;
mod processing;
mod producer;
mod progress;
mod reader;
mod security;
mod silence;
mod spans;
mod topic_counts;
mod topics;
mod watch;
mod watermarks;

use messages::{TRACEPARENT, TraceContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message as _};
use serde::Deserialize;
use uuid::Uuid;

use self::security::Security;
use crate::settings::{
    HOUR_MS, KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings, SettingsError, environment, require_within,
};

pub use consumer::{Consumer, Handled, Handler, Retry};
pub use creation::{
    CreatedTopics, CreationError, DEAD_LETTER_MAX_BYTES, NewTopics, RefusedTopic, TopicCreation, create_topics,
    is_dead_letter_topic, new_topic_settings, until_shown,
};
pub use follower::TopicFollower;
pub use group::GroupState;
pub use headers::Headers;
pub use producer::{Delivery, Producer};
pub use reader::TopicReader;
pub use topics::{existing_topics, require_topics};
pub use watermarks::{PartitionMarks, group_marks, watermarks};

/// See [`KafkaSettings::unhurried`].
const UNHURRIED_MS: u32 = 100;

/// How to reach Kafka. See `defaults/kafka.toml` for what each setting means.
#[derive(Debug, Clone, Deserialize)]
pub struct KafkaSettings {
    kafka_bootstrap_servers: String,
    kafka_topic_prefix: String,
    kafka_group_instance_id: String,
    kafka_session_timeout_ms: u32,
    kafka_fetch_wait_max_ms: u32,
    kafka_max_in_flight: usize,
    kafka_producer_queue_kbytes: u32,
    startup_timeout_ms: u64,
    shutdown_timeout_ms: u64,
    #[serde(skip)]
    security: Security,
    /// Clones have the same.
    #[serde(skip, default = "Uuid::now_v7")]
    process: Uuid,
}

impl TryFrom<&Settings> for KafkaSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section = Self { security: Security::try_from(settings)?, ..settings.section()? };
        let invalid = |key, problem: &str| Err(SettingsError::Invalid { key, problem: problem.to_owned() });
        if section.kafka_bootstrap_servers.trim().is_empty() {
            return invalid("kafka_bootstrap_servers", "must name at least one broker, as host:port");
        }
        // A heartbeat is a third of it, and brokers by default permit no more than half an hour.
        require_within("kafka_session_timeout_ms", section.kafka_session_timeout_ms, 1000..=1_800_000)?;
        // At 0 an idle consumer would ask without a pause; a request that is held for a minute counts as lost.
        require_within("kafka_fetch_wait_max_ms", section.kafka_fetch_wait_max_ms, 1..=30_000)?;
        require_within("kafka_max_in_flight", section.kafka_max_in_flight, 1..=1_000_000)?;
        require_within("kafka_producer_queue_kbytes", section.kafka_producer_queue_kbytes, 64..=2_097_151)?;
        require_within("startup_timeout_ms", section.startup_timeout_ms, 0..=HOUR_MS)?;
        require_within("shutdown_timeout_ms", section.shutdown_timeout_ms, 0..=HOUR_MS)?;
        Ok(section)
    }
}

impl KafkaSettings {
    /// The settings of a connection without TLS or a password.
    pub const PLAINTEXT: [(&str, &str); 6] = security::PLAINTEXT;

    /// What the environment says, else the defaults, but at this address and with this prefix: for programs that are no
    /// service.
    ///
    /// # Errors
    /// When `bootstrap_servers` names no broker, or a setting in the environment is wrong.
    pub fn at(bootstrap_servers: &str, topic_prefix: &str) -> Result<Self, SettingsError> {
        let settings = Settings::load(&[SERVICE_DEFAULTS, KAFKA_DEFAULTS], None, environment())?;
        let settings = settings.with("kafka_bootstrap_servers", bootstrap_servers)?;
        Self::try_from(&settings.with("kafka_topic_prefix", topic_prefix)?)
    }

    /// The same for a consumer whose records may be a tenth of a second late. The embedded broker does not answer a waiting
    /// fetch before its time, so its other consumers ask all the time, which costs processor time.
    #[must_use]
    pub fn unhurried(&self) -> Self {
        Self { kafka_fetch_wait_max_ms: self.kafka_fetch_wait_max_ms.max(UNHURRIED_MS), ..self.clone() }
    }

    /// The name on Kafka of a topic or a group.
    pub fn prefixed(&self, name: &str) -> String {
        format!("{}{name}", self.kafka_topic_prefix)
    }

    /// host:port of a broker, or of several, separated by commas.
    pub fn bootstrap_servers(&self) -> &str {
        &self.kafka_bootstrap_servers
    }

    /// What librdkafka has to know to reach it, by its own names: for clients of other kinds than those in here.
    pub fn connection(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.security.properties().chain([("bootstrap.servers", self.kafka_bootstrap_servers.as_str())]);
        all.map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    fn client(&self, service: &str) -> ClientConfig {
        let mut config: ClientConfig = self.connection().collect();
        config
            .set("client.id", service)
            // Small messages and replies must not wait for one another (Nagle); back soon after an outage.
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            // Topics that were created, deleted or moved are noticed soon: by default every five minutes.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // `kafka-init` creates topics, and nobody else: one that a broker creates for a client has as many partitions
            // as the broker likes. (librdkafka's default for producers is true.)
            .set("allow.auto.create.topics", "false");
        config
    }
}

/// librdkafka's own log lines. Each lost connection is several of them, at its levels "info" and "error": they
/// are for debugging; what an operator needs to know is told once, where the state changes.
fn log_librdkafka(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// A record that was consumed. Its topic is named without the installation's prefix.
#[derive(Debug, Clone)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub body: Vec<u8>,
    pub headers: Headers,
    /// When it was produced, in ms since 1970, where the broker knows.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// The span that sent it.
    pub fn trace_context(&self) -> Option<TraceContext> {
        self.header(TRACEPARENT)?.parse().ok()
    }

    /// The trace's id, for log lines.
    pub fn trace_id(&self) -> Option<String> {
        self.trace_context().map(TraceContext::trace_id_text)
    }
}

/// The record, and why it can't be handled, whatever it holds: nothing between Kafka and the handler may fail at what
/// others have written.
pub(super) fn to_record(message: &BorrowedMessage<'_>, topic_prefix: &str) -> (Record, Option<String>) {
    let (headers, flaw) = headers::read(message);
    let record = Record {
        topic: message.topic().strip_prefix(topic_prefix).unwrap_or(message.topic()).to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        body: message.payload().unwrap_or_default().to_vec(),
        headers,
        timestamp_ms: message.timestamp().to_millis(),
    };
    (record, flaw)
}
