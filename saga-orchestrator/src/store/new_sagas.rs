//! New sagas, and the idempotency keys that stand in their rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use messages::{OrderId, SagaId};
use rust_decimal::Decimal;
use service_runtime::conditional::Table;
use service_runtime::database::{Session, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use super::lists::NO_CURRENCY;
use super::{Stored, first_repetition, from_row, ids, milliseconds, to_sagas, wanted};
use crate::registry::Flows;
use crate::saga::checkout::{FORCE_INVENTORY_FAIL, FORCE_PAYMENT_FAIL};
use crate::saga::flows::is_pay_first;
use crate::saga::{Saga, Transition};
use service_runtime::http::IdempotencyKey;

/// A saga to be stored, and by what it is known if it is asked for again.
#[derive(Debug, Clone)]
pub struct NewSaga {
    pub transition: Transition,
    pub known_by: KnownBy,
}

/// By what a new saga is the same as an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownBy {
    /// Its own id: another request is another saga.
    Id,
    /// The key under which its client may send it again.
    Key(IdempotencyKey),
    /// What it is about: the event that started it may come again.
    Subject,
}

impl KnownBy {
    /// The key that is stored with it.
    pub const fn key(&self) -> Option<&IdempotencyKey> {
        if let Self::Key(key) = self { Some(key) } else { None }
    }
}

/// What makes two new sagas the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    Saga(SagaId),
    /// A key belongs to its user.
    Key(String, IdempotencyKey),
    Subject(OrderId),
}

/// New sagas. One whose key is taken is not stored: the saga that has it is found instead.
pub struct NewSagas {
    pub session: Session,
    pub flows: Arc<Flows>,
}

impl Table for NewSagas {
    type Key = Identity;
    type Row = Stored;
    type Write = NewSaga;
    const NAME: &'static str = "new sagas";

    fn key(new: &NewSaga) -> Identity {
        let saga = &new.transition.saga;
        match &new.known_by {
            KnownBy::Id => Identity::Saga(saga.saga_id),
            KnownBy::Key(key) => Identity::Key(saga.request.owner.to_string(), key.clone()),
            KnownBy::Subject => Identity::Subject(saga.order_id),
        }
    }

    async fn compare_and_set(&self, new: &[&NewSaga]) -> Result<HashMap<Identity, Stored>, StoreError> {
        let sagas = || new.iter().map(|new| &new.transition.saga);
        let insert = sqlx::query(
            "WITH new AS (
                 SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::uuid[]) AS order_id,
                        UNNEST($3::text[]) AS user_id, UNNEST($4::numeric[]) AS total_amount,
                        UNNEST($5::text[]) AS currency, UNNEST($6::text[]) AS status, UNNEST($7::text[]) AS step,
                        UNNEST($8::bool[]) AS force_payment_fail, UNNEST($9::bool[]) AS force_inventory_fail,
                        UNNEST($10::text[]) AS definition, UNNEST($11::int[]) AS definition_version,
                        UNNEST($12::bigint[]) AS version, UNNEST($13::timestamptz[]) AS deadline_at,
                        UNNEST($14::timestamptz[]) AS expires_at, UNNEST($15::text[]) AS traceparent,
                        UNNEST($16::timestamptz[]) AS created_at, UNNEST($18::text[]) AS idempotency_key,
                        UNNEST($19::text[])::json AS input, UNNEST($17::float8[]) * interval '1 ms' AS resend_first,
                        UNNEST($20::text[]) AS awaits
             ), stored AS (
                 INSERT INTO sagas (saga_id, order_id, user_id, total_amount, currency, status, step,
                                    force_payment_fail, force_inventory_fail, definition, definition_version, version,
                                    deadline_at, expires_at, traceparent, created_at, idempotency_key, input, updated_at,
                                    next_attempt_at, sweep_at, awaits)
                 SELECT saga_id, order_id, user_id, total_amount, currency, status, step, force_payment_fail,
                        force_inventory_fail, definition, definition_version, version, deadline_at, expires_at,
                        traceparent, created_at, idempotency_key, input, created_at,
                        LEAST(now() + resend_first, deadline_at), LEAST(now() + resend_first, deadline_at),
                        awaits
                 FROM new
                 -- Its id: an earlier try of this very saga. Its key: another request of the same client. Its subject:
                 -- the same event again.
                 ON CONFLICT DO NOTHING
                 RETURNING saga_id, version, status, step, created_at
             ), history AS (
                 INSERT INTO saga_events (saga_id, seq, input, status, step, at)
                 SELECT saga_id, version, 'started', status, step, created_at FROM stored
             )
             SELECT saga_id FROM stored",
        )
        .bind(sagas().map(|s| s.saga_id.as_uuid()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.order_id.as_uuid()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.request.owner.as_str()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.request.money.map_or(Decimal::ZERO, |money| money.amount())).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.request.money.map_or(NO_CURRENCY, |money| money.currency().code())).collect::<Vec<_>>())
        .bind(sagas().map(Saga::status).collect::<Vec<_>>())
        .bind(sagas().map(Saga::step_name).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.request.input.is_set(FORCE_PAYMENT_FAIL)).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.request.input.is_set(FORCE_INVENTORY_FAIL)).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.flow.name.as_str()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.flow.version).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.version).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.deadline).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.expires_at).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(sagas().map(|s| s.created_at).collect::<Vec<_>>())
        .bind(sagas().map(|s| milliseconds(first_repetition(s))).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.known_by.key().map(IdempotencyKey::as_str)).collect::<Vec<_>>())
        .bind(sagas().map(input).collect::<Vec<_>>())
        .bind(sagas().map(|saga| Some(saga.awaited()?.key())).collect::<Vec<_>>());
        let stored = ids(&self.session.rows(insert).await?)?;
        let stored = new.iter().filter(|new| stored.contains(&new.transition.saga.saga_id));
        Ok(stored.map(|new| (Self::key(new), Stored::Saga(Box::new(new.transition.saga.clone())))).collect())
    }

    async fn read(&self, identities: Vec<Identity>) -> Result<HashMap<Identity, Stored>, StoreError> {
        let (mut ids, mut users, mut keys, mut subjects) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for identity in &identities {
            match identity {
                Identity::Saga(id) => ids.push(*id),
                Identity::Key(user, key) => {
                    users.push(user.as_str());
                    keys.push(key.as_str());
                }
                Identity::Subject(order_id) => subjects.push(order_id.as_uuid()),
            }
        }
        let mut found = HashMap::new();
        if !ids.is_empty() {
            found.extend(
                to_sagas(&self.flows, &self.session.rows(wanted(ids)).await?)?
                    .into_iter()
                    .map(|(id, saga)| (Identity::Saga(id), saga)),
            );
        }
        if !keys.is_empty() {
            found.extend(self.read_keyed(&users, &keys).await?);
        }
        if !subjects.is_empty() {
            found.extend(self.read_about(&subjects).await?);
        }
        Ok(found)
    }
}

