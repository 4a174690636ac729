//! Creates the topics that `messages` declares, and their dead-letter topics. May be run any number of times.

use std::time::Duration;

use messages::{TOPICS, dead_letter_topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, existing_topics};

/// The name by which the brokers know it.
const CLIENT: &str = "kafka-init";

/// How long one request of the broker may take.
const REQUEST: Duration = Duration::from_secs(5);

/// Dead-letter topics take larger records than the others (1 MiB by default), since headers are added to a copy.
const DEAD_LETTER_MAX_BYTES: &str = "2097152";

/// Dead letters stay until a person has looked at them, however long that takes; they are few.
const DEAD_LETTER_RETENTION_MS: &str = "-1";

/// Partitions of a topic unless told otherwise: the most instances of a service that can share the work.
pub const DEFAULT_PARTITIONS: i32 = 8;

/// The replication factor that stands for the cluster's own default.
pub const BROKERS_DEFAULT: i32 = -1;

/// What is wanted, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kafka: KafkaSettings,
    /// `None`: as many as the topics that are there have, else [`DEFAULT_PARTITIONS`].
    pub partitions: Option<i32>,
    /// Brokers that hold a copy of each partition. [`BROKERS_DEFAULT`]: as the cluster's `default.replication.factor` says.
    pub replication_factor: i32,
    /// How long to wait for Kafka.
    pub timeout: Duration,
}

/// What was found and done, by topic.
#[derive(Debug, Default)]
pub struct Report {
    pub created: Vec<String>,
    pub existing: Vec<String>,
    /// Of each of them.
    pub partitions: i32,
}

impl Plan {
    /// Waits for Kafka, then creates what is missing.
    ///
    /// # Errors
    /// When Kafka can't be reached in time, refuses, or has a topic with another partition count: all topics need
    /// the same one, or replies would not come back to the process that waits for them.
    pub async fn carry_out(&self) -> Result<Report, Fatal> {
        let names = TOPICS.iter().flat_map(|topic| [(*topic).to_owned(), dead_letter_topic(topic)]);
        let names: Vec<String> = names.map(|name| self.kafka.prefixed(&name)).collect();
        let (kafka, timeout) = (self.kafka.clone(), self.timeout);
        let found = tokio::task::spawn_blocking(move || existing_topics(&kafka, CLIENT, timeout));
        let found = found.await.map_err(|error| self.fatal(error.to_string()))??;

        let adopted = || names.iter().find_map(|name| found.get(name)).map(|count| *count as i32);
        let partitions = self.partitions.or_else(adopted).unwrap_or(DEFAULT_PARTITIONS);
        let wanted = partitions as usize;
        let different: Vec<String> = names
            .iter()
            .filter_map(|name| {
                found.get(name).filter(|count| **count != wanted).map(|count| format!("{name} has {count}"))
            })
            .collect();
        if !different.is_empty() {
            return Err(self.fatal(format!(
                "{wanted} partitions are wanted, but {}. Run with the --partitions that they have, or delete them",
                different.join(", ")
            )));
        }
        let (existing, missing): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| found.contains_key(name));
        self.create(&missing, partitions).await?;
        Ok(Report { created: missing, existing, partitions })
    }

    async fn create(&self, names: &[String], partitions: i32) -> Result<(), Fatal> {
        if names.is_empty() {
            return Ok(());
        }
        let mut config: ClientConfig = self.kafka.connection().collect();
        let admin: AdminClient<DefaultClientContext> = config
            .set("client.id", CLIENT)
            .set("log_level", "0")
            .create()
            .map_err(|error| self.fatal(error.to_string()))?;
        let topics = names.iter().map(|name| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replication_factor));
            match name.ends_with(".dlq") {
                true => {
                    topic.set("max.message.bytes", DEAD_LETTER_MAX_BYTES).set("retention.ms", DEAD_LETTER_RETENTION_MS)
                }
                false => topic,
            }
        });
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        let results = admin.create_topics(&topics.collect::<Vec<_>>(), &options).await;
        for result in results.map_err(|error| self.fatal(format!("topics can't be created: {error}")))? {
            match result {
                // Someone else was quicker: fine.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(self.fatal(format!("topic {name} can't be created: {code}"))),
            }
        }
        Ok(())
    }

    fn fatal(&self, what: String) -> Fatal {
        Fatal::new(format!("Kafka at {}: {what}", self.kafka.bootstrap_servers()))
    }
}
