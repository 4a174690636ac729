//! The HTTP side: `POST /orders`, `GET /orders`, `GET /orders/{id}`, `PATCH /orders/{id}/status`, and many of them by `POST /batch`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use chrono::TimeDelta;
use messages::schema::one_of;
use messages::{AmountText, Currency, Item, Items, Money, OrderId, SagaId, Timestamp, UserId};
use serde::Deserialize;
use service_runtime::CancellationToken;
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome, Reads};
use service_runtime::database::{DatabaseClock, Session, StoreError, again_if_lost, within_limit};
use service_runtime::http::batch::batched;
use service_runtime::http::description::{
    BodyProblems, DatabaseProblems, IdProblems, NotFound, PROBLEM_JSON, QueryProblems,
};
use service_runtime::http::{IdempotencyKey, JsonBody, PathText, Preferences, Problem, TakenKey};
use service_runtime::kafka::Producer;
use service_runtime::retention::minted_at;
use service_runtime::trace::Tracer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use utoipa::openapi::ObjectBuilder;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

use crate::announcing::announce;
use crate::answers::{OrderBody, OrdersBody, Placed};
use crate::order::{
    Contents, Create, Move, Order, Refusal, Repeated, Status, Transition, Why, decide, repeated_create,
};
use crate::store::{Creates, KeyedCreates, Tombstones, Transitions, of_user};

/// The flow by which an order with items goes on.
const FLOW: &str = "reserve-first";

/// How old the id of an order with items may be. What is kept is kept for a day at least.
const RECENT: TimeDelta = TimeDelta::hours(12);

/// How far ahead of the database's clock the client's may be that makes such an id.
const AHEAD: TimeDelta = TimeDelta::minutes(30);

/// How many orders a page has unless asked otherwise, and at most.
const PAGE: (i64, i64) = (50, 500);

/// The longest time that a client may wait for an order's end.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The poll interval of a waiting request: at first, and at most. Each is half as long again as the one before.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// At most this many requests wait at once: each has a connection.
pub const MOST_WAITING: usize = 200;

/// How many characters of why an order is cancelled are stored.
const MAX_WHY: usize = 500;

/// What the handlers need. A batch has up to 500 requests at a time: each kind of statement is for many of them at once,
/// on a connection of its own, and takes none of the pool's.
pub struct Orders {
    pub creates: Batcher<ConditionalWrites<Creates>>,
    pub transitions: Batcher<ConditionalWrites<Transitions>>,
    pub tombstones: Batcher<ConditionalWrites<Tombstones>>,
    pub stored: Batcher<Reads<Creates>>,
    pub keyed: Batcher<ConditionalWrites<KeyedCreates>>,
    pub listing: Session,
    pub producer: Producer,
    pub clock: DatabaseClock,
    /// Places of those that wait for an order's end.
    pub waiting: Semaphore,
    /// When the service stops, waiting requests are answered at once.
    pub stop: CancellationToken,
}

/// Describes the service's routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "order-service",
        description = "Orders: created PENDING, then CONFIRMED or CANCELLED. What names its `orderId` may be \
        repeated: the same create answers the stored order, the same transition is accepted again. An order with \
        items is answered at once, and goes on by a saga of its own."
    ),
    paths(create, list, read, transition)
)]
pub struct Described;

pub fn router(orders: Orders, tracer: Tracer) -> Router {
    let routes = Router::new()
        .route("/orders", post(create).get(list))
        .route("/orders/{id}", get(read))
        .route("/orders/{id}/status", patch(transition))
        .with_state(Arc::new(orders));
    batched(routes, tracer)
}

/// An order that is to be created.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateRequest {
    /// A client that may repeat the request chooses it; otherwise a new one is made. Without a `sagaId` and with `items`: a
    /// UUID of version 7, made within the last 12 hours.
    order_id: Option<OrderId>,
    /// The saga that alone may move the order.
    saga_id: Option<SagaId>,
    /// Without a `sagaId`: no invisible characters, as in `POST /checkout`.
    #[schema(value_type = UserId)]
    user_id: String,
    total_amount: AmountText,
    /// USD unless given. Without a `sagaId`: one that is in use.
    #[schema(value_type = Option<Currency>)]
    currency: Option<String>,
    /// What it is of, where its goods are counted. Without a `sagaId` a saga is started that reserves them, charges
    /// `totalAmount` and confirms the order.
    #[schema(value_type = Vec<Item>, max_items = 100)]
    #[serde(default)]
    items: Items,
}

