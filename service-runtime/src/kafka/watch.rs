//! Looks every few seconds whether a consumer gets on, by a client of its own: what the consumer itself believes may be
//! what keeps it. (librdkafka ignores what it is told of a topic that was deleted and made anew, or of a Kafka that came
//! back empty, as out of date: its leaders' epochs begin anew. It went on for minutes and longer without reading.)
//!
//! What it finds goes to the group's state, for readiness, and into the metrics. It asks for the consumer to be made anew
//! where that helps: topics that were gone are back, a log is another one than before, records are there and none comes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::closing;
use super::member::{Change, Membership, Name, Renewal};
use super::offsets::{Reached, TopicPartition};
use super::progress::{Progress, Renewals, Standing, Standstill};
use super::silence::{FoundTopic, Silence};
use super::watermarks;
use super::{KafkaSettings, PartitionMarks};
use crate::CancellationToken;
use crate::metrics::PartitionGauges;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(3);

/// A consumer that is in no group is made anew after so long beyond two sessions, while Kafka answers. To part the
/// partitions anew takes as long as a dead member's session.
const UNJOINED: Duration = Duration::from_secs(48);

/// What is reported has been so for so many looks in a row.
pub(super) const LASTING: u32 = 4;

/// While so many consumers are being closed, the watch keeps its client: where a closing does not end, it makes no more.
const MAX_CLOSING: usize = 4;

/// So many standstills are named one by one.
const NAMED: usize = 3;

