//! Where the letters are, and which of them are meant, as the command line says it.

use chrono::{DateTime, Utc};
use clap::Args;
use dead_letters::mailbox::{self, Filter};
use dead_letters::{Letter, Marker, Place, Topics};
use messages::SagaId;
use service_runtime::Fatal;
use service_runtime::kafka::KafkaSettings;

use crate::databases::{Database, OrchestratorUrl};
use crate::sagas::moment;
use crate::topics::KafkaAddress;

pub(super) use crate::topics::CLIENT;

/// Where the dead letters are, and which are meant. Without a filter all are
#[derive(Debug, Clone, Args)]
pub struct Mailbox {
    #[command(flatten)]
    kafka: KafkaAddress,
    /// Only letters that came from this topic, such as payment.charge.command, or trip.replies of the flow trip
    #[arg(long)]
    topic: Option<String>,
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
    /// When no flow has the topic that is meant, Kafka can't be read, or `each` says so.
    pub async fn read(
        &self,
        topics: &Topics,
        each: impl AsyncFnMut(Letter, Option<&Marker>) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let Self { error, saga, letter: place, since, .. } = self.clone();
        let topic = self.topic.as_deref().map(|name| topics.find(name)).transpose();
        let topic = topic.map_err(|why| Fatal::new(format!("--topic is unknown: {why}")))?;
        mailbox::read(&self.kafka()?, CLIENT, topics, &Filter { topic, error, saga, place, since }, each).await
    }

    /// The topics that letters may come from. Those of published flows stand in the orchestrator's database: where that
    /// is away, the platform's are read all the same, and the reason is given beside them.
    pub async fn topics(&self, orchestrator: &OrchestratorUrl) -> (Topics, Option<String>) {
        let platforms = Topics::with(Vec::new());
        if self.topic.as_ref().is_some_and(|name| platforms.find(name).is_ok()) {
            return (platforms, None);
        }
        let read = async {
            let database = Database::orchestrator(orchestrator).await?;
            database.topics().await
        };
        match read.await {
            Ok(topics) => (topics, None),
            Err(why) => (platforms, Some(format!("the reply topics of published flows are left out: {why}"))),
        }
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
            (vec!["--since", "yesterday"], "--since"),
            (vec!["--saga", "seven"], "--saga"),
        ] {
            let error = mailbox(&arguments).unwrap_err().to_string();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }
}
