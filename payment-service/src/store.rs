//! The SQL of `payments`: what is this table's own.

use messages::{Money, UserId};
use participant::{Common, Row, Statement};
use rust_decimal::Decimal;
use service_runtime::database::StoreError;
use service_runtime::retention::Table;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::payment::Payment;

impl Row for Payment {
    /// A payment whose money is not settled stays, however old it is: what the gateway holds for it is known by nothing
    /// else. The gateway's rows go with it.
    const TABLE: Table = Table {
        name: "payments",
        may_be_removed: "payments.status NOT IN ('CHARGING', 'REFUNDING')",
        removed_with: ", requests AS (
                 DELETE FROM gateway_requests USING removed
                 WHERE idempotency_key = ANY(ARRAY[removed.order_id || ':charge', removed.order_id || ':refund'])
             ), ledger AS (
                 DELETE FROM gateway_ledger USING removed WHERE gateway_ledger.order_id = removed.order_id
             )",
    };
    const COLUMNS: &'static str =
        "order_id, saga_id, user_id, amount, currency, status, reason, force_fail, created_at, updated_at";
    const WRITES: [&'static str; 2] = ["payments created", "payments moved"];
    const POINTS: [&'static str; 2] = ["payment.storing", "payment.stored"];

    fn common(&self) -> Common<'_> {
        let Self { order_id, saga_id, updated_at, .. } = *self;
        Common { order_id, saga_id, status: self.status.as_str(), reason: self.reason.as_deref(), updated_at }
    }

    fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let unreadable = |why: String| StoreError::Refused(format!("a row of payments can't be read: {why}").into());
        let currency = row.try_get::<&str, _>("currency")?.parse();
        let amount: Decimal = row.try_get("amount")?;
        let money = currency.and_then(|currency| Money::new(amount, currency));
        let user_id = row.try_get::<Option<String>, _>("user_id")?.map(UserId::try_from).transpose();
        Ok(Self {
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

    fn insert(rows: &[&Self]) -> Statement {
        sqlx::query(
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
        .bind(rows.iter().map(|r| r.updated_at).collect::<Vec<_>>())
    }
}
