//! Setting pieces of products aside, and letting them go: many orders in one statement.
//!
//! A statement locks what it changes in one order, so that no two wait for each other: reservations first, then products by
//! their SKUs, each product once, however many orders of the batch want it. `products.available` can't go below zero, so
//! nothing is oversold whatever was read before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use messages::{OrderId, Sku};
use participant::stored;
use service_runtime::database::{Session, StoreError};
use sqlx::Row as _;
use uuid::Uuid;

use crate::reservation::Reservation;

// The products of `lines` (order_id, sku, quantity, and what `$sums` is of), locked in the order of their SKUs, each with its
// sums.
macro_rules! locked {
    ($sums:literal, $names:literal) => {
        concat!(
            ", sums AS (
                 SELECT sku, sum(quantity)::bigint AS quantity",
            $sums,
            " FROM lines GROUP BY sku
             ), locked AS MATERIALIZED (
                 SELECT products.sku, sums.quantity",
            $names,
            " FROM products JOIN sums ON sums.sku = products.sku ORDER BY products.sku FOR NO KEY UPDATE OF products
             )"
        )
    };
}

macro_rules! let_go {
    () => {
        concat!(
            ", lines AS MATERIALIZED (
                 SELECT line.order_id, line.sku, line.quantity, moved.status FROM moved
                 JOIN reservations AS before ON before.order_id = moved.order_id AND before.holds
                 JOIN reservation_items AS line ON line.order_id = moved.order_id
                 WHERE moved.status <> 'RESERVED'
             )",
            locked!(
                ", coalesce(sum(quantity) FILTER (WHERE status = 'COMMITTED'), 0)::bigint AS gone",
                ", sums.gone"
            ),
            ", let_go AS (
                 UPDATE products SET available = available + locked.quantity - locked.gone,
                                     committed = committed + locked.gone, reserved = reserved - locked.quantity,
                                     updated_at = clock_timestamp()
                 FROM locked WHERE products.sku = locked.sku
             ), movements AS (
                 INSERT INTO stock_movements (sku, kind, quantity, order_id)
                 SELECT sku, CASE status WHEN 'COMMITTED' THEN 'COMMIT' WHEN 'EXPIRED' THEN 'EXPIRE' ELSE 'RELEASE' END,
                        quantity, order_id
                 FROM lines
             )"
        )
    };
}

/// Follows `moved`, which has the orders of reservations with their new statuses. What those held whose status is not
/// RESERVED any more has left the house, or is available again.
pub const LET_GO: &str = let_go!();

/// Gives back what reservations hold that are released, of at most so many; returns their orders.
pub const ASTRAY_GIVEN_BACK: &str = concat!(
    "WITH astray AS (
         SELECT order_id FROM reservations WHERE holds AND status <> 'RESERVED'
         ORDER BY order_id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
     ), moved AS (
         UPDATE reservations SET holds = FALSE, will_expire = FALSE FROM astray
         WHERE reservations.order_id = astray.order_id
         RETURNING reservations.order_id, reservations.status
     )",
    let_go!(),
    " SELECT order_id FROM moved"
);

// Ends the holds of the orders in `due`; returns what is to be announced of them.
macro_rules! expire {
    ($due:literal) => {
        concat!(
            "WITH ",
            $due,
            ", moved AS (
                 UPDATE reservations SET status = 'EXPIRED', holds = FALSE, updated_at = now(),
                        reason = 'the goods were set aside until '
                                 || to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
                 FROM due WHERE reservations.order_id = due.order_id
                 RETURNING reservations.order_id, reservations.status, reservations.saga_id, reservations.expires_at
             )",
            let_go!(),
            " SELECT order_id, saga_id, expires_at FROM moved"
        )
    };
}

/// Ends holds whose time is over, at most so many, but for these orders.
pub const EXPIRE: &str = expire!(
    "due AS (
         SELECT order_id FROM reservations
         WHERE will_expire AND expires_at <= now() AND status = 'RESERVED' AND order_id <> ALL($2)
         ORDER BY expires_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
     )"
);

/// The same, but for orders of products whose rows others hold: it waits for nobody.
pub const EXPIRE_FREE: &str = expire!(
    "candidates AS MATERIALIZED (
         SELECT order_id, expires_at FROM reservations
         WHERE will_expire AND expires_at <= now() AND status = 'RESERVED' AND order_id <> ALL($2)
         ORDER BY expires_at LIMIT 10000 FOR NO KEY UPDATE SKIP LOCKED
     ), free AS MATERIALIZED (
         SELECT sku FROM products
         WHERE sku IN (SELECT line.sku FROM reservation_items AS line JOIN candidates USING (order_id))
         FOR NO KEY UPDATE SKIP LOCKED
     ), due AS (
         SELECT order_id FROM candidates
         WHERE NOT EXISTS (SELECT FROM reservation_items AS line
                           WHERE line.order_id = candidates.order_id AND line.sku NOT IN (SELECT sku FROM free))
         ORDER BY expires_at LIMIT $1
     )"
);

/// The order whose hold is over for the longest, but for these.
pub const FIRST_DUE: &str = "SELECT order_id FROM reservations
     WHERE will_expire AND expires_at <= now() AND status = 'RESERVED' AND order_id <> ALL($1)
     ORDER BY expires_at LIMIT 1";

