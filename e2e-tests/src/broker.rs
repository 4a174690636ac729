//! Which Kafka the tests use, and what keeps the environments on it apart.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use messages::{MESSAGE_TOPICS, ORDER_CREATED, ORDER_EVENTS, SAGA_OUTCOMES, SIGNALS, all_topics, dead_letter_topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use service_runtime::kafka::{KafkaSettings, TopicCreation};
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings};
use standalone::broker::EmbeddedBroker;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{Ran, eventually, program};

/// Partitions of a topic: two are enough to show that keys are spread.
const PARTITIONS: i32 = 2;

/// What our topics on a real Kafka begin with.
const PREFIX: &str = "checkout-e2e-";

/// A topic of this age is that of a run that has ended: the whole suite takes a few minutes.
const OLD: Duration = Duration::from_secs(20 * 60);

/// How long the broker may take for a request.
const LIMIT: Duration = Duration::from_secs(30);

/// Where Kafka is, under which prefix our topics are, and the broker itself if it is ours.
pub struct Broker {
    pub address: String,
    pub prefix: String,
    embedded: Option<EmbeddedBroker>,
}

/// The real Kafka that the tests were given, if they were.
pub fn real_kafka() -> Option<String> {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.is_empty())
}

/// How to reach the real Kafka, if its listener asks for more than an address: by the services' own variables.
const SECURITY: [&str; 5] = [
    "KAFKA_SECURITY_PROTOCOL",
    "KAFKA_SASL_MECHANISM",
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_CA_LOCATION",
];

/// Those variables that are set. An embedded broker has nothing of the kind.
pub fn kafka_security() -> Vec<(&'static str, String)> {
    let set = SECURITY.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    if real_kafka().is_some() { set.collect() } else { Vec::new() }
}

