//! The SQL of `reservations`: conditional writes, many in one statement. It compares and sets, and decides nothing.

use std::collections::{HashMap, HashSet};

use messages::OrderId;
use service_runtime::conditional::Table;
use service_runtime::database::{Session, StoreError};
use service_runtime::retention;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::reservation::{Reservation, Status};

/// Old reservations.
pub const REMOVABLE: retention::Table =
    retention::Table { name: "reservations", may_be_removed: "TRUE", removed_with: "" };

/// Rows of orders that have none yet.
pub struct NewReservations(pub Session);

impl Table for NewReservations {
    type Key = OrderId;
    type Row = Reservation;
    type Write = Reservation;
    const NAME: &'static str = "reservations created";

    fn key(row: &Reservation) -> OrderId {
        row.order_id
    }

    async fn compare_and_set(&self, rows: &[&Reservation]) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO reservations (order_id, saga_id, status, reason, created_at, updated_at)
             SELECT UNNEST($1::uuid[]), UNNEST($2::uuid[]), UNNEST($3::text[]), UNNEST($4::text[]),
                    UNNEST($5::timestamptz[]), UNNEST($6::timestamptz[])
             ON CONFLICT (order_id) DO NOTHING
             RETURNING order_id",
        )
        .bind(rows.iter().map(|r| r.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.status.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.reason.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.updated_at).collect::<Vec<_>>());
        stored(rows.iter().copied(), &self.0.rows(insert).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        read(&self.0, orders).await
    }
}

/// Store `row` if the order's stored status is still `expected`.
#[derive(Debug)]
pub struct Move {
    pub expected: Status,
    pub row: Reservation,
}

/// Rows in place of those that are stored.
pub struct Moves(pub Session);

impl Table for Moves {
    type Key = OrderId;
    type Row = Reservation;
    type Write = Move;
    const NAME: &'static str = "reservations moved";

    fn key(write: &Move) -> OrderId {
        write.row.order_id
    }

    async fn compare_and_set(&self, moves: &[&Move]) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        let update = sqlx::query(
            "UPDATE reservations SET status = new.status, reason = new.reason, updated_at = new.updated_at
             FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::text[]) AS status,
                          UNNEST($3::text[]) AS reason, UNNEST($4::timestamptz[]) AS updated_at,
                          UNNEST($5::text[]) AS expected) AS new
             WHERE reservations.order_id = new.order_id AND reservations.status = new.expected
             RETURNING reservations.order_id",
        )
        .bind(moves.iter().map(|m| m.row.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.status.as_str()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.reason.as_deref()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.row.updated_at).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.expected.as_str()).collect::<Vec<_>>());
        stored(moves.iter().map(|m| &m.row), &self.0.rows(update).await?)
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        read(&self.0, orders).await
    }

    async fn held(&self, orders: Vec<OrderId>) -> Result<HashSet<OrderId>, StoreError> {
        let held = sqlx::query(
            "WITH free AS MATERIALIZED (
                 SELECT order_id FROM reservations WHERE order_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
             )
             SELECT order_id FROM reservations WHERE order_id = ANY($1) AND order_id NOT IN (SELECT order_id FROM free)",
        );
        let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
        order_ids(&self.0.rows(held.bind(ids)).await?)
    }
}

/// Those of `rows` whose orders a statement has answered: their write took place.
fn stored<'a>(
    rows: impl Iterator<Item = &'a Reservation>,
    answered: &[PgRow],
) -> Result<HashMap<OrderId, Reservation>, StoreError> {
    let orders = order_ids(answered)?;
    Ok(rows.filter(|row| orders.contains(&row.order_id)).map(|row| (row.order_id, row.clone())).collect())
}

/// The orders that a statement names in its first column.
fn order_ids(rows: &[PgRow]) -> Result<HashSet<OrderId>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

async fn read(session: &Session, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Reservation>, StoreError> {
    let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
    // Columns by name: a release that adds one must not change the result of this one's prepared statement.
    let wanted = sqlx::query(
        "SELECT order_id, saga_id, status, reason, created_at, updated_at
         FROM reservations WHERE order_id = ANY($1)",
    )
    .bind(ids);
    let rows = session.rows(wanted).await?;
    rows.iter().map(|row| from_row(row).map(|reservation| (reservation.order_id, reservation))).collect()
}

fn from_row(row: &PgRow) -> Result<Reservation, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("a row of reservations can't be read: {why}").into());
    Ok(Reservation {
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        status: row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
