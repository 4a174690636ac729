//! What is sent and answered about products.

use messages::{OrderId, Sku, TimestampText};
use serde::{Deserialize, Serialize};
use service_runtime::http::act;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::store::{Movement, Product};

/// The most pieces that one movement is about.
pub const MOST_PIECES: i64 = 1_000_000_000;

/// The most characters of a product's name, and of what is searched for.
pub const MOST_NAME: usize = 200;

/// How many products a page has: unless asked otherwise, and at most.
pub const PAGE: (i64, i64) = (50, 500);

/// The kinds of a movement.
pub const KINDS: [&str; 6] = ["RECEIVE", "ADJUST", "RESERVE", "RELEASE", "EXPIRE", "COMMIT"];

/// What a product is called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductRequest {
    #[schema(schema_with = product_name)]
    pub name: String,
}

/// Pieces that came into the house.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptRequest {
    /// How many pieces, 1 to 1,000,000,000.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub quantity: i64,
    #[schema(schema_with = act::name)]
    pub by: String,
    #[schema(schema_with = act::words)]
    pub reason: String,
}

/// Pieces that a count has found, or missed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentRequest {
    /// How many pieces more there are, or (below zero) fewer: up to 1,000,000,000, and not 0.
    #[schema(schema_with = difference)]
    pub quantity: i64,
    #[schema(schema_with = act::name)]
    pub by: String,
    #[schema(schema_with = act::words)]
    pub reason: String,
}

/// The query of `GET /products`. All of it is optional.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ProductQuery {
    /// A part of the SKU or the name, in any case.
    #[param(schema_with = product_name)]
    pub search: Option<String>,
    /// How many, 1 to 500; 50 unless given.
    #[param(minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<i64>,
    /// Behind this SKU: `next` of the page before.
    #[param(value_type = Option<Sku>)]
    pub after: Option<String>,
}

/// A product, and its pieces.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"sku": "prod-123", "name": "Blue mug", "available": 96, "reserved": 3, "committed": 1,
    "createdAt": "2026-11-21T07:22:45.250000Z", "updatedAt": "2026-11-21T07:23:11.040000Z"}))]
pub struct ProductBody {
    #[schema(value_type = Sku)]
    sku: String,
    name: String,
    /// Free to be reserved.
    #[schema(minimum = 0)]
    available: i64,
    /// Set aside for orders.
    #[schema(minimum = 0)]
    reserved: i64,
    /// Gone to customers.
    #[schema(minimum = 0)]
    committed: i64,
    created_at: TimestampText,
    updated_at: TimestampText,
}

/// An entry of the ledger.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MovementBody {
    #[schema(schema_with = kinds)]
    kind: String,
    /// Pieces. Below zero: a count found fewer.
    quantity: i64,
    /// Whose goods they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    /// The `Idempotency-Key` that it was sent with.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    at: TimestampText,
}

/// A movement by hand, and the product as it is now.
#[derive(Serialize, ToSchema)]
pub struct MovedBody {
    pub movement: MovementBody,
    pub product: ProductBody,
}

/// A product with its latest movements.
#[derive(Serialize, ToSchema)]
pub struct ProductDetailBody {
    #[serde(flatten)]
    pub product: ProductBody,
    /// Its latest movements, newest first, at most 50.
    pub movements: Vec<MovementBody>,
}

/// A page of products, in the order of their SKUs.
#[derive(Serialize, ToSchema)]
pub struct ProductsBody {
    pub products: Vec<ProductBody>,
    /// The next page's `after`; null where this is the last. A page of a search may have fewer products than were asked for,
    /// and another one follow.
    pub next: Option<String>,
}

impl From<Product> for ProductBody {
    fn from(product: Product) -> Self {
        let Product { sku, name, available, reserved, committed, created_at, updated_at } = product;
        let (created_at, updated_at) = (created_at.into(), updated_at.into());
        Self { sku, name, available, reserved, committed, created_at, updated_at }
    }
}

impl From<Movement> for MovementBody {
    fn from(movement: Movement) -> Self {
        let Movement { kind, quantity, order_id, key, actor, reason, at } = movement;
        Self { kind, quantity, order_id: order_id.map(OrderId::from), key, by: actor, reason, at: at.into() }
    }
}

fn product_name() -> ObjectBuilder {
    messages::schema::prose(MOST_NAME)
}

fn kinds() -> ObjectBuilder {
    messages::schema::one_of(KINDS)
}

fn difference() -> AnyOfBuilder {
    let number = |least, most| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most));
    AnyOfBuilder::new().item(number(-MOST_PIECES, -1)).item(number(1, MOST_PIECES)).examples([-2])
}
