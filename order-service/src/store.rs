//! The SQL of `orders`. Statements take many orders at once and only compare and set; [`crate::order`] decides.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use messages::{Items, Money, OrderId, Timestamp, UserId};
use rust_decimal::Decimal;
use service_runtime::conditional::Table;
use service_runtime::database::{DatabaseClock, Session, StoreError};
use service_runtime::http::IdempotencyKey;
use service_runtime::outbox::{Announced, Announcement, Entry};
use service_runtime::retention;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use uuid::Uuid;

use crate::NAME;
use crate::order::{Contents, Create, Order, Status, Transition, Why};

/// Old orders. One that was made by hand stays while it is PENDING.
pub const REMOVABLE: retention::Table = retention::Table {
    name: "orders",
    may_be_removed: "orders.saga_id IS NOT NULL OR orders.status <> 'PENDING'",
    removed_with: "",
};

// What `from_row` reads of `orders`. Columns by name: a release that adds one must not change the result of this one's prepared
// statements.
macro_rules! columns {
    () => {
        "orders.order_id, orders.saga_id, orders.user_id, orders.total_amount, orders.currency, orders.items::text, orders.flow,
         orders.announce_at, orders.status, orders.failure_reason, orders.failure_detail, orders.created_at, orders.updated_at"
    };
}

/// How long a saga has to take an order up before it is announced again.
const FIRST_REPETITION: Duration = Duration::from_secs(5);

/// The longest time between two announcements of an order.
const LAST_REPETITION: Duration = Duration::from_secs(300);

/// So many orders that await their sagas are counted at most.
const MOST_COUNTED: i64 = 10_000;

// A statement that changes orders, and leaves an entry in `outbox` for each change of a status.
macro_rules! announced {
    ($statement:ident) => {
        concat!(
            "WITH changed AS (",
            $statement!(),
            "), announced AS (
                 INSERT INTO outbox (id, what) SELECT order_id, status FROM changed WHERE status <> 'PENDING' OR is_new
             )
             SELECT * FROM changed"
        )
    };
}

macro_rules! insert {
    () => {
        "INSERT INTO orders (order_id, saga_id, user_id, total_amount, currency, items, flow, announce_at, idempotency_key,
                             status, created_at, updated_at)
         SELECT order_id, saga_id, user_id, total_amount, currency, items, flow,
                CASE WHEN flow IS NOT NULL THEN now() + $10 * interval '1 ms' END, idempotency_key, 'PENDING', $6, $6
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($3::text[]) AS user_id,
                      UNNEST($4::numeric[]) AS total_amount, UNNEST($5::text[]) AS currency,
                      UNNEST($7::text[])::jsonb AS items, UNNEST($8::text[]) AS flow,
                      UNNEST($9::text[]) AS idempotency_key) AS new
         -- Its id, or the client's key.
         ON CONFLICT DO NOTHING
         RETURNING order_id, status, TRUE AS is_new"
    };
}

macro_rules! update {
    () => {
        concat!(
            // One that awaits its saga is that saga's from then on. It can't be confirmed before.
            "UPDATE orders SET status = wanted.status, updated_at = $4, announce_at = NULL,
                               failure_reason = wanted.failure_reason, failure_detail = wanted.failure_detail,
                               saga_id = CASE WHEN announce_at IS NULL THEN orders.saga_id ELSE wanted.saga_id END
             FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($3::text[]) AS status,
                          UNNEST($5::text[]) AS failure_reason, UNNEST($6::text[]) AS failure_detail) AS wanted
             WHERE orders.order_id = wanted.order_id
               AND (orders.saga_id IS NULL OR orders.saga_id = wanted.saga_id)
               AND (orders.announce_at IS NULL OR wanted.status <> 'CONFIRMED')
               AND orders.status = 'PENDING'
             RETURNING FALSE AS is_new, ",
            columns!()
        )
    };
}

/// Where orders are written.
#[derive(Clone)]
pub struct Writing {
    pub clock: DatabaseClock,
    /// Whether each change leaves an entry in `outbox`.
    pub is_announced: bool,
}

/// Creates: an order that is not there yet.
pub struct Creates(pub Session, pub Writing);

impl Table for Creates {
    type Key = OrderId;
    type Row = Order;
    type Write = Create;
    const NAME: &'static str = "orders created";

    fn key(create: &Create) -> OrderId {
        create.order_id
    }

    async fn compare_and_set(&self, creates: &[&Create]) -> Result<HashMap<OrderId, Order>, StoreError> {
        insert(&self.0, creates, &self.1).await
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Order>, StoreError> {
        to_orders(self.0.rows(wanted(orders)).await?)
    }
}

/// Creates under clients' keys: two of one key, at two instances, must not wait for each other in opposite orders.
pub struct KeyedCreates(pub Session, pub Writing);

/// A key belongs to its user.
type Keyed = (String, Option<IdempotencyKey>);

impl Table for KeyedCreates {
    type Key = Keyed;
    type Row = Order;
    type Write = Create;
    const NAME: &'static str = "orders created by key";

