//! Checkouts of counted goods: one piece each, of one of so many products, of which there is plenty.

use anyhow::Result;
use e2e_tests::{Databases, Service};
use serde_json::{Value, json};

use crate::load::{BODIES, Generator};

/// More than any run takes.
const PIECES: i64 = 1_000_000_000;

/// What sends checkouts of so many products, which are stored now; each product has a body.
pub async fn generator(databases: &Databases, products: u32) -> Result<Generator> {
    let products = products as usize;
    stock(databases, products).await?;
    Generator::of(products.max(BODIES), |n| body(products, n))
}

/// The body of the nth request.
fn body(products: usize, n: usize) -> Value {
    let items = [json!({"sku": sku(products, n % products), "qty": 1})];
    json!({"userId": format!("user-{n}"), "totalAmount": 100 + n, "items": items})
}

fn sku(products: usize, n: usize) -> String {
    format!("bench-{products}-{n}")
}

/// Stores the products, with their receipts.
async fn stock(databases: &Databases, products: usize) -> Result<()> {
    let skus: Vec<String> = (0..products).map(|n| sku(products, n)).collect();
    let insert = "WITH new AS (
            INSERT INTO products (sku, name, available) SELECT sku, sku, $2 FROM UNNEST($1::text[]) AS sku RETURNING sku
        )
        INSERT INTO stock_movements (sku, kind, quantity, key, actor, reason)
        SELECT sku, 'RECEIVE', $2, 'before-the-run', 'bench', 'the run' FROM new";
    sqlx::query(insert).bind(skus).bind(PIECES).execute(databases.of(Service::Inventory)).await?;
    sqlx::query("ANALYZE products").execute(databases.of(Service::Inventory)).await?;
    Ok(())
}
