//! The operator's hand: cancel, retry and resolve a saga, pause and resume the intake; and the owner's, who may cancel where
//! the flow says so. Who did it and why is stored with what was done: a saga's in its history, the intake's in
//! `intake_changes`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flow::Flow;
use messages::SagaId;
use serde::Deserialize;
pub use service_runtime::http::act::{Act, check_name, check_words, name, words};
use service_runtime::http::description::{BodyProblems, DatabaseProblems, NotFound, PROBLEM_JSON};
use service_runtime::http::{JsonBody, PathText, Problem};
use tracing::info;
use utoipa::{OpenApi, ToSchema};

use crate::coordinator::{Applied, ApplyError, Coordinator};
use crate::gate::{Gate, Seen};
use crate::outcome::{Outcome, parse_id};
use crate::saga::{Input, Operator, OperatorAct, Role, Saga, Settled, State as SagaState};

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(cancel, retry, resolve, intake, pause, resume))]
pub struct Described;

pub fn router(coordinator: Arc<Coordinator>, gate: Arc<Gate>) -> Router {
    let sagas = Router::new()
        .route("/sagas/{id}/cancel", post(cancel))
        .route("/sagas/{id}/retry", post(retry))
        .route("/sagas/{id}/resolve", post(resolve))
        .with_state(coordinator);
    let of_intake = Router::new()
        .route("/intake", get(intake))
        .route("/intake/pause", post(pause))
        .route("/intake/resume", post(resume))
        .with_state(gate);
    sagas.merge(of_intake)
}

/// Who cancels, why, and in which role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Cancellation {
    /// A name; of an owner, the `owner` that the saga was started for.
    #[schema(schema_with = name)]
    by: String,
    #[schema(schema_with = words)]
    reason: String,
    #[serde(default, rename = "as")]
    role: CancelledAs,
}

/// The flow says which of them may cancel, and until which step.
#[derive(Deserialize, Default, Clone, Copy, ToSchema)]
#[serde(rename_all = "lowercase")]
enum CancelledAs {
    #[default]
    Operator,
    Owner,
}

/// Who, why, which compensation, and what proves that it was settled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Settlement {
    #[schema(schema_with = name)]
    by: String,
    #[schema(schema_with = words)]
    reason: String,
    /// The pending compensation: PAYMENT_REFUND, INVENTORY_RELEASE or ORDER_CANCEL.
    #[schema(schema_with = name)]
    step: String,
    #[schema(schema_with = words)]
    evidence: String,
}

type Sagas = State<Arc<Coordinator>>;

