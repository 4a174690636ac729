//! `GET /payments/{orderId}`: what is stored about an order's payment, and what the gateway's ledger says of it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use messages::{OrderId, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::http::Problem;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/payments/{order_id}", get(payment)).with_state(pool)
}

/// A row of `payments`, and the ledger's entries about it. A tombstone has no user.
#[derive(Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
struct PaymentBody {
    order_id: Uuid,
    saga_id: Uuid,
    user_id: Option<String>,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    currency: String,
    status: String,
    reason: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[sqlx(skip)]
    ledger: Vec<EntryBody>,
}

/// A call that moved money, as the gateway has it.
#[derive(Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
struct EntryBody {
    kind: String,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    currency: String,
    created_at: Timestamp,
}

/// 200 with the payment; 400 for what is no id; 404 for an order that has none.
async fn payment(State(pool): State<PgPool>, Path(id): Path<String>) -> Result<Json<PaymentBody>, Problem> {
    let parsed = id.parse();
    let order_id: OrderId =
        parsed.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))?;
    let payment: Option<PaymentBody> = sqlx::query_as(
        "SELECT order_id, saga_id, user_id, amount, currency, status, reason, created_at, updated_at
         FROM payments WHERE order_id = $1",
    )
    .bind(order_id.as_uuid())
    .fetch_optional(&pool)
    .await
    .map_err(read_error)?;
    let ledger = sqlx::query_as(
        "SELECT kind, amount, currency, created_at FROM gateway_ledger WHERE order_id = $1 ORDER BY entry_id",
    )
    .bind(order_id.as_uuid())
    .fetch_all(&pool)
    .await
    .map_err(read_error)?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no payment for order {order_id}"));
    payment.map(|payment| Json(PaymentBody { ledger, ..payment })).ok_or_else(unknown)
}

fn read_error(error: sqlx::Error) -> Problem {
    service_runtime::database::StoreError::from(error).into()
}
