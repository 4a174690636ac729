//! The SQL of `products` and `stock_movements`.

use messages::{Sku, Timestamp};
use service_runtime::database::StoreError;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

/// A row of `products`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Product {
    pub sku: String,
    pub name: String,
    pub available: i64,
    pub reserved: i64,
    pub committed: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A row of `stock_movements`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Movement {
    pub kind: String,
    pub quantity: i64,
    pub order_id: Option<Uuid>,
    pub key: Option<String>,
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub at: Timestamp,
}

/// Pieces that come into the house, or that a count has found or missed.
#[derive(Debug, Clone)]
pub struct ByHand {
    pub kind: &'static str,
    /// Below zero: missed.
    pub quantity: i64,
    pub key: String,
    pub by: String,
    pub reason: String,
}

impl ByHand {
    /// Whether a stored movement is this one, sent before.
    fn is(&self, stored: &Movement) -> bool {
        let Self { kind, quantity, key, by, reason } = self;
        (*kind, *quantity) == (&*stored.kind, stored.quantity)
            && [(key, &stored.key), (by, &stored.actor), (reason, &stored.reason)]
                .into_iter()
                .all(|(sent, stored)| stored.as_ref() == Some(sent))
    }
}

/// What became of a movement by hand.
#[derive(Debug)]
pub enum Moved {
    /// It is stored. `is_new`: it was not before.
    Stored {
        product: Product,
        movement: Movement,
        is_new: bool,
    },
    /// The key has another movement.
    Another(Movement),
    /// More would go than are available.
    TooFew(Product),
    UnknownSku,
}

// Columns by name: a release that adds one must not change the result of this one's prepared statement.
macro_rules! product {
    () => {
        "sku, name, available, reserved, committed, created_at, updated_at"
    };
}
macro_rules! movement {
    () => {
        "kind, quantity, order_id, key, actor, reason, at"
    };
}

/// Stores a product, or its other name; whether it is new.
pub async fn put(pool: &PgPool, sku: &Sku, name: &str) -> Result<(Product, bool), StoreError> {
    let mut transaction = pool.begin().await?;
    let insert =
        concat!("INSERT INTO products (sku, name) VALUES ($1, $2) ON CONFLICT (sku) DO NOTHING RETURNING ", product!());
    let new = sqlx::query_as(insert).bind(sku.as_str()).bind(name).fetch_optional(&mut *transaction).await?;
    let (product, is_new) = match new {
        Some(product) => (product, true),
        None => {
            let rename = concat!(
                "UPDATE products SET name = $2, updated_at = CASE WHEN name = $2 THEN updated_at ELSE clock_timestamp() END
                 WHERE sku = $1 RETURNING ",
                product!()
            );
            (sqlx::query_as(rename).bind(sku.as_str()).bind(name).fetch_one(&mut *transaction).await?, false)
        }
    };
    transaction.commit().await?;
    Ok((product, is_new))
}

/// Stores a movement by hand, once for its key, and moves the product's row with it.
pub async fn move_by_hand(pool: &PgPool, sku: &Sku, new: &ByHand) -> Result<Moved, StoreError> {
    let mut transaction = pool.begin().await?;
    // Whoever moves this product comes one after the other.
    let select = concat!("SELECT ", product!(), " FROM products WHERE sku = $1 FOR NO KEY UPDATE");
    let product: Option<Product> = sqlx::query_as(select).bind(sku.as_str()).fetch_optional(&mut *transaction).await?;
    let Some(product) = product else { return Ok(Moved::UnknownSku) };
    if let Some(movement) = under_key(&mut transaction, sku, &new.key).await? {
        let is_it = new.is(&movement);
        return Ok(if is_it { Moved::Stored { product, movement, is_new: false } } else { Moved::Another(movement) });
    }
    if product.available.saturating_add(new.quantity) < 0 {
        return Ok(Moved::TooFew(product));
    }
    let insert = concat!(
        "INSERT INTO stock_movements (sku, kind, quantity, key, actor, reason) VALUES ($1, $2, $3, $4, $5, $6) RETURNING ",
        movement!()
    );
    let insert = sqlx::query_as(insert).bind(sku.as_str()).bind(new.kind).bind(new.quantity);
    let movement = insert.bind(&new.key).bind(&new.by).bind(&new.reason).fetch_one(&mut *transaction).await?;
    let update = concat!(
        "UPDATE products SET available = available + $2, updated_at = clock_timestamp() WHERE sku = $1 RETURNING ",
        product!()
    );
    let product = sqlx::query_as(update).bind(sku.as_str()).bind(new.quantity).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Moved::Stored { product, movement, is_new: true })
}

async fn under_key(connection: &mut PgConnection, sku: &Sku, key: &str) -> Result<Option<Movement>, StoreError> {
    let select = concat!("SELECT ", movement!(), " FROM stock_movements WHERE sku = $1 AND key = $2");
    Ok(sqlx::query_as(select).bind(sku.as_str()).bind(key).fetch_optional(connection).await?)
}

/// A product and its latest movements, newest first, at most so many.
pub async fn find(pool: &PgPool, sku: &Sku, latest: i64) -> Result<Option<(Product, Vec<Movement>)>, StoreError> {
    // As of one moment: the product has what its movements say.
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let select = concat!("SELECT ", product!(), " FROM products WHERE sku = $1");
    let product = sqlx::query_as(select).bind(sku.as_str()).fetch_optional(&mut *snapshot).await?;
    let Some(product) = product else { return Ok(None) };
    let select =
        concat!("SELECT ", movement!(), " FROM stock_movements WHERE sku = $1 ORDER BY movement_id DESC LIMIT $2");
    let movements = sqlx::query_as(select).bind(sku.as_str()).bind(latest).fetch_all(&mut *snapshot).await?;
    Ok(Some((product, movements)))
}

/// How many products one page of a search looks at: a rare word would be looked for among all of them.
const LOOKED_AT: i64 = 10_000;

/// A page of products in the order of their SKUs, from behind `after`, at most `limit`; and the SKU behind which the next one
/// begins. With `search` those whose SKU or name holds it, in any case: such a page may have fewer, and others follow.
pub async fn list(
    pool: &PgPool,
    search: Option<&str>,
    after: &str,
    limit: i64,
) -> Result<(Vec<Product>, Option<String>), StoreError> {
    let last: Option<String> = match search {
        Some(_) => {
            let last = "SELECT sku FROM products WHERE sku > $1 ORDER BY sku OFFSET $2 LIMIT 1";
            sqlx::query_scalar(last).bind(after).bind(LOOKED_AT - 1).fetch_optional(pool).await?
        }
        None => None,
    };
    let select = concat!(
        "SELECT ",
        product!(),
        " FROM products
         WHERE sku > $1 AND ($3::text IS NULL OR sku <= $3)
           AND ($2::text IS NULL OR strpos(lower(sku), lower($2)) > 0 OR strpos(lower(name), lower($2)) > 0)
         ORDER BY sku LIMIT $4"
    );
    let select = sqlx::query_as(select).bind(after).bind(search).bind(&last).bind(limit + 1);
    let mut products: Vec<Product> = select.fetch_all(pool).await?;
    if products.len() as i64 <= limit {
        return Ok((products, last));
    }
    products.truncate(usize::try_from(limit).unwrap_or_default());
    let next = products.last().map(|product| product.sku.clone());
    Ok((products, next))
}
