//! The SQL of the audit. It only reads: the right to SELECT is all that its roles need.
//!
//! A batch's sagas are read first and what others hold for them afterwards, so whatever a saga says has happened is
//! there to be seen. The other direction is read the other way round: a row first, and then whether a saga knows it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use messages::Items;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _};
use uuid::Uuid;

use super::rows::{Case, Decision, History, Movement, Order, Payment, Reservation, Saga};
use super::sums::Amount;
use crate::databases::{Database, Databases, Unreadable};

/// How many sagas, or rows, are looked at at a time: some ten megabytes.
const BATCH: i64 = 5000;

/// Sagas with a summary of their histories, in one statement, so that the two can't be of different moments. What an
/// operator has resolved is what was pending: the step of the entry before. Looked for only where it is there to find.
macro_rules! select_sagas {
    ($which:literal) => {
        concat!(
            "SELECT s.saga_id, order_id, definition, s.status, s.step, version, total_amount, currency,
                    updated_at > now() - $2 * interval '1 second' AS moved_lately,
                    s.status = 'WAITING' AND COALESCE(deadline_at > now() - $2 * interval '1 second', true) AS waits,
                    CASE WHEN needs_attention_since IS NOT NULL THEN COALESCE(attention_reason, '') END AS attention,
                    resolved_by_hand,
                    CASE WHEN resolved_by_hand THEN ARRAY(
                        SELECT pending.step
                        FROM saga_events resolved JOIN saga_events pending
                             ON pending.saga_id = resolved.saga_id AND pending.seq = resolved.seq - 1
                        WHERE resolved.saga_id = s.saga_id AND resolved.input = 'operator.resolved'
                        ORDER BY resolved.seq
                    ) ELSE '{}' END AS history_resolved,
                    entries, first, last, history_status, history_step
             FROM (SELECT * FROM sagas WHERE ",
            $which,
            ") s CROSS JOIN LATERAL (
                 SELECT count(*) AS entries, min(seq) AS first, max(seq) AS last,
                        (array_agg(e.status ORDER BY seq DESC))[1] AS history_status,
                        (array_agg(e.step ORDER BY seq DESC))[1] AS history_step
                 FROM saga_events e WHERE e.saga_id = s.saga_id
             ) history"
        )
    };
}

/// Where rows about orders stand that a saga has to know of: what to call it, the rows after a key, its first key.
/// Orders that were made by hand are no saga's, and what is below the horizon is nobody's.
pub struct Table<K> {
    pub name: &'static str,
    database: fn(&Databases) -> &Database,
    sql: &'static str,
    pub before_all: K,
}

pub const ORDERS: Table<Uuid> = Table {
    name: "orders",
    database: |databases| &databases.order,
    sql: "SELECT order_id, order_id FROM orders WHERE order_id > $1 AND order_id >= $3
            AND (saga_id IS NOT NULL OR (to_jsonb(orders) ->> 'flow') IS NOT NULL)
          ORDER BY order_id LIMIT $2",
    before_all: Uuid::nil(),
};

pub const PAYMENTS: Table<Uuid> = Table {
    name: "payments",
    database: |databases| &databases.payment,
    sql: "SELECT order_id, order_id FROM payments WHERE order_id > $1 AND order_id >= $3 ORDER BY order_id LIMIT $2",
    before_all: Uuid::nil(),
};

pub const RESERVATIONS: Table<Uuid> = Table {
    name: "reservations",
    database: |databases| &databases.inventory,
    sql: "SELECT order_id, order_id FROM reservations WHERE order_id > $1 AND order_id >= $3
          ORDER BY order_id LIMIT $2",
    before_all: Uuid::nil(),
};

pub const LEDGER: Table<i64> = Table {
    name: "ledger entries",
    database: |databases| &databases.payment,
    sql: "SELECT entry_id, order_id FROM gateway_ledger WHERE entry_id > $1 AND order_id >= $3
          ORDER BY entry_id LIMIT $2",
    before_all: i64::MIN,
};

pub const DECISIONS: Table<String> = Table {
    name: "gateway requests",
    database: |databases| &databases.payment,
    sql: "SELECT idempotency_key, order_id FROM gateway_requests WHERE idempotency_key > $1 AND order_id >= $3
          ORDER BY idempotency_key LIMIT $2",
    before_all: String::new(),
};

