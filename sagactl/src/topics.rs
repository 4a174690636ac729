//! `topics`: what stands on Kafka: how much each topic keeps, how far its readers lag, how much was set aside.

use std::io::Write;

use clap::Args;
use messages::dead_letter_topic;
use messages::groups::{GROUPS, Group};
use serde_json::json;
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, PartitionMarks, group_marks, watermarks};

use crate::paint::{Paint, table};
use crate::sagas::print;

/// By which name the broker knows us.
pub(crate) const CLIENT: &str = "sagactl";

/// Where Kafka is.
#[derive(Debug, Clone, Args)]
pub struct KafkaAddress {
    /// Where Kafka is: one or more brokers
    #[arg(
        long,
        alias = "brokers",
        env = "KAFKA_BOOTSTRAP_SERVERS",
        value_name = "HOST:PORT",
        default_value = "localhost:9092"
    )]
    kafka: String,
    /// What the topics' names begin with
    #[arg(long, env = "KAFKA_TOPIC_PREFIX", value_name = "PREFIX", default_value = "", hide_default_value = true)]
    topic_prefix: String,
}

impl KafkaAddress {
    /// As settings, with the defaults for all else.
    ///
    /// # Errors
    /// When no broker is named.
    pub fn settings(&self) -> Result<KafkaSettings, Fatal> {
        Ok(KafkaSettings::at(&self.kafka, &self.topic_prefix)?)
    }
}

/// A topic, its one group of readers, and its dead letters.
struct Stand {
    topic: &'static str,
    group: &'static str,
    partitions: Vec<PartitionMarks>,
    set_aside: u64,
}

/// Prints a line for each topic: a table, or an object a line.
///
/// # Errors
/// When Kafka can't be asked.
pub async fn topics(kafka: &KafkaAddress, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let stands = read(&kafka.settings()?).await?;
    if as_json {
        return stands.iter().try_for_each(|stand| print(out, &whole(stand).to_string()));
    }
    let rows: Vec<Vec<String>> = stands.iter().map(row).collect();
    // What nobody has to look at is not painted.
    let painted = |row: usize, column: usize, cell: String| {
        let stand = &stands[row];
        match column {
            1 if stand.partitions.is_empty() => paint.state("FAILED", &cell),
            4 if stand.lag() > 0 => paint.state("COMPENSATING", &cell),
            5 if stand.set_aside > 0 => paint.state("FAILED", &cell),
            _ => cell,
        }
    };
    let titles = ["TOPIC", "PARTITIONS", "RECORDS", "OFFSETS", "LAG", "SET ASIDE", "READ BY"];
    print(out, &table(&titles, &rows, painted))
}

async fn read(settings: &KafkaSettings) -> Result<Vec<Stand>, Fatal> {
    let mut stands = Vec::new();
    for group in GROUPS {
        let Group { name, topics: names, .. } = group;
        let read = group_marks(settings, CLIENT, &group).await?;
        let letters: Vec<String> = names.iter().map(|topic| dead_letter_topic(topic)).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let set_aside = watermarks(settings, CLIENT, None, &letters).await?;
        let both = read.into_iter().zip(set_aside);
        stands.extend(names.iter().zip(both).map(|(topic, (partitions, letters))| Stand {
            topic,
            group: name,
            partitions,
            set_aside: letters.iter().map(PartitionMarks::records).sum(),
        }));
    }
    Ok(stands)
}

impl Stand {
    fn records(&self) -> u64 {
        self.partitions.iter().map(PartitionMarks::records).sum()
    }

    fn lag(&self) -> u64 {
        self.partitions.iter().map(PartitionMarks::lag).sum()
    }
}

fn row(stand: &Stand) -> Vec<String> {
    let partitions = match stand.partitions.len() {
        0 => "missing".to_owned(),
        count => count.to_string(),
    };
    let low: i64 = stand.partitions.iter().map(|marks| marks.low).sum();
    let high: i64 = stand.partitions.iter().map(|marks| marks.high).sum();
    vec![
        stand.topic.to_owned(),
        partitions,
        stand.records().to_string(),
        format!("{low}..{high}"),
        stand.lag().to_string(),
        stand.set_aside.to_string(),
        stand.group.to_owned(),
    ]
}

fn whole(stand: &Stand) -> serde_json::Value {
    let partitions = stand.partitions.iter().map(|marks| {
        json!({
            "partition": marks.partition, "low": marks.low, "high": marks.high, "committed": marks.committed,
            "lag": marks.lag(),
        })
    });
    json!({
        "topic": stand.topic, "group": stand.group, "records": stand.records(), "lag": stand.lag(),
        "deadLetters": stand.set_aside, "partitions": partitions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_told_with_the_sums_of_its_partitions_and_a_missing_one_as_such() {
        let marks = |partition, committed| PartitionMarks { partition, low: 1, high: 4, committed };
        let partitions = vec![marks(0, Some(4)), marks(1, None)];
        let stand = Stand { topic: "payment.charged", group: "saga-orchestrator", partitions, set_aside: 2 };
        assert_eq!(row(&stand), ["payment.charged", "2", "6", "2..8", "3", "2", "saga-orchestrator"]);
        assert_eq!(whole(&stand)["partitions"][1]["committed"], serde_json::Value::Null);
        let missing = Stand { partitions: vec![], ..stand };
        assert_eq!(row(&missing)[1], "missing");
    }
}
