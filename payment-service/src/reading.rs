//! `GET /payments/{orderId}`: what is stored about an order's payment, and what the gateway's ledger says of it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use messages::schema::{Amount, one_of};
use messages::{Currency, OrderId, SagaId, Timestamp, TimestampText, UserId};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::database::{StoreError, again_if_lost};
use service_runtime::http::description::{DatabaseProblems, IdProblems};
use service_runtime::http::{PathText, Problem};
use sqlx::{FromRow, PgPool};
use utoipa::openapi::ObjectBuilder;
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

use crate::payment::Status;

/// Describes the service's route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "payment-service",
        description = "Charges and refunds, by commands from Kafka; read here. An order is charged at most once and refunded at most once."
    ),
    paths(payment)
)]
pub struct Described;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/payments/{order_id}", get(payment)).with_state(pool)
}

/// A row of `payments`, and the ledger's entries about it. A tombstone has no user.
#[derive(Serialize, FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"orderId": "01a1fcfc-725d-7633-911d-f040ef17b270", "sagaId": "01a1fcfc-725d-7633-911d-f03f136c0c20", "userId": "u1", "amount": 500,
    "currency": "USD", "status": "REFUNDED", "reason": null, "createdAt": "2026-11-21T07:22:45.220000Z", "updatedAt": "2026-11-21T07:22:45.270000Z", "ledger": [
    {"kind": "CHARGE", "amount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.230000Z"},
    {"kind": "REFUND", "amount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.260000Z"}]}))]
struct PaymentBody {
    #[schema(value_type = OrderId)]
    order_id: Uuid,
    #[schema(value_type = SagaId)]
    saga_id: Uuid,
    #[schema(value_type = Option<UserId>)]
    user_id: Option<String>,
    #[schema(value_type = Amount)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    #[schema(value_type = Currency)]
    currency: String,
    #[schema(schema_with = statuses)]
    status: String,
    reason: Option<String>,
    #[sqlx(try_from = "Timestamp")]
    created_at: TimestampText,
    #[sqlx(try_from = "Timestamp")]
    updated_at: TimestampText,
    #[sqlx(skip)]
    ledger: Vec<EntryBody>,
}

/// A call that moved money, as the gateway has it.
#[derive(Serialize, FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EntryBody {
    #[schema(schema_with = kinds)]
    kind: String,
    #[schema(value_type = Amount)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    #[schema(value_type = Currency)]
    currency: String,
    #[sqlx(try_from = "Timestamp")]
    created_at: TimestampText,
}

fn statuses() -> ObjectBuilder {
    one_of(Status::ALL.map(Status::as_str))
}

fn kinds() -> ObjectBuilder {
    one_of(["CHARGE", "REFUND"])
}

#[utoipa::path(
    get, path = "/payments/{order_id}", operation_id = "readPayment", tag = "Payments", summary = "What is stored about an order's payment, with the gateway's ledger",
    params(("order_id" = OrderId, Path, description = "The order's id")),
    responses((status = 200, description = "The payment", body = PaymentBody), IdProblems, DatabaseProblems),
)]
/// 200 with the payment; 400 for what is no id; 404 for an order that has none.
async fn payment(State(pool): State<PgPool>, PathText(id): PathText) -> Result<Json<PaymentBody>, Problem> {
    let parsed = id.parse();
    let order_id: OrderId =
        parsed.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no payment for order {order_id}"));
    again_if_lost(|| stored(&pool, order_id)).await?.map(Json).ok_or_else(unknown)
}

async fn stored(pool: &PgPool, order_id: OrderId) -> Result<Option<PaymentBody>, StoreError> {
    let payment: Option<PaymentBody> = sqlx::query_as(
        "SELECT order_id, saga_id, user_id, amount, currency, status, reason, created_at, updated_at
         FROM payments WHERE order_id = $1",
    )
    .bind(order_id.as_uuid())
    .fetch_optional(pool)
    .await?;
    let ledger = sqlx::query_as(
        "SELECT kind, amount, currency, created_at FROM gateway_ledger WHERE order_id = $1 ORDER BY entry_id",
    )
    .bind(order_id.as_uuid())
    .fetch_all(pool)
    .await?;
    Ok(payment.map(|payment| PaymentBody { ledger, ..payment }))
}
