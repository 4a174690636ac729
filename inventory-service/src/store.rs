//! The SQL of `reservations`: what is this table's own.

use std::collections::{HashMap, HashSet};

use messages::OrderId;
use participant::{Common, Row, Statement};
use serde::de::DeserializeOwned;
use service_runtime::database::{Session, StoreError};
use service_runtime::retention::Table;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::reservation::Reservation;
use crate::reserving;

impl Row for Reservation {
    /// Who holds goods stays, however old: nothing else knows whose they are. The ledger keeps its movements.
    const TABLE: Table = Table {
        name: "reservations",
        may_be_removed: "NOT reservations.holds",
        removed_with: ", lines AS (
                 DELETE FROM reservation_items USING removed WHERE reservation_items.order_id = removed.order_id
             )",
    };
    const COLUMNS: &'static str =
        "order_id, saga_id, status, reason, short::text, expires_at, will_expire, created_at, updated_at,
        (SELECT jsonb_object_agg(line.sku, line.quantity)::text FROM reservation_items AS line
         WHERE line.order_id = reservations.order_id) AS items";
    const WRITES: [&'static str; 2] = ["reservations created", "reservations moved"];
    const WIDE: Option<&'static str> = Some("reservations counted");
    /// One that is kept stays where it is, and holds what it held. Any other moves to where it holds nothing. That a hold has
    /// ended is announced also if it is released before that.
    const MOVE_SETS: &'static str = ", holds = reservations.holds AND new.status = 'RESERVED',
             will_expire = reservations.will_expire AND reservations.status = 'EXPIRED'";
    const MOVED_WITH: &'static str = reserving::LET_GO;
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
            items: of_json(row.try_get("items")?)?,
            short: of_json(row.try_get("short")?)?,
            expires_at: row.try_get("expires_at")?,
            will_expire: row.try_get("will_expire")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }

    fn insert(rows: &[&Self]) -> Statement {
        sqlx::query(
            "INSERT INTO reservations (order_id, saga_id, status, reason, expires_at, will_expire, created_at, updated_at)
             SELECT UNNEST($1::uuid[]), UNNEST($2::uuid[]), UNNEST($3::text[]), UNNEST($4::text[]),
                    UNNEST($5::timestamptz[]), UNNEST($6::boolean[]), UNNEST($7::timestamptz[]), UNNEST($8::timestamptz[])
             ON CONFLICT (order_id) DO NOTHING
             RETURNING order_id",
        )
        .bind(rows.iter().map(|r| r.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.status.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.reason.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.expires_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.will_expire).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.updated_at).collect::<Vec<_>>())
    }

    fn is_wide(&self) -> bool {
        !self.items.is_empty()
    }

    async fn insert_wide(session: &Session, rows: &[&Self]) -> Result<HashMap<OrderId, Self>, StoreError> {
        reserving::reserve(session, rows).await
    }

    async fn held_wide(session: &Session, rows: &[&Self]) -> Result<HashSet<OrderId>, StoreError> {
        reserving::held(session, rows).await
    }
}

/// What a column of JSON holds; nothing where it is NULL.
pub fn of_json<T: Default + DeserializeOwned>(text: Option<&str>) -> Result<T, StoreError> {
    let unreadable = |error| StoreError::Refused(format!("a row's JSON can't be read: {error}").into());
    text.map_or_else(|| Ok(T::default()), |text| serde_json::from_str(text).map_err(unreadable))
}