    fn key(create: &Create) -> Keyed {
        (create.contents.user_id.to_string(), create.key.clone())
    }

    async fn compare_and_set(&self, creates: &[&Create]) -> Result<HashMap<Keyed, Order>, StoreError> {
        let inserted = insert(&self.0, creates, &self.1).await?;
        let stored = |create: &&Create| Some((Self::key(create), inserted.get(&create.order_id)?.clone()));
        Ok(creates.iter().filter_map(stored).collect())
    }

    async fn read(&self, keyed: Vec<Keyed>) -> Result<HashMap<Keyed, Order>, StoreError> {
        let wanted = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            ", orders.idempotency_key
             FROM (SELECT UNNEST($1::text[]) AS user_id, UNNEST($2::text[]) AS idempotency_key) AS wanted
             JOIN orders ON orders.user_id = wanted.user_id AND orders.idempotency_key = wanted.idempotency_key"
        ))
        .bind(keyed.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, key)| key.as_ref().map(IdempotencyKey::as_str)).collect::<Vec<_>>());
        let rows = self.0.rows(wanted).await?;
        let keyed = |row: &PgRow| -> Result<Keyed, StoreError> {
            Ok((row.try_get("user_id")?, Some(IdempotencyKey::stored(row.try_get("idempotency_key")?))))
        };
        rows.iter().map(|row| Ok((keyed(row)?, from_row(row)?))).collect()
    }
}

/// Moves of orders, assuming what is nearly always so: the order is PENDING, and of the saga that asks or awaits one.
pub struct Transitions(pub Session, pub Writing);

impl Table for Transitions {
    type Key = OrderId;
    type Row = Order;
    type Write = Transition;
    const NAME: &'static str = "orders moved";

    fn key(transition: &Transition) -> OrderId {
        transition.order_id
    }

    async fn compare_and_set(&self, transitions: &[&Transition]) -> Result<HashMap<OrderId, Order>, StoreError> {
        update(&self.0, transitions, &self.1).await
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

/// The new orders, as stored.
async fn insert(
    session: &Session,
    creates: &[&Create],
    writing: &Writing,
) -> Result<HashMap<OrderId, Order>, StoreError> {
    let now = writing.clock.now();
    let ids: Vec<Uuid> = creates.iter().map(|c| c.order_id.as_uuid()).collect();
    let sagas: Vec<Option<Uuid>> = creates.iter().map(|c| c.saga_id.map(Uuid::from)).collect();
    let users: Vec<&str> = creates.iter().map(|c| c.contents.user_id.as_str()).collect();
    let amounts: Vec<Decimal> = creates.iter().map(|c| c.contents.money.amount()).collect();
    let currencies: Vec<&str> = creates.iter().map(|c| c.contents.money.currency().code()).collect();
    let insert = sqlx::query(if writing.is_announced { announced!(insert) } else { insert!() })
        .bind(ids)
        .bind(sagas)
        .bind(users)
        .bind(amounts)
        .bind(currencies)
        .bind(now)
        .bind(creates.iter().map(|c| items(&c.contents.items)).collect::<Vec<_>>())
        .bind(creates.iter().map(|c| c.flow.as_deref()).collect::<Vec<_>>())
        .bind(creates.iter().map(|c| c.key.as_ref().map(IdempotencyKey::as_str)).collect::<Vec<_>>())
        .bind(FIRST_REPETITION.as_millis() as f64);
    let inserted = order_ids(&session.rows(insert).await?)?;
    let stored = creates.iter().filter(|create| inserted.contains(&create.order_id));
    Ok(stored.map(|create| (create.order_id, create.to_order(now))).collect())
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
    writing: &Writing,
) -> Result<HashMap<OrderId, Order>, StoreError> {
    let update = sqlx::query(if writing.is_announced { announced!(update) } else { update!() })
        .bind(transitions.iter().map(|t| t.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(transitions.iter().map(|t| t.saga_id.map(Uuid::from)).collect::<Vec<_>>())
        .bind(transitions.iter().map(|t| t.to.as_str()).collect::<Vec<_>>())
        .bind(writing.clock.now())
        .bind(transitions.iter().map(|t| t.why.reason.as_deref()).collect::<Vec<_>>())
        .bind(transitions.iter().map(|t| t.why.detail.as_deref()).collect::<Vec<_>>());
    to_orders(session.rows(update).await?)
}

async fn leave(
    session: &Session,
    cancels: &[&Transition],
    now: Timestamp,
) -> Result<HashMap<OrderId, Order>, StoreError> {
    let insert = sqlx::query(concat!(
        "INSERT INTO orders (order_id, saga_id, status, failure_reason, failure_detail, created_at, updated_at)
         SELECT order_id, saga_id, 'CANCELLED', failure_reason, failure_detail, $3, $3
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($4::text[]) AS failure_reason,
                      UNNEST($5::text[]) AS failure_detail) AS new
         ON CONFLICT (order_id) DO NOTHING
         RETURNING ",
        columns!()
    ))
    .bind(cancels.iter().map(|cancel| cancel.order_id.as_uuid()).collect::<Vec<_>>())
    .bind(cancels.iter().map(|cancel| cancel.saga_id.map(Uuid::from)).collect::<Vec<_>>())
    .bind(now)
    .bind(cancels.iter().map(|cancel| cancel.why.reason.as_deref()).collect::<Vec<_>>())
    .bind(cancels.iter().map(|cancel| cancel.why.detail.as_deref()).collect::<Vec<_>>());
    to_orders(session.rows(insert).await?)
}

/// A user's orders, the highest id first: at most so many, of those with smaller ids than `before`.
pub async fn of_user(
    session: &Session,
    user_id: &UserId,
    before: Option<OrderId>,
    at_most: i64,
) -> Result<Vec<Order>, StoreError> {
    let before = before.map_or_else(Uuid::max, Uuid::from);
    let list = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM orders WHERE user_id = $1 AND order_id < $2 ORDER BY order_id DESC LIMIT $3"
    ))
    .bind(user_id.as_str())
    .bind(before)
    .bind(at_most);
    session.rows(list).await?.iter().map(from_row).collect()
}

fn wanted(orders: Vec<OrderId>) -> Query<'static, Postgres, PgArguments> {
    let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
    sqlx::query(concat!("SELECT ", columns!(), " FROM orders WHERE order_id = ANY($1)")).bind(ids)
}

