//! Creates the topics that `messages` declares, and their dead-letter topics, and checks those that are there. May be run
//! any number of times.

mod wanted;

use std::time::{Duration, Instant};

use messages::{Event, InventoryCommand, PaymentCommand, TOPICS, dead_letter_topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, PartitionMarks, existing_topics, watermarks};

use self::wanted::{Topic, adopted_partitions, differences, new_settings};

/// The name by which the brokers know it.
const CLIENT: &str = "kafka-init";

/// How long one request of the broker may take.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the brokers may take to show what was created.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Partitions of a topic unless told otherwise: the most instances of a service that can share the work.
pub const DEFAULT_PARTITIONS: i32 = 8;

/// The replication factor that stands for the cluster's own default.
pub const BROKERS_DEFAULT: i32 = -1;

/// Who reads which topics: a service's group carries its name.
const READERS: [(&str, &[&str]); 3] = [
    ("payment-service", &PaymentCommand::TOPICS),
    ("inventory-service", &InventoryCommand::TOPICS),
    ("saga-orchestrator", &Event::TOPICS),
];

/// What is wanted, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kafka: KafkaSettings,
    /// `None`: as many as the topics that are there have, else [`DEFAULT_PARTITIONS`].
    pub partitions: Option<i32>,
    /// Topics that have fewer get more.
    pub grow: bool,
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
    /// Of those that are there, the ones that got more partitions.
    pub grown: Vec<String>,
    /// Of each of them.
    pub partitions: i32,
    /// What is not as it should be, in sentences: somebody has to change it.
    pub differences: Vec<String>,
    /// Topics whose settings this user may not read.
    pub unchecked: Vec<String>,
}

