//! The HTTP side of products: what there is, and movements by hand. Each movement by hand carries an `Idempotency-Key`, so
//! that a delivery whose answer was lost does not count twice.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use messages::Sku;
use messages::text::check_prose;
use service_runtime::database::{again_if_lost, within_limit};
use service_runtime::http::act::Act;
use service_runtime::http::description::{BodyProblems, DatabaseProblems, NotFound, PROBLEM_JSON, QueryProblems};
use service_runtime::http::{IdempotencyKey, JsonBody, PathText, Problem, TakenKey};
use sqlx::PgPool;
use tracing::info;

use super::bodies::{
    AdjustmentRequest, MOST_NAME, MOST_PIECES, MovedBody, PAGE, ProductBody, ProductDetailBody, ProductQuery,
    ProductRequest, ProductsBody, ReceiptRequest,
};
use super::store::{self, ByHand, Moved};

/// So many movements are shown with their product.
const LATEST: i64 = 50;

pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/products", get(list))
        .route("/products/{sku}", get(read).put(put))
        .route("/products/{sku}/receipts", post(receive))
        .route("/products/{sku}/adjustments", post(adjust))
        .with_state(pool)
}

#[utoipa::path(
    put, path = "/products/{sku}", operation_id = "putProduct", tag = "Products", summary = "Create or rename a product",
    params(("sku" = Sku, Path, description = "What the shop calls it")),
    request_body(content = ProductRequest, example = json!({"name": "Blue mug"})),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 201, description = "It is new, with no pieces", body = ProductBody, headers(("location" = String, description = "Where it is read"))),
        (status = 200, description = "It was there, and has this name now", body = ProductBody),
    ),
)]
/// 201 for a new one, 200 for one that was there. It may be repeated.
pub async fn put(
    State(pool): State<PgPool>,
    PathText(sku): PathText,
    JsonBody(request): JsonBody<ProductRequest>,
) -> Result<Response, Problem> {
    let sku = parse(sku)?;
    check_prose(&request.name, MOST_NAME).map_err(|error| Problem::invalid_field("name", error))?;
    let (product, is_new) = again_if_lost(|| within_limit(store::put(&pool, &sku, &request.name))).await?;
    let body = Json(ProductBody::from(product));
    let location = [(header::LOCATION, format!("/products/{sku}"))];
    Ok(if is_new { (StatusCode::CREATED, location, body).into_response() } else { body.into_response() })
}

#[utoipa::path(
    post, path = "/products/{sku}/receipts", operation_id = "receiveStock", tag = "Products", summary = "Pieces came into the house",
    params(
        ("sku" = Sku, Path, description = "What the shop calls it"),
        ("Idempotency-Key" = String, Header, description = "Tells deliveries apart: sent again under its key, one counts once",
            min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "delivery-4711"),
    ),
    request_body(content = ReceiptRequest, example = json!({"quantity": 100, "by": "ann", "reason": "delivery 4711"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 201, description = "They are available", body = MovedBody),
        (status = 200, description = "The same was sent under this key before: it counts once", body = MovedBody),
    ),
)]
/// 201, or 200 where it came before; 422 where the key has another movement; 404 for an unknown product.
pub async fn receive(
    State(pool): State<PgPool>,
    PathText(sku): PathText,
    TakenKey(key): TakenKey,
    JsonBody(request): JsonBody<ReceiptRequest>,
) -> Result<Response, Problem> {
    let ReceiptRequest { quantity, by, reason } = request;
    if !(1..=MOST_PIECES).contains(&quantity) {
        return Err(Problem::invalid_field("quantity", format_args!("must be 1 to {MOST_PIECES}")));
    }
    by_hand(&pool, sku, key, ("RECEIVE", quantity), Act { by, reason }).await
}

