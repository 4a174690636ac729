//! A participant's table: conditional writes, many in one statement. It compares and sets, and decides nothing.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::Arc;

use messages::{OrderId, SagaId, Timestamp};
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome, Table};
use service_runtime::database::{Session, StoreError};
use service_runtime::metrics::Metrics;
use service_runtime::retention;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, SqlSafeStr as _, SqlStr};
use tracing::debug;
use uuid::Uuid;

/// A statement with its arguments.
pub type Statement = Query<'static, Postgres, PgArguments>;

/// What every row has, in columns of these names. A row is moved by `status`, `reason` and `updated_at`; the rest stays.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    pub order_id: OrderId,
    pub saga_id: SagaId,
    pub status: &'static str,
    pub reason: Option<&'a str>,
    pub updated_at: Timestamp,
}

/// A row of the participant's table.
pub trait Row: Clone + Send + Sync + 'static {
    const TABLE: retention::Table;
    /// What [`Row::from_row`] reads.
    const COLUMNS: &'static str;
    /// How the metrics, the traces and the log name the writes of new rows, and the moves.
    const WRITES: [&'static str; 2];
    /// The failpoints before a write and behind it.
    const POINTS: [&'static str; 2];

    fn common(&self) -> Common<'_>;

    /// # Errors
    /// [`StoreError::Refused`] for a row that can't be read.
    fn from_row(row: &PgRow) -> Result<Self, StoreError>;

    /// What a move sets beside, in SQL: ", handed_over = (new.status = 'GONE')".
    const MOVE_SETS: &'static str = "";
    /// What else a move's statement does, in SQL: CTEs that follow `moved`, which has `order_id` and the new `status`.
    const MOVED_WITH: &'static str = "";

    /// How the metrics name the writes of new rows that change other tables' rows too, where there are any.
    const WIDE: Option<&'static str> = None;

    /// Inserts those rows whose orders have none, and answers their orders.
    fn insert(rows: &[&Self]) -> Statement;

    /// Whether it is stored by [`Row::insert_wide`].
    fn is_wide(&self) -> bool {
        false
    }

    /// Stores those rows whose orders have none, with what else they change, and returns them as stored. The rows are sorted
    /// by their orders.
    fn insert_wide(
        session: &Session,
        rows: &[&Self],
    ) -> impl Future<Output = Result<HashMap<OrderId, Self>, StoreError>> + Send {
        async move { stored(rows.iter().copied(), &session.rows(Self::insert(rows)).await?) }
    }

    /// Those of the orders for which other transactions hold what a row changes in other tables.
    fn held_wide(_: &Session, _: &[&Self]) -> impl Future<Output = Result<HashSet<OrderId>, StoreError>> + Send {
        std::future::ready(Ok(HashSet::new()))
    }
}

/// The table.
#[derive(Clone)]
pub struct Store<R: Row> {
    /// New rows and moves apart: each statement does one thing, and does it sooner.
    new: Batcher<ConditionalWrites<New<R>>>,
    /// What waits for others' rows must not be waited for by what does not.
    wide: Option<Batcher<ConditionalWrites<Wide<R>>>>,
    moves: Batcher<ConditionalWrites<Moves<R>>>,
}

impl<R: Row> Store<R> {
    pub fn open(pool: &PgPool, metrics: &Metrics) -> Self {
        let new = New(Statements::by(Session::beside(pool)));
        let wide = || Wide(Statements::by(Session::beside(pool).impatient_of_locks()));
        let moves = Moves(Statements::by(Session::beside(pool).impatient_of_locks()));
        Self {
            new: Batcher::start(ConditionalWrites::to(new), metrics),
            wide: R::WIDE.map(|_| Batcher::start(ConditionalWrites::to(wide()), metrics)),
            moves: Batcher::start(ConditionalWrites::to(moves), metrics),
        }
    }

    /// Stores `row` if the order's stored status is still the expected one; `None`: if it has no row.
    pub async fn write(&self, expected: Option<&'static str>, row: R) -> Result<Outcome<R>, StoreError> {
        let ([storing, stored], status) = (R::POINTS, row.common().status);
        faults::reached(storing, status);
        let outcome = match expected {
            None => match self.wide.as_ref().filter(|_| row.is_wide()) {
                Some(wide) => wide.submit(row).await?,
                None => self.new.submit(row).await?,
            },
            Some(expected) => self.moves.submit(Move { expected, row }).await?,
        };
        if let Outcome::Stored(row) = &outcome {
            faults::reached(stored, status);
            let Common { saga_id, order_id, .. } = row.common();
            debug!(table = R::TABLE.name, %saga_id, %order_id, status, "stored");
        }
        Ok(outcome)
    }
}

// Columns by name: a release that adds one must not change the result of this one's prepared statement.
const READ: &str = "SELECT {columns} FROM {table} WHERE order_id = ANY($1)";

const MOVE: &str = "UPDATE {table} SET status = new.status, reason = new.reason, updated_at = new.updated_at{sets}
    FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::text[]) AS status,
                 UNNEST($3::text[]) AS reason, UNNEST($4::timestamptz[]) AS updated_at,
                 UNNEST($5::text[]) AS expected) AS new
    WHERE {table}.order_id = new.order_id AND {table}.status = new.expected
    RETURNING {table}.order_id, {table}.status";

const HELD: &str = service_runtime::held_rows!("{table}", "order_id");