/// Some rows of a table.
pub struct Page<K> {
    pub last: K,
    pub rows: usize,
    /// The orders among them that no saga knows.
    pub unknown: Vec<Uuid>,
}

/// Reads rows of all four databases, a batch at a time.
pub struct Reader<'a> {
    pub databases: &'a Databases,
    pub grace: Duration,
    /// Orders with a smaller id are out of sight: they are removed, or about to be.
    pub horizon: Uuid,
}

/// The orchestrator's retention horizon. Nil where nothing was removed yet.
pub async fn horizon(databases: &Databases) -> Result<Uuid, Unreadable> {
    let database = &databases.orchestrator;
    let horizon = sqlx::query_scalar("SELECT order_id FROM retention_horizon").fetch_optional(&database.pool).await;
    Ok(horizon.map_err(|error| database.unreadable(&error))?.unwrap_or_default())
}

impl Reader<'_> {
    /// The next batch of sagas, with what the others hold for them. Empty after the last one.
    pub async fn next_sagas(&self, after: Uuid) -> Result<Vec<Case>, Unreadable> {
        let database = &self.databases.orchestrator;
        let sagas = sqlx::query(select_sagas!("saga_id > $1 AND order_id >= $4 ORDER BY saga_id LIMIT $3"))
            .bind(after)
            .bind(self.grace.as_secs_f64())
            .bind(BATCH)
            .bind(self.horizon)
            .fetch_all(&database.pool)
            .await
            .and_then(|rows| rows.iter().map(saga).collect::<sqlx::Result<Vec<_>>>())
            .map_err(|error| database.unreadable(&error))?;
        self.with_participants(sagas.into_iter().map(|saga| (saga.order_id, Case::of(saga))).collect()).await
    }

    /// All that is stored about these orders.
    pub async fn orders(&self, order_ids: &[Uuid]) -> Result<Vec<Case>, Unreadable> {
        let mut cases = Vec::new();
        for some in order_ids.chunks(BATCH as usize) {
            let database = &self.databases.orchestrator;
            let sagas = sqlx::query(select_sagas!("order_id = ANY($1)"))
                .bind(some)
                .bind(self.grace.as_secs_f64())
                .fetch_all(&database.pool)
                .await
                .and_then(|rows| rows.iter().map(saga).collect::<sqlx::Result<Vec<_>>>())
                .map_err(|error| database.unreadable(&error))?;
            let mut found: HashMap<Uuid, Case> = some.iter().map(|id| (*id, Case::new(*id))).collect();
            found.extend(sagas.into_iter().map(|saga| (saga.order_id, Case::of(saga))));
            cases.extend(self.with_participants(found).await?);
        }
        Ok(cases)
    }

    /// The next rows of a table; none after the last one.
    pub async fn next_rows<K>(&self, table: &Table<K>, after: &K) -> Result<Option<Page<K>>, Unreadable>
    where
        K: Clone + Send + Sync + Unpin + sqlx::Type<Postgres>,
        K: for<'q> sqlx::Encode<'q, Postgres> + for<'r> sqlx::Decode<'r, Postgres>,
    {
        let database = (table.database)(self.databases);
        let rows: Vec<(K, Uuid)> = sqlx::query_as(table.sql)
            .bind(after)
            .bind(BATCH)
            .bind(self.horizon)
            .fetch_all(&database.pool)
            .await
            .map_err(|error| database.unreadable(&error))?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        let orders: HashSet<Uuid> = rows.iter().map(|(_, order_id)| *order_id).collect();
        let orchestrator = &self.databases.orchestrator;
        let known = sqlx::query_scalar("SELECT order_id FROM sagas WHERE order_id = ANY($1)")
            .bind(orders.iter().copied().collect::<Vec<_>>())
            .fetch_all(&orchestrator.pool)
            .await
            .map_err(|error| orchestrator.unreadable(&error))?;
        let known: HashSet<Uuid> = known.into_iter().collect();
        Ok(Some(Page { last: last.clone(), rows: rows.len(), unknown: orders.difference(&known).copied().collect() }))
    }

    /// Orders that share a user's idempotency key with another: the key's holder, and the orders.
    pub async fn orders_sharing_a_key(&self) -> Result<Vec<(String, Vec<Uuid>)>, Unreadable> {
        let database = &self.databases.orchestrator;
        let rows = sqlx::query_as(
            "SELECT user_id, array_agg(order_id ORDER BY order_id)
             FROM sagas WHERE idempotency_key IS NOT NULL AND order_id >= $1
             GROUP BY user_id, idempotency_key HAVING count(*) > 1",
        );
        rows.bind(self.horizon).fetch_all(&database.pool).await.map_err(|error| database.unreadable(&error))
    }

    /// Adds what the participants hold.
    async fn with_participants(&self, mut cases: HashMap<Uuid, Case>) -> Result<Vec<Case>, Unreadable> {
        let ids: Vec<Uuid> = cases.keys().copied().collect();
        let Databases { order, payment, inventory, .. } = self.databases;
        let (orders, (payments, ledger, decisions), reservations) = tokio::try_join!(
            async { orders(&order.pool, &ids).await.map_err(|error| order.unreadable(&error)) },
            async { payments(&payment.pool, &ids).await.map_err(|error| payment.unreadable(&error)) },
            async { reservations(&inventory.pool, &ids).await.map_err(|error| inventory.unreadable(&error)) },
        )?;
        put(&mut cases, orders, |case, order| case.order = Some(order));
        put(&mut cases, payments, |case, payment| case.payment = Some(payment));
        put(&mut cases, reservations, |case, reservation| case.reservation = Some(reservation));
        put(&mut cases, ledger, |case, movement| case.ledger.push(movement));
        put(&mut cases, decisions, |case, decision| case.decisions.push(decision));
        Ok(cases.into_values().collect())
    }
}