/// The watch over one consumer.
pub(super) struct Watch {
    config: ClientConfig,
    topic_prefix: String,
    membership: Arc<Membership>,
    /// There may be more topics later, and each is on its own: one that is lacking keeps no other.
    grows: bool,
    gauges: PartitionGauges,
    progress: Progress,
    renewals: Renewals,
    /// The topics that were lacking when Kafka last said whether they are there.
    lacking: HashSet<String>,
    /// For so many looks in a row the partitions of one topic were others than those of another.
    uneven: u32,
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
        membership: Arc<Membership>,
        grows: bool,
        gauges: PartitionGauges,
    ) -> Self {
        let mut config = settings.client(service);
        // The group whose offsets are asked for. It is not joined.
        config.set("group.id", settings.prefixed(membership.group)).set("enable.auto.commit", "false");
        Self {
            config,
            topic_prefix: settings.kafka_topic_prefix.clone(),
            membership,
            grows,
            gauges,
            progress: Progress::default(),
            renewals: Renewals::default(),
            lacking: HashSet::new(),
            uneven: 0,
            unjoined: 0,
            max_unjoined: max_unjoined(settings.kafka_session_timeout_ms),
            held: HashMap::new(),
            silence: Silence::default(),
            shown: HashSet::new(),
        }
    }

    /// Looks until `stop`. Asks for the consumer to be made anew.
    pub async fn run(mut self, ask: mpsc::Sender<Change>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Read before Kafka is asked: its ends are later then.
            let received = self.membership.offsets.reached();
            let (config, topics) = (self.config.clone(), self.membership.topics());
            if topics.is_empty() {
                client = None;
                continue;
            }
            let asked_for = topics.clone();
            let asked = tokio::task::spawn_blocking(move || watermarks::ask(client, &config, &asked_for));
            let Some(Ok((asked_by, found))) = stop.run_until_cancelled(asked).await else { break };
            client = asked_by;
            let found = match found {
                Ok(found) => found,
                // That no broker can be reached is noticed by the consumer.
                Err(error) => {
                    debug!(%error, group = self.membership.group, "the watch got no answer");
                    if closing::under_way() < MAX_CLOSING {
                        client = None;
                    }
                    continue;
                }
            };
            let found: Vec<(&str, FoundTopic)> = topics.iter().map(String::as_str).zip(found).collect();
            let renewal = self.judge(&found, &received);
            if (self.membership.state.is_hindered() || renewal.is_some()) && closing::under_way() < MAX_CLOSING {
                // What it believes may be out of date too.
                client = None;
            }
            if let Some(renewal) = renewal {
                // It is taken within a second.
                let _ = stop.run_until_cancelled(ask.send(Change::Renew(renewal))).await;
            }
        }
    }

    /// What this look says to the state and the metrics, and why the consumer has to be made anew, if it has to.
    fn judge(&mut self, found: &[(&str, FoundTopic)], received: &HashMap<TopicPartition, Reached>) -> Option<Renewal> {
        let (now, afresh) = (Instant::now(), |why| Renewal { why, name: Name::New });
        let lacks = self.lacks(found);
        let there: Vec<(&str, &Vec<_>)> = found
            .iter()
            .filter_map(|(topic, found)| match found {
                Ok(Some(marks)) => Some((*topic, marks)),
                Ok(None) | Err(_) => None,
            })
            .collect();
        let before = self.lacking.clone();
        self.lacking.retain(|topic| found.iter().any(|(asked, _)| asked == topic));
        for (topic, found) in found {
            match found {
                Ok(Some(_)) => drop(self.lacking.remove(*topic)),
                found if is_lacking(found) => drop(self.lacking.insert((*topic).to_owned())),
                // For a moment Kafka can't say: of a topic that was just made, or whose group's coordinator begins.
                _ => {}
            }
        }
        if lacks.is_some() && (there.is_empty() || !self.grows) {
            self.hinder(lacks);
            return None;
        }
        let counts: BTreeSet<usize> = there.iter().map(|(_, marks)| marks.len()).collect();
        if let Some(count) = counts.first().filter(|_| counts.len() == 1) {
            self.membership.state.set_partitions(*count as u32);
        }
        let standings = self.standings(&there, received);
        let still = self.progress.look(&standings, now);
        let silent = self.silence.look(found, &self.membership.state.fetched());
        self.show(&standings, &still);
        if before.iter().any(|topic| there.iter().any(|(one, _)| one == topic)) {
            self.hinder(lacks);
            return Some(afresh("topics that were gone are back".to_owned()));
        }
        if let Some(((topic, partition), _)) = standings.iter().find(|(_, standing)| standing.is_another_log()) {
            let text = format!("{topic} [{partition}] ends before what was read of it");
            self.hinder(Some(text.clone()));
            return self.renewals.due(now).then(|| afresh(text));
        }
        self.unjoined = if self.membership.state.is_joined() { 0 } else { self.unjoined + 1 };
        if self.unjoined > self.max_unjoined && self.renewals.due(now) {
            self.unjoined = 0;
            return Some(Renewal { why: "it does not get into its group".to_owned(), name: Name::Same });
        }
        let uneven = self.uneven(&there).filter(|_| counts.len() == 1);
        self.uneven = if uneven.is_some() { self.uneven + 1 } else { 0 };
        if let Some(text) = uneven.filter(|_| self.uneven >= LASTING) {
            self.hinder(Some(text.clone()));
            return self.renewals.due(now).then(|| afresh(text));
        }
        let held = self.held(received);
        if still.is_empty() {
            self.renewals.all_well(now);
            let differ = (counts.len() > 1).then(|| {
                format!(
                    "the topics have different partition counts {counts:?}; `kafka-init --grow` adds what is missing"
                )
            });
            self.hinder(lacks.or(silent).or(held).or(differ));
            return None;
        }
        let text = self.in_words(&still);
        self.hinder(Some(lacks.into_iter().chain(silent).chain([text.clone()]).collect::<Vec<_>>().join("; ")));
        self.renewals.due(now).then_some(Renewal { why: text, name: Name::Same })
    }

    /// The topics that Kafka does not have, in words.
    fn lacks(&self, found: &[(&str, FoundTopic)]) -> Option<String> {
        let missing: Vec<&str> =
            found.iter().filter(|(_, found)| matches!(found, Ok(None))).map(|(topic, _)| *topic).collect();
        let is_platforms = |topic: &&str| !self.grows || messages::TOPICS.contains(&self.contract_name(topic));
        let by = if missing.iter().all(is_platforms) { "kafka-init" } else { "kafka-init --topic NAME" };
        (!missing.is_empty()).then(|| format!("Kafka has no topic {}; `{by}` creates it", missing.join(", ")))
    }

    /// Whether this member has other partitions of one topic than of another one. All topics have as many, and all members
    /// want the same, so a group that parts them now gives each member the same of each. One that has parted them before
    /// there was this topic gives a static member, when it comes back, what it had.
    fn uneven(&self, there: &[(&str, &Vec<Result<PartitionMarks, KafkaError>>)]) -> Option<String> {
        if !self.grows || !self.membership.state.is_joined() {
            return None;
        }
        let mut by_topic: BTreeMap<&str, BTreeSet<i32>> =
            there.iter().map(|(topic, _)| (*topic, BTreeSet::new())).collect();
        let assigned = self.membership.state.fetched();
        for (topic, partition) in assigned.keys() {
            by_topic.entry(topic).or_default().insert(*partition);
        }
        let mut by_topic = by_topic.into_iter();
        let (first, of_first) = by_topic.next()?;
        let (other, _) = by_topic.find(|(_, partitions)| *partitions != of_first)?;
        Some(format!("it has other partitions of {other} than of {first}"))
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
        let Membership { group, state, .. } = &*self.membership;
        match (&why, state.is_hindered()) {
            (Some(why), false) => warn!(group, "{why}"),
            (None, true) => info!(group, "nothing keeps the consumer any more"),
            _ => {}
        }
        state.set_hindrance(why);
    }

    /// The partitions that are this consumer's.
    fn standings(
        &self,
        there: &[(&str, &Vec<Result<PartitionMarks, KafkaError>>)],
        received: &HashMap<TopicPartition, Reached>,
    ) -> Vec<(TopicPartition, Standing)> {
        let all_paused = self.membership.offsets.all_paused();
        let marks = there.iter().flat_map(|(topic, found)| {
            let known = found.iter().filter_map(|marks| marks.as_ref().ok());
            known.map(move |marks| (((*topic).to_owned(), marks.partition), *marks))
        });
        let assigned = self.membership.state.fetched();
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
        let now: HashSet<TopicPartition> = self.membership.state.fetched().into_keys().collect();
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
        let why = self.membership.state.refusal().map_or_else(String::new, |why| format!(" ({why})"));
        words.join("; ") + &why
    }

    /// A topic's name without the installation's prefix.
    fn contract_name<'a>(&self, topic: &'a str) -> &'a str {
        topic.strip_prefix(&self.topic_prefix).unwrap_or(topic)
    }
}

