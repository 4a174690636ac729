//! What a topic has to be like, and what differs from it. Pure.

use service_runtime::kafka::{DEAD_LETTER_MAX_BYTES, is_dead_letter_topic};

/// The least time that the other topics keep records, in ms: a day. What a service that is away for longer has not read
/// is not lost, since the rows send it again, but much later.
const LEAST_RETENTION_MS: i64 = 24 * 3_600_000;

/// For ever.
const UNLIMITED: i64 = -1;

/// What is known of a topic that is there. Settings are those in force, whoever has made them.
#[derive(Debug, Clone, Default)]
pub struct Topic {
    pub name: String,
    pub partitions: usize,
    /// Of each partition, the least.
    pub replicas: usize,
    /// Names and values. `None`: they may not be read.
    pub settings: Option<Vec<(String, String)>>,
}

/// What differs from what is wanted, but for the number of partitions, in sentences. `replication_factor`: if it is known
/// how many are wanted.
pub(crate) fn differences(topic: &Topic, replication_factor: Option<usize>) -> Vec<String> {
    let Topic { name, replicas, settings, .. } = topic;
    let mut found = Vec::new();
    if let Some(wanted) = replication_factor.filter(|wanted| wanted != replicas) {
        found.push(format!("{name} has {replicas} replicas of a partition, {wanted} are wanted"));
    }
    let Some(settings) = settings else { return found };
    let setting = |key: &str| settings.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
    let number = |key: &str| setting(key).and_then(|value| value.parse::<i64>().ok());
    let mut differs = |key: &str, wanted: &str, is_wrong: &dyn Fn(i64) -> bool| {
        if let Some(value) = number(key).filter(|value| is_wrong(*value)) {
            found.push(format!("{name} has {key}={value}, {wanted} is wanted"));
        }
    };
    differs("min.insync.replicas", &format!("at most {replicas}, its replicas,"), &|value| value > *replicas as i64);
    if is_dead_letter_topic(name) {
        differs("retention.ms", "-1", &|value| value != UNLIMITED);
        differs("retention.bytes", "-1", &|value| value != UNLIMITED);
        let least = format!("{DEAD_LETTER_MAX_BYTES} or more");
        differs("max.message.bytes", &least, &|value| value < DEAD_LETTER_MAX_BYTES);
    } else {
        let least = format!("{LEAST_RETENTION_MS} or more, or -1,");
        differs("retention.ms", &least, &|value| value != UNLIMITED && value < LEAST_RETENTION_MS);
    }
    if let Some(policy) = setting("cleanup.policy").filter(|policy| *policy != "delete") {
        found.push(format!("{name} has cleanup.policy={policy}, delete is wanted"));
    }
    found
}

/// The number of partitions that topics which are there have agreed on. Only those count that `kafka-init` has made: each
/// has its dead-letter topic beside it. One that a broker made by itself (`auto.create.topics.enable`) has none.
pub(crate) fn adopted_partitions(topics: &[Topic]) -> Option<i32> {
    let is_there = |name: &str| topics.iter().any(|topic| topic.name == name);
    let made = topics.iter().find(|topic| is_there(&messages::dead_letter_topic(&topic.name)))?;
    i32::try_from(made.partitions).ok()
}

#[cfg(test)]
mod tests {
    use service_runtime::kafka::new_topic_settings;

    use super::*;

    fn topic(name: &str, settings: &[(&str, &str)]) -> Topic {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Topic { name: name.to_owned(), partitions: 8, replicas: 1, settings: Some(settings) }
    }

    #[test]
    fn what_is_created_is_what_is_wanted() {
        for name in ["payment.charged", "payment.charged.dlq"] {
            let settings = new_topic_settings(name);
            let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            assert_eq!(differences(&topic(name, &settings), Some(1)), Vec::<String>::new());
        }
    }

    #[test]
    fn each_difference_is_told_with_what_is_wanted() {
        for (name, key, value, wanted) in [
            ("t", "cleanup.policy", "compact", "delete"),
            ("t", "cleanup.policy", "compact,delete", "delete"),
            ("t", "retention.ms", "60000", "86400000 or more"),
            ("t", "min.insync.replicas", "2", "at most 1"),
            ("t.dlq", "retention.ms", "604800000", "-1"),
            ("t.dlq", "retention.bytes", "1000000", "-1"),
            ("t.dlq", "max.message.bytes", "1048588", "2097152 or more"),
        ] {
            let found = differences(&topic(name, &[(key, value)]), None);
            let [difference] = &found[..] else { panic!("{key}={value}: {found:?}") };
            assert!(
                difference.contains(&format!("{name} has {key}={value}")) && difference.contains(wanted),
                "{found:?}"
            );
        }
        let found = differences(&topic("t", &[]), Some(3));
        assert_eq!(found, ["t has 1 replicas of a partition, 3 are wanted"]);
    }

    #[test]
    fn what_is_as_good_as_wanted_is_left_alone() {
        for (name, key, value) in [
            ("t", "retention.ms", "-1"),
            ("t", "retention.ms", "604800000"),
            ("t", "min.insync.replicas", "1"),
            ("t.dlq", "max.message.bytes", "10000000"),
        ] {
            assert_eq!(differences(&topic(name, &[(key, value)]), None), Vec::<String>::new(), "{name} {key}={value}");
        }
        let unreadable = Topic { settings: None, ..topic("t", &[]) };
        assert_eq!(differences(&unreadable, None), Vec::<String>::new());
    }

    #[test]
    fn the_partitions_of_a_topic_that_a_broker_made_by_itself_are_not_adopted() {
        let of = |name: &str, partitions| Topic { partitions, ..topic(name, &[]) };
        assert_eq!(adopted_partitions(&[of("a", 1)]), None);
        assert_eq!(adopted_partitions(&[of("a", 1), of("b", 5), of("b.dlq", 5)]), Some(5));
    }
}