/// Rows with the orders that they are about.
type ByOrder<T> = Vec<(Uuid, T)>;

fn put<T>(cases: &mut HashMap<Uuid, Case>, rows: ByOrder<T>, put: impl Fn(&mut Case, T)) {
    for (order_id, row) in rows {
        put(cases.entry(order_id).or_insert_with(|| Case::new(order_id)), row);
    }
}

fn of_order<T>(rows: &[PgRow], read: impl Fn(&PgRow) -> sqlx::Result<T>) -> sqlx::Result<ByOrder<T>> {
    rows.iter().map(|row| Ok((row.try_get("order_id")?, read(row)?))).collect()
}

async fn orders(pool: &PgPool, ids: &[Uuid]) -> sqlx::Result<ByOrder<Order>> {
    // An older order service has no such columns.
    let sql = "SELECT order_id, saga_id, status, total_amount, currency, (to_jsonb(orders) ->> 'items') AS items,
                      (to_jsonb(orders) ->> 'flow') IS NOT NULL AS placed
               FROM orders WHERE order_id = ANY($1)";
    of_order(&sqlx::query(sql).bind(ids).fetch_all(pool).await?, |row| {
        let (value, currency) =
            (row.try_get::<Option<_>, _>("total_amount")?, row.try_get::<Option<_>, _>("currency")?);
        let amount = value.zip(currency).map(|(value, currency)| Amount { value, currency });
        let items: Option<Items> = row
            .try_get::<Option<&str>, _>("items")?
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        let pieces = items.unwrap_or_default().by_sku();
        let items = pieces.into_iter().map(|(sku, pieces)| (sku.into(), pieces)).collect();
        let (saga_id, placed, status) = (row.try_get("saga_id")?, row.try_get("placed")?, row.try_get("status")?);
        Ok(Order { saga_id, placed, status, amount, items })
    })
}

async fn reservations(pool: &PgPool, ids: &[Uuid]) -> sqlx::Result<ByOrder<Reservation>> {
    let sql = "SELECT order_id, saga_id, status FROM reservations WHERE order_id = ANY($1)";
    let rows = sqlx::query(sql).bind(ids).fetch_all(pool).await?;
    // Behind them: what is COMMITTED there has its movements.
    let handed_over = handed_over(pool, ids).await?;
    of_order(&rows, |row| {
        let (saga_id, status) = (row.try_get("saga_id")?, row.try_get("status")?);
        let order_id: Uuid = row.try_get("order_id")?;
        Ok(Reservation { saga_id, status, handed_over: handed_over.get(&order_id).cloned().unwrap_or_default() })
    })
}

