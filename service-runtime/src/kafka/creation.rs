//! Creating topics: by `kafka-init`, and by a running service whose users bring topics of their own.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaSettings;
use super::heard::{self, Heard};
use super::producer::QuietContext;
use super::topics::existing_shapes;
use crate::Fatal;

/// Dead-letter topics take larger records than the others (1 MiB by default), since headers are added to a copy.
pub const DEAD_LETTER_MAX_BYTES: i64 = 2_097_152;

/// How long one request of the broker may take.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the brokers may take to show what was created.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Topics that are to be made, and how. They are named without the installation's prefix.
#[derive(Debug, Clone, Copy)]
pub struct NewTopics<'a> {
    pub names: &'a [String],
    pub partitions: i32,
    /// Brokers that hold a copy of each partition. -1: as the cluster's `default.replication.factor` says.
    pub replication_factor: i32,
}

/// How a service creates topics: by the brokers' admin API, unless another way is given.
#[derive(Clone, Default)]
pub struct TopicCreation(Option<Arc<CreateTopic>>);

/// Creates a topic, named as on Kafka, with so many partitions; fine if it is there.
type CreateTopic = dyn Fn(&str, i32) -> Result<(), String> + Send + Sync;

/// What was found and done. The topics are named without the installation's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopics {
    pub created: Vec<String>,
    /// How many partitions the platform's topics have.
    pub partitions: usize,
    /// The topics that were there with another number of partitions.
    pub different: Vec<(String, usize)>,
}

/// Why topics were not created.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// Kafka can't be asked, or does not get it done. It may later.
    #[error(transparent)]
    Unavailable(#[from] Fatal),
    /// The brokers refuse to create these.
    #[error("Kafka refuses to create {}", in_words(.0))]
    Refused(Vec<RefusedTopic>),
}

/// A topic that is missing, and that the brokers refuse to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedTopic {
    /// As on Kafka.
    pub name: String,
    pub why: String,
    /// What creates it, for who may.
    pub command: String,
}

impl TopicCreation {
    /// By this function, for a broker without an admin API. It is called with the topic's name on Kafka and the number of
    /// partitions, and may block.
    pub fn by(create: impl Fn(&str, i32) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(create)))
    }

    /// Creates those of `topics` that are missing, with as many partitions and replicas as `model` has, and waits until
    /// the brokers show them. `client` is the name by which the brokers know who asks. May be called any number of times.
    ///
    /// # Errors
    /// When Kafka can't be reached within 5 s, has no topic `model`, or refuses.
    pub async fn create(
        &self,
        settings: &KafkaSettings,
        client: &str,
        topics: &[String],
        model: &str,
    ) -> Result<CreatedTopics, CreationError> {
        let (settings, client, topics, model) =
            (settings.clone(), client.to_owned(), topics.to_vec(), settings.prefixed(model));
        let own = self.0.clone();
        let work = move || {
            let existing = existing_shapes(&settings, &client, REQUEST)?;
            let of_model = existing.get(&model).ok_or_else(|| {
                let servers = settings.bootstrap_servers();
                Fatal::new(format!("Kafka at {servers} has no topic {model}; `kafka-init` creates it"))
            })?;
            let found = |topic: &String| existing.get(&settings.prefixed(topic));
            let created: Vec<String> = topics.iter().filter(|topic| found(topic).is_none()).cloned().collect();
            let different = topics.iter().filter_map(|topic| Some((topic.clone(), found(topic)?.partitions)));
            let different = different.filter(|(_, partitions)| *partitions != of_model.partitions).collect();
            let new = NewTopics {
                names: &created,
                partitions: i32::try_from(of_model.partitions).unwrap_or(i32::MAX),
                replication_factor: i32::try_from(of_model.replicas).unwrap_or(-1),
            };
            match own {
                Some(create) => create_each(&settings, new, &*create)?,
                None => create_by_admin_api(&settings, &client, new)?,
            }
            see_shown(&settings, &client, &created, of_model.partitions)?;
            Ok(CreatedTopics { partitions: of_model.partitions, created, different })
        };
        blocking(work).await
    }
}

