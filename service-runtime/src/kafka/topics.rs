//! The check at start that the topics are there: a service without its topics would wait for ever in silence.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tracing::warn;

use super::KafkaSettings;
use crate::Fatal;

/// Checks that all `topics` exist and answers the partition count that they share.
///
/// # Errors
/// When Kafka can't be reached within `startup_timeout_ms`, a topic is missing, or the counts differ.
pub async fn require_topics(settings: &KafkaSettings, service: &str, topics: &[String]) -> Result<u32, Fatal> {
    let (settings, service, topics) = (settings.clone(), service.to_owned(), topics.to_vec());
    let check = tokio::task::spawn_blocking(move || {
        let existing = topics_of_broker(&settings, &service, &topics)?;
        shared_partition_count(&settings, &topics, &existing)
    });
    check.await.map_err(|error| Fatal::new(format!("the check of the topics failed: {error}")))?
}

/// A topic that was just created may be unknown for a moment to the broker that is asked. Beyond it, it is missing.
const NEW_TOPICS: Duration = Duration::from_secs(8);

fn topics_of_broker(
    settings: &KafkaSettings,
    service: &str,
    topics: &[String],
) -> Result<HashMap<String, usize>, Fatal> {
    let servers = &settings.kafka_bootstrap_servers;
    let unusable = |error| Fatal::new(format!("KAFKA_BOOTSTRAP_SERVERS={servers}: {error}"));
    let client: BaseConsumer = settings
        .client(service)
        // Its connection errors would be logged one by one; the answer below says it in one line.
        .set("log_level", "0")
        .create()
        .map_err(unusable)?;
    let deadline = Instant::now() + Duration::from_millis(settings.startup_timeout_ms);
    let mut waiting = false;
    let mut answered: Option<Instant> = None;
    loop {
        match client.fetch_metadata(None, Duration::from_secs(2)) {
            Ok(metadata) => {
                let found: HashMap<String, usize> =
                    metadata.topics().iter().map(|t| (t.name().to_owned(), t.partitions().len())).collect();
                let all_there = topics.iter().all(|topic| found.contains_key(&settings.prefixed(topic)));
                if all_there || answered.get_or_insert_with(Instant::now).elapsed() > NEW_TOPICS {
                    return Ok(found);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(Fatal::new(format!(
                    "Kafka can't be reached at {servers}: {error}. Is it running? KAFKA_BOOTSTRAP_SERVERS says where it is"
                )));
            }
            Err(error) => {
                if !waiting {
                    warn!(%servers, %error, "waiting for Kafka");
                    waiting = true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
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
