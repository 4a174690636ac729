//! Whether every piece is accounted for: what a product's row says, what its movements say, and what reservations hold.

use sqlx::{FromRow, PgPool};

/// A product whose pieces don't add up.
#[derive(Debug, FromRow)]
pub struct Astray {
    pub sku: String,
    available: i64,
    reserved: i64,
    committed: i64,
    came_in: i64,
    set_aside: i64,
    gone: i64,
}

/// Products whose reserved pieces are not those that reservations hold.
#[derive(Debug, FromRow)]
pub struct Unheld {
    pub sku: String,
    reserved: i64,
    held: i64,
}

/// Products of one statement. Each statement sees one moment, so nothing has to be read again; and a short one, since as long
/// as it runs nothing is cleaned up behind the products that everybody wants.
const PAGE: i64 = 500;

const PRODUCTS: &str = "SELECT sku FROM products WHERE sku > $1 ORDER BY sku LIMIT $2";

// Movements of products that are not there any more would be astray as well.
const ASTRAY: &str = "
    WITH moved AS (
        SELECT sku,
               coalesce(sum(quantity) FILTER (WHERE kind IN ('RECEIVE', 'ADJUST')), 0) AS came_in,
               coalesce(sum(quantity) FILTER (WHERE kind = 'RESERVE'), 0)
                 - coalesce(sum(quantity) FILTER (WHERE kind IN ('RELEASE', 'EXPIRE', 'COMMIT')), 0) AS set_aside,
               coalesce(sum(quantity) FILTER (WHERE kind = 'COMMIT'), 0) AS gone
        FROM stock_movements WHERE sku > $1 AND sku <= $2 GROUP BY sku
    ), together AS (
        SELECT sku, coalesce(available, 0)::bigint AS available, coalesce(reserved, 0)::bigint AS reserved,
               coalesce(committed, 0)::bigint AS committed, coalesce(came_in, 0)::bigint AS came_in,
               coalesce(set_aside, 0)::bigint AS set_aside, coalesce(gone, 0)::bigint AS gone
        FROM (SELECT * FROM products WHERE sku > $1 AND sku <= $2) AS page FULL JOIN moved USING (sku)
    )
    SELECT * FROM together
    WHERE available + reserved + committed <> came_in OR reserved <> set_aside OR committed <> gone
    ORDER BY sku";

const UNHELD: &str = "
    WITH held AS (
        SELECT sku, sum(quantity)::bigint AS held FROM reservation_items JOIN reservations USING (order_id)
        WHERE holds GROUP BY sku
    )
    SELECT sku, coalesce(reserved, 0)::bigint AS reserved, coalesce(held, 0) AS held
    FROM products FULL JOIN held USING (sku) WHERE coalesce(reserved, 0) <> coalesce(held, 0) ORDER BY sku";

/// What was found of all products.
#[derive(Debug, Default)]
pub struct Stock {
    pub products: u64,
    /// SKUs, and what is wrong with each, in words.
    pub wrong: Vec<(String, String)>,
}

/// Looks at all products; at none where the service is of a release that counts nothing.
pub async fn stock(pool: &PgPool) -> sqlx::Result<Stock> {
    let mut stock = Stock::default();
    let is_counted = "SELECT to_regclass('reservation_items') IS NOT NULL AND to_regclass('products') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(is_counted).fetch_one(pool).await? {
        return Ok(stock);
    }
    let mut after = String::new();
    loop {
        let page: Vec<String> = sqlx::query_scalar(PRODUCTS).bind(&after).bind(PAGE).fetch_all(pool).await?;
        let Some(last) = page.last() else { break };
        let astray: Vec<Astray> = sqlx::query_as(ASTRAY).bind(&after).bind(last).fetch_all(pool).await?;
        stock.wrong.extend(astray.into_iter().map(|product| (product.sku.clone(), product.what())));
        stock.products += page.len() as u64;
        after.clone_from(last);
    }
    let unheld: Vec<Unheld> = sqlx::query_as(UNHELD).fetch_all(pool).await?;
    stock.wrong.extend(unheld.into_iter().map(|product| (product.sku.clone(), product.what())));
    Ok(stock)
}

impl Astray {
    fn what(&self) -> String {
        let Self { available, reserved, committed, came_in, set_aside, gone, .. } = self;
        format!(
            "by its row {available} are available, {reserved} reserved and {committed} committed; by its movements {came_in} came in, {set_aside} are reserved and {gone} committed"
        )
    }
}

impl Unheld {
    fn what(&self) -> String {
        format!("by its row {} are reserved; reservations hold {}", self.reserved, self.held)
    }
}
