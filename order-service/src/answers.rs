//! What requests are answered: an order, or why not.

use axum::http::StatusCode;
use messages::schema::{Amount, one_of};
use messages::{Currency, Item, OrderId, SagaId, TimestampText, UserId};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::http::Problem;
use utoipa::ToSchema;
use utoipa::openapi::ObjectBuilder;

use crate::order::{Order, Refusal, Status};

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
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "status": "CONFIRMED",
    "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.090000Z", "updatedAt": "2026-11-21T07:22:45.158000Z"}))]
pub struct OrderBody {
    order_id: OrderId,
    saga_id: Option<SagaId>,
    #[schema(schema_with = statuses)]
    status: &'static str,
    user_id: Option<UserId>,
    #[schema(value_type = Option<Amount>)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option")]
    total_amount: Option<Decimal>,
    currency: Option<Currency>,
    /// What it is of, where its goods are counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    items: Vec<Item>,
    /// Why it was cancelled, as a word: the cause of its saga, or what was given with the request. Absent where nobody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure_reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure_detail: Option<String>,
    created_at: TimestampText,
    updated_at: TimestampText,
}

/// A user's orders, the highest id first: the newest, where ids are generated.
#[derive(Serialize, ToSchema)]
pub struct OrdersBody {
    pub orders: Vec<OrderBody>,
    /// The next page's `before`; null where this is the last.
    pub next: Option<OrderId>,
}

/// An order that is answered before its saga has begun.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "PENDING",
    "message": "The order is stored; /orders/01a1fcfc-71e1-7774-8bfb-88a030f9fbb9 shows how it ends"}))]
pub struct Placed {
    order_id: OrderId,
    #[schema(schema_with = pending)]
    status: &'static str,
    /// For people.
    message: String,
}

fn pending() -> ObjectBuilder {
    one_of([Status::Pending.as_str()])
}

impl From<Order> for Placed {
    fn from(order: Order) -> Self {
        let order_id = order.order_id;
        let message = format!("The order is stored; /orders/{order_id} shows how it ends");
        Self { order_id, status: order.status.as_str(), message }
    }
}

/// What an order's status may be.
pub fn statuses() -> ObjectBuilder {
    one_of([Status::Pending, Status::Confirmed, Status::Cancelled].map(Status::as_str))
}

impl From<Order> for OrderBody {
    fn from(order: Order) -> Self {
        let money = order.contents.as_ref().map(|contents| contents.money);
        Self {
            order_id: order.order_id,
            saga_id: order.saga_id,
            status: order.status.as_str(),
            items: order.contents.as_ref().map(|contents| contents.items.lines().to_vec()).unwrap_or_default(),
            user_id: order.contents.map(|contents| contents.user_id),
            total_amount: money.map(|money| money.amount()),
            currency: money.map(|money| money.currency()),
            failure_reason: order.why.reason,
            failure_detail: order.why.detail,
            created_at: order.created_at.into(),
            updated_at: order.updated_at.into(),
        }
    }
}
