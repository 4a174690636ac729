//! The messages: one shape for all, about as long as the platform's.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A checkout, as it goes from one to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub event_id: Uuid,
    pub causation_id: Option<Uuid>,
    pub saga_id: Uuid,
    pub order_id: Uuid,
    pub timestamp: chrono::DateTime<chrono::Utc>,
    pub payload: Checkout,
}

/// What the client has sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkout {
    pub user_id: String,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
}

/// What the orchestrator asks of the orders, many at a time.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    Create(Message),
    Confirm(Message),
}

impl Message {
    pub fn new(payload: Checkout) -> Self {
        let (saga_id, order_id) = (Uuid::now_v7(), Uuid::now_v7());
        Self { event_id: saga_id, causation_id: None, saga_id, order_id, timestamp: chrono::Utc::now(), payload }
    }
}
