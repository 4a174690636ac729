//! `GET /reservations/{orderId}`: what is stored about an order's goods.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use messages::{OrderId, Timestamp};
use serde::Serialize;
use service_runtime::database::StoreError;
use service_runtime::http::Problem;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/reservations/{order_id}", get(reservation)).with_state(pool)
}

/// A row of `reservations`.
#[derive(Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
struct ReservationBody {
    order_id: Uuid,
    saga_id: Uuid,
    status: String,
    reason: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// 200 with the reservation; 400 for what is no id; 404 for an order that has none.
async fn reservation(State(pool): State<PgPool>, Path(id): Path<String>) -> Result<Json<ReservationBody>, Problem> {
    let parsed = id.parse();
    let order_id: OrderId =
        parsed.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))?;
    let reservation: Option<ReservationBody> = sqlx::query_as(
        "SELECT order_id, saga_id, status, reason, created_at, updated_at FROM reservations WHERE order_id = $1",
    )
    .bind(order_id.as_uuid())
    .fetch_optional(&pool)
    .await
    .map_err(|error| Problem::from(StoreError::from(error)))?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no reservation for order {order_id}"));
    reservation.map(Json).ok_or_else(unknown)
}
