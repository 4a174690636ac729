//! Where the letters are, and which of them are meant, as the command line says it.

use chrono::{DateTime, Utc};
use clap::Args;
use dead_letters::mailbox::{self, Filter, topic};
use dead_letters::{Letter, Marker, Place};
use messages::SagaId;
use service_runtime::Fatal;
use service_runtime::kafka::KafkaSettings;

use crate::sagas::moment;
use crate::topics::KafkaAddress;

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

impl Mailbox {
    pub(super) fn kafka(&self) -> Result<KafkaSettings, Fatal> {
        self.kafka.settings()
    }

    /// Calls `each` for every letter that is meant, with the newest marker behind it, in the order of its partition.
    ///
    /// # Errors
    /// When Kafka can't be read, or `each` says so.
    pub async fn read(&self, each: impl AsyncFnMut(Letter, Option<&Marker>) -> Result<(), Fatal>) -> Result<(), Fatal> {
        let Self { topic, error, saga, letter: place, since, .. } = self.clone();
        mailbox::read(&self.kafka()?, CLIENT, &Filter { topic, error, saga, place, since }, each).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

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
