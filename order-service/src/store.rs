//! The SQL of `orders`. Statements take many orders at once and only compare and set; [`crate::order`] decides.

use std::collections::{HashMap, HashSet};

use messages::{Items, Money, OrderId, Timestamp, UserId};
use rust_decimal::Decimal;
use service_runtime::conditional::Table;
use service_runtime::database::{DatabaseClock, Session, StoreError};
use service_runtime::retention;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use uuid::Uuid;

use crate::order::{Contents, Create, Order, Transition};

/// Old orders. One that was made by hand stays while it is PENDING.
pub const REMOVABLE: retention::Table = retention::Table {
    name: "orders",
    may_be_removed: "orders.saga_id IS NOT NULL OR orders.status <> 'PENDING'",
    removed_with: "",
};

/// Creates: an order that is not there yet.
pub struct Creates(pub Session, pub DatabaseClock);

impl Table for Creates {
    type Key = OrderId;
    type Row = Order;
    type Write = Create;
    const NAME: &'static str = "orders created";

    fn key(create: &Create) -> OrderId {
        create.order_id
    }

    async fn compare_and_set(&self, creates: &[&Create]) -> Result<HashMap<OrderId, Order>, StoreError> {
        let now = self.1.now();
        let inserted = insert(&self.0, creates, now).await?;
        let stored = creates.iter().filter(|create| inserted.contains(&create.order_id));
        Ok(stored.map(|create| (create.order_id, create.to_order(now))).collect())
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Order>, StoreError> {
        to_orders(self.0.rows(wanted(orders)).await?)
    }
}

/// Moves of orders, assuming what is nearly always so: the order is PENDING, and of the saga that asks.
pub struct Transitions(pub Session, pub DatabaseClock);

impl Table for Transitions {
    type Key = OrderId;
    type Row = Order;
    type Write = Transition;
    const NAME: &'static str = "orders moved";

    fn key(transition: &Transition) -> OrderId {
        transition.order_id
    }

    async fn compare_and_set(&self, transitions: &[&Transition]) -> Result<HashMap<OrderId, Order>, StoreError> {
        update(&self.0, transitions, self.1.now()).await
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Order>, StoreError> {
        to_orders(self.0.rows(wanted(orders)).await?)
    }

    async fn held(&self, transitions: &[&Transition]) -> Result<HashSet<OrderId>, StoreError> {
        let held = sqlx::query(service_runtime::held_rows!("orders", "order_id"));
        let ids: Vec<Uuid> = transitions.iter().map(|transition| Self::key(transition).as_uuid()).collect();
        order_ids(&self.0.rows(held.bind(ids)).await?)
    }
}

/// Tombstones: the CANCELLED rows of cancels that came before their creates. A create that was quicker after all stays.
pub struct Tombstones(pub Session, pub DatabaseClock);

impl Table for Tombstones {
    type Key = OrderId;
    type Row = Order;
    type Write = Transition;
    const NAME: &'static str = "tombstones of orders";

    fn key(cancel: &Transition) -> OrderId {
        cancel.order_id
    }

