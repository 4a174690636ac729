//! Commands as an outside program publishes them: plain JSON, with ids of its own.

use crate::{KafkaClient, Seen};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use uuid::Uuid;

/// A saga that no orchestrator knows: the participants answer it all the same.
pub struct Outsider {
    kafka: KafkaClient,
    pub saga_id: Uuid,
    pub order_id: Uuid,
}

impl Outsider {
    pub fn new(kafka: &KafkaClient) -> Self {
        Self { kafka: kafka.clone(), saga_id: Uuid::now_v7(), order_id: Uuid::now_v7() }
    }

    /// A command of this saga, about this order.
    pub fn command(&self, payload: &Value) -> Command {
        let event_id = Uuid::now_v7();
        let body = json!({
            "eventId": event_id, "sagaId": self.saga_id, "orderId": self.order_id,
            "timestamp": "2026-01-01T00:00:00Z", "payload": payload,
        });
        Command { kafka: self.kafka.clone(), event_id, body }
    }

    pub fn charge(&self) -> Command {
        self.command(&json!({"userId": "outsider", "money": {"amount": 500, "currency": "USD"}}))
    }

    pub fn refund(&self) -> Command {
        self.command(&json!({"money": {"amount": 500, "currency": "USD"}, "reason": "TIMED_OUT"}))
    }

    pub fn reserve(&self) -> Command {
        self.command(&json!({}))
    }

    pub fn release(&self) -> Command {
        self.command(&json!({"reason": "TIMED_OUT"}))
    }
}

pub struct Command {
    kafka: KafkaClient,
    pub event_id: Uuid,
    pub body: Value,
}

impl Command {
    /// Publishes it. Answers its partition and offset.
    pub async fn publish(&self, topic: &str) -> Result<(i32, i64)> {
        let key = self.body["sagaId"].as_str().context("a command has a saga")?;
        self.kafka.publish(topic, key, &serde_json::to_vec(&self.body)?).await
    }

    /// The replies to it on a topic, once there are as many.
    pub async fn replies(&self, topic: &str, count: usize) -> Result<Vec<Seen>> {
        self.kafka.wait_for(topic, count, |event| self.is_answered_by(event)).await
    }

    /// The replies to it that are on a topic now.
    pub async fn replies_now(&self, topic: &str) -> Result<Vec<Seen>> {
        let mut records = self.kafka.records(topic).await?;
        records.retain(|record| self.is_answered_by(&record.json()));
        Ok(records)
    }

    fn is_answered_by(&self, event: &Value) -> bool {
        event["causationId"] == json!(self.event_id)
    }
}
