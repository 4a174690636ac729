//! The SQL of `reservations`: what is this table's own.

use participant::{Common, Row, Statement};
use service_runtime::database::StoreError;
use service_runtime::retention::Table;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::reservation::Reservation;

impl Row for Reservation {
    const TABLE: Table = Table { name: "reservations", may_be_removed: "TRUE", removed_with: "" };
    const COLUMNS: &'static str = "order_id, saga_id, status, reason, created_at, updated_at";
    const WRITES: [&'static str; 2] = ["reservations created", "reservations moved"];
    const POINTS: [&'static str; 2] = ["inventory.storing", "inventory.stored"];

    fn common(&self) -> Common<'_> {
        let Self { order_id, saga_id, updated_at, .. } = *self;
        Common { order_id, saga_id, status: self.status.as_str(), reason: self.reason.as_deref(), updated_at }
    }

    fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let unreadable =
            |why: String| StoreError::Refused(format!("a row of reservations can't be read: {why}").into());
        Ok(Self {
            order_id: row.try_get::<Uuid, _>("order_id")?.into(),
            saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
            status: row.try_get::<&str, _>("status")?.parse().map_err(unreadable)?,
            reason: row.try_get("reason")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }

    fn insert(rows: &[&Self]) -> Statement {
        sqlx::query(
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
        .bind(rows.iter().map(|r| r.updated_at).collect::<Vec<_>>())
    }
}