/// Orders that no saga has taken up in time, at most so many, to be announced once more. Each delay is about twice the one before,
/// at most [`LAST_REPETITION`]. If the process dies before it sends them, they are due again then.
pub async fn to_announce(session: &Session, at_most: usize) -> Result<Vec<Order>, StoreError> {
    let claim = sqlx::query(concat!(
        "WITH due AS MATERIALIZED (
             SELECT order_id FROM orders WHERE announce_at <= now() AND status = 'PENDING' ORDER BY announce_at LIMIT $1
             FOR NO KEY UPDATE SKIP LOCKED
         )
         UPDATE orders SET announce_at = now() + LEAST(GREATEST(now() - created_at, $2 * interval '1 ms'), $3 * interval '1 ms')
         FROM due WHERE orders.order_id = due.order_id
         RETURNING ",
        columns!()
    ))
    .bind(at_most as i64)
    .bind(FIRST_REPETITION.as_millis() as f64)
    .bind(LAST_REPETITION.as_millis() as f64);
    session.rows(claim).await?.iter().map(from_row).collect()
}

/// How many orders await their sagas, at most [`MOST_COUNTED`], and for how long the first of these has.
pub async fn awaiting(session: &Session) -> Result<(i64, Duration), StoreError> {
    let count = "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
                 FROM (SELECT created_at FROM orders WHERE announce_at IS NOT NULL AND status = 'PENDING'
                       ORDER BY announce_at LIMIT $1) AS waiting";
    let rows = session.rows(sqlx::query(count).bind(MOST_COUNTED)).await?;
    let Some(row) = rows.first() else { return Ok((0, Duration::ZERO)) };
    Ok((row.try_get(0)?, Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or_default()))
}

/// The events of orders' changes.
pub struct Events(pub Session);

impl Announced for Events {
    async fn of(&self, entries: &[Entry]) -> Result<Vec<Announcement>, StoreError> {
        let rows = self.0.rows(wanted(entries.iter().map(|entry| entry.id.into()).collect())).await?;
        let ids = order_ids(&rows)?;
        let readable = rows.iter().filter_map(|row| from_row(row).ok());
        let orders: HashMap<OrderId, Order> = readable.map(|order| (order.order_id, order)).collect();
        let announcement = |entry: &Entry| {
            let (order, status) = (orders.get(&entry.id.into()), entry.what.parse::<Status>());
            match (order, status) {
                (None, _) if !ids.contains(&entry.id.into()) => Announcement::Nothing("its row was removed"),
                (None, _) | (_, Err(_)) => Announcement::Unknown,
                (Some(order), Ok(status)) => match order.event(status) {
                    Some(event) => Announcement::Record(event.to_record(NAME)),
                    None => Announcement::Nothing("its row has not had this status, or nobody has ordered it"),
                },
            }
        };
        Ok(entries.iter().map(announcement).collect())
    }
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
    let saga_id = row.try_get::<Option<Uuid>, _>("saga_id")?.map(Into::into);
    let status = row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?;
    // An older release moves an order and leaves this.
    let announce_at: Option<Timestamp> = row.try_get("announce_at")?;
    Ok(Order {
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        saga_id,
        contents: money.zip(user_id).map(|(money, user_id)| Contents { user_id, money, items }),
        flow: row.try_get("flow")?,
        awaits_saga: announce_at.is_some() && saga_id.is_none() && status == Status::Pending,
        status,
        why: Why { reason: row.try_get("failure_reason")?, detail: row.try_get("failure_detail")? },
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