impl NewSagas {
    /// Reads the sagas that are about these.
    async fn read_about(&self, subjects: &[Uuid]) -> Result<HashMap<Identity, Stored>, StoreError> {
        let wanted = sqlx::query("SELECT saga_id, order_id FROM sagas WHERE order_id = ANY($1)").bind(subjects);
        let mut about = HashMap::new();
        for row in &self.session.rows(wanted).await? {
            let subject: Uuid = row.try_get("order_id")?;
            about.insert(SagaId::from(row.try_get::<Uuid, _>("saga_id")?), OrderId::from(subject));
        }
        let sagas = self.session.rows(super::wanted(about.keys().copied().collect())).await?;
        let sagas = to_sagas(&self.flows, &sagas)?.into_iter();
        Ok(sagas.filter_map(|(id, saga)| Some((Identity::Subject(*about.get(&id)?), saga))).collect())
    }

    /// Reads the sagas that have these users' keys.
    async fn read_keyed(&self, users: &[&str], keys: &[&str]) -> Result<HashMap<Identity, Stored>, StoreError> {
        let wanted = sqlx::query(
            "SELECT saga_id, order_id, sagas.user_id, total_amount, currency, status, step, cause, reason,
                    force_payment_fail, force_inventory_fail, definition, definition_version, version, deadline_at,
                    expires_at, needs_attention_since, attention_reason, resolved_by_hand, traceparent, created_at,
                    updated_at, input::text, kept::text, progressed, answered_at, answer_status, answer::text,
                    sagas.idempotency_key
             FROM (SELECT UNNEST($1::text[]) AS user_id, UNNEST($2::text[]) AS idempotency_key) AS wanted
             JOIN sagas ON sagas.user_id = wanted.user_id AND sagas.idempotency_key = wanted.idempotency_key",
        )
        .bind(users)
        .bind(keys);
        let rows = self.session.rows(wanted).await?;
        let identity = |row: &PgRow| -> Result<Identity, StoreError> {
            Ok(Identity::Key(row.try_get("user_id")?, IdempotencyKey::stored(row.try_get("idempotency_key")?)))
        };
        rows.iter().map(|row| Ok((identity(row)?, from_row(&self.flows, row)?))).collect()
    }
}

/// What is stored of a request beside the columns that a checkout's has.
fn input(saga: &Saga) -> Option<String> {
    (!is_pay_first(&saga.flow)).then(|| saga.request.input.to_json())
}

/// Forgets up to `limit` keys of sagas that ended longer than `retention` ago; answers how many it were. A saga
/// that has not ended keeps its key.
pub async fn forget_keys(pool: &PgPool, retention: Duration, limit: i64) -> Result<u64, StoreError> {
    let forgotten = sqlx::query(
        "UPDATE sagas SET idempotency_key = NULL
         WHERE saga_id IN (SELECT saga_id FROM sagas
                           WHERE idempotency_key IS NOT NULL AND status IN ('COMPLETED', 'FAILED')
                             AND created_at < now() - $1 * interval '1 ms'
                             AND updated_at < now() - $1 * interval '1 ms'
                           ORDER BY created_at LIMIT $2
                           FOR UPDATE SKIP LOCKED)",
    )
    .bind(milliseconds(retention))
    .bind(limit)
    .execute(pool)
    .await?;
    Ok(forgotten.rows_affected())
}