/// Whether there is no such topic, or this consumer may not see it.
fn is_lacking(found: &FoundTopic) -> bool {
    match found {
        Ok(found) => found.is_none(),
        Err(error) => error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed),
    }
}

fn max_unjoined(session_timeout_ms: u32) -> u32 {
    let looks = (2 * u64::from(session_timeout_ms) + UNJOINED.as_millis() as u64) / EVERY.as_millis() as u64;
    looks.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use rdkafka::TopicPartitionList;

    use super::super::GroupState;
    use super::*;
    use crate::metrics::Metrics;
    use crate::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings};

    /// Of a member that has these partitions.
    fn watch(grows: bool, assigned: &[(&str, i32)]) -> Watch {
        let settings = Settings::load(&[SERVICE_DEFAULTS, KAFKA_DEFAULTS], None, std::iter::empty()).unwrap();
        let settings = KafkaSettings::try_from(&settings).unwrap();
        let metrics = Metrics::of("test");
        let membership = Membership::without_topics(&settings, "test", "test", GroupState::new(0), &metrics);
        membership.state.set_idle(false);
        let mut list = TopicPartitionList::new();
        for (topic, partition) in assigned {
            list.add_partition(topic, *partition);
        }
        membership.state.assign(&list);
        let gauges = metrics.kafka_consumer(|| true).partitions;
        Watch::new(&settings, "test", Arc::new(membership), grows, gauges)
    }

    /// A topic with two partitions, each with so many records of which none was read.
    fn there(records: i64) -> FoundTopic {
        let marks = |partition| Ok(PartitionMarks { partition, low: 0, high: records, committed: None });
        Ok(Some(vec![marks(0), marks(1)]))
    }

    #[test]
    fn a_missing_topic_keeps_the_others_of_a_growing_consumer_from_nothing() {
        let after = |grows| {
            let mut watch = watch(grows, &[("here", 0), ("here", 1)]);
            let found = [("gone", Ok(None)), ("here", there(5))];
            let renewals = (0..6).filter(|_| watch.judge(&found, &HashMap::new()).is_some()).count();
            (renewals, watch.membership.state.trouble().unwrap())
        };
        let (renewals, trouble) = after(true);
        assert_eq!(renewals, 1, "the one that stands still");
        assert!(trouble.contains("no topic gone; ") && trouble.contains("here [0]: 5 records"), "{trouble}");
        let (renewals, trouble) = after(false);
        assert_eq!((renewals, &*trouble), (0, "Kafka has no topic gone; `kafka-init` creates it"));
    }

    #[test]
    fn a_topic_that_comes_back_or_is_refused_no_more_renews_the_member_once() {
        let mut watch = watch(true, &[("a", 0), ("b", 0), ("a", 1), ("b", 1)]);
        let refused = Err(KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed));
        let renewed = [Ok(None), there(0), there(0), refused, there(0), there(0)].map(|of_b| {
            let renewal = watch.judge(&[("a", there(0)), ("b", of_b)], &HashMap::new());
            renewal.map(|renewal| renewal.name)
        });
        assert_eq!(renewed, [None, Some(Name::New), None, None, Some(Name::New), None]);
        assert_eq!(watch.membership.state.trouble(), None);
    }

    #[test]
    fn a_topic_that_comes_back_renews_the_member_also_if_nothing_was_known_of_it_in_between() {
        let mut watch = watch(false, &[]);
        let unknown = || Err(KafkaError::OffsetFetch(RDKafkaErrorCode::CoordinatorLoadInProgress));
        let renewed = [Ok(None), unknown(), unknown(), there(0), there(0)].map(|of_a| {
            let renewal = watch.judge(&[("a", of_a)], &HashMap::new());
            renewal.map(|renewal| renewal.name)
        });
        assert_eq!(renewed, [None, None, None, Some(Name::New), None]);
    }

    #[test]
    fn a_member_without_the_partitions_of_a_new_topic_joins_by_a_new_name() {
        let renewed = |grows, assigned: &[(&str, i32)]| {
            let mut watch = watch(grows, assigned);
            let look =
                |_| watch.judge(&[("a", there(0)), ("b", there(0))], &HashMap::new()).map(|renewal| renewal.name);
            [1, 2, 3, 4, 5].map(look)
        };
        let before_b = [("a", 0), ("a", 1)];
        assert_eq!(renewed(true, &before_b), [None, None, None, Some(Name::New), None]);
        assert_eq!(renewed(false, &before_b), [None; 5]);
        assert_eq!(renewed(true, &[("a", 0), ("b", 0)]), [None; 5]);
        assert_eq!(renewed(true, &[]), [None; 5], "the others have them all");
    }
}
