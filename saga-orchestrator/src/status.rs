//! `GET /sagas/{id}`: where a saga stands and how it got there.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use messages::{Currency, EventId, OrderId, SagaId, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::database::StoreError;
use service_runtime::http::Problem;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use crate::saga::Saga;
use crate::store::{self, Stored};

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/sagas/{id}", get(saga)).with_state(pool)
}

/// A saga's state as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    saga_id: SagaId,
    order_id: OrderId,
    status: &'static str,
    step: &'static str,
    reason: Option<String>,
    user_id: String,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    total_amount: Decimal,
    currency: Currency,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<&Saga> for Outcome {
    fn from(saga: &Saga) -> Self {
        Self {
            saga_id: saga.saga_id,
            order_id: saga.order_id,
            status: saga.state.status(),
            step: saga.step_name(),
            reason: saga.reason.clone(),
            user_id: saga.checkout.user_id.to_string(),
            total_amount: saga.checkout.money.amount(),
            currency: saga.checkout.money.currency(),
            created_at: saga.created_at,
            updated_at: saga.updated_at,
        }
    }
}

/// The outcome's fields, then how it came about. (Written out: `flatten` would lose the amount's exact digits.)
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SagaBody {
    saga_id: SagaId,
    order_id: OrderId,
    status: &'static str,
    step: &'static str,
    reason: Option<String>,
    user_id: String,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    total_amount: Decimal,
    currency: Currency,
    created_at: Timestamp,
    updated_at: Timestamp,
    definition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_attention: Option<AttentionBody>,
    resolved_by_hand: bool,
    history: Vec<HistoryBody>,
    ignored: Vec<IgnoredBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttentionBody {
    since: Timestamp,
    reason: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryBody {
    seq: i64,
    at: Timestamp,
    input: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    status: String,
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The operator who made this move, and what proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IgnoredBody {
    input: String,
    state: String,
    count: i64,
    first_at: Timestamp,
    last_at: Timestamp,
}

/// 200 with state and history; 400 for what is no id; 404.
async fn saga(State(pool): State<PgPool>, Path(id): Path<String>) -> Result<Json<SagaBody>, Problem> {
    let saga_id = parse_id(&id)?;
    let saga = match store::read(&pool, saga_id).await? {
        Some(Stored::Saga(saga)) => *saga,
        Some(Stored::UnknownDefinition { name, version, .. }) => {
            let detail = format!("the saga runs by {name} v{version}, which this release does not know");
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail));
        }
        None => return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no saga {saga_id}"))),
    };
    let outcome = Outcome::from(&saga);
    Ok(Json(SagaBody {
        saga_id,
        order_id: outcome.order_id,
        status: outcome.status,
        step: outcome.step,
        reason: outcome.reason,
        user_id: outcome.user_id,
        total_amount: outcome.total_amount,
        currency: outcome.currency,
        created_at: outcome.created_at,
        updated_at: outcome.updated_at,
        definition: format!("{} v{}", saga.definition.name, saga.definition.version),
        needs_attention: saga
            .attention
            .map(|attention| AttentionBody { since: attention.since, reason: attention.reason }),
        resolved_by_hand: saga.resolved_by_hand,
        history: history(&pool, saga_id).await?,
        ignored: ignored(&pool, saga_id).await?,
    }))
}

/// 400 for what is no id.
pub fn parse_id(id: &str) -> Result<SagaId, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{id:?} is not a saga id (a UUID)")))
}

async fn history(pool: &PgPool, saga_id: SagaId) -> Result<Vec<HistoryBody>, StoreError> {
    let rows = sqlx::query(
        "SELECT seq, at, input, event_id, status, step, reason, actor, evidence
         FROM saga_events WHERE saga_id = $1 ORDER BY seq",
    )
    .bind(saga_id.as_uuid())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(HistoryBody {
                seq: row.try_get("seq")?,
                at: row.try_get("at")?,
                input: row.try_get("input")?,
                event_id: row.try_get::<Option<Uuid>, _>("event_id")?.map(EventId::from),
                status: row.try_get("status")?,
                step: row.try_get("step")?,
                reason: row.try_get("reason")?,
                by: row.try_get("actor")?,
                evidence: row.try_get("evidence")?,
            })
        })
        .collect()
}

async fn ignored(pool: &PgPool, saga_id: SagaId) -> Result<Vec<IgnoredBody>, StoreError> {
    let rows = sqlx::query(
        "SELECT input, state, count, first_at, last_at FROM ignored_inputs WHERE saga_id = $1 ORDER BY first_at",
    )
    .bind(saga_id.as_uuid())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(IgnoredBody {
                input: row.try_get("input")?,
                state: row.try_get("state")?,
                count: row.try_get("count")?,
                first_at: row.try_get("first_at")?,
                last_at: row.try_get("last_at")?,
            })
        })
        .collect()
}