impl fmt::Debug for TopicCreation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "TopicCreation::by(…)" } else { "TopicCreation" })
    }
}

/// Creates topics by the brokers' admin API. One that is there already is left as it is.
///
/// # Errors
/// When Kafka can't be reached or refuses.
pub async fn create_topics(settings: &KafkaSettings, client: &str, new: NewTopics<'_>) -> Result<(), CreationError> {
    let (settings, client, names) = (settings.clone(), client.to_owned(), new.names.to_vec());
    let NewTopics { partitions, replication_factor, .. } = new;
    blocking(move || {
        create_by_admin_api(&settings, &client, NewTopics { names: &names, partitions, replication_factor })
    })
    .await
}

/// Waits until the brokers show topics, named without the installation's prefix, with so many partitions. The controller
/// has answered by then, and a broker hears of it a moment later: a service that starts in between would see the old state.
///
/// # Errors
/// When they do not show them within 30 s.
pub async fn until_shown(
    settings: &KafkaSettings,
    client: &str,
    names: &[String],
    partitions: usize,
) -> Result<(), Fatal> {
    let (settings, client, names) = (settings.clone(), client.to_owned(), names.to_vec());
    blocking(move || see_shown(&settings, &client, &names, partitions)).await
}

/// The settings that a new topic is created with.
pub fn new_topic_settings(name: &str) -> Vec<(&'static str, String)> {
    match is_dead_letter_topic(name) {
        // Dead letters stay until a person has looked at them, however long that takes; they are few.
        true => vec![
            ("max.message.bytes", DEAD_LETTER_MAX_BYTES.to_string()),
            ("retention.ms", "-1".to_owned()),
            ("cleanup.policy", "delete".to_owned()),
        ],
        // Compaction would keep the last record of each saga only.
        false => vec![("cleanup.policy", "delete".to_owned())],
    }
}

/// Whether a topic is one of [`messages::dead_letter_topic`].
pub fn is_dead_letter_topic(name: &str) -> bool {
    name.ends_with(".dlq")
}

async fn blocking<T: Send + 'static, E: From<Fatal> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fatal::new(format!("the work on the topics failed: {error}")).into()))
}

fn create_each(settings: &KafkaSettings, new: NewTopics<'_>, create: &CreateTopic) -> Result<(), CreationError> {
    let refused = new.names.iter().filter_map(|topic| {
        let name = settings.prefixed(topic);
        let why = create(&name, new.partitions).err()?;
        Some(RefusedTopic::new(settings, name, why, new))
    });
    refused_or_done(refused.collect())
}

fn create_by_admin_api(settings: &KafkaSettings, client: &str, new: NewTopics<'_>) -> Result<(), CreationError> {
    if new.names.is_empty() {
        return Ok(());
    }
    let failed = |why: String| {
        let servers = settings.bootstrap_servers();
        Fatal::new(format!("Kafka at {servers}: topics can't be created: {why}"))
    };
    let admin: AdminClient<QuietContext> =
        settings.client(client).create_with_context(QuietContext).map_err(|error| failed(error.to_string()))?;
    let names: Vec<String> = new.names.iter().map(|name| settings.prefixed(name)).collect();
    let of_each: Vec<_> = names.iter().map(|name| new_topic_settings(name)).collect();
    let topics = names.iter().zip(&of_each).map(|(name, of_one)| {
        let topic = NewTopic::new(name, new.partitions, TopicReplication::Fixed(new.replication_factor));
        of_one.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
    });
    let topics: Vec<NewTopic<'_>> = topics.collect();
    let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
    // On a thread that may block.
    let results = tokio::runtime::Handle::current()
        .block_on(admin.create_topics(&topics, &options))
        .map_err(|error| failed(error.to_string()))?;
    let mut refused = Vec::new();
    for result in results {
        match result {
            // Someone else was quicker: fine.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) if may_pass(code) => return Err(failed(format!("{name}: {code}")).into()),
            Err((name, code)) => refused.push(RefusedTopic::new(settings, name, code.to_string(), new)),
        }
    }
    refused_or_done(refused)
}

