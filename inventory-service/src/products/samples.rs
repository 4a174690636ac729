//! A handful of products to try things out with.

use messages::Sku;
use service_runtime::Fatal;
use service_runtime::database::{StoreError, again_if_lost, within_limit};
use sqlx::PgPool;
use tracing::info;

use super::store::{self, ByHand};

/// What they are called, by us and by the shop, and how many pieces there are: of one so many that it does not matter, of
/// one a single piece.
const SAMPLES: [(&str, &str, i64); 4] = [
    ("blue-mug", "Blue mug", 1_000),
    ("teapot", "Teapot", 20),
    ("poster", "Poster, 50 x 70 cm", 100_000),
    ("last-lamp", "The last lamp", 1),
];

/// The idempotency key of a sample's first receipt.
const KEY: &str = "the-first-pieces";

/// Stores them where there are no other products.
///
/// # Errors
/// When the database does not answer.
pub async fn store(pool: &PgPool) -> Result<(), Fatal> {
    let stored = again_if_lost(|| within_limit(samples(pool))).await;
    stored.map_err(|error| Fatal::new(format!("the sample products can't be stored: {}", error.for_log())))
}

async fn samples(pool: &PgPool) -> Result<(), StoreError> {
    let skus = SAMPLES.map(|(sku, ..)| sku);
    let others = sqlx::query_scalar("SELECT EXISTS (SELECT FROM products WHERE sku <> ALL($1))").bind(&skus[..]);
    if others.fetch_one(pool).await? {
        return Ok(());
    }
    // Those of a start that was cut off are completed; what was changed since is left alone.
    let there = "SELECT sku FROM stock_movements WHERE sku = ANY($1) AND key = $2";
    let there: Vec<String> = sqlx::query_scalar(there).bind(&skus[..]).bind(KEY).fetch_all(pool).await?;
    for (sku, name, quantity) in SAMPLES.into_iter().filter(|(sku, ..)| !there.iter().any(|one| one == sku)) {
        let sku = Sku::try_from(sku.to_owned()).map_err(|error| StoreError::Refused(error.to_string().into()))?;
        store::put(pool, &sku, name).await?;
        let (key, by, reason) = (KEY.to_owned(), "SAMPLE_PRODUCTS".to_owned(), "a sample".to_owned());
        // Another instance may do the same: a key counts once.
        store::move_by_hand(pool, &sku, &ByHand { kind: "RECEIVE", quantity, key, by, reason }).await?;
        info!(%sku, quantity, "a sample product is stored (SAMPLE_PRODUCTS)");
    }
    Ok(())
}
