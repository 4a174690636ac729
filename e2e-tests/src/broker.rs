//! Which Kafka the tests use, and what keeps the environments on it apart.

use anyhow::{Result, ensure};
use messages::{TOPICS, dead_letter_topic};
use standalone::broker::EmbeddedBroker;

use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::eventually;

/// Partitions of a topic: two are enough to show that keys are spread.
const PARTITIONS: i32 = 2;

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

/// A prefix for topics and groups that nobody else has.
pub fn new_prefix() -> String {
    format!("e2e-{}-", uuid::Uuid::now_v7().simple())
}

impl Broker {
    /// A broker with the topics of the contract.
    pub async fn start(scratch: &Scratch) -> Result<Self> {
        let prefix = new_prefix();
        match real_kafka() {
            Some(address) => {
                create_topics(scratch, &address, &prefix).await?;
                Ok(Self { address, prefix, embedded: None })
            }
            None => {
                let names = TOPICS.iter().flat_map(|topic| [(*topic).to_owned(), dead_letter_topic(topic)]);
                let names: Vec<String> = names.map(|name| format!("{prefix}{name}")).collect();
                let broker = EmbeddedBroker::start(&names, PARTITIONS)?;
                Ok(Self { address: broker.bootstrap_servers().to_owned(), prefix, embedded: Some(broker) })
            }
        }
    }

    /// What a service needs to know of it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("KAFKA_BOOTSTRAP_SERVERS".to_owned(), self.address.clone()),
            ("KAFKA_TOPIC_PREFIX".to_owned(), self.prefix.clone()),
        ];
        if self.embedded.is_some() {
            // It does not wake a waiting fetch.
            environment.push(("KAFKA_FETCH_WAIT_MAX_MS".to_owned(), "5".to_owned()));
        }
        environment
    }
}

/// As an installation does it: with `kafka-init`.
async fn create_topics(scratch: &Scratch, address: &str, prefix: &str) -> Result<()> {
    let arguments = ["--bootstrap-servers", address, "--topic-prefix", prefix, "--partitions", "2"].map(str::to_owned);
    let mut init = Process::start(scratch, "kafka-init", &arguments, &[])?;
    let limit = std::time::Duration::from_secs(60);
    let status = eventually("kafka-init ends", limit, async || Ok(init.has_ended())).await?;
    ensure!(status.success(), "kafka-init: {}", init.output());
    Ok(())
}
