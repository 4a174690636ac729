//! The letters on Kafka, and which of them are meant. Read one by one: memory does not grow with what was set aside,
//! only with what was sent back.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use clap::Args;
use messages::{SagaId, TOPICS, dead_letter_topic};
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, TopicReader};

use crate::sagas::moment;
use crate::topics::KafkaAddress;

use super::letter::{Belongs, Letter, Marker, Place};

pub(super) use crate::topics::CLIENT;

/// Where the dead letters are, and which are meant. Without a filter all are
#[derive(Debug, Clone, Args)]
pub struct Mailbox {
    #[command(flatten)]
    kafka: KafkaAddress,
    /// Only letters that came from this topic, such as payment.charge.command
    #[arg(long, value_parser = topic)]
    topic: Option<&'static str>,
    /// Only letters whose error contains this
    #[arg(long, value_name = "SUBSTRING")]
    error: Option<String>,
    /// Only letters of this saga
    #[arg(long, value_name = "ID")]
    saga: Option<SagaId>,
    /// Only the letter at this place of its dead-letter topic
    #[arg(long, value_name = "PARTITION:OFFSET", requires = "topic")]
    letter: Option<Place>,
    /// Only letters that were set aside since then: 90s, 2h (ago), or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
}

fn topic(name: &str) -> Result<&'static str, String> {
    let name = name.strip_suffix(".dlq").unwrap_or(name);
    let known = TOPICS.into_iter().find(|topic| *topic == name);
    known.ok_or_else(|| format!("the topics are {}", TOPICS.join(", ")))
}

impl Mailbox {
    pub(super) fn kafka(&self) -> Result<KafkaSettings, Fatal> {
        self.kafka.settings()
    }

    /// Calls `each` for every letter that is meant, with the newest marker behind it, in the order of its partition.
    ///
    /// # Errors
    /// When Kafka can't be read, or `each` says so.
    pub async fn read(
        &self,
        mut each: impl AsyncFnMut(Letter, Option<&Marker>) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let settings = self.kafka()?;
        for topic in TOPICS.into_iter().filter(|topic| self.topic.is_none_or(|only| only == *topic)) {
            // Markers come after their letters, so they are looked for first. They are few: people write them.
            let mut markers = HashMap::new();
            let mut reader = TopicReader::open(&settings, CLIENT, &dead_letter_topic(topic)).await?;
            while let Some(record) = reader.next().await? {
                markers.extend(Marker::read(&record).map(|marker| (marker.letter, marker)));
            }
            let mut reader = TopicReader::open(&settings, CLIENT, &dead_letter_topic(topic)).await?;
            while let Some(record) = reader.next().await? {
                if let Some(letter) = Letter::of(topic, record).filter(|letter| self.means(letter)) {
                    let marker = markers.get(&letter.place);
                    each(letter, marker).await?;
                }
            }
        }
        Ok(())
    }

    fn means(&self, letter: &Letter) -> bool {
        self.error.as_ref().is_none_or(|part| letter.error().contains(part))
            && self.saga.is_none_or(|saga_id| letter.belongs() == Belongs::To(saga_id))
            && self.letter.is_none_or(|place| letter.place == place)
            && self.since.is_none_or(|since| letter.at().is_some_and(|at| at >= since))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::letter::tests::{SAGA, letter};
    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        mailbox: Mailbox,
    }

    fn mailbox(arguments: &[&str]) -> Result<Mailbox, clap::Error> {
        Ok(Program::try_parse_from([&["program"], arguments].concat())?.mailbox)
    }

    #[test]
    fn a_letter_is_meant_if_it_passes_every_filter() {
        let other = "01a1fcfc-7230-76b6-a18c-dd32b0c90385";
        let topic = ["--topic", "payment.charge.command.dlq"];
        let of_saga = letter(Some(SAGA), "{}");
        for (arguments, meant) in [
            (vec![], true),
            (vec!["--error", "refused"], true),
            (vec!["--error", "declined"], false),
            (vec!["--saga", SAGA], true),
            (vec!["--saga", other], false),
            (vec![topic[0], topic[1], "--letter", "0:3"], true),
            (vec![topic[0], topic[1], "--letter", "1:3"], false),
            // It was set aside on 2023-11-14.
            (vec!["--since", "2023-11-14T00:00:00Z"], true),
            (vec!["--since", "2023-11-15T00:00:00Z"], false),
            (vec!["--since", "1h"], false),
            (vec!["--error", "refused", "--saga", other], false),
        ] {
            assert_eq!(mailbox(&arguments).unwrap().means(&of_saga), meant, "{arguments:?}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_meant_is_refused_by_name() {
        for (arguments, words) in [
            (vec!["--letter", "0:3"], "--topic"),
            (vec!["--topic", "payment.charges"], "payment.charge.command"),
            (vec!["--since", "yesterday"], "--since"),
            (vec!["--saga", "seven"], "--saga"),
        ] {
            let error = mailbox(&arguments).unwrap_err().to_string();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }
}
