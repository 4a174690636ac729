//! The operator's hand: cancel, retry and resolve a saga, pause and resume the intake. Who did it and why is stored
//! with what was done: a saga's in its history, the intake's in `intake_changes`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use service_runtime::http::{JsonBody, Problem};
use tracing::info;

use crate::coordinator::{Applied, ApplyError, Coordinator};
use crate::gate::{Gate, Seen};
use crate::outcome::{Outcome, parse_id};
use crate::saga::{Input, InputKind, Operator, Settled};

/// The most characters of a name, and of a reason or evidence.
const MOST: (usize, usize) = (128, 1000);

pub fn router(coordinator: Arc<Coordinator>, gate: Arc<Gate>) -> Router {
    let sagas = Router::new()
        .route("/sagas/{id}/cancel", post(cancel))
        .route("/sagas/{id}/retry", post(retry))
        .route("/sagas/{id}/resolve", post(resolve))
        .with_state(coordinator);
    let intake = Router::new()
        .route("/intake", get(async |State(gate): State<Arc<Gate>>| Json(gate.seen())))
        .route("/intake/pause", post(async |State(gate): State<Arc<Gate>>, body| change(&gate, false, body).await))
        .route("/intake/resume", post(async |State(gate): State<Arc<Gate>>, body| change(&gate, true, body).await))
        .with_state(gate);
    sagas.merge(intake)
}

/// Who, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    pub by: String,
    pub reason: String,
}

/// Who, why, which compensation, and what proves that it was settled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settlement {
    by: String,
    reason: String,
    step: String,
    evidence: String,
}

impl Act {
    /// 422 for a name or reason that is blank, too long, or holds control characters.
    pub fn validated(self) -> Result<Self, Problem> {
        Ok(Self { by: text("by", self.by, MOST.0)?, reason: text("reason", self.reason, MOST.1)? })
    }
}

fn text(field: &str, text: String, most: usize) -> Result<String, Problem> {
    if text.trim().is_empty() {
        Err(Problem::invalid_field(field, "must not be blank"))
    } else if text.chars().count() > most {
        Err(Problem::invalid_field(field, format_args!("must have at most {most} characters")))
    } else if text.chars().any(char::is_control) {
        Err(Problem::invalid_field(field, "must not contain control characters"))
    } else {
        Ok(text)
    }
}

type Sagas = State<Arc<Coordinator>>;

/// 202: it is undone from here on, or was being undone before (the first cause stays). 409 from the pivot on.
async fn cancel(
    State(sagas): Sagas,
    Path(id): Path<String>,
    JsonBody(act): JsonBody<Act>,
) -> Result<Response, Problem> {
    let Act { by, reason } = act.validated()?;
    step_in(&sagas, &id, InputKind::Cancelled, Operator { by, settled: None }, reason).await
}

/// 202: the pending effect is repeated now. 409 for a saga that has ended.
async fn retry(State(sagas): Sagas, Path(id): Path<String>, JsonBody(act): JsonBody<Act>) -> Result<Response, Problem> {
    let Act { by, reason } = act.validated()?;
    step_in(&sagas, &id, InputKind::Retried, Operator { by, settled: None }, reason).await
}

/// 202: the pending compensation counts as done, by a person; what else is to be undone still is. 409 for anything
/// but a compensation that needs attention, and for another one than the one that is named.
async fn resolve(
    State(sagas): Sagas,
    Path(id): Path<String>,
    JsonBody(settlement): JsonBody<Settlement>,
) -> Result<Response, Problem> {
    let Settlement { by, reason, step, evidence } = settlement;
    let Act { by, reason } = Act { by, reason }.validated()?;
    let settled = Settled { step: text("step", step, MOST.0)?, evidence: text("evidence", evidence, MOST.1)? };
    step_in(&sagas, &id, InputKind::Resolved, Operator { by, settled: Some(settled) }, reason).await
}

async fn step_in(
    sagas: &Arc<Coordinator>,
    id: &str,
    kind: InputKind,
    operator: Operator,
    reason: String,
) -> Result<Response, Problem> {
    let saga_id = parse_id(id)?;
    let by = operator.by.clone();
    let input = Input { reason: Some(reason.clone()), operator: Some(operator), ..kind.into() };
    let applied = sagas.apply(saga_id, &input, service_runtime::now()).await.map_err(|error| match error {
        ApplyError::Store(error) => error.into(),
        ApplyError::UnknownSaga(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        ApplyError::UnknownDefinition { .. } => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })?;
    match applied {
        Applied::Moved(saga) => {
            info!(%saga_id, order_id = %saga.order_id, act = kind.as_str(), by, reason, "an operator stepped in");
            let location = [(header::LOCATION, format!("/sagas/{saga_id}"))];
            Ok((StatusCode::ACCEPTED, location, Json(Outcome::from(&*saga))).into_response())
        }
        Applied::Ignored(ignored) => {
            let rule = match kind {
                InputKind::Cancelled => "only a saga that has not reached ORDER_CONFIRM can be cancelled",
                InputKind::Resolved => {
                    "only a pending compensation that needs attention, named by its step, can be resolved by hand"
                }
                _ => "it has ended",
            };
            Err(Problem::new(StatusCode::CONFLICT, format!("the saga is {}: {rule}", ignored.state)))
        }
    }
}

async fn change(gate: &Gate, open: bool, JsonBody(act): JsonBody<Act>) -> Result<Json<Seen>, Problem> {
    let Act { by, reason } = act.validated()?;
    Ok(Json(gate.change(open, &by, &reason).await?))
}
