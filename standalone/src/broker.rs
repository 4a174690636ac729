//! The embedded Kafka: librdkafka's in-process mock broker, so that `cargo run` needs no Kafka. It speaks
//! the real protocol on a port of 127.0.0.1, and every client that can reach the port can use it.
//!
//! What it does not do, and why that is acceptable here:
//! - It forgets everything at exit, offsets included. The stored rows say what must happen next, so the
//!   sweeper sends again what was lost.
//! - A partition holds at most 5 MiB or 100,000 batches; the oldest are dropped without a word
//!   (librdkafka's `rdkafka_mock.c`). It is for trying the platform, not for a backlog.
//! - A waiting fetch is not woken by a new record: it is answered when its wait is over. Consumers of this
//!   broker need a low `fetch.wait.max.ms`, which is their latency.
//! - No admin API: topics can only be created here, also those of users' flows (`topic_creation`). One that a client merely asks for springs up with four
//!   partitions, so a missing topic is not noticed.

use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use service_runtime::kafka::TopicCreation;

/// A running broker. It ends when the value is dropped.
pub struct EmbeddedBroker {
    /// The mock broker is a part of this otherwise idle client and is destroyed with it.
    client: Arc<Client<DefaultClientContext>>,
    bootstrap_servers: String,
}

/// The broker could not be started, or a topic not set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the embedded Kafka broker: {0} (a real one can be used with --kafka HOST:PORT)")]
    Start(#[source] KafkaError),
    #[error("cannot set up topic {topic} in the embedded Kafka broker: {source}")]
    Topic { topic: String, source: KafkaError },
}

impl EmbeddedBroker {
    /// Starts one broker on a free port of 127.0.0.1 and creates `topics`, each with `partitions` partitions.
    pub fn start(topics: &[String], partitions: i32) -> Result<EmbeddedBroker, Error> {
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        // Nobody reads this client's log queue, so nothing may pile up in it.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let native_config = config.create_native_config().map_err(Error::Start)?;
        let client = Client::new(&config, native_config, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext)
            .map_err(Error::Start)?;
        join_groups_at_once(&client);

        let cluster = client
            .mock_cluster()
            .ok_or_else(|| Error::Start(KafkaError::ClientCreation("this librdkafka has no mock broker".to_owned())))?;
        for topic in topics {
            cluster
                .create_topic(topic, partitions, 1)
                .map_err(|source| Error::Topic { topic: topic.clone(), source })?;
        }
        let bootstrap_servers = cluster.bootstrap_servers();
        drop(cluster);
        Ok(EmbeddedBroker { client: Arc::new(client), bootstrap_servers })
    }

    /// Whether a topic's first `partitions` partitions have a leader. Without one they take no record, as when the
    /// brokers that hold them are gone.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn set_available(&self, topic: &str, partitions: i32, available: bool) -> Result<(), Error> {
        let failed = |source| Error::Topic { topic: topic.to_owned(), source };
        let Some(cluster) = self.client.mock_cluster() else { return Ok(()) };
        for partition in 0..partitions {
            cluster.partition_leader(topic, partition, available.then_some(1)).map_err(failed)?;
        }
        Ok(())
    }

    /// How a service that runs beside it creates topics on it.
    pub fn topic_creation(&self) -> TopicCreation {
        let client = Arc::downgrade(&self.client);
        TopicCreation::by(move |topic, partitions| {
            let Some(client) = client.upgrade() else { return Err("the embedded broker has stopped".to_owned()) };
            let Some(cluster) = client.mock_cluster() else { return Err("there is no embedded broker".to_owned()) };
            match cluster.create_topic(topic, partitions, 1) {
                Err(error) if error.rdkafka_error_code() != Some(RDKafkaErrorCode::TopicAlreadyExists) => {
                    Err(error.to_string())
                }
                _ => Ok(()),
            }
        })
    }

    /// `127.0.0.1:<port>`, for `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

/// A new consumer group waits for more members before its first assignment, 3 s by default. The services
/// here have one member each, so the wait would only be a slow start. rdkafka has no safe call for it.
#[expect(unsafe_code, reason = "rd_kafka_mock_group_initial_rebalance_delay_ms has no wrapper in rdkafka 0.39")]
fn join_groups_at_once(client: &Client<DefaultClientContext>) {
    // SAFETY: `native_ptr` is a live client for as long as `client` is borrowed. The cluster it returns is
    // null, which is checked, or lives as long as that client. The call only stores a number, which the
    // broker reads when a group is joined, and nobody knows the broker's port yet.
    unsafe {
        let cluster = rdkafka_sys::rd_kafka_handle_mock_cluster(client.native_ptr());
        if !cluster.is_null() {
            rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
    }
}