    async fn compare_and_set(&self, cancels: &[&Transition]) -> Result<HashMap<OrderId, Order>, StoreError> {
        leave(&self.0, cancels, self.1.now()).await
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Order>, StoreError> {
        to_orders(self.0.rows(wanted(orders)).await?)
    }
}

async fn insert(session: &Session, creates: &[&Create], now: Timestamp) -> Result<HashSet<OrderId>, StoreError> {
    let ids: Vec<Uuid> = creates.iter().map(|c| c.order_id.as_uuid()).collect();
    let sagas: Vec<Option<Uuid>> = creates.iter().map(|c| c.saga_id.map(Uuid::from)).collect();
    let users: Vec<&str> = creates.iter().map(|c| c.contents.user_id.as_str()).collect();
    let amounts: Vec<Decimal> = creates.iter().map(|c| c.contents.money.amount()).collect();
    let currencies: Vec<&str> = creates.iter().map(|c| c.contents.money.currency().code()).collect();
    let insert = sqlx::query(
        "INSERT INTO orders (order_id, saga_id, user_id, total_amount, currency, items, status, created_at, updated_at)
         SELECT order_id, saga_id, user_id, total_amount, currency, items, 'PENDING', $6, $6
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($3::text[]) AS user_id,
                      UNNEST($4::numeric[]) AS total_amount, UNNEST($5::text[]) AS currency,
                      UNNEST($7::text[])::jsonb AS items) AS new
         ON CONFLICT (order_id) DO NOTHING
         RETURNING order_id",
    )
    .bind(ids)
    .bind(sagas)
    .bind(users)
    .bind(amounts)
    .bind(currencies)
    .bind(now)
    .bind(creates.iter().map(|c| items(&c.contents.items)).collect::<Vec<_>>());
    order_ids(&session.rows(insert).await?)
}

/// What stands in the column; `None` for an order without items.
fn items(items: &Items) -> Option<String> {
    // Lines of plain fields always have a JSON form.
    (!items.is_empty()).then(|| serde_json::to_string(items).ok()).flatten()
}

/// The orders that a statement names in its first column.
fn order_ids(rows: &[PgRow]) -> Result<HashSet<OrderId>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

async fn update(
    session: &Session,
    transitions: &[&Transition],
    now: Timestamp,
) -> Result<HashMap<OrderId, Order>, StoreError> {
    let update = sqlx::query(
        "UPDATE orders SET status = wanted.status, updated_at = $4
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($3::text[]) AS status) AS wanted
         WHERE orders.order_id = wanted.order_id
           AND (orders.saga_id IS NULL OR orders.saga_id = wanted.saga_id)
           AND orders.status = 'PENDING'
         RETURNING orders.order_id, orders.saga_id, user_id, total_amount, currency, items::text, orders.status, created_at,
                   updated_at",
    )
    .bind(transitions.iter().map(|t| t.order_id.as_uuid()).collect::<Vec<_>>())
    .bind(transitions.iter().map(|t| t.saga_id.map(Uuid::from)).collect::<Vec<_>>())
    .bind(transitions.iter().map(|t| t.to.as_str()).collect::<Vec<_>>())
    .bind(now);
    to_orders(session.rows(update).await?)
}

async fn leave(
    session: &Session,
    cancels: &[&Transition],
    now: Timestamp,
) -> Result<HashMap<OrderId, Order>, StoreError> {
    let insert = sqlx::query(
        "INSERT INTO orders (order_id, saga_id, status, created_at, updated_at)
         SELECT order_id, saga_id, 'CANCELLED', $3, $3
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id) AS new
         ON CONFLICT (order_id) DO NOTHING
         RETURNING order_id, saga_id, user_id, total_amount, currency, items::text, status, created_at, updated_at",
    )
    .bind(cancels.iter().map(|cancel| cancel.order_id.as_uuid()).collect::<Vec<_>>())
    .bind(cancels.iter().map(|cancel| cancel.saga_id.map(Uuid::from)).collect::<Vec<_>>())
    .bind(now);
    to_orders(session.rows(insert).await?)
}

fn wanted(orders: Vec<OrderId>) -> Query<'static, Postgres, PgArguments> {
    let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
    // Columns by name: a release that adds one must not change the result of this one's prepared statement.
    sqlx::query(
        "SELECT order_id, saga_id, user_id, total_amount, currency, items::text, status, created_at, updated_at
         FROM orders WHERE order_id = ANY($1)",
    )
    .bind(ids)
}

fn to_orders(rows: Vec<PgRow>) -> Result<HashMap<OrderId, Order>, StoreError> {
    rows.iter().map(|row| from_row(row).map(|order| (order.order_id, order))).collect()
}

fn from_row(row: &PgRow) -> Result<Order, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("a row of orders can't be read: {why}").into());
    let money = match (row.try_get::<Option<Decimal>, _>("total_amount")?, row.try_get::<Option<&str>, _>("currency")?)
    {
        (Some(amount), Some(currency)) => {
            Some(currency.parse().and_then(|c| Money::new(amount, c)).map_err(|e| unreadable(e.to_string()))?)
        }
        _ => None,
    };
    let user_id = row.try_get::<Option<String>, _>("user_id")?.map(UserId::try_from).transpose();
    let user_id = user_id.map_err(|error| unreadable(error.to_string()))?;
    let items = row.try_get::<Option<&str>, _>("items")?.map(serde_json::from_str).transpose();
    let items: Items = items.map_err(|error| unreadable(error.to_string()))?.unwrap_or_default();
    Ok(Order {
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        saga_id: row.try_get::<Option<Uuid>, _>("saga_id")?.map(Into::into),
        contents: money.zip(user_id).map(|(money, user_id)| Contents { user_id, money, items }),
        status: row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