/// The pieces that were handed over, by order and product; none where the service is of a release that counts nothing.
async fn handed_over(pool: &PgPool, ids: &[Uuid]) -> sqlx::Result<HashMap<Uuid, BTreeMap<String, i64>>> {
    let mut found: HashMap<Uuid, BTreeMap<String, i64>> = HashMap::new();
    let is_counted = "SELECT to_regclass('stock_movements') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(is_counted).fetch_one(pool).await? {
        return Ok(found);
    }
    let sql = "SELECT order_id, sku, quantity FROM stock_movements WHERE order_id = ANY($1) AND kind = 'COMMIT'";
    for row in sqlx::query(sql).bind(ids).fetch_all(pool).await? {
        let pieces = found.entry(row.try_get("order_id")?).or_default();
        *pieces.entry(row.try_get("sku")?).or_default() += row.try_get::<i64, _>("quantity")?;
    }
    Ok(found)
}

/// The payments' rows, the gateway's ledger and its decisions, of one moment.
async fn payments(
    pool: &PgPool,
    ids: &[Uuid],
) -> sqlx::Result<(ByOrder<Payment>, ByOrder<Movement>, ByOrder<Decision>)> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let sql = "SELECT order_id, saga_id, status, amount, currency FROM payments WHERE order_id = ANY($1)";
    let payments = of_order(&sqlx::query(sql).bind(ids).fetch_all(&mut *snapshot).await?, |row| {
        Ok(Payment { saga_id: row.try_get("saga_id")?, status: row.try_get("status")?, amount: amount(row)? })
    })?;
    let sql = "SELECT order_id, idempotency_key, kind, amount, currency FROM gateway_ledger
               WHERE order_id = ANY($1) ORDER BY entry_id";
    let ledger = of_order(&sqlx::query(sql).bind(ids).fetch_all(&mut *snapshot).await?, |row| {
        Ok(Movement { key: row.try_get("idempotency_key")?, kind: row.try_get("kind")?, amount: amount(row)? })
    })?;
    // There is no index by order: by the keys that an order has, and those that moved its money.
    let mut keys: HashSet<String> = ledger.iter().map(|(_, movement)| movement.key.clone()).collect();
    keys.extend(ids.iter().flat_map(|id| [format!("{id}:charge"), format!("{id}:refund")]));
    let sql = "SELECT order_id, idempotency_key, kind, outcome, amount, currency FROM gateway_requests
               WHERE idempotency_key = ANY($1)";
    let keys: Vec<String> = keys.into_iter().collect();
    let decisions = of_order(&sqlx::query(sql).bind(keys).fetch_all(&mut *snapshot).await?, |row| {
        let (key, kind) = (row.try_get("idempotency_key")?, row.try_get("kind")?);
        Ok(Decision { key, kind, outcome: row.try_get("outcome")?, amount: amount(row)? })
    })?;
    snapshot.commit().await?;
    Ok((payments, ledger, decisions))
}

fn amount(row: &PgRow) -> sqlx::Result<Amount> {
    Ok(Amount { value: row.try_get("amount")?, currency: row.try_get("currency")? })
}

fn saga(row: &PgRow) -> sqlx::Result<Saga> {
    Ok(Saga {
        saga_id: row.try_get("saga_id")?,
        order_id: row.try_get("order_id")?,
        flow: row.try_get("definition")?,
        status: row.try_get("status")?,
        step: row.try_get("step")?,
        version: row.try_get("version")?,
        amount: Amount { value: row.try_get("total_amount")?, currency: row.try_get("currency")? },
        moved_lately: row.try_get("moved_lately")?,
        waits: row.try_get("waits")?,
        attention: row.try_get("attention")?,
        resolved_by_hand: row.try_get("resolved_by_hand")?,
        history: History {
            entries: row.try_get("entries")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            status: row.try_get("history_status")?,
            step: row.try_get("history_step")?,
            resolved: row.try_get("history_resolved")?,
        },
    })
}