const RESERVE: &str = concat!(
    "WITH created AS (
         INSERT INTO reservations (order_id, saga_id, status, reason, short, holds, expires_at, will_expire, created_at, updated_at)
         SELECT UNNEST($1::uuid[]), UNNEST($2::uuid[]), UNNEST($3::text[]), UNNEST($4::text[]), UNNEST($5::text[])::jsonb,
                UNNEST($6::boolean[]), UNNEST($7::timestamptz[]), UNNEST($8::boolean[]), UNNEST($9::timestamptz[]),
                UNNEST($10::timestamptz[])
         RETURNING order_id
     ), lines AS MATERIALIZED (
         SELECT line.order_id, line.sku, line.quantity
         FROM (SELECT UNNEST($11::uuid[]) AS order_id, UNNEST($12::text[]) AS sku, UNNEST($13::bigint[]) AS quantity) AS line
         JOIN created ON created.order_id = line.order_id
     )",
    locked!("", ""),
    ", taken AS (
         UPDATE products SET available = available - locked.quantity, reserved = reserved + locked.quantity,
                             updated_at = clock_timestamp()
         FROM locked WHERE products.sku = locked.sku
     ), items AS (
         INSERT INTO reservation_items (order_id, sku, quantity) SELECT order_id, sku, quantity FROM lines
     ), movements AS (
         INSERT INTO stock_movements (sku, kind, quantity, order_id) SELECT sku, 'RESERVE', quantity, order_id FROM lines
     )
     SELECT order_id FROM created"
);

/// How often a batch is decided that others overtake.
const TRIES: u32 = 5;

/// Stores new reservations of counted goods, in the order of `rows`: those whose pieces are there as RESERVED, the others as
/// FAILED. The rows as stored; those whose orders have a reservation already are left out.
pub async fn reserve(session: &Session, rows: &[&Reservation]) -> Result<HashMap<OrderId, Reservation>, StoreError> {
    let mut tries = 1..TRIES;
    loop {
        let Seen { decided, mut free } = look(session, rows).await?;
        // A command that comes again wants nothing more.
        let new = rows.iter().filter(|row| !decided.contains(&row.order_id));
        let counted: Vec<Reservation> = new.map(|row| row.counted(&mut free)).collect();
        if counted.is_empty() {
            return Ok(HashMap::new());
        }
        match create(session, &counted).await {
            // Others may have taken pieces meanwhile, or stored one of these orders. The database refuses both.
            Err(StoreError::Refused(_)) if tries.next().is_some() => {}
            outcome => return outcome,
        }
    }
}

/// What a batch is decided by.
struct Seen {
    /// The orders that have a reservation.
    decided: HashSet<OrderId>,
    /// How many pieces of each product are free.
    free: BTreeMap<Sku, i64>,
}

async fn look(session: &Session, rows: &[&Reservation]) -> Result<Seen, StoreError> {
    let look = sqlx::query(
        "SELECT NULL::uuid AS order_id, sku, available::bigint FROM products WHERE sku = ANY($1)
         UNION ALL SELECT order_id, NULL, NULL FROM reservations WHERE order_id = ANY($2)",
    );
    let orders: Vec<Uuid> = rows.iter().map(|row| row.order_id.as_uuid()).collect();
    let (mut decided, mut free) = (HashSet::new(), BTreeMap::new());
    for row in session.rows(look.bind(skus(rows)).bind(orders)).await? {
        match row.try_get::<Option<Uuid>, _>("order_id")? {
            Some(order_id) => {
                decided.insert(order_id.into());
            }
            None => {
                free.insert(sku(row.try_get("sku")?)?, row.try_get("available")?);
            }
        }
    }
    Ok(Seen { decided, free })
}

/// Those of the orders for whose products others hold the rows.
pub async fn held(session: &Session, rows: &[&Reservation]) -> Result<HashSet<OrderId>, StoreError> {
    let held = sqlx::query(service_runtime::held_rows!("products", "sku"));
    let held = session.rows(held.bind(skus(rows))).await?;
    let held: HashSet<Sku> = held.iter().map(|row| sku(row.try_get("sku")?)).collect::<Result<_, StoreError>>()?;
    let is_held = |row: &&&Reservation| row.items.keys().any(|sku| held.contains(sku));
    Ok(rows.iter().filter(is_held).map(|row| row.order_id).collect())
}

/// What `rows` are of.
fn skus(rows: &[&Reservation]) -> Vec<String> {
    let skus: BTreeSet<&Sku> = rows.iter().flat_map(|row| row.items.keys()).collect();
    skus.into_iter().map(Sku::to_string).collect()
}

fn sku(text: String) -> Result<Sku, StoreError> {
    Sku::try_from(text).map_err(|error| StoreError::Refused(format!("a product's SKU {error}").into()))
}

async fn create(session: &Session, rows: &[Reservation]) -> Result<HashMap<OrderId, Reservation>, StoreError> {
    let lines = || rows.iter().flat_map(|row| row.items.iter().map(|(sku, quantity)| (row.order_id, sku, *quantity)));
    let short = |row: &Reservation| (!row.short.is_empty()).then(|| serde_json::to_string(&row.short).ok()).flatten();
    let insert = sqlx::query(RESERVE)
        .bind(rows.iter().map(|row| row.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.status.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.reason.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(short).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| !row.items.is_empty()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.expires_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.will_expire).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.updated_at).collect::<Vec<_>>())
        .bind(lines().map(|(order, ..)| order.as_uuid()).collect::<Vec<_>>())
        .bind(lines().map(|(_, sku, _)| sku.as_str().to_owned()).collect::<Vec<_>>())
        .bind(lines().map(|(.., quantity)| quantity).collect::<Vec<_>>());
    stored(rows.iter(), &session.rows(insert).await?)
}
