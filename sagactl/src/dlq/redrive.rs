//! `redrive`: goes through the letters that are meant and sends back those that may go, by the rules of
//! [`dead_letters::redrive`].

use std::io::Write;
use std::time::Duration;

use clap::Args;
use dead_letters::Letter;
use dead_letters::redrive::{Rules, Verdict, send};
use messages::dead_letter_topic;
use messages::text::{check_name, check_prose};
use service_runtime::Fatal;
use service_runtime::kafka::Producer;
use service_runtime::metrics::Metrics;

use super::look::text;
use super::mailbox::{CLIENT, Mailbox};
use crate::databases::Database;

/// How long the last acknowledgements may take.
const FLUSH: Duration = Duration::from_secs(10);

/// What may be sent, and by whom.
#[derive(Debug, Clone, Args)]
pub struct Sending {
    /// Send; without it nothing is sent, only shown
    #[arg(long, requires = "by", requires = "reason")]
    pub execute: bool,
    /// Who sends them back: stands in the marker
    #[arg(long, value_name = "NAME", value_parser = name)]
    by: Option<String>,
    /// Why they will pass now: stands in the marker
    #[arg(long, value_name = "WHY", value_parser = prose)]
    reason: Option<String>,
    /// Also those that were redriven before
    #[arg(long)]
    again: bool,
    /// Also events that belong to no saga, by their body and key. Never commands
    #[arg(long)]
    even_without_saga: bool,
}

// By the rules of the orchestrator's own redrive.

fn name(text: &str) -> Result<String, String> {
    check_name(text, 128).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn prose(text: &str) -> Result<String, String> {
    check_prose(text, 1000).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// How many letters were meant, and what became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Sent, or in a dry run: would be sent.
    pub sent: u64,
    /// Redriven before, and left alone.
    pub skipped: u64,
    pub refused: u64,
    /// Not acknowledged by Kafka.
    pub failed: u64,
}

impl Sending {
    /// Goes through the letters and tells of each what it does, or would do.
    ///
    /// # Errors
    /// When Kafka or the orchestrator's database can't be read.
    pub async fn run(&self, mailbox: &Mailbox, orchestrator: &Database, out: &mut dyn Write) -> Result<Outcome, Fatal> {
        let producer = Producer::open(&mailbox.kafka()?, CLIENT, &Metrics::of(CLIENT))?;
        let rules = Rules { again: self.again, even_without_saga: self.even_without_saga };
        let (by, reason) = (self.by.as_deref().unwrap_or_default(), self.reason.as_deref().unwrap_or_default());
        let mut outcome = Outcome::default();
        let topics = orchestrator.topics().await.map_err(|why| Fatal::new(why.to_string()))?;
        mailbox
            .read(&topics, async |letter, marker| {
                let verdict = rules.judge(&orchestrator.pool, &letter, marker).await;
                let verdict = verdict.map_err(|error| Fatal::new(orchestrator.unreadable(&error).to_string()))?;
                let name = format!("{} {}", dead_letter_topic(&letter.topic), letter.place);
                let line = match verdict {
                    Verdict::Skip(why) => {
                        outcome.skipped += 1;
                        format!("skipped  {name}: {}; --again sends it once more", text(why.as_bytes()))
                    }
                    Verdict::Refuse(why) => {
                        outcome.refused += 1;
                        format!("refused  {name}: {}", text(why.as_bytes()))
                    }
                    Verdict::Send if !self.execute => {
                        outcome.sent += 1;
                        format!("would send  {name} to {}", shown(&letter))
                    }
                    Verdict::Send => match send(&producer, &letter, by, reason).await {
                        Ok(()) => {
                            outcome.sent += 1;
                            format!("sent  {name} to {}", letter.topic)
                        }
                        Err(why) => {
                            outcome.failed += 1;
                            format!("failed  {name}: {why}")
                        }
                    },
                };
                writeln!(out, "{line}").map_err(|error| Fatal::new(format!("the output can't be written: {error}")))
            })
            .await?;
        producer.flush(FLUSH).await;
        Ok(outcome)
    }
}

/// The record as it would be sent: topic, key, headers, body.
fn shown(letter: &Letter) -> String {
    let key = letter.record.key.as_deref().map_or_else(|| "no key".to_owned(), |key| format!("key {}", text(key)));
    let headers = letter.headers_back();
    let headers: String =
        headers.iter().map(|(name, value)| format!("\n    {}: {}", text(name), text(value))).collect();
    format!("{}, {key}{headers}\n    {}", letter.topic, text(&letter.record.body))
}