pub fn owned(environment: Vec<(&str, String)>) -> Vec<(String, String)> {
    environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A client of the tests' own.
pub fn client(address: &str) -> Result<ClientConfig> {
    let settings = KafkaSettings::at(address, "")?;
    let mut config: ClientConfig = settings.connection().collect();
    config.set("log_level", "0");
    Ok(config)
}

/// A prefix for topics and groups that nobody else has, and that tells when it was made.
pub fn new_prefix() -> String {
    format!("{PREFIX}{}-", Uuid::now_v7().simple())
}

/// Deletes the topics of earlier runs from the real Kafka, once per process: a test run has no last moment of its own
/// to do it in.
pub async fn delete_old_topics(address: &str) -> Result<()> {
    static DONE: OnceCell<()> = OnceCell::const_new();
    DONE.get_or_try_init(async || delete_topics(address, SystemTime::now() - OLD).await).await.copied()
}

async fn delete_topics(address: &str, made_before: SystemTime) -> Result<()> {
    let admin: AdminClient<_> = client(address)?.create()?;
    let metadata = admin.inner().fetch_metadata(None, LIMIT)?;
    let names = metadata.topics().iter().map(|topic| topic.name());
    let old: Vec<&str> = names.filter(|name| made_at(name).is_some_and(|made| made < made_before)).collect();
    // A few at a time: one request for a thousand would time out.
    for some in old.chunks(100) {
        admin.delete_topics(some, &AdminOptions::new().operation_timeout(Some(LIMIT))).await?;
    }
    Ok(())
}

/// The contract's topics, those of dead letters included.
fn topic_names(prefix: &str) -> Vec<String> {
    all_topics().map(|name| format!("{prefix}{name}")).collect()
}

/// Those that releases before had not, and without which services start.
fn later_topics() -> Vec<String> {
    let read = [SIGNALS, ORDER_CREATED].into_iter().flat_map(|topic| [topic.to_owned(), dead_letter_topic(topic)]);
    read.chain([SAGA_OUTCOMES, ORDER_EVENTS].map(str::to_owned)).collect()
}

/// When a topic of ours was made; `None` for anyone else's.
fn made_at(topic: &str) -> Option<SystemTime> {
    let id: Uuid = topic.strip_prefix(PREFIX)?.get(..32)?.parse().ok()?;
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

impl Broker {
    /// A broker with the topics of the contract.
    pub async fn start() -> Result<Self> {
        Self::with_partitions(PARTITIONS).await
    }

    /// A broker whose topics have so many partitions.
    pub async fn with_partitions(partitions: i32) -> Result<Self> {
        let prefix = new_prefix();
        match real_kafka() {
            Some(address) => {
                delete_old_topics(&address).await?;
                create_topics(&address, &prefix, partitions).await?;
                Ok(Self { address, prefix, embedded: None })
            }
            None => {
                let broker = EmbeddedBroker::start(&topic_names(&prefix), partitions)?;
                Ok(Self { address: broker.bootstrap_servers().to_owned(), prefix, embedded: Some(broker) })
            }
        }
    }

    /// A broker whose topics were made by a release that had none for signals, for orders that are placed directly, nor for what is published.
    pub async fn without_signals() -> Result<Self> {
        if real_kafka().is_some() {
            let broker = Self::start().await?;
            let names: Vec<String> = later_topics().iter().map(|name| format!("{}{name}", broker.prefix)).collect();
            broker.delete(&names).await?;
            return Ok(broker);
        }
        let prefix = new_prefix();
        let names = MESSAGE_TOPICS.iter().flat_map(|topic| [(*topic).to_owned(), dead_letter_topic(topic)]);
        let names: Vec<String> = names.map(|name| format!("{prefix}{name}")).collect();
        let broker = EmbeddedBroker::start(&names, PARTITIONS)?;
        Ok(Self { address: broker.bootstrap_servers().to_owned(), prefix, embedded: Some(broker) })
    }

    /// Has this release's `kafka-init` make what is missing on it.
    pub async fn upgrade(&self) -> Result<()> {
        if self.embedded.is_none() {
            return self.create_topics().await;
        }
        self.create(&later_topics()).await
    }

    /// Creates topics beside those of the contract. Separate services can't do so on an embedded broker.
    pub async fn create(&self, topics: &[impl AsRef<str>]) -> Result<()> {
        let topics: Vec<String> = topics.iter().map(|topic| topic.as_ref().to_owned()).collect();
        let settings = self.settings("")?;
        self.topic_creation().create(&settings, "e2e-tests", &topics, MESSAGE_TOPICS[0]).await?;
        Ok(())
    }

    /// Whether a topic takes records. Where it does not, an embedded broker says that its partitions have no leader,
    /// a real one that each record is too large.
    pub async fn set_taking(&self, topic: &str, taking: bool) -> Result<()> {
        let topic = format!("{}{topic}", self.prefix);
        if let Some(broker) = &self.embedded {
            return Ok(broker.set_available(&topic, PARTITIONS, taking)?);
        }
        let admin: AdminClient<_> = client(&self.address)?.create()?;
        let config = AlterConfig::new(ResourceSpecifier::Topic(&topic));
        // What is not named goes back to its default.
        let config = if taking { config } else { config.set("max.message.bytes", "1") };
        for altered in admin.alter_configs([&config], &AdminOptions::new().operation_timeout(Some(LIMIT))).await? {
            altered.map_err(|(_, error)| anyhow!("{topic} can't be configured: {error}"))?;
        }
        Ok(())
    }

    /// Deletes the topics, of a real Kafka, and sees them gone.
    pub async fn delete_topics(&self) -> Result<()> {
        self.delete(&topic_names(&self.prefix)).await
    }

    async fn delete(&self, names: &[String]) -> Result<()> {
        let admin: AdminClient<_> = client(&self.address)?.create()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for deleted in admin.delete_topics(&names, &AdminOptions::new().operation_timeout(Some(LIMIT))).await? {
            deleted.map_err(|(topic, error)| anyhow!("{topic} can't be deleted: {error}"))?;
        }
        eventually("the topics are gone", LIMIT, async || {
            let metadata = admin.inner().fetch_metadata(None, LIMIT)?;
            let left = metadata.topics().iter().any(|topic| names.contains(&topic.name()));
            Ok((!left).then_some(()))
        })
        .await
    }

    /// Creates the topics on a real Kafka.
    pub async fn create_topics(&self) -> Result<()> {
        create_topics(&self.address, &self.prefix, PARTITIONS).await
    }

    /// How a service that runs beside it creates topics.
    pub fn topic_creation(&self) -> TopicCreation {
        self.embedded.as_ref().map_or_else(TopicCreation::default, EmbeddedBroker::topic_creation)
    }

    /// The settings of a service on it, in this process. `instance_id`: the name of a static member, or nothing.
    pub fn settings(&self, instance_id: &str) -> Result<KafkaSettings> {
        let settings = Settings::load(&[SERVICE_DEFAULTS, KAFKA_DEFAULTS], None, self.environment().into_iter())?;
        Ok(KafkaSettings::try_from(&settings.with("kafka_group_instance_id", instance_id)?)?)
    }

    /// What a service needs to know of it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = owned(kafka_security());
        environment.extend([
            ("KAFKA_BOOTSTRAP_SERVERS".to_owned(), self.address.clone()),
            ("KAFKA_TOPIC_PREFIX".to_owned(), self.prefix.clone()),
        ]);
        if self.embedded.is_some() {
            // It does not wake a waiting fetch.
            environment.push(("KAFKA_FETCH_WAIT_MAX_MS".to_owned(), "5".to_owned()));
        }
        environment
    }
}

/// `dev/kafka` with these arguments, on the port and the folder that its environment names.
pub async fn dev_kafka(arguments: &[&str]) -> Result<()> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/kafka");
    let mut script = tokio::process::Command::new(script);
    let output = script.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dev/kafka {arguments:?} ended with {}: {said}", output.status);
    Ok(())
}

/// Runs `kafka-init` on topics with this prefix, and with these arguments besides.
pub async fn kafka_init(address: &str, prefix: &str, arguments: &[&str]) -> Result<Ran> {
    let program = program("kafka-init")?;
    let mut command = tokio::process::Command::new(&program);
    command.args(["--bootstrap-servers", address, "--topic-prefix", prefix]).args(arguments);
    command.env_clear().envs(kafka_security()).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(2 * LIMIT, command.output()).await.context("kafka-init does not end")?;
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    Ran::of(output)
}

/// As an installation does it.
async fn create_topics(address: &str, prefix: &str, partitions: i32) -> Result<()> {
    let init = kafka_init(address, prefix, &["--partitions", &partitions.to_string()]).await?;
    ensure!(init.code == 0, "kafka-init: {init:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_topics_of_ours_tell_when_they_were_made() {
        let made = made_at(&format!("{}payment.charged", new_prefix())).unwrap();
        assert!(made.elapsed().unwrap() < OLD);
        for other in ["payment.charged", "checkout-e2e-", "checkout-e2e-payment.charge.command.of.somebody.else"] {
            assert_eq!(made_at(other), None, "{other}");
        }
    }
}