#[utoipa::path(
    post, path = "/orders", operation_id = "createOrder", tag = "Orders", summary = "Create an order",
    params(("Idempotency-Key" = Option<String>, Header, description = "Without a `sagaId`: sent again with the same body by the same user, it is the same order",
        min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "8e03978e-40d5-43dd-bc93-6894a57f9324")),
    request_body(content = CreateRequest, examples(
        ("of counted goods: a saga is started for it" = (value = json!({"userId": "u1", "totalAmount": "25.00", "items": [{"sku": "blue-mug", "qty": 2}]}))),
        ("without an id" = (value = json!({"userId": "u1", "totalAmount": 500}))),
        ("with an id, which may be repeated" = (value = json!({"orderId": "0198f5a0-0000-7000-8000-0000000000aa", "userId": "u1", "totalAmount": "19.90", "currency": "EUR"}))),
    )),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 202, description = "Stored, PENDING. A saga is started for it, also if it comes later; `Location` shows how it ends", body = Placed,
            headers(("location" = String, description = "Where the order is read"))),
        (status = 201, description = "Created, PENDING, without items or by a saga", body = OrderBody, headers(("location" = String, description = "Where the order is read"))),
        (status = 200, description = "This very create came before: the order as it is now. (One with items that is still PENDING: 202.)", body = OrderBody,
            headers(("location" = String, description = "Where the order is read"))),
        (status = 409, description = "The id has another body, or was cancelled before", body = Problem, content_type = PROBLEM_JSON,
            example = json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "order 0198f5a0-0000-7000-8000-0000000000aa exists with other contents"})),
        (status = 503, description = "The database can't be reached. With `Retry-After`: send it again. Without: outcome unknown, `Location` tells once the database is back",
            body = Problem, content_type = PROBLEM_JSON, headers(
                ("retry-after" = Option<u32>, description = "In how many seconds to try again"),
                ("location" = Option<String>, description = "The order, if its creation is in doubt"))),
    ),
)]
/// 201 with the new order, 202 when a saga is to be started for it; 200 with the stored one when this very create came before;
/// 409 when another did.
async fn create(
    State(orders): State<Arc<Orders>>,
    TakenKey(key): TakenKey,
    JsonBody(request): JsonBody<CreateRequest>,
) -> Result<Response, Problem> {
    let code = request.currency.as_deref().unwrap_or("USD");
    let (user_id, currency) = match request.saga_id {
        // Its checkout was accepted, perhaps by an earlier release with other rules: it goes on.
        Some(_) => (UserId::try_from(request.user_id), code.parse()),
        None => (UserId::new(request.user_id), Currency::in_use(code)),
    };
    let currency = currency.map_err(|error| Problem::invalid_field("currency", error))?;
    let money = Money::parse(&request.total_amount.0, currency);
    let money = money.map_err(|error| Problem::invalid_field("totalAmount", error))?;
    let user_id = user_id.map_err(|error| Problem::invalid_field("userId", error))?;
    let flow = (request.saga_id.is_none() && !request.items.is_empty()).then(|| FLOW.to_owned());
    if request.saga_id.is_some() && key.is_some() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`Idempotency-Key` is not taken with a `sagaId`"));
    }
    key.as_ref().map_or(Ok(()), IdempotencyKey::check_new)?;
    if request.order_id.is_some() && key.is_some() {
        let detail = "`orderId` and `Idempotency-Key` both say which order it is: send one of them";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let (named, now) = (request.order_id, orders.clock.now());
    let create = Create {
        order_id: named.unwrap_or_else(|| OrderId::new_at(now)),
        saga_id: request.saga_id,
        contents: Contents { user_id, money, items: request.items },
        flow,
        key,
    };
    if create.flow.is_some() && named.is_some_and(|order_id| !is_recent(order_id, now)) {
        let stored = orders.stored.submit(create.order_id).await?.ok_or_else(|| {
            let rule =
                "must be a UUID of version 7 that was made within the last 12 hours, where the order has `items`";
            Problem::invalid_field("orderId", rule)
        })?;
        return Ok(answer(StatusCode::OK, orders.repeated(stored, &create).await?, &create));
    }
    faults::reached("order.storing", Status::Pending.as_str());
    // Its id is known here, also where the client does not know it: so it may be stored twice.
    let stored = match create.key {
        None => again_if_lost(|| orders.creates.submit(create.clone())).await,
        Some(_) => again_if_lost(|| orders.keyed.submit(create.clone())).await,
    };
    faults::reached("order.stored", Status::Pending.as_str());
    let (status, order) = match stored.map_err(|error| not_created(error, &create, named.is_some()))? {
        Outcome::Stored(order) => {
            announce(&orders.producer, &order);
            (StatusCode::CREATED, order)
        }
        Outcome::Found(found) => {
            let order = found.ok_or_else(|| Problem::from(Refusal::Unknown(create.order_id)))?;
            // A second try of this very request: new to a client that has chosen neither id nor key.
            let is_own = named.is_none() && order.order_id == create.order_id;
            let order = orders.repeated(order, &create).await?;
            (if is_own { StatusCode::CREATED } else { StatusCode::OK }, order)
        }
    };
    Ok(answer(status, order, &create))
}