fn refused_or_done(refused: Vec<RefusedTopic>) -> Result<(), CreationError> {
    if refused.is_empty() { Ok(()) } else { Err(CreationError::Refused(refused)) }
}

/// Whether an error is about the brokers' state now, and not about what is asked.
fn may_pass(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        BrokerNotAvailable, NetworkException, NotController, OperationTimedOut, RequestTimedOut,
        ThrottlingQuotaExceeded,
    };
    matches!(
        code,
        BrokerNotAvailable
            | NetworkException
            | NotController
            | OperationTimedOut
            | RequestTimedOut
            | ThrottlingQuotaExceeded
    )
}

/// Blocks its thread.
fn see_shown(settings: &KafkaSettings, client: &str, names: &[String], partitions: usize) -> Result<(), Fatal> {
    let mut unseen: Vec<String> = names.iter().map(|name| settings.prefixed(name)).collect();
    if unseen.is_empty() {
        return Ok(());
    }
    let servers = settings.bootstrap_servers();
    let asking: BaseConsumer<Heard> = settings
        .client(client)
        .create_with_context(Heard::default())
        .map_err(|error| Fatal::new(format!("Kafka at {servers}: {error}")))?;
    let deadline = Instant::now() + SHOWN_WITHIN;
    loop {
        match asking.fetch_metadata(None, REQUEST) {
            Ok(metadata) => unseen.retain(|name| {
                let found = metadata.topics().iter().find(|topic| topic.name() == name);
                found.is_none_or(|topic| topic.partitions().len() < partitions)
            }),
            Err(error) if Instant::now() >= deadline => {
                return Err(heard::no_answer(servers, &heard::why(&asking, &error)));
            }
            Err(_) => {}
        }
        let Some(name) = unseen.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            let limit = SHOWN_WITHIN.as_secs();
            return Err(Fatal::new(format!(
                "Kafka at {servers}: {name} was given {partitions} partitions, and the brokers do not show them after {limit} s"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl RefusedTopic {
    fn new(settings: &KafkaSettings, name: String, why: String, new: NewTopics<'_>) -> Self {
        let mut command = format!(
            "kafka-topics.sh --bootstrap-server {} --create --topic {name} --partitions {}",
            settings.bootstrap_servers(),
            new.partitions
        );
        if new.replication_factor > 0 {
            command += &format!(" --replication-factor {}", new.replication_factor);
        }
        for (key, value) in new_topic_settings(&name) {
            command += &format!(" --config {key}={value}");
        }
        Self { name, why, command }
    }
}

impl Display for RefusedTopic {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, why, command } = self;
        write!(f, "{name} ({why}; `{command}` creates it)")
    }
}

fn in_words(refused: &[RefusedTopic]) -> String {
    refused.iter().map(RefusedTopic::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings};

    fn settings() -> KafkaSettings {
        let settings = Settings::load(&[SERVICE_DEFAULTS, KAFKA_DEFAULTS], None, std::iter::empty()).unwrap();
        let settings = settings.with("kafka_bootstrap_servers", "kafka:9092").unwrap();
        KafkaSettings::try_from(&settings.with("kafka_topic_prefix", "p-").unwrap()).unwrap()
    }

    #[test]
    fn every_refused_topic_is_named_with_the_command_that_creates_it() {
        let names = ["trip.replies", "trip.replies.dlq", "hotel.book"].map(str::to_owned);
        let new = NewTopics { names: &names, partitions: 8, replication_factor: 3 };
        let refuse = |name: &str, _| if name == "p-hotel.book" { Ok(()) } else { Err("not allowed".to_owned()) };
        let error = create_each(&settings(), new, &refuse).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Kafka refuses to create p-trip.replies (not allowed; `kafka-topics.sh --bootstrap-server kafka:9092 --create --topic p-trip.replies --partitions 8 --replication-factor 3 --config cleanup.policy=delete` creates it), p-trip.replies.dlq (not allowed; `kafka-topics.sh --bootstrap-server kafka:9092 --create --topic p-trip.replies.dlq --partitions 8 --replication-factor 3 --config max.message.bytes=2097152 --config retention.ms=-1 --config cleanup.policy=delete` creates it)"
        );
    }
}
