//! The connection to a participant: commands go out, replies come back, both over Kafka.

use std::time::{Duration, Instant};

use messages::{EventId, SagaId, TimestampText, partition_for_key};
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, Producer, TopicFollower, require_topics};
use service_runtime::metrics::Metrics;
use uuid::Uuid;

use super::reply::Reply;
use crate::topics::CLIENT;

/// A command as the orchestrator sends it.
#[derive(Debug, Clone)]
pub struct Command {
    pub topic: String,
    pub id: EventId,
    pub saga_id: SagaId,
    pub subject: Uuid,
    pub body: String,
}

/// What a command is about.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub saga_id: SagaId,
    pub subject: Uuid,
}

impl Command {
    /// The command by this id, with this payload. `field` is the subject's name in the flow.
    pub fn new(topic: &str, id: EventId, about: About, field: &str, payload: &str) -> Self {
        let About { saga_id, subject } = about;
        let timestamp = TimestampText(service_runtime::now());
        let body = format!(
            r#"{{"eventId":"{id}","sagaId":"{saga_id}","{field}":"{subject}","timestamp":"{timestamp}","payload":{payload}}}"#
        );
        Self { topic: topic.to_owned(), id, saga_id, subject, body }
    }
}

/// Kafka, with the topics of one step.
pub struct Line {
    producer: Producer,
    follower: TopicFollower,
    /// Of each topic.
    pub partitions: u32,
    /// How long a reply is waited for.
    pub patience: Duration,
    /// The commands that were sent.
    sent: Vec<EventId>,
    /// Replies that came while another one was waited for.
    strays: Vec<Reply>,
}

impl Line {
    /// Connects. What is on the reply topics already is not read.
    ///
    /// # Errors
    /// When Kafka can't be reached, or a topic is missing.
    pub async fn open(
        settings: &KafkaSettings,
        commands: &[&str],
        replies: &[&str],
        patience: Duration,
    ) -> Result<Self, Fatal> {
        let all: Vec<String> = commands.iter().chain(replies).map(|topic| (*topic).to_owned()).collect();
        let partitions = require_topics(settings, CLIENT, &all).await?;
        let follower = TopicFollower::open(settings, CLIENT, replies).await?;
        let producer = Producer::open(settings, CLIENT, &Metrics::of(CLIENT))?;
        Ok(Self { producer, follower, partitions, patience, sent: Vec::new(), strays: Vec::new() })
    }

    /// Sends a command, by the key of its saga.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn send(&mut self, command: &Command) -> Result<(), Fatal> {
        self.sent.push(command.id);
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", command.id.to_string()),
            ("ce_type", command.topic.clone()),
            ("ce_source", format!("/{CLIENT}")),
        ];
        self.write(&command.topic, command.saga_id, command.body.as_bytes(), &headers).await
    }

    /// Sends a record that is no command.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn send_poison(&self, topic: &str, saga_id: SagaId, body: &[u8]) -> Result<(), Fatal> {
        self.write(topic, saga_id, body, &[]).await
    }

    async fn write(&self, topic: &str, saga_id: SagaId, body: &[u8], headers: &[(&str, String)]) -> Result<(), Fatal> {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let delivery = self.producer.produce(topic, Some(saga_id.to_string().as_bytes()), body, headers);
        delivery.acknowledged().await.map_err(|why| Fatal::new(format!("{topic} takes no record: {why}")))
    }

    /// The next reply to a command that was sent, or what looks like one; none when the patience is over.
    pub async fn reply_to(&mut self, command: &Command, patience: Duration) -> Option<Reply> {
        let deadline = Instant::now() + patience;
        loop {
            let record = self.follower.next(deadline.saturating_duration_since(Instant::now())).await?;
            let reply = Reply::of(record);
            match reply.causation_id() {
                Some(id) if id == command.id => return Some(reply),
                Some(id) if self.sent.contains(&id) => self.strays.push(reply),
                // It answers another command: it has a wrong `causationId`, if it is about the same saga.
                _ if reply.mentions(command) => return Some(reply),
                _ => {}
            }
        }
    }

    /// The replies to a command that came while another one's was waited for, and those that come within `quiet`.
    pub async fn strays_of(&mut self, id: EventId, quiet: Duration) -> Vec<Reply> {
        let deadline = Instant::now() + quiet;
        while let Some(record) = self.follower.next(deadline.saturating_duration_since(Instant::now())).await {
            self.strays.push(Reply::of(record));
        }
        self.strays.extract_if(.., |reply| reply.causation_id() == Some(id)).collect()
    }

    /// A saga whose records stand in the same partition as another's.
    pub fn beside(&self, saga_id: SagaId) -> SagaId {
        let partition = |id: SagaId| partition_for_key(id.to_string().as_bytes(), self.partitions);
        let other = std::iter::repeat_with(SagaId::new).find(|id| partition(*id) == partition(saga_id));
        other.unwrap_or(saga_id)
    }
}
