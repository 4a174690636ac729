//! A saga's state as clients see it: the body of every answer about one.

use std::fmt;

use messages::schema::Amount;
use messages::{Currency, OrderId, SagaId, TimestampText, UserId};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::http::Problem;
use utoipa::ToSchema;

use axum::http::StatusCode;

use crate::described;
use crate::saga::Saga;

/// How far a saga is, or how it ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "COMPLETED",
    "step": "COMPLETED", "reason": null, "userId": "u1", "totalAmount": 500, "currency": "USD",
    "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"}))]
pub struct Outcome {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    #[schema(schema_with = described::statuses)]
    pub status: &'static str,
    /// What is pending, or how it ended.
    #[schema(schema_with = described::any_step)]
    pub step: String,
    /// Why it turned back, in words.
    pub reason: Option<String>,
    #[schema(value_type = UserId)]
    pub user_id: String,
    /// Absent where the flow is about no money, and so is `currency`.
    #[schema(value_type = Option<Amount>, nullable = false)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option", skip_serializing_if = "Option::is_none")]
    pub total_amount: Option<Decimal>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    pub created_at: TimestampText,
    pub updated_at: TimestampText,
}

impl From<&Saga> for Outcome {
    fn from(saga: &Saga) -> Self {
        let money = saga.request.money;
        Self {
            saga_id: saga.saga_id,
            order_id: saga.order_id,
            status: saga.status(),
            step: saga.step_name().to_owned(),
            reason: saga.reason.clone(),
            user_id: saga.request.owner.to_string(),
            total_amount: money.map(|money| money.amount()),
            currency: money.map(|money| money.currency()),
            created_at: saga.created_at.into(),
            updated_at: saga.updated_at.into(),
        }
    }
}

/// An amount with its currency, as people read it: `500 USD`.
pub fn money(amount: Option<Decimal>, currency: Option<&impl fmt::Display>) -> Option<String> {
    amount.zip(currency).map(|(amount, currency)| format!("{amount} {currency}"))
}

/// 409: it is there, but only a release that knows its definition can tell where it stands.
pub fn of_unknown_definition(saga_id: SagaId, name: &str, version: i32) -> Problem {
    let detail = format!("the saga runs by {name} v{version}, which this release does not know");
    Problem::new(StatusCode::CONFLICT, detail).with_saga(saga_id)
}

/// 400 for what is no id.
pub fn parse_id(id: &str) -> Result<SagaId, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not a saga id (a UUID)")))
}