/// The statement of moves.
fn moves<R: Row>() -> String {
    match R::MOVED_WITH {
        "" => MOVE.to_owned(),
        with => format!("WITH moved AS ({MOVE}){with} SELECT order_id FROM moved"),
    }
}

/// A statement about this table. What is filled in stands in the source.
fn sql<R: Row>(statement: &str) -> SqlStr {
    let filled = statement.replace("{table}", R::TABLE.name).replace("{columns}", R::COLUMNS);
    let filled = filled.replace("{sets}", R::MOVE_SETS);
    AssertSqlSafe(Arc::<str>::from(filled)).into_sql_str()
}

/// The statements that many rows share, filled in once.
struct Statements<R> {
    session: Session,
    read: SqlStr,
    update: SqlStr,
    held: SqlStr,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> Statements<R> {
    fn by(session: Session) -> Self {
        Self { session, read: sql::<R>(READ), update: sql::<R>(&moves::<R>()), held: sql::<R>(HELD), row: PhantomData }
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, R>, StoreError> {
        let rows = self.session.rows(sqlx::query(self.read.clone()).bind(uuids(orders))).await?;
        rows.iter().map(|row| R::from_row(row).map(|row| (row.common().order_id, row))).collect()
    }
}

/// Rows of orders that have none yet.
struct New<R>(Statements<R>);

impl<R: Row> Table for New<R> {
    type Key = OrderId;
    type Row = R;
    type Write = R;
    const NAME: &'static str = R::WRITES[0];

    fn key(row: &R) -> OrderId {
        row.common().order_id
    }

    async fn compare_and_set(&self, rows: &[&R]) -> Result<HashMap<OrderId, R>, StoreError> {
        stored(rows.iter().copied(), &self.0.session.rows(R::insert(rows)).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, R>, StoreError> {
        self.0.read(orders).await
    }
}

/// Rows of orders that have none yet, which change rows of other tables.
struct Wide<R>(Statements<R>);

impl<R: Row> Table for Wide<R> {
    type Key = OrderId;
    type Row = R;
    type Write = R;
    const NAME: &'static str = match R::WIDE {
        Some(name) => name,
        None => "",
    };

    fn key(row: &R) -> OrderId {
        row.common().order_id
    }

    async fn compare_and_set(&self, rows: &[&R]) -> Result<HashMap<OrderId, R>, StoreError> {
        R::insert_wide(&self.0.session, rows).await
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, R>, StoreError> {
        self.0.read(orders).await
    }

    async fn held(&self, rows: &[&R]) -> Result<HashSet<OrderId>, StoreError> {
        R::held_wide(&self.0.session, rows).await
    }
}

/// Store `row` if the order's stored status is still `expected`.
struct Move<R> {
    expected: &'static str,
    row: R,
}

/// Rows in place of those that are stored.
struct Moves<R>(Statements<R>);

impl<R: Row> Table for Moves<R> {
    type Key = OrderId;
    type Row = R;
    type Write = Move<R>;
    const NAME: &'static str = R::WRITES[1];

    fn key(write: &Move<R>) -> OrderId {
        write.row.common().order_id
    }

    async fn compare_and_set(&self, moves: &[&Move<R>]) -> Result<HashMap<OrderId, R>, StoreError> {
        let rows = || moves.iter().map(|m| m.row.common());
        let update = sqlx::query(self.0.update.clone())
            .bind(rows().map(|row| row.order_id.as_uuid()).collect::<Vec<_>>())
            .bind(rows().map(|row| row.status).collect::<Vec<_>>())
            .bind(rows().map(|row| row.reason).collect::<Vec<_>>())
            .bind(rows().map(|row| row.updated_at).collect::<Vec<_>>())
            .bind(moves.iter().map(|m| m.expected).collect::<Vec<_>>());
        stored(moves.iter().map(|m| &m.row), &self.0.session.rows(update).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, R>, StoreError> {
        self.0.read(orders).await
    }

    async fn held(&self, moves: &[&Move<R>]) -> Result<HashSet<OrderId>, StoreError> {
        let orders: Vec<OrderId> = moves.iter().map(|m| Self::key(m)).collect();
        let mut held = order_ids(&self.0.session.rows(sqlx::query(self.0.held.clone()).bind(uuids(orders))).await?)?;
        let wide: Vec<&R> = moves.iter().map(|m| &m.row).filter(|row| row.is_wide()).collect();
        if !wide.is_empty() {
            held.extend(R::held_wide(&self.0.session, &wide).await?);
        }
        Ok(held)
    }
}

/// Those of `rows` whose orders a statement has answered: their write took place.
///
/// # Errors
/// [`StoreError::Refused`] where the first column holds no orders.
pub fn stored<'a, R: Row>(
    rows: impl Iterator<Item = &'a R>,
    answered: &[PgRow],
) -> Result<HashMap<OrderId, R>, StoreError> {
    let orders = order_ids(answered)?;
    let rows = rows.map(|row| (row.common().order_id, row)).filter(|(order, _)| orders.contains(order));
    Ok(rows.map(|(order, row)| (order, row.clone())).collect())
}

/// The orders that a statement names in its first column.
fn order_ids(rows: &[PgRow]) -> Result<HashSet<OrderId>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

fn uuids(orders: Vec<OrderId>) -> Vec<Uuid> {
    orders.into_iter().map(Uuid::from).collect()
}
