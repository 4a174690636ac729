//! The HTTP side: `POST /orders`, `GET /orders/{id}`, `PATCH /orders/{id}/status`, and many of them by `POST /batch`.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use messages::{AmountText, Currency, Money, OrderId, SagaId, UserIdError};
use serde::Deserialize;
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome};
use service_runtime::database::StoreError;
use service_runtime::http::batch::batched;
use service_runtime::http::{JsonBody, Problem};
use service_runtime::trace::Tracer;
use sqlx::PgPool;

use crate::answers::OrderBody;
use crate::order::{Contents, Create, Move, Refusal, Status, Transition, decide, repeated_create};
use crate::store::{self, Creates, Transitions};

/// What the handlers need.
#[derive(Clone)]
pub struct Orders {
    pub creates: Batcher<ConditionalWrites<Creates>>,
    pub transitions: Batcher<ConditionalWrites<Transitions>>,
    pub pool: PgPool,
}

pub fn router(orders: Orders, tracer: Tracer) -> Router {
    let routes = Router::new()
        .route("/orders", post(create))
        .route("/orders/{id}", get(read))
        .route("/orders/{id}/status", patch(transition))
        .with_state(orders);
    batched(routes, tracer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateRequest {
    order_id: Option<OrderId>,
    saga_id: Option<SagaId>,
    user_id: String,
    total_amount: AmountText,
    currency: Option<String>,
}

/// 201 with the new order; 200 with the stored one when this very create came before; 409 when another did.
async fn create(State(orders): State<Orders>, JsonBody(request): JsonBody<CreateRequest>) -> Result<Response, Problem> {
    let currency = request.currency.as_deref().map_or(Ok(Currency::USD), str::parse);
    let currency = currency.map_err(|error| Problem::invalid_field("currency", error))?;
    let money = Money::parse(&request.total_amount.0, currency);
    let money = money.map_err(|error| Problem::invalid_field("totalAmount", error))?;
    let user_id = request.user_id.try_into();
    let user_id = user_id.map_err(|error: UserIdError| Problem::invalid_field("userId", error))?;
    let named = request.order_id.is_some();
    let create = Create {
        order_id: request.order_id.unwrap_or_else(OrderId::new),
        saga_id: request.saga_id,
        contents: Contents { user_id, money },
    };
    faults::reached("order.storing", Status::Pending.as_str());
    let stored = orders.creates.submit(create.clone()).await;
    faults::reached("order.stored", Status::Pending.as_str());
    let (status, order) = match stored.map_err(|error| not_created(error, &create, named))? {
        Outcome::Stored(order) => (StatusCode::CREATED, order),
        Outcome::Found(found) => {
            let order = found.ok_or_else(|| Problem::from(Refusal::Unknown(create.order_id)))?;
            repeated_create(&order, &create).map_err(Problem::from)?;
            (StatusCode::OK, order)
        }
    };
    let location = [(header::LOCATION, format!("/orders/{}", order.order_id))];
    Ok((status, location, Json(OrderBody::from(order))).into_response())
}

/// 200 with the order, or 404.
async fn read(State(orders): State<Orders>, Path(id): Path<String>) -> Result<Json<OrderBody>, Problem> {
    let order_id = parse_id(&id)?;
    let order = store::read(&orders.pool, order_id).await?;
    order.map(|order| Json(order.into())).ok_or_else(|| Problem::from(Refusal::Unknown(order_id)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TransitionRequest {
    status: String,
    saga_id: Option<SagaId>,
}

/// 200 with the order in the wanted status, also when it was in it before; 409 when it can't get there.
async fn transition(
    State(orders): State<Orders>,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<TransitionRequest>,
) -> Result<Json<OrderBody>, Problem> {
    let order_id = parse_id(&id)?;
    let to: Status = request.status.parse().map_err(|error| Problem::invalid_field("status", error))?;
    let wanted = Transition { order_id, saga_id: request.saga_id, to };
    loop {
        faults::reached("order.storing", to.as_str());
        let found = match orders.transitions.submit(wanted.clone()).await? {
            Outcome::Stored(order) => {
                faults::reached("order.stored", to.as_str());
                return Ok(Json(order.into()));
            }
            Outcome::Found(found) => found,
        };
        match (decide(found.as_ref(), &wanted).map_err(Problem::from)?, found) {
            (Move::Nothing, Some(order)) => return Ok(Json(order.into())),
            // Someone was quicker, in between: look again.
            (Move::Store | Move::Nothing, _) => {}
            (Move::LeaveTombstone, _) => {
                store::leave_tombstone(&orders.pool, &wanted).await?;
                faults::reached("order.stored", "TOMBSTONE");
            }
        }
    }
}

/// A create whose outcome is unknown may be sent again only if the client named the order: else it would be another.
fn not_created(error: StoreError, create: &Create, named: bool) -> Problem {
    match error {
        StoreError::Unavailable(why) if !named => {
            let detail = format!("outcome unknown: {why}. The order's page tells, once the database is back");
            let location = format!("/orders/{}", create.order_id);
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(header::LOCATION, location)
        }
        error => error.into(),
    }
}

fn parse_id(id: &str) -> Result<OrderId, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))
}
