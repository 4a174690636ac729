//! The check at start that the topics are there: a service without its topics would wait for ever in silence.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::MetadataTopic;
use tracing::warn;

use super::KafkaSettings;
use super::heard::{self, Heard};
use crate::Fatal;

/// Checks that all `topics` exist and answers the partition count that they share.
///
/// # Errors
/// When Kafka can't be reached within `startup_timeout_ms`, a topic is missing, or the counts differ.
pub async fn require_topics(settings: &KafkaSettings, service: &str, topics: &[String]) -> Result<u32, Fatal> {
    let (settings, service, topics) = (settings.clone(), service.to_owned(), topics.to_vec());
    let check = tokio::task::spawn_blocking(move || {
        let limit = Duration::from_millis(settings.startup_timeout_ms);
        let mut existing = existing_topics(&settings, &service, limit)?;
        let answered = Instant::now();
        while !topics.iter().all(|topic| existing.contains_key(&settings.prefixed(topic)))
            && answered.elapsed() < NEW_TOPICS
        {
            std::thread::sleep(Duration::from_millis(100));
            existing = existing_topics(&settings, &service, limit)?;
        }
        shared_partition_count(&settings, &topics, &existing)
    });
    check.await.map_err(|error| Fatal::new(format!("the check of the topics failed: {error}")))?
}

/// A topic that was just created may be unknown for a moment to the broker that is asked. Beyond it, it is missing.
const NEW_TOPICS: Duration = Duration::from_secs(8);

/// The topics of a broker, with their partition counts, once it answers. Blocks its thread.
///
/// # Errors
/// When it does not answer within `limit`; tells the last that was heard of why.
pub fn existing_topics(
    settings: &KafkaSettings,
    client: &str,
    limit: Duration,
) -> Result<HashMap<String, usize>, Fatal> {
    let topics = existing_shapes(settings, client, limit)?;
    Ok(topics.into_iter().map(|(name, shape)| (name, shape.partitions)).collect())
}

/// What all partitions of a topic share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub partitions: usize,
    /// Of each partition, the least.
    pub replicas: usize,
}

/// The same, with how often each partition is there.
pub(super) fn existing_shapes(
    settings: &KafkaSettings,
    client: &str,
    limit: Duration,
) -> Result<HashMap<String, Shape>, Fatal> {
    let servers = &settings.kafka_bootstrap_servers;
    let unusable = |error| Fatal::new(format!("KAFKA_BOOTSTRAP_SERVERS={servers}: {error}"));
    let asking: BaseConsumer<Heard> =
        settings.client(client).create_with_context(Heard::default()).map_err(unusable)?;
    let deadline = Instant::now() + limit;
    let mut waiting = false;
    loop {
        let error = match asking.fetch_metadata(None, Duration::from_secs(2)) {
            Ok(metadata) => {
                let shape = |topic: &MetadataTopic| Shape {
                    partitions: topic.partitions().len(),
                    replicas: topic.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or_default(),
                };
                return Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), shape(topic))).collect());
            }
            Err(error) => heard::why(&asking, &error),
        };
        if Instant::now() >= deadline {
            return Err(heard::no_answer(servers, &error));
        }
        if !waiting {
            warn!(%servers, %error, "waiting for Kafka");
            waiting = true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn shared_partition_count(
    settings: &KafkaSettings,
    topics: &[String],
    existing: &HashMap<String, usize>,
) -> Result<u32, Fatal> {
    let servers = &settings.kafka_bootstrap_servers;
    let names: Vec<String> = topics.iter().map(|topic| settings.prefixed(topic)).collect();
    let missing: Vec<&str> = names.iter().filter(|name| !existing.contains_key(*name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(Fatal::new(format!(
            "Kafka at {servers} lacks {} of the topics: {}. `kafka-init` creates them",
            missing.len(),
            missing.join(", ")
        )));
    }
    let mut counts: Vec<usize> = names.iter().filter_map(|name| existing.get(name).copied()).collect();
    counts.sort_unstable();
    counts.dedup();
    match counts[..] {
        [count] => Ok(count as u32),
        _ => Err(Fatal::new(format!(
            "the topics at {servers} have different partition counts ({counts:?}): replies would not reach the process that waits for them"
        ))),
    }
}