/// What a create is answered; an order that a saga is started for, while it is PENDING, with 202 and a shorter body.
fn answer(status: StatusCode, order: Order, create: &Create) -> Response {
    let location = [(header::LOCATION, format!("/orders/{}", order.order_id))];
    match create.flow.is_some() && order.status == Status::Pending {
        true => (StatusCode::ACCEPTED, location, Json(Placed::from(order))).into_response(),
        false => (status, location, Json(OrderBody::from(order))).into_response(),
    }
}

/// Whether a saga may begin about this order: an id shows when it was made, and what may have been removed is not begun again.
fn is_recent(order_id: OrderId, now: Timestamp) -> bool {
    minted_at(order_id.as_uuid()).is_some_and(|minted| (now - RECENT..now + AHEAD).contains(&minted))
}

impl Orders {
    /// The order that a create has found, taken up by the saga that the create names, if it waits for one.
    async fn repeated(&self, mut order: Order, create: &Create) -> Result<Order, Problem> {
        if create.key.is_some() && order.contents.as_ref() != Some(&create.contents) {
            let detail = format!("the key was used for another order of this user, {}", order.order_id);
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        loop {
            let create = Create { order_id: order.order_id, ..create.clone() };
            let Repeated::TakenUp(saga_id) = repeated_create(&order, &create).map_err(Problem::from)? else {
                return Ok(order);
            };
            let taken_up = Transition {
                order_id: order.order_id,
                saga_id: Some(saga_id),
                to: Status::Pending,
                why: Why::default(),
            };
            faults::reached("order.storing", "TAKEN_UP");
            match again_if_lost(|| self.transitions.submit(taken_up.clone())).await? {
                Outcome::Stored(order) => {
                    faults::reached("order.stored", "TAKEN_UP");
                    return Ok(order);
                }
                // Its client has cancelled it in between, or it was taken up already: decided anew.
                Outcome::Found(found) => {
                    order = found.ok_or_else(|| Problem::from(Refusal::Unknown(create.order_id)))?;
                }
            }
        }
    }
}

#[utoipa::path(
    get, path = "/orders/{id}", operation_id = "readOrder", tag = "Orders", summary = "Read an order",
    params(("id" = OrderId, Path, description = "The order's id"),
        ("Prefer" = Option<String>, Header, description = "`wait=5`: while the order is PENDING, the answer may take that long (RFC 7240), at most 30 s. Not granted while too many wait: then `Preference-Applied` is missing", example = "wait=5")),
    responses((status = 200, description = "The order", body = OrderBody,
        headers(("preference-applied" = Option<String>, description = "The wait that was asked for, if it was granted"))), IdProblems, DatabaseProblems),
)]
/// 200 with the order, once it has ended or the time that the client waits is over; 404.
async fn read(
    State(orders): State<Arc<Orders>>,
    PathText(id): PathText,
    headers: HeaderMap,
) -> Result<(HeaderMap, Json<OrderBody>), Problem> {
    let order_id = parse_id(&id)?;
    let preferences = Preferences::of(&headers);
    // If no place is free, it is answered at once.
    let place = preferences.waits().then(|| orders.waiting.try_acquire().ok()).flatten();
    let mut interval = LOOK_AGAIN.0;
    let until = Instant::now() + preferences.wait(if place.is_some() { LONGEST_WAIT } else { Duration::ZERO });
    loop {
        let order = orders.stored.submit(order_id).await?.ok_or_else(|| Problem::from(Refusal::Unknown(order_id)))?;
        let goes_on = order.status == Status::Pending && Instant::now() < until && !orders.stop.is_cancelled();
        if !goes_on {
            let applied = preferences.applied(LONGEST_WAIT, StatusCode::OK).filter(|_| place.is_some());
            let applied = applied.map(|applied| (HeaderName::from_static("preference-applied"), applied));
            return Ok((applied.into_iter().collect(), Json(order.into())));
        }
        let look_again = sleep_until(until.min(Instant::now() + interval));
        orders.stop.run_until_cancelled(look_again).await;
        interval = (interval * 3 / 2).min(LOOK_AGAIN.1);
    }
}

/// The query of `GET /orders`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Whose orders.
    #[param(value_type = UserId)]
    user_id: String,
    /// How many, 1 to 500; 50 unless given.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// Older than this order: `next` of the page before.
    #[param(value_type = Option<OrderId>)]
    before: Option<Uuid>,
}

