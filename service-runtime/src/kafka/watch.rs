//! Looks every few seconds whether a consumer gets on, by a client of its own: what the consumer itself believes may be
//! what keeps it. (librdkafka ignores what it is told of a topic that was deleted and made anew, or of a Kafka that came
//! back empty, as out of date: its leaders' epochs begin anew. It went on for minutes and longer without reading.)
//!
//! What it finds goes to the group's state, for readiness, and into the metrics. It asks for the consumer to be made anew
//! where that helps: topics that were gone are back, a log is another one than before, records are there and none comes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::KafkaSettings;
use super::group::GroupState;
use super::heard::Heard;
use super::member::{Name, Renewal};
use super::offsets::{Offsets, Reached, TopicPartition};
use super::progress::{Progress, Renewals, Standing, Standstill};
use super::silence::{FoundTopic, Silence};
use super::watermarks::marks;
use crate::CancellationToken;
use crate::metrics::PartitionGauges;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(3);

/// A consumer that is in no group is made anew after so long beyond two sessions, while Kafka answers. To part the
/// partitions anew takes as long as a dead member's session.
const UNJOINED: Duration = Duration::from_secs(48);

/// What is reported has been so for so many looks in a row.
pub(super) const LASTING: u32 = 4;

/// So many standstills are named one by one.
const NAMED: usize = 3;

/// What Kafka has of each topic.
type Found = Vec<FoundTopic>;

/// The watch over one consumer.
pub(super) struct Watch {
    config: ClientConfig,
    /// By their names on Kafka.
    topics: Vec<String>,
    topic_prefix: String,
    service: &'static str,
    state: Arc<GroupState>,
    offsets: Arc<Offsets>,
    gauges: PartitionGauges,
    progress: Progress,
    renewals: Renewals,
    /// Topics were missing at the last look.
    missing: bool,
    /// So many looks were answered since the consumer was in its group; and how many are too many.
    unjoined: u32,
    max_unjoined: u32,
    /// For so many looks in a row these waited for a dead letter to be taken.
    held: HashMap<TopicPartition, u32>,
    silence: Silence,
    shown: HashSet<TopicPartition>,
}

impl Watch {
    pub fn new(
        settings: &KafkaSettings,
        service: &'static str,
        topics: Vec<String>,
        (state, offsets): (Arc<GroupState>, Arc<Offsets>),
        gauges: PartitionGauges,
    ) -> Self {
        let mut config = settings.client(service);
        // The group whose offsets are asked for. It is not joined.
        config.set("group.id", settings.prefixed(service)).set("enable.auto.commit", "false");
        Self {
            config,
            topics,
            topic_prefix: settings.kafka_topic_prefix.clone(),
            service,
            state,
            offsets,
            gauges,
            progress: Progress::default(),
            renewals: Renewals::default(),
            missing: false,
            unjoined: 0,
            max_unjoined: max_unjoined(settings.kafka_session_timeout_ms),
            held: HashMap::new(),
            silence: Silence::default(),
            shown: HashSet::new(),
        }
    }

