//! What requests are answered: an order, or why not.

use axum::http::StatusCode;
use messages::{Currency, OrderId, SagaId, Timestamp, UserId};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::http::Problem;

use crate::order::{Order, Refusal};

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, refusal.to_string())
    }
}

/// An order as clients see it. A tombstone has no user and no amount.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderBody {
    order_id: OrderId,
    saga_id: Option<SagaId>,
    status: &'static str,
    user_id: Option<UserId>,
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option")]
    total_amount: Option<Decimal>,
    currency: Option<Currency>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<Order> for OrderBody {
    fn from(order: Order) -> Self {
        let money = order.contents.as_ref().map(|contents| contents.money);
        Self {
            order_id: order.order_id,
            saga_id: order.saga_id,
            status: order.status.as_str(),
            user_id: order.contents.map(|contents| contents.user_id),
            total_amount: money.map(|money| money.amount()),
            currency: money.map(|money| money.currency()),
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}
