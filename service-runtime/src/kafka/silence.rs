//! Topics and partitions of which Kafka does not say how far they reach: an ACL refuses the topic, a partition has no
//! leader. Nothing can be judged of them, and nothing is read; the others are judged as ever.

use std::collections::HashMap;

use rdkafka::error::KafkaError;

use super::PartitionMarks;
use super::offsets::TopicPartition;
use super::watch::LASTING;

/// What one look finds of a topic's partitions, in order; `None`: there is no such topic.
pub(super) type FoundTopic = Result<Option<Vec<Result<PartitionMarks, KafkaError>>>, KafkaError>;

/// For how many looks in a row nothing was known of a topic (without a partition) or a partition. A new leader is elected
/// in less than a few.
#[derive(Default)]
pub(super) struct Silence(HashMap<(String, Option<i32>), u32>);

impl Silence {
    /// Notes a look. Returns of what nothing has been known for long, and why: of a topic, or of a partition that is
    /// among the `assigned`.
    pub fn look<T>(&mut self, found: &[(&str, FoundTopic)], assigned: &HashMap<TopicPartition, T>) -> Option<String> {
        let mut now = HashMap::new();
        for (topic, found) in found {
            let topic = (*topic).to_owned();
            match found {
                Err(error) => drop(now.insert((topic, None), error)),
                Ok(marks) => {
                    for (partition, marks) in (0..).zip(marks.iter().flatten()) {
                        let Err(error) = marks else { continue };
                        if assigned.contains_key(&(topic.clone(), partition)) {
                            now.insert((topic.clone(), Some(partition)), error);
                        }
                    }
                }
            }
        }
        let looks = |of| self.0.get(of).map_or(1, |before| before + 1);
        self.0 = now.keys().map(|of| (of.clone(), looks(of))).collect();
        let lasting = self.0.iter().filter(|(_, looks)| **looks >= LASTING).map(|(of, _)| of).min()?;
        let partition = lasting.1.map_or_else(String::new, |partition| format!(" [{partition}]"));
        Some(format!("Kafka does not say how far {}{partition} reaches: {}", lasting.0, now[lasting]))
    }

    /// Whether nothing has been known of this partition for long.
    pub fn lasts(&self, (topic, partition): &TopicPartition) -> bool {
        let of = [None, Some(*partition)].map(|partition| self.0.get(&(topic.clone(), partition)));
        of.into_iter().flatten().any(|looks| *looks >= LASTING)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::RDKafkaRespErr;

    use super::super::watermarks::ask;
    use super::*;

    #[tokio::test]
    async fn a_topic_that_is_refused_and_a_partition_without_a_leader_are_named_and_the_others_judged() {
        let kafka = MockCluster::new(1).unwrap();
        let topics = ["fine", "leaderless", "refused"].map(str::to_owned);
        for topic in &topics {
            kafka.create_topic(topic, 2, 1).unwrap();
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.bootstrap_servers()).set("group.id", "watch");
        let look = async || {
            let (config, topics) = (config.clone(), topics.to_vec());
            let found = tokio::task::spawn_blocking(move || ask(None, &config, &topics).1).await.unwrap().unwrap();
            ["fine", "leaderless", "refused"].into_iter().zip(found).collect::<Vec<_>>()
        };
        let assigned: HashMap<TopicPartition, ()> =
            [("fine", 0), ("leaderless", 1), ("refused", 0)].map(|(topic, n)| ((topic.to_owned(), n), ())).into();
        let mut silence = Silence::default();
        assert_eq!(silence.look(&look().await, &assigned), None);

        kafka.partition_leader("leaderless", 0, None).unwrap();
        kafka.partition_leader("leaderless", 1, None).unwrap();
        let found = look().await;
        // Partition 0 is another instance's to report.
        let told = (0..LASTING).map(|_| silence.look(&found, &assigned)).collect::<Vec<_>>();
        let why = "Kafka does not say how far leaderless [1] reaches: ";
        assert!(told.iter().rev().skip(1).all(Option::is_none), "{told:?}");
        assert!(told.iter().flatten().all(|told| told.starts_with(why) && told.contains("Leader")), "{told:?}");
        assert_eq!(told.iter().flatten().count(), 1);
        let lasts = |silence: &Silence| {
            [("fine", 0), ("leaderless", 1), ("refused", 0)].map(|(topic, n)| silence.lasts(&(topic.to_owned(), n)))
        };
        assert_eq!(lasts(&silence), [false, true, false]);

        kafka.partition_leader("leaderless", 1, Some(1)).unwrap();
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        kafka.topic_error("refused", refusal).unwrap();
        let found = look().await;
        assert!(matches!(&found[0].1, Ok(Some(marks)) if marks.iter().all(Result::is_ok)), "{found:?}");
        let told = (0..LASTING).filter_map(|_| silence.look(&found, &assigned)).next_back();
        let told = told.unwrap();
        assert!(told.starts_with("Kafka does not say how far refused reaches: "), "{told}");
        assert_eq!(lasts(&silence), [false, false, true]);
    }
}