    /// Looks until `stop`. Sends why the consumer has to be made anew.
    pub async fn run(mut self, renew: mpsc::Sender<Renewal>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Read before Kafka is asked: its ends are later then.
            let received = self.offsets.reached();
            let (config, topics) = (self.config.clone(), self.topics.clone());
            let asked = tokio::task::spawn_blocking(move || ask(client, &config, &topics));
            let Some(Ok((asked_by, found))) = stop.run_until_cancelled(asked).await else { break };
            client = asked_by;
            let found = match found {
                Ok(found) => found,
                // That no broker can be reached is noticed by the consumer.
                Err(error) => {
                    debug!(%error, group = self.service, "the watch got no answer");
                    continue;
                }
            };
            let why = self.judge(&found, &received);
            if self.state.is_hindered() || why.is_some() {
                // What it believes may be out of date too.
                client = forget(client).await;
            }
            if why.is_some_and(|why| renew.try_send(why).is_err()) {
                debug!(group = self.service, "the consumer is being made anew already");
            }
        }
    }

    /// What this look says to the state and the metrics, and why the consumer has to be made anew, if it has to.
    fn judge(&mut self, found: &Found, received: &HashMap<TopicPartition, Reached>) -> Option<Renewal> {
        let (now, afresh) = (Instant::now(), |why| Renewal { why, name: Name::New });
        let missing: Vec<&str> = self
            .topics
            .iter()
            .zip(found)
            .filter(|(_, found)| matches!(found, Ok(None)))
            .map(|(topic, _)| topic.as_str())
            .collect();
        if !missing.is_empty() {
            let text = format!("Kafka has no topic {}; `kafka-init` creates it", missing.join(", "));
            self.missing = true;
            self.hinder(Some(text));
            return None;
        }
        let counts: BTreeSet<usize> = found.iter().flatten().flatten().map(Vec::len).collect();
        if let Some(count) = counts.first().filter(|_| counts.len() == 1) {
            self.state.set_partitions(*count as u32);
        }
        let standings = self.standings(found, received);
        let still = self.progress.look(&standings, now);
        let silent = self.silence.look(&self.topics, found, &self.state.fetched());
        self.show(&standings, &still);
        if std::mem::take(&mut self.missing) {
            self.hinder(None);
            return Some(afresh("the topics that were gone are back".to_owned()));
        }
        if let Some(((topic, partition), _)) = standings.iter().find(|(_, standing)| standing.is_another_log()) {
            let text = format!("{topic} [{partition}] ends before what was read of it");
            self.hinder(Some(text.clone()));
            return self.renewals.due(now).then(|| afresh(text));
        }
        self.unjoined = if self.state.is_joined() { 0 } else { self.unjoined + 1 };
        if self.unjoined > self.max_unjoined && self.renewals.due(now) {
            self.unjoined = 0;
            return Some(Renewal { why: "it does not get into its group".to_owned(), name: Name::Same });
        }
        let held = self.held(received);
        if still.is_empty() {
            self.renewals.all_well(now);
            let differ = (counts.len() > 1).then(|| {
                format!(
                    "the topics have different partition counts {counts:?}; `kafka-init --grow` adds what is missing"
                )
            });
            self.hinder(silent.or(held).or(differ));
            return None;
        }
        let text = self.in_words(&still) + &silent.map_or_else(String::new, |silent| format!("; {silent}"));
        self.hinder(Some(text.clone()));
        self.renewals.due(now).then_some(Renewal { why: text, name: Name::Same })
    }

    /// A partition that has waited for long until a dead letter of its is taken.
    fn held(&mut self, received: &HashMap<TopicPartition, Reached>) -> Option<String> {
        let held = received.iter().filter(|(_, reached)| reached.is_held);
        let looks =
            held.map(|(partition, _)| (partition.clone(), self.held.get(partition).map_or(1, |looks| looks + 1)));
        self.held = looks.collect();
        let ((topic, partition), _) = self.held.iter().find(|(_, looks)| **looks >= LASTING)?;
        Some(format!("{topic} [{partition}] waits until Kafka takes a dead letter of its"))
    }

    /// Says what keeps the consumer, once, and once that nothing does any more.
    fn hinder(&self, why: Option<String>) {
        match (&why, self.state.is_hindered()) {
            (Some(why), false) => warn!(group = self.service, "{why}"),
            (None, true) => info!(group = self.service, "nothing keeps the consumer any more"),
            _ => {}
        }
        self.state.set_hindrance(why);
    }

    /// The partitions that are this consumer's.
    fn standings(&self, found: &Found, received: &HashMap<TopicPartition, Reached>) -> Vec<(TopicPartition, Standing)> {
        let all_paused = self.offsets.all_paused();
        let marks = self.topics.iter().zip(found).flat_map(|(topic, found)| {
            let known = found.iter().flatten().flatten().flatten();
            known.map(move |marks| ((topic.clone(), marks.partition), *marks))
        });
        let assigned = self.state.fetched();
        let standings = marks.filter_map(|(partition, marks)| {
            let fetched = *assigned.get(&partition)?;
            let reached = received.get(&partition);
            let standing = Standing {
                marks,
                fetched,
                received: reached.map(|reached| reached.received),
                done: reached.map(|reached| reached.done),
                paused: all_paused || reached.is_some_and(|reached| reached.is_held),
            };
            Some((partition, standing))
        });
        standings.collect()
    }

    fn show(&mut self, standings: &[(TopicPartition, Standing)], still: &[Standstill]) {
        // All that are assigned, also those of which nothing is known.
        let now: HashSet<TopicPartition> = self.state.fetched().into_keys().collect();
        for of in now.iter().filter(|of| self.silence.lasts(of)) {
            self.gauges.show_stalled(self.contract_name(&of.0), of.1);
        }
        for (topic, partition) in self.shown.difference(&now) {
            self.gauges.show_no_more(self.contract_name(topic), *partition);
        }
        for (of, standing) in standings {
            let stands_still = still.iter().any(|one| one.partition == *of);
            self.gauges.show(self.contract_name(&of.0), of.1, standing.lag(), stands_still);
        }
        self.shown = now;
    }

    fn in_words(&self, still: &[Standstill]) -> String {
        let mut words: Vec<String> = still.iter().take(NAMED).map(Standstill::to_string).collect();
        if still.len() > NAMED {
            words.push(format!("{} more partitions likewise", still.len() - NAMED));
        }
        let why = self.state.refusal().map_or_else(String::new, |why| format!(" ({why})"));
        words.join("; ") + &why
    }

    /// A topic's name without the installation's prefix.
    fn contract_name<'a>(&self, topic: &'a str) -> &'a str {
        topic.strip_prefix(&self.topic_prefix).unwrap_or(topic)
    }
}

fn max_unjoined(session_timeout_ms: u32) -> u32 {
    let looks = (2 * u64::from(session_timeout_ms) + UNJOINED.as_millis() as u64) / EVERY.as_millis() as u64;
    looks.try_into().unwrap_or(u32::MAX)
}

/// Asks what Kafka has, by the client of the last time if there is one. It is given back while it gets answers.
pub(super) fn ask(
    client: Option<BaseConsumer<Heard>>,
    config: &ClientConfig,
    topics: &[String],
) -> (Option<BaseConsumer<Heard>>, Result<Found, KafkaError>) {
    let client = match client.map_or_else(|| config.create_with_context(Heard::default()), Ok) {
        Ok(client) => client,
        Err(error) => return (None, Err(error)),
    };
    let found = topics.iter().map(|topic| match marks(&client, topic, true) {
        // A local error: no broker has answered, and none will for the next topic.
        Err(KafkaError::MetadataFetch(code)) if (code as i32) < 0 => Err(KafkaError::MetadataFetch(code)),
        found => Ok(found),
    });
    let found = found.collect();
    match found {
        Ok(found) => (Some(client), Ok(found)),
        Err(error) => (None, Err(error)),
    }
}

/// Closes a client, which may wait for a broker.
async fn forget(client: Option<BaseConsumer<Heard>>) -> Option<BaseConsumer<Heard>> {
    let _ = tokio::task::spawn_blocking(move || drop(client)).await;
    None
}
