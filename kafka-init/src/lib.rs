//! Creates the topics that `messages` declares, their dead-letter topics, and those of users' flows that it is given; and
//! checks those that are there. May be run any number of times.

mod wanted;

use std::time::Duration;

use messages::groups::{FLOWS, GROUPS, STARTS};
use messages::{all_topics, dead_letter_topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use service_runtime::Fatal;
use service_runtime::kafka::{
    KafkaSettings, NewTopics, PartitionMarks, create_topics, existing_topics, group_marks, until_shown, watermarks,
};

use self::wanted::{Topic, adopted_partitions, differences};

/// The name by which the brokers know it.
const CLIENT: &str = "kafka-init";

/// How long one request of the broker may take.
const REQUEST: Duration = Duration::from_secs(5);

/// Partitions of a topic unless told otherwise: the most instances of a service that can share the work.
pub const DEFAULT_PARTITIONS: i32 = 8;

/// The replication factor that stands for the cluster's own default.
pub const BROKERS_DEFAULT: i32 = -1;

/// What the name of a topic ends with that a user's flow is answered on.
const REPLIES: &str = ".replies";

/// What is wanted, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kafka: KafkaSettings,
    /// Topics of users' flows, beside those of the platform. Those of replies have dead-letter topics.
    pub topics: Vec<String>,
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
    /// Topics that look like those of flows, and were not named.
    pub passed_over: Vec<String>,
}

impl Plan {
    /// Waits for Kafka, creates what is missing, and compares what is there with what is wanted.
    ///
    /// # Errors
    /// When Kafka can't be reached in time, refuses, or has a topic with another partition count: all topics need
    /// the same one, or replies would not come back to the process that waits for them. Nothing is created then.
    pub async fn carry_out(&self) -> Result<Report, Fatal> {
        let names = self.names();
        let (kafka, timeout) = (self.kafka.clone(), self.timeout);
        let answers = tokio::task::spawn_blocking(move || existing_topics(&kafka, CLIENT, timeout));
        let there = answers.await.map_err(|error| self.fatal(error.to_string()))??;
        let admin = self.admin()?;
        let prefixed: Vec<String> = names.iter().map(|name| self.kafka.prefixed(name)).collect();
        let found = self.found(&admin, &prefixed).await?;

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
        let grown: Vec<String> = different.iter().map(|topic| topic.name.clone()).collect();
        self.grow(&admin, &grown, wanted).await?;
        let is_among = |topics: &[String], name: &String| topics.contains(&self.kafka.prefixed(name));
        let are_there: Vec<String> = found.iter().map(|topic| topic.name.clone()).collect();
        let missing: Vec<String> = names.iter().filter(|name| !is_among(&are_there, name)).cloned().collect();
        let new = NewTopics { names: &missing, partitions, replication_factor: self.replication_factor };
        create_topics(&self.kafka, CLIENT, new).await.map_err(|error| Fatal::new(error.to_string()))?;
        let changed: Vec<String> =
            names.iter().filter(|name| missing.contains(name) || is_among(&grown, name)).cloned().collect();
        until_shown(&self.kafka, CLIENT, &changed, wanted).await?;
        let replicas = usize::try_from(self.replication_factor).ok();
        let unchecked = found.iter().filter(|topic| topic.settings.is_none()).map(|topic| topic.name.clone()).collect();
        let mut passed_over: Vec<String> =
            there.into_keys().filter(|name| self.is_of_a_flow(name) && !prefixed.contains(name)).collect();
        passed_over.sort();
        Ok(Report {
            created: missing.iter().map(|name| self.kafka.prefixed(name)).collect(),
            differences: found.iter().flat_map(|topic| differences(topic, replicas)).collect(),
            existing: found.into_iter().map(|topic| topic.name).collect(),
            grown,
            partitions,
            unchecked,
            passed_over,
        })
    }

    /// All topics that are wanted, without the prefix.
    fn names(&self) -> Vec<String> {
        let of_flows = self.topics.iter().flat_map(|topic| {
            let letters = topic.ends_with(REPLIES).then(|| dead_letter_topic(topic));
            [topic.clone()].into_iter().chain(letters)
        });
        let mut names: Vec<String> = Vec::new();
        for name in all_topics().chain(of_flows) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Whether a flow may be answered on this topic, named as on Kafka.
    fn is_of_a_flow(&self, name: &str) -> bool {
        name.strip_prefix(&self.kafka.prefixed("")).is_some_and(|name| name.ends_with(REPLIES))
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
        let replies: Vec<&str> =
            self.topics.iter().map(String::as_str).filter(|name| name.ends_with(REPLIES)).collect();
        // Of events that start sagas none is about what another is about: they may overtake each other.
        let mut marks = vec![(FLOWS.name, watermarks(&self.kafka, CLIENT, Some(FLOWS.name), &replies).await?)];
        for group in GROUPS.iter().filter(|group| group.name != STARTS.name) {
            marks.push((group.name, group_marks(&self.kafka, CLIENT, group).await?));
        }
        for (group, marks) in marks {
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

    fn fatal(&self, what: String) -> Fatal {
        Fatal::new(format!("Kafka at {}: {what}", self.kafka.bootstrap_servers()))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST))
}
