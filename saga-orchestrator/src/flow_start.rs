//! `POST /flows/{name}`: reads a request by the flow's input, and begins a saga of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use flow::{Flow, Misfit, Request};
use messages::UserId;
use service_runtime::http::description::{BodyProblems, DatabaseProblems, PROBLEM_JSON};
use service_runtime::http::{Caller, JsonText, PathText, Problem};
use utoipa::OpenApi;

use crate::begin::{Wanted, begin, not_known};
use crate::intake::Intake;
use crate::registry::Flows;
use crate::saga::flows::CHECKOUTS;
use service_runtime::http::{IdempotencyKey, TakenKey};

/// Describes the route.
#[derive(OpenApi)]
#[openapi(paths(start))]
pub struct Described;

pub fn router(intake: Arc<Intake>) -> Router {
    Router::new().route("/flows/{name}", post(start)).with_state(intake)
}

#[utoipa::path(
    post, path = "/flows/{name}", operation_id = "startFlow", tag = "Flows", summary = "Start a saga of a published flow, and report its outcome",
    params(
        ("name" = String, Path, description = "The flow's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same body by the same owner, it is the same saga",
            min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("Prefer" = Option<String>, Header, description = "As for `POST /checkout`", example = "respond-async, wait=10"),
    ),
    request_body(content = std::collections::BTreeMap<String, serde_json::Value>, description = "The fields of the flow's `start.input`", content_type = "application/json"),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "COMPLETED, or as far as the flow's answer comes (`answer.after`). The flow may answer with another status (`answer.done`)", body = serde_json::Value,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it"))),
        (status = 202, description = "Not answered yet: the same request under its key asks again; `Location` shows how far it is", body = serde_json::Value, headers(
            ("location" = String, description = "Where the saga is read"), ("retry-after" = u32, description = "In how many seconds to look"))),
        (status = 404, description = "No version of such a flow is active", body = Problem, content_type = PROBLEM_JSON),
        (status = 409, description = "FAILED: all is undone. The flow may answer with other statuses (`answer.failed`)", body = serde_json::Value,
            headers(("location" = String, description = "Where the saga is read"))),
        (status = 422, description = "A value that breaks the flow's input, or a key that was used for another request", body = Problem, content_type = PROBLEM_JSON),
        (status = 429, description = "Too many requests are waiting: nothing was stored", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
        (status = 503, description = "The active version needs a newer release; new sagas are paused, too many are unfinished, or the database can't be reached: nothing was stored. Or: outcome unknown",
            body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// The status that the flow answers with; 202 with how far it is, when it takes longer or the client asked not to wait.
async fn start(
    State(intake): State<Arc<Intake>>,
    caller: Caller,
    TakenKey(idempotency_key): TakenKey,
    PathText(name): PathText,
    headers: HeaderMap,
    JsonText(body): JsonText,
) -> Result<Response, Problem> {
    let flows = &intake.coordinator.flows;
    if CHECKOUTS.contains(&name.as_str()) {
        let detail = format!("sagas of {name} are started by `POST /checkout`");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let text = std::str::from_utf8(&body);
    let text =
        text.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body is not valid JSON: it is not UTF-8"))?;
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON: {error}")));
    }
    let active = flows.active(&name);
    let (flow, request) = match earlier(&intake, &name, active.as_deref(), idempotency_key.as_ref(), text).await? {
        Some(earlier) => earlier,
        None => {
            let flow = active.clone().ok_or_else(|| not_started(flows, &name))?;
            let request = flow.read_start(text).map_err(misfit)?;
            (flow, request)
        }
    };
    let permitted = match active.is_some_and(|active| active.version == flow.version) {
        true => idempotency_key.as_ref().map_or(Ok(()), IdempotencyKey::check_new),
        false => Err(not_started(flows, &name)),
    };
    let (request, body) = (Arc::new(request), Some(text.to_owned()));
    begin(&intake, &caller, &headers, Wanted { flow, request, body, idempotency_key, permitted }).await
}

/// The version by which an earlier request with this key started its saga, and the request as that version reads it. A
/// request that is repeated is found again after another version was activated, or its own retired.
async fn earlier(
    intake: &Intake,
    name: &str,
    active: Option<&Flow>,
    key: Option<&IdempotencyKey>,
    text: &str,
) -> Result<Option<(Arc<Flow>, Request)>, Problem> {
    let flows = &intake.coordinator.flows;
    let Some(key) = key else { return Ok(None) };
    let versions = flows.by_name().into_iter().find(|versions| versions[0].name == name).unwrap_or_default();
    if let [only] = &versions[..]
        && active.is_some_and(|active| active.version == only.version)
    {
        // Then there is one way to read it.
        return Ok(None);
    }
    let mut owners: Vec<UserId> = Vec::new();
    for flow in versions.iter().rev() {
        let Ok(request) = flow.read_start(text) else { continue };
        if owners.contains(&request.owner) {
            continue;
        }
        let found = intake.coordinator.of_key(&request.owner, key).await.map_err(not_known)?;
        if let Some(found) = found.filter(|found| found.flow.name == name) {
            let request = found.flow.read_start(text).unwrap_or(request);
            return Ok(Some((found.flow, request)));
        }
        owners.push(request.owner);
    }
    Ok(None)
}

fn misfit(misfit: Misfit) -> Problem {
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, misfit.to_string());
    if misfit.field.is_empty() { problem } else { problem.with_field(&misfit.field) }
}

/// Why no version of a flow is active here.
pub fn not_started(flows: &Flows, name: &str) -> Problem {
    let active = flows.active_versions();
    if let Some(version) = active.get(name) {
        let detail = format!("{name} v{version} is active, and this release can't run it: one that can does");
        return Problem::unavailable(detail, 5);
    }
    let active = active.into_iter().filter(|(name, _)| !CHECKOUTS.contains(&name.as_str()));
    let active: Vec<String> = active.map(|(name, version)| format!("{name} v{version}")).collect();
    let which = if active.is_empty() { "none is".to_owned() } else { format!("active: {}", active.join(", ")) };
    let name: String = name.chars().take(80).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("no version of a flow {name:?} is active; {which}"))
}