#[utoipa::path(
    post, path = "/sagas/{id}/cancel", operation_id = "cancelSaga", tag = "Operators", summary = "Have a saga undone",
    params(("id" = SagaId, Path, description = "The saga's id")),
    request_body(content = Cancellation, example = json!({"by": "ann", "reason": "the customer called"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 202, description = "It is undone from here on, or was being undone before", body = Outcome, headers(("location" = String, description = "Where the saga is read"))),
        (status = 409, description = "It has reached the step from which it is not cancelled (in a checkout ORDER_CONFIRM, with items INVENTORY_COMMIT), has ended, or its flow does not let this role cancel", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 202: it is undone from here on, or was being undone before (the first cause stays). 409 from the flow's limit on, and
/// for a role that the flow does not let cancel; 404 for an owner whose saga it is not.
async fn cancel(
    State(sagas): Sagas,
    PathText(id): PathText,
    JsonBody(cancellation): JsonBody<Cancellation>,
) -> Result<Response, Problem> {
    let Cancellation { by, reason, role } = cancellation;
    let (by, reason, role) = match role {
        CancelledAs::Operator => {
            let Act { by, reason } = Act { by, reason }.validated()?;
            (by, reason, Role::Operator)
        }
        CancelledAs::Owner => {
            check_words("reason", &reason)?;
            let saga = sagas.stored(parse_id(&id)?).await.map_err(not_applied)?;
            if saga.request.owner.as_str() != by {
                // As if there were none: whose it is, is nobody else's business.
                return Err(not_applied(ApplyError::UnknownSaga(saga.saga_id)));
            }
            (by, reason, Role::Owner)
        }
    };
    step_in(&sagas, &id, Operator { by, reason, act: OperatorAct::Cancel(role) }).await
}

#[utoipa::path(
    post, path = "/sagas/{id}/retry", operation_id = "retrySaga", tag = "Operators", summary = "Have what is pending repeated now",
    params(("id" = SagaId, Path, description = "The saga's id")),
    request_body(content = Act, example = json!({"by": "ann", "reason": "the gateway is back"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 202, description = "It is repeated now", body = Outcome, headers(("location" = String, description = "Where the saga is read"))),
        (status = 409, description = "It has ended", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 202: the pending effect is repeated now. 409 for a saga that has ended.
async fn retry(State(sagas): Sagas, PathText(id): PathText, JsonBody(act): JsonBody<Act>) -> Result<Response, Problem> {
    let Act { by, reason } = act.validated()?;
    step_in(&sagas, &id, Operator { by, reason, act: OperatorAct::Retry }).await
}

#[utoipa::path(
    post, path = "/sagas/{id}/resolve", operation_id = "resolveSaga", tag = "Operators", summary = "Settle a pending compensation by hand",
    params(("id" = SagaId, Path, description = "The saga's id")),
    request_body(content = Settlement, example = json!({"by": "ann", "reason": "the card was closed", "step": "PAYMENT_REFUND", "evidence": "bank transfer 4711"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 202, description = "It counts as done; what else is to be undone still is", body = Outcome, headers(("location" = String, description = "Where the saga is read"))),
        (status = 409, description = "It is not the pending compensation, or does not need attention", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 202: the pending compensation counts as done, by a person; what else is to be undone still is. 409 for anything
/// but a compensation that needs attention, and for another one than the one that is named.
async fn resolve(
    State(sagas): Sagas,
    PathText(id): PathText,
    JsonBody(settlement): JsonBody<Settlement>,
) -> Result<Response, Problem> {
    let Settlement { by, reason, step, evidence } = settlement;
    let Act { by, reason } = Act { by, reason }.validated()?;
    check_name("step", &step)?;
    check_words("evidence", &evidence)?;
    let act = OperatorAct::Resolve(Settled { step, evidence });
    step_in(&sagas, &id, Operator { by, reason, act }).await
}

/// Why an act was not done.
pub enum NotDone {
    /// The saga's state does not permit it: where it stands, and the rule.
    Refused(String),
    Failed(ApplyError),
}

async fn step_in(sagas: &Arc<Coordinator>, id: &str, operator: Operator) -> Result<Response, Problem> {
    let saga_id = parse_id(id)?;
    let saga = step_into(sagas, saga_id, operator).await.map_err(|not_done| match not_done {
        NotDone::Refused(why) => Problem::new(StatusCode::CONFLICT, why),
        NotDone::Failed(error) => not_applied(error),
    })?;
    let location = [(header::LOCATION, format!("/sagas/{saga_id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(Outcome::from(&*saga))).into_response())
}

/// Does an operator's act on a saga. The saga as it is then.
///
/// # Errors
/// [`NotDone`]: nothing was changed, unless the database's answer was lost.
pub async fn step_into(sagas: &Arc<Coordinator>, saga_id: SagaId, operator: Operator) -> Result<Box<Saga>, NotDone> {
    let Operator { by, reason, act } = operator.clone();
    match sagas.apply(saga_id, &Input::Operator(operator), sagas.clock.now()).await.map_err(NotDone::Failed)? {
        Applied::Moved(saga) => {
            info!(%saga_id, order_id = %saga.order_id, act = act.name(), by, reason, "a person stepped in");
            Ok(saga)
        }
        Applied::Ignored(ignored) => {
            let rule = match act {
                OperatorAct::Cancel(role) => match sagas.stored(saga_id).await {
                    // An owner who asks once more gets the same answer.
                    Ok(saga) if is_undone_for(&saga, role) => return Ok(Box::new(saga)),
                    Ok(saga) => cancel_rule(&saga.flow, role),
                    Err(_) => "it can't be cancelled any more".to_owned(),
                },
                OperatorAct::Resolve(_) => {
                    "only a pending compensation that needs attention, named by its step, can be resolved by hand"
                        .to_owned()
                }
                OperatorAct::Retry => "it has ended".to_owned(),
            };
            Err(NotDone::Refused(refusal(&ignored.state, &rule)))
        }
    }
}

fn not_applied(error: ApplyError) -> Problem {
    match error {
        ApplyError::Store(error) => error.into(),
        ApplyError::UnknownSaga(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        ApplyError::UnknownDefinition { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
        // Only a participant's reply can contradict its saga.
        ApplyError::Contradiction(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Whether what this role wants is under way.
fn is_undone_for(saga: &Saga, role: Role) -> bool {
    let is_permitted = saga.flow.cancel.is_some_and(|cancel| cancel.permits(role));
    is_permitted && matches!(saga.state, SagaState::Compensating { .. })
}

/// Why an act is refused: where the saga stands, and the rule.
pub fn refusal(state: &str, rule: &str) -> String {
    format!("the saga is {state}: {rule}")
}

/// Which sagas of a flow can be cancelled by people of this role.
pub fn cancel_rule(flow: &Flow, role: Role) -> String {
    let who = match role {
        Role::Operator => "operators",
        Role::Owner => "their owners",
    };
    match flow.cancel.filter(|cancel| cancel.permits(role)) {
        None => format!("sagas of {} are not cancelled by {who}", flow.name),
        Some(cancel) => {
            format!("only a saga that has not reached {} can be cancelled", flow.steps[cancel.until].name)
        }
    }
}

#[utoipa::path(
    get, path = "/intake", operation_id = "readIntake", tag = "Operators", summary = "Whether new checkouts are taken",
    responses((status = 200, description = "Whether, who said so, and how many sagas are unfinished", body = Seen)),
)]
async fn intake(State(gate): State<Arc<Gate>>) -> Json<Seen> {
    Json(gate.seen())
}

#[utoipa::path(
    post, path = "/intake/pause", operation_id = "pauseIntake", tag = "Operators", summary = "Take no new checkouts",
    request_body(content = Act, example = json!({"by": "ann", "reason": "the gateway is down"})),
    responses((status = 200, description = "They get 503 from now on; running ones finish", body = Seen), BodyProblems, DatabaseProblems),
)]
async fn pause(State(gate): State<Arc<Gate>>, act: JsonBody<Act>) -> Result<Json<Seen>, Problem> {
    change(&gate, false, act).await
}

#[utoipa::path(
    post, path = "/intake/resume", operation_id = "resumeIntake", tag = "Operators", summary = "Take new checkouts again",
    request_body(content = Act, example = json!({"by": "ann", "reason": "the gateway is back"})),
    responses((status = 200, description = "They are taken from now on", body = Seen), BodyProblems, DatabaseProblems),
)]
async fn resume(State(gate): State<Arc<Gate>>, act: JsonBody<Act>) -> Result<Json<Seen>, Problem> {
    change(&gate, true, act).await
}

async fn change(gate: &Gate, open: bool, JsonBody(act): JsonBody<Act>) -> Result<Json<Seen>, Problem> {
    let Act { by, reason } = act.validated()?;
    Ok(Json(gate.change(open, &by, &reason).await?))
}
