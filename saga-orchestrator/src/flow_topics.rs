//! The topics of users' flows: created when a flow is published, and looked at as long as it is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flow::Flow;
use messages::dead_letter_topic;
use service_runtime::CancellationToken;
use service_runtime::kafka::{CreationError, KafkaSettings, TopicCreation};
use tracing::{info, warn};

use crate::registry::{Flows, is_built_in};

/// How often the topics of published flows are looked at.
const KEEP_TOPICS: Duration = Duration::from_secs(30);

/// How topics of flows are created.
#[derive(Debug, Clone)]
pub struct Topics {
    pub creation: TopicCreation,
    pub kafka: KafkaSettings,
}

impl Topics {
    /// Creates those that are missing, with as many partitions as the platform's have.
    pub async fn create(&self, topics: &[String]) -> Result<(), CreationError> {
        if topics.is_empty() {
            return Ok(());
        }
        let made = self.creation.create(&self.kafka, crate::NAME, topics, messages::Event::TOPICS[0]).await?;
        for (topic, partitions) in made.different {
            let wanted = made.partitions;
            warn!(
                topic,
                partitions,
                wanted,
                "a topic has another number of partitions than the platform's: replies may come to another instance than the one that waits"
            );
        }
        if !made.created.is_empty() {
            info!(topics = made.created.join(", "), "topics of published flows were created");
        }
        Ok(())
    }
}

/// The topics that a flow needs beside the platform's: of its commands, its replies, the events that start it, and the dead
/// letters of the latter two.
pub fn topics(flow: &Flow) -> Vec<String> {
    if is_built_in(flow) {
        return Vec::new();
    }
    let commands = flow.own_command_topics().into_iter().map(str::to_owned);
    let read = [flow.reply_topic()].into_iter().chain(flow.start.topic.clone());
    commands.chain(read.flat_map(|topic| [dead_letter_topic(&topic), topic])).collect()
}

/// Sees until `stop` that the topics of published flows are there: an embedded Kafka is empty after a start, and a real
/// one may have been emptied.
pub async fn keep_topics(flows: Arc<Flows>, creation: Topics, stop: CancellationToken) {
    let mut published = flows.reply_topics();
    let mut trouble = false;
    loop {
        let wanted: BTreeSet<String> = flows.all().iter().flat_map(|flow| topics(flow)).collect();
        if !wanted.is_empty() {
            let wanted: Vec<String> = wanted.into_iter().collect();
            match creation.create(&wanted).await {
                Ok(()) => trouble = false,
                Err(why) if !trouble => {
                    warn!(%why, "topics of published flows are missing and can't be created; trying on");
                    trouble = true;
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(KEEP_TOPICS) => {}
            changed = published.changed() => if changed.is_err() { return },
        }
    }
}