impl Plan {
    /// Waits for Kafka, creates what is missing, and compares what is there with what is wanted.
    ///
    /// # Errors
    /// When Kafka can't be reached in time, refuses, or has a topic with another partition count: all topics need
    /// the same one, or replies would not come back to the process that waits for them. Nothing is created then.
    pub async fn carry_out(&self) -> Result<Report, Fatal> {
        let names = TOPICS.iter().flat_map(|topic| [(*topic).to_owned(), dead_letter_topic(topic)]);
        let names: Vec<String> = names.map(|name| self.kafka.prefixed(&name)).collect();
        let (kafka, timeout) = (self.kafka.clone(), self.timeout);
        let answers = tokio::task::spawn_blocking(move || existing_topics(&kafka, CLIENT, timeout));
        answers.await.map_err(|error| self.fatal(error.to_string()))??;
        let admin = self.admin()?;
        let found = self.found(&admin, &names).await?;

        let partitions = self.partitions.or_else(|| adopted_partitions(&found)).unwrap_or(DEFAULT_PARTITIONS);
        let wanted = partitions as usize;
        let may_grow = |topic: &&Topic| self.grow && topic.partitions < wanted;
        let different: Vec<&Topic> = found.iter().filter(|topic| topic.partitions != wanted).collect();
        if !different.iter().all(may_grow) {
            let words: Vec<String> =
                different.iter().map(|one| format!("{} has {}", one.name, one.partitions)).collect();
            return Err(self.fatal(format!(
                "{wanted} partitions are wanted, but {}. Nothing was created. Run with the --partitions that they all should have, and --grow to add those that are missing; or delete what somebody else has created",
                words.join(", ")
            )));
        }
        let missing: Vec<String> =
            names.into_iter().filter(|name| found.iter().all(|topic| topic.name != *name)).collect();
        let grown: Vec<String> = different.iter().map(|topic| topic.name.clone()).collect();
        self.grow(&admin, &grown, wanted).await?;
        self.create(&admin, &missing, partitions).await?;
        let changed: Vec<&String> = grown.iter().chain(&missing).collect();
        self.until_shown(&admin, &changed, wanted).await?;
        let replicas = usize::try_from(self.replication_factor).ok();
        let unchecked = found.iter().filter(|topic| topic.settings.is_none()).map(|topic| topic.name.clone()).collect();
        Ok(Report {
            created: missing,
            differences: found.iter().flat_map(|topic| differences(topic, replicas)).collect(),
            existing: found.into_iter().map(|topic| topic.name).collect(),
            grown,
            partitions,
            unchecked,
        })
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Fatal> {
        let mut config: ClientConfig = self.kafka.connection().collect();
        let admin = config.set("client.id", CLIENT).set("log_level", "0").set("allow.auto.create.topics", "false");
        admin.create().map_err(|error| self.fatal(error.to_string()))
    }

    /// Those of the topics that are there.
    async fn found(&self, admin: &AdminClient<DefaultClientContext>, names: &[String]) -> Result<Vec<Topic>, Fatal> {
        let unreadable = |error: KafkaError| self.fatal(format!("the topics can't be read: {error}"));
        let metadata = admin.inner().fetch_metadata(None, REQUEST).map_err(unreadable)?;
        let ours = metadata.topics().iter().filter(|topic| names.iter().any(|name| name == topic.name()));
        let mut topics: Vec<Topic> = ours
            .map(|topic| Topic {
                name: topic.name().to_owned(),
                partitions: topic.partitions().len(),
                replicas: topic.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or_default(),
                settings: None,
            })
            .collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        let asked: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        if asked.is_empty() {
            return Ok(topics);
        }
        let described = admin.describe_configs(&asked, &options()).await.map_err(unreadable)?;
        for (topic, described) in topics.iter_mut().zip(described) {
            topic.settings = match described {
                Ok(found) => Some(found.entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect()),
                Err(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => None,
                Err(code) => return Err(self.fatal(format!("the settings of {} can't be read: {code}", topic.name))),
            };
        }
        Ok(topics)
    }

    async fn create(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        names: &[String],
        partitions: i32,
    ) -> Result<(), Fatal> {
        if names.is_empty() {
            return Ok(());
        }
        let settings: Vec<_> = names.iter().map(|name| new_settings(name)).collect();
        let topics = names.iter().zip(&settings).map(|(name, settings)| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replication_factor));
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        });
        let results = admin.create_topics(&topics.collect::<Vec<_>>(), &options()).await;
        for result in results.map_err(|error| self.fatal(format!("topics can't be created: {error}")))? {
            match result {
                // Someone else was quicker: fine.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(self.fatal(format!("topic {name} can't be created: {code}"))),
            }
        }
        Ok(())
    }

    /// Adds partitions. Keys move to other partitions by it, and their order is lost: so nothing may be under way.
    async fn grow(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        names: &[String],
        partitions: usize,
    ) -> Result<(), Fatal> {
        if names.is_empty() {
            return Ok(());
        }
        for (group, topics) in READERS {
            let marks = watermarks(&self.kafka, CLIENT, Some(group), topics).await?;
            let lag: u64 = marks.iter().flatten().map(PartitionMarks::lag).sum();
            if lag > 0 {
                return Err(self.fatal(format!(
                    "{lag} records are not done by {group}, and would be overtaken by later ones on other partitions. Close the intake (POST /intake/pause), wait until GET /intake shows 0 unfinished, then add partitions"
                )));
            }
        }
        let more: Vec<NewPartitions<'_>> = names.iter().map(|name| NewPartitions::new(name, partitions)).collect();
        let results = admin.create_partitions(&more, &options()).await;
        for result in results.map_err(|error| self.fatal(format!("partitions can't be added: {error}")))? {
            result.map_err(|(name, code)| self.fatal(format!("{name} can't get more partitions: {code}")))?;
        }
        Ok(())
    }

    /// Waits until the brokers show the topics with so many partitions. The controller has answered by then, and a broker
    /// hears of it a moment later: a service that starts in between would see the old state.
    async fn until_shown(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        names: &[&String],
        partitions: usize,
    ) -> Result<(), Fatal> {
        let began = Instant::now();
        while !names.is_empty() {
            let metadata = admin.inner().fetch_metadata(None, REQUEST);
            let metadata = metadata.map_err(|error| self.fatal(format!("the topics can't be read: {error}")))?;
            let is_shown = |name: &&&String| {
                metadata.topics().iter().any(|topic| topic.name() == **name && topic.partitions().len() >= partitions)
            };
            let Some(unseen) = names.iter().find(|name| !is_shown(name)) else { break };
            if began.elapsed() >= SHOWN_WITHIN {
                return Err(self.fatal(format!(
                    "{unseen} was given {partitions} partitions, and the brokers do not show them after {} s",
                    SHOWN_WITHIN.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn fatal(&self, what: String) -> Fatal {
        Fatal::new(format!("Kafka at {}: {what}", self.kafka.bootstrap_servers()))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST))
}
