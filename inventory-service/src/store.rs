//! The SQL of `reservations`: conditional writes, many in one statement. It compares and sets, and decides nothing.

use std::collections::{HashMap, HashSet};

use messages::OrderId;
use service_runtime::conditional::Table;
use service_runtime::database::{Session, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::reservation::{Reservation, Status};

/// Store `row` if the order's stored status is still `expected` (`None`: there is no row yet).
#[derive(Debug)]
pub struct Write {
    pub expected: Option<Status>,
    pub row: Reservation,
}

/// The table `reservations`.
pub struct ReservationsTable(pub Session);

impl Table for ReservationsTable {
    type Key = OrderId;
    type Row = Reservation;
    type Write = Write;
    const NAME: &'static str = "reservations";

    fn key(write: &Write) -> OrderId {
        write.row.order_id
    }

    async fn compare_and_set(&self, writes: &[&Write]) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        let stored = compare_and_set(&self.0, writes).await?;
        let rows = writes.iter().map(|write| &write.row).filter(|row| stored.contains(&row.order_id));
        Ok(rows.map(|row| (row.order_id, row.clone())).collect())
    }

    async fn read(&self, orders: Vec<OrderId>) -> Result<HashMap<OrderId, Reservation>, StoreError> {
        let ids: Vec<Uuid> = orders.into_iter().map(Uuid::from).collect();
        // Columns by name: a release that adds one must not change the result of this one's prepared statement.
        let wanted = sqlx::query(
            "SELECT order_id, saga_id, status, reason, created_at, updated_at
             FROM reservations WHERE order_id = ANY($1)",
        )
        .bind(ids);
        let rows = self.0.rows(wanted).await?;
        rows.iter().map(|row| from_row(row).map(|reservation| (reservation.order_id, reservation))).collect()
    }
}

/// Answers the orders whose write took place.
async fn compare_and_set(session: &Session, writes: &[&Write]) -> Result<HashSet<OrderId>, StoreError> {
    let rows = || writes.iter().map(|write| &write.row);
    let write = sqlx::query(
        "WITH new AS (
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                                  $7::text[])
                  AS new (order_id, saga_id, status, reason, created_at, updated_at, expected)
         ), inserted AS (
             INSERT INTO reservations (order_id, saga_id, status, reason, created_at, updated_at)
             SELECT order_id, saga_id, status, reason, created_at, updated_at FROM new WHERE expected IS NULL
             ON CONFLICT (order_id) DO NOTHING
             RETURNING order_id
         ), updated AS (
             UPDATE reservations SET status = new.status, reason = new.reason, updated_at = new.updated_at
             FROM new WHERE reservations.order_id = new.order_id AND reservations.status = new.expected
             RETURNING reservations.order_id
         )
         SELECT order_id FROM inserted UNION ALL SELECT order_id FROM updated",
    )
    .bind(rows().map(|r| r.order_id.as_uuid()).collect::<Vec<_>>())
    .bind(rows().map(|r| r.saga_id.as_uuid()).collect::<Vec<_>>())
    .bind(rows().map(|r| r.status.as_str()).collect::<Vec<_>>())
    .bind(rows().map(|r| r.reason.as_deref()).collect::<Vec<_>>())
    .bind(rows().map(|r| r.created_at).collect::<Vec<_>>())
    .bind(rows().map(|r| r.updated_at).collect::<Vec<_>>())
    .bind(writes.iter().map(|write| write.expected.map(Status::as_str)).collect::<Vec<_>>());
    let stored = session.rows(write).await?;
    stored.iter().map(|row| Ok(row.try_get::<Uuid, _>(0)?.into())).collect()
}

fn from_row(row: &PgRow) -> Result<Reservation, StoreError> {
    let unreadable = |why: String| StoreError::Refused(format!("a row of reservations can't be read: {why}"));
    Ok(Reservation {
        order_id: row.try_get::<Uuid, _>("order_id")?.into(),
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        status: row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
