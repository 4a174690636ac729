//! A saga's state as clients see it: the body of every answer about one.

use messages::{Currency, OrderId, SagaId, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::http::Problem;

use axum::http::StatusCode;

use crate::saga::Saga;

/// How far a saga is, or how it ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    pub status: &'static str,
    pub step: &'static str,
    pub reason: Option<String>,
    pub user_id: String,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
    pub currency: Currency,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl From<&Saga> for Outcome {
    fn from(saga: &Saga) -> Self {
        Self {
            saga_id: saga.saga_id,
            order_id: saga.order_id,
            status: saga.state.status(),
            step: saga.step_name(),
            reason: saga.reason.clone(),
            user_id: saga.checkout.user_id.to_string(),
            total_amount: saga.checkout.money.amount(),
            currency: saga.checkout.money.currency(),
            created_at: saga.created_at,
            updated_at: saga.updated_at,
        }
    }
}

/// 400 for what is no id.
pub fn parse_id(id: &str) -> Result<SagaId, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not a saga id (a UUID)")))
}
