//! Topics on the real Kafka, as other hands make and change them.

use std::time::Duration;

use anyhow::{Result, anyhow};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;

use crate::{KafkaClient, Ran, broker, eventually, kafka_init};

/// How long the broker may take for a request.
const LIMIT: Duration = Duration::from_secs(30);

/// Topics with one prefix. They are named here without it.
pub struct KafkaTopics {
    client: KafkaClient,
    admin: AdminClient<DefaultClientContext>,
}

impl KafkaTopics {
    /// Some with a prefix that nobody else has.
    pub fn new(address: &str) -> Result<Self> {
        Self::with_prefix(address, &broker::new_prefix())
    }

    /// Those of an installation.
    pub fn with_prefix(address: &str, prefix: &str) -> Result<Self> {
        Ok(Self { client: KafkaClient::new(address, prefix), admin: broker::client(address)?.create()? })
    }

    pub fn address(&self) -> &str {
        self.client.address()
    }

    pub fn prefix(&self) -> &str {
        self.client.prefix()
    }

    /// Runs `kafka-init` on them.
    pub async fn init(&self, arguments: &[&str]) -> Result<Ran> {
        kafka_init(self.address(), self.prefix(), arguments).await
    }

    /// Creates one with all settings at their defaults, and sees it there.
    pub async fn create(&self, topic: &str, partitions: i32) -> Result<()> {
        let name = self.name(topic);
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for created in self.admin.create_topics([&new], &options()).await? {
            created.map_err(|(name, error)| anyhow!("{name} can't be created: {error}"))?;
        }
        eventually("it is there", LIMIT, async || Ok(self.partitions(topic).await?)).await?;
        Ok(())
    }

    /// Changes settings, and sees them changed. What is not named goes back to its default.
    pub async fn set(&self, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
        let name = self.name(topic);
        let config = AlterConfig::new(ResourceSpecifier::Topic(&name));
        let config = settings.iter().fold(config, |config, (key, value)| config.set(key, value));
        for altered in self.admin.alter_configs([&config], &options()).await? {
            altered.map_err(|(_, error)| anyhow!("{name} can't be configured: {error}"))?;
        }
        let mut wanted: Vec<(String, String)> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        wanted.sort();
        // A broker hears of it from the controller.
        eventually(&format!("{name} has these settings"), LIMIT, async || {
            let described = self.admin.describe_configs([&ResourceSpecifier::Topic(&name)], &options()).await?;
            let entries = described.into_iter().flatten().flat_map(|resource| resource.entries);
            let own = entries.filter(|entry| entry.source == ConfigSource::DynamicTopic);
            let mut own: Vec<(String, String)> = own.filter_map(|entry| Some((entry.name, entry.value?))).collect();
            own.sort();
            Ok((own == wanted).then_some(()))
        })
        .await
    }

    /// How many partitions one has; `None` if it is not there.
    pub async fn partitions(&self, topic: &str) -> Result<Option<usize>> {
        let name = self.name(topic);
        let metadata = self.admin.inner().fetch_metadata(None, LIMIT)?;
        Ok(metadata.topics().iter().find(|found| found.name() == name).map(|found| found.partitions().len()))
    }

    /// Publishes a record.
    pub async fn publish(&self, topic: &str, body: &[u8]) -> Result<()> {
        self.client.publish(topic, "key", body).await.map(drop)
    }

    fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(LIMIT))
}
