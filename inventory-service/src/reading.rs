//! `GET /reservations/{orderId}`: what is stored about an order's goods.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use messages::schema::one_of;
use messages::{Item, OrderId, SagaId, Short, Timestamp, TimestampText};
use serde::Serialize;
use service_runtime::database::{StoreError, again_if_lost};
use service_runtime::http::description::{DatabaseProblems, IdProblems};
use service_runtime::http::{PathText, Problem};
use sqlx::{PgPool, Row as _};
use utoipa::openapi::ObjectBuilder;
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

use crate::products::routes;
use crate::reservation::Status;
use crate::store::of_json;

/// Describes the service's route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "inventory-service",
        description = "Products and their pieces; and goods set aside and released for orders, by commands from Kafka, read here. An order holds goods at most once, and none after a release."
    ),
    paths(reservation, routes::list, routes::read, routes::put, routes::receive, routes::adjust)
)]
pub struct Described;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/reservations/{order_id}", get(reservation)).with_state(pool)
}

/// A row of `reservations`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"orderId": "01a1fcfc-725d-7633-911d-f040ef17b270", "sagaId": "01a1fcfc-725d-7633-911d-f03f136c0c20", "status": "FAILED",
    "reason": "out of stock: SKU-1 (2 wanted, 1 available)", "items": [], "short": [{"sku": "SKU-1", "wanted": 2, "available": 1}], "expiresAt": null, "createdAt": "2026-11-21T07:22:45.250000Z", "updatedAt": "2026-11-21T07:22:45.250000Z"}))]
struct ReservationBody {
    #[schema(value_type = OrderId)]
    order_id: Uuid,
    #[schema(value_type = SagaId)]
    saga_id: Uuid,
    #[schema(schema_with = statuses)]
    status: String,
    reason: Option<String>,
    /// The pieces that are set aside for it, or were; none where goods are not counted, or there were too few.
    items: Vec<Item>,
    /// Why it is FAILED: the products of which there were too few pieces.
    short: Vec<Short>,
    /// Until when its goods were set aside, as its reserve was answered; `null`: without a limit.
    expires_at: Option<TimestampText>,
    created_at: TimestampText,
    updated_at: TimestampText,
}

fn statuses() -> ObjectBuilder {
    one_of(Status::ALL.map(Status::as_str))
}

#[utoipa::path(
    get, path = "/reservations/{order_id}", operation_id = "readReservation", tag = "Reservations", summary = "What is stored about an order's goods",
    params(("order_id" = OrderId, Path, description = "The order's id")),
    responses((status = 200, description = "The reservation", body = ReservationBody), IdProblems, DatabaseProblems),
)]
/// 200 with the reservation; 400 for what is no id; 404 for an order that has none.
async fn reservation(State(pool): State<PgPool>, PathText(id): PathText) -> Result<Json<ReservationBody>, Problem> {
    let parsed = id.parse();
    let order_id: OrderId =
        parsed.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no reservation for order {order_id}"));
    again_if_lost(|| stored(&pool, order_id)).await?.map(Json).ok_or_else(unknown)
}

async fn stored(pool: &PgPool, order_id: OrderId) -> Result<Option<ReservationBody>, StoreError> {
    let select = sqlx::query(
        "SELECT order_id, saga_id, status, reason, short::text, expires_at, created_at, updated_at,
                (SELECT jsonb_agg(jsonb_build_object('sku', line.sku, 'qty', line.quantity) ORDER BY line.sku)::text
                 FROM reservation_items AS line WHERE line.order_id = $1) AS items
         FROM reservations WHERE order_id = $1",
    );
    let Some(row) = select.bind(order_id.as_uuid()).fetch_optional(pool).await? else { return Ok(None) };
    Ok(Some(ReservationBody {
        order_id: row.try_get("order_id")?,
        saga_id: row.try_get("saga_id")?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        items: of_json(row.try_get("items")?)?,
        short: of_json(row.try_get("short")?)?,
        expires_at: row.try_get::<Option<Timestamp>, _>("expires_at")?.map(TimestampText),
        created_at: TimestampText(row.try_get("created_at")?),
        updated_at: TimestampText(row.try_get("updated_at")?),
    }))
}