#[utoipa::path(
    get, path = "/orders", operation_id = "listOrders", tag = "Orders", summary = "A user's orders, the highest id first, page by page", params(ListQuery),
    responses((status = 200, description = "A page", body = OrdersBody), QueryProblems, DatabaseProblems),
)]
/// 200 with a page; 400 for a query that makes no sense, naming what is wrong.
async fn list(
    State(orders): State<Arc<Orders>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<OrdersBody>, Problem> {
    let Query(ListQuery { user_id, limit, before }) = query?;
    let user_id = UserId::try_from(user_id).map_err(|error| Problem::invalid_parameter("userId", error))?;
    let limit = limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        return Err(Problem::invalid_parameter("limit", format_args!("must be 1 to {}", PAGE.1)));
    }
    let before = before.map(OrderId::from);
    let mut found = again_if_lost(|| within_limit(of_user(&orders.listing, &user_id, before, limit + 1))).await?;
    let more = found.len() as i64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or_default());
    let next = found.last().filter(|_| more).map(|order| order.order_id);
    Ok(Json(OrdersBody { orders: found.into_iter().map(OrderBody::from).collect(), next }))
}

/// Where an order is to get.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TransitionRequest {
    #[schema(schema_with = ends)]
    status: String,
    /// The saga that the order belongs to, if it does.
    saga_id: Option<SagaId>,
}

/// Why an order is cancelled. What is unknown is passed over: a newer orchestrator may say more.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhyQuery {
    /// As a word, of an order that is cancelled: `failureReason` shows it. What is longer than 500 characters is cut.
    #[param(example = "OUT_OF_STOCK")]
    reason: Option<String>,
    /// The same for people: `failureDetail`.
    detail: Option<String>,
}

impl From<WhyQuery> for Why {
    /// A cancellation is never refused because of its text: control characters are dropped.
    fn from(WhyQuery { reason, detail }: WhyQuery) -> Self {
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WHY).collect::<String>();
        let [reason, detail] = [reason, detail].map(|text| text.map(clean).filter(|text| !text.is_empty()));
        Self { reason, detail }
    }
}

/// Where a request may move an order.
const ENDS: [Status; 2] = [Status::Confirmed, Status::Cancelled];

fn ends() -> ObjectBuilder {
    one_of(ENDS.map(Status::as_str))
}

#[utoipa::path(
    patch, path = "/orders/{id}/status", operation_id = "moveOrder", tag = "Orders", summary = "Confirm or cancel an order",
    params(("id" = OrderId, Path, description = "The order's id"), WhyQuery),
    request_body(content = TransitionRequest, examples(
        ("confirm" = (value = json!({"status": "CONFIRMED"}))),
        ("cancel a saga's order" = (value = json!({"status": "CANCELLED", "sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880"}))),
    )),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 200, description = "The order in that status, also when it was in it before", body = OrderBody),
        (status = 409, description = "It has ended otherwise, or belongs to a saga that the request does not name", body = Problem, content_type = PROBLEM_JSON,
            example = json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "order 01a1fcfc-71e1-7774-8bfb-88a030f9fbb9 is CONFIRMED: it can't become CANCELLED"})),
    ),
)]
/// 200 with the order in the wanted status, also when it was in it before; 409 when it can't get there.
async fn transition(
    State(orders): State<Arc<Orders>>,
    PathText(id): PathText,
    query: Result<Query<WhyQuery>, QueryRejection>,
    JsonBody(request): JsonBody<TransitionRequest>,
) -> Result<Json<OrderBody>, Problem> {
    let order_id = parse_id(&id)?;
    let to = ENDS.into_iter().find(|end| end.as_str() == request.status);
    let to = to.ok_or_else(|| {
        Problem::invalid_field("status", format_args!("must be CONFIRMED or CANCELLED, not {:?}", request.status))
    })?;
    let Query(why) = query?;
    let why = if to == Status::Cancelled { why.into() } else { Why::default() };
    let wanted = Transition { order_id, saga_id: request.saga_id, to, why };
    loop {
        faults::reached("order.storing", to.as_str());
        let found = match again_if_lost(|| orders.transitions.submit(wanted.clone())).await? {
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
                // A create that was quicker is found by the next look.
                again_if_lost(|| orders.tombstones.submit(wanted.clone())).await?;
                faults::reached("order.stored", "TOMBSTONE");
            }
        }
    }
}

/// A create whose outcome is unknown may be sent again only if the client named the order, by an id or a key: else it would be
/// another.
fn not_created(error: StoreError, create: &Create, named: bool) -> Problem {
    match error {
        StoreError::Unavailable(cause) if !named && create.key.is_none() => {
            let detail = "outcome unknown: the database did not answer while the order was stored. Its page, at `Location`, \
                          shows it once the database is back; it is unknown there (404) if nothing was stored";
            let location = format!("/orders/{}", create.order_id);
            Problem::outcome_unknown(detail).with_header(header::LOCATION, location).with_cause(&cause)
        }
        error => error.into(),
    }
}

fn parse_id(id: &str) -> Result<OrderId, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not an order id (a UUID)")))
}