#[utoipa::path(
    post, path = "/products/{sku}/adjustments", operation_id = "adjustStock", tag = "Products", summary = "A count found more pieces, or fewer",
    params(
        ("sku" = Sku, Path, description = "What the shop calls it"),
        ("Idempotency-Key" = String, Header, description = "Tells counts apart: sent again under its key, one counts once",
            min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "count-2026-11"),
    ),
    request_body(content = AdjustmentRequest, example = json!({"quantity": -2, "by": "ann", "reason": "two were broken"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 201, description = "It counts", body = MovedBody),
        (status = 200, description = "The same was sent under this key before: it counts once", body = MovedBody),
        (status = 409, description = "Fewer pieces are available: what is reserved stays", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 201, or 200 where it came before; 409 where more would go than are available; 422 where the key has another movement;
/// 404 for an unknown product.
pub async fn adjust(
    State(pool): State<PgPool>,
    PathText(sku): PathText,
    TakenKey(key): TakenKey,
    JsonBody(request): JsonBody<AdjustmentRequest>,
) -> Result<Response, Problem> {
    let AdjustmentRequest { quantity, by, reason } = request;
    if quantity == 0 || !(-MOST_PIECES..=MOST_PIECES).contains(&quantity) {
        let rule = format_args!("must be -{MOST_PIECES} to {MOST_PIECES}, and not 0");
        return Err(Problem::invalid_field("quantity", rule));
    }
    by_hand(&pool, sku, key, ("ADJUST", quantity), Act { by, reason }).await
}

async fn by_hand(
    pool: &PgPool,
    sku: String,
    key: Option<IdempotencyKey>,
    (kind, quantity): (&'static str, i64),
    act: Act,
) -> Result<Response, Problem> {
    let sku = parse(sku)?;
    let needs_key = || {
        let detail = "`Idempotency-Key` must be sent: what is sent again must not count twice";
        Problem::new(StatusCode::BAD_REQUEST, detail)
    };
    let key = key.ok_or_else(needs_key)?;
    key.check_new()?;
    let Act { by, reason } = act.validated()?;
    let new = ByHand { kind, quantity, key: key.as_str().to_owned(), by, reason };
    let moved = again_if_lost(|| within_limit(store::move_by_hand(pool, &sku, &new))).await?;
    match moved {
        Moved::Stored { product, movement, is_new } => {
            let (by, reason, available) = (&new.by, &new.reason, product.available);
            info!(%sku, kind, quantity, by, reason, available, is_new, "stock was moved");
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, Json(MovedBody { movement: movement.into(), product: product.into() })).into_response())
        }
        Moved::Another(movement) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "`Idempotency-Key` {:?} was sent before with another movement of {sku}: {} {}",
                new.key, movement.kind, movement.quantity
            ),
        )),
        Moved::TooFew(product) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("{sku} has {} available pieces and {} reserved ones", product.available, product.reserved),
        )),
        Moved::UnknownSku => Err(unknown(&sku)),
    }
}

#[utoipa::path(
    get, path = "/products", operation_id = "listProducts", tag = "Products", summary = "Products in the order of their SKUs, page by page", params(ProductQuery),
    responses((status = 200, description = "A page", body = ProductsBody), QueryProblems, DatabaseProblems),
)]
/// 200 with a page; 400 for a query that makes no sense, naming what is wrong.
pub async fn list(
    State(pool): State<PgPool>,
    query: Result<Query<ProductQuery>, QueryRejection>,
) -> Result<Json<ProductsBody>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        return Err(Problem::invalid_parameter("limit", format_args!("must be 1 to {}", PAGE.1)));
    }
    let search = query.search.as_deref();
    if let Some(search) = search {
        check_prose(search, MOST_NAME).map_err(|error| Problem::invalid_parameter("search", error))?;
    }
    let after =
        query.after.map(Sku::try_from).transpose().map_err(|error| Problem::invalid_parameter("after", error))?;
    let behind = after.as_ref().map_or("", Sku::as_str);
    let (products, next) = again_if_lost(|| within_limit(store::list(&pool, search, behind, limit))).await?;
    Ok(Json(ProductsBody { products: products.into_iter().map(ProductBody::from).collect(), next }))
}

#[utoipa::path(
    get, path = "/products/{sku}", operation_id = "readProduct", tag = "Products", summary = "A product, its pieces and its latest movements",
    params(("sku" = Sku, Path, description = "What the shop calls it")),
    responses(
        DatabaseProblems,
        (status = 200, description = "The product", body = ProductDetailBody),
        (status = 400, description = "The path holds what is no SKU", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "There is no such product", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 200 with the product, or 404.
pub async fn read(State(pool): State<PgPool>, PathText(sku): PathText) -> Result<Json<ProductDetailBody>, Problem> {
    let sku = parse(sku)?;
    let found = again_if_lost(|| within_limit(store::find(&pool, &sku, LATEST))).await?;
    let (product, movements) = found.ok_or_else(|| unknown(&sku))?;
    Ok(Json(ProductDetailBody { product: product.into(), movements: movements.into_iter().map(Into::into).collect() }))
}

fn parse(sku: String) -> Result<Sku, Problem> {
    let shown: String = sku.chars().take(80).collect();
    Sku::try_from(sku)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{shown:?} is no SKU: it {error}")))
}

fn unknown(sku: &Sku) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no product {sku}"))
}
