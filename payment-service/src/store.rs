//! The SQL of `payments`: conditional writes, many in one statement. It compares and sets, and decides nothing.

use std::collections::{HashMap, HashSet};

use messages::{Money, OrderId, UserId};
use rust_decimal::Decimal;
use service_runtime::conditional::Table;
use service_runtime::database::{Session, StoreError};
use service_runtime::retention;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::payment::{Payment, Status};

/// Old payments. One whose money is not settled stays, however old it is: what the gateway holds for it is known by nothing
/// else. The gateway's rows go with it.
pub const REMOVABLE: retention::Table = retention::Table {
    name: "payments",
    may_be_removed: "payments.status NOT IN ('CHARGING', 'REFUNDING')",
    removed_with: ", requests AS (
             DELETE FROM gateway_requests USING removed
             WHERE idempotency_key = ANY(ARRAY[removed.order_id || ':charge', removed.order_id || ':refund'])
         ), ledger AS (
             DELETE FROM gateway_ledger USING removed WHERE gateway_ledger.order_id = removed.order_id
         )",
};

/// Rows of orders that have none yet.
pub struct NewPayments(pub Session);

impl Table for NewPayments {
    type Key = OrderId;
    type Row = Payment;
    type Write = Payment;
    const NAME: &'static str = "payments created";

    fn key(row: &Payment) -> OrderId {
        row.order_id
    }

    async fn compare_and_set(&self, rows: &[&Payment]) -> Result<HashMap<OrderId, Payment>, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO payments (order_id, saga_id, user_id, amount, currency, status, reason, force_fail, created_at,
                                   updated_at)
             SELECT UNNEST($1::uuid[]), UNNEST($2::uuid[]), UNNEST($3::text[]), UNNEST($4::numeric[]), UNNEST($5::text[]),
                    UNNEST($6::text[]), UNNEST($7::text[]), UNNEST($8::bool[]), UNNEST($9::timestamptz[]),
                    UNNEST($10::timestamptz[])
             ON CONFLICT (order_id) DO NOTHING
             RETURNING order_id",
        )
        .bind(rows.iter().map(|r| r.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.user_id.as_ref().map(UserId::as_str)).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.money.amount()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.money.currency().code()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.status.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.reason.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.force_fail).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.updated_at).collect::<Vec<_>>());
        stored(rows.iter().copied(), &self.0.rows(insert).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Payment>, StoreError> {
        read(&self.0, orders).await
    }
}

/// Store `row` if the order's stored status is still `expected`.
#[derive(Debug)]
pub struct Move {
    pub expected: Status,
    pub row: Payment,
}

/// Rows in place of those that are stored.
pub struct Moves(pub Session);

impl Table for Moves {
    type Key = OrderId;
    type Row = Payment;
    type Write = Move;
    const NAME: &'static str = "payments moved";

    fn key(write: &Move) -> OrderId {
        write.row.order_id
    }

    async fn compare_and_set(&self, moves: &[&Move]) -> Result<HashMap<OrderId, Payment>, StoreError> {
        let update = sqlx::query(
            "UPDATE payments SET status = new.status, reason = new.reason, updated_at = new.updated_at
             FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::text[]) AS status,
                          UNNEST($3::text[]) AS reason, UNNEST($4::timestamptz[]) AS updated_at,
                          UNNEST($5::text[]) AS expected) AS new
             WHERE payments.order_id = new.order_id AND payments.status = new.expected
             RETURNING payments.order_id",
        )
        .bind(moves.iter().map(|m| m.row.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.status.as_str()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.reason.as_deref()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.updated_at).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.expected.as_str()).collect::<Vec<_>>());
        stored(moves.iter().map(|m| &m.row), &self.0.rows(update).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Payment>, StoreError> {
        read(&self.0, orders).await
    }

    async fn held(&self, orders: Vec<OrderId>) -> Result<HashSet<OrderId>, StoreError> {
        let held = sqlx::query(
            "WITH free AS MATERIALIZED (
                 SELECT order_id FROM payments WHERE order_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
             )
             SELECT order_id FROM payments WHERE order_id = ANY($1) AND order_id NOT IN (SELECT order_id FROM free)",
        );
        let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
        order_ids(&self.0.rows(held.bind(ids)).await?)
    }
}

/// Those of `rows` whose orders a statement has answered: their write took place.
fn stored<'a>(
    rows: impl Iterator<Item = &'a Payment>,
    answered: &[PgRow],
) -> Result<HashMap<OrderId, Payment>, StoreError> {
    let orders = order_ids(answered)?;
    Ok(rows.filter(|row| orders.contains(&row.order_id)).map(|row| (row.order_id, row.clone())).collect())
}

/// The orders that a statement names in its first column.
fn order_ids(rows: &[PgRow]) -> Result<HashSet<OrderId>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

async fn read(session: &Session, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Payment>, StoreError> {
    let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
    // Columns by name: a release that adds one must not change the result of this one's prepared statement.
    let wanted = sqlx::query(
        "SELECT order_id, saga_id, user_id, amount, currency, status, reason, force_fail, created_at, updated_at
         FROM payments WHERE order_id = ANY($1)",
    )
    .bind(ids);
    let rows = session.rows(wanted).await?;
    rows.iter().map(|row| from_row(row).map(|payment| (payment.order_id, payment))).collect()
}

fn from_row(row: &PgRow) -> Result<Payment, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("a row of payments can't be read: {why}").into());
    let currency = row.try_get::<&str, _>("currency")?.parse();
    let amount: Decimal = row.try_get("amount")?;
    let money = currency.and_then(|currency| Money::new(amount, currency));
    let user_id = row.try_get::<Option<String>, _>("user_id")?.map(UserId::try_from).transpose();
    Ok(Payment {
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        user_id: user_id.map_err(|error| unreadable(error.to_string()))?,
        money: money.map_err(|error| unreadable(error.to_string()))?,
        status: row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?,
        reason: row.try_get("reason")?,
        force_fail: row.try_get("force_fail")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
