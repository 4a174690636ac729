//! `GET /flows/{name}/asyncapi.json`: what a flow's own participants receive and send.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use service_runtime::http::description::PROBLEM_JSON;
use service_runtime::http::{PathText, Problem};
use utoipa::OpenApi;

use crate::flow_start::not_started;
use crate::registry::Flows;

/// Describes the route.
#[derive(OpenApi)]
#[openapi(paths(asyncapi))]
pub struct Described;

pub fn router(flows: Arc<Flows>) -> Router {
    Router::new().route("/flows/{name}/asyncapi.json", get(asyncapi)).with_state(flows)
}

#[utoipa::path(
    get, path = "/flows/{name}/asyncapi.json", operation_id = "readFlowAsyncapi", tag = "Flows", summary = "The commands and replies of a flow's own participants, as AsyncAPI 3",
    params(("name" = String, Path, description = "The flow's name")),
    responses(
        (status = 200, description = "Of the active version", body = Value, content_type = "application/json"),
        (status = 404, description = "No version of such a flow is active", body = Problem, content_type = PROBLEM_JSON),
        (status = 503, description = "The active version needs a newer release", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 200 with the document; 404 where no version is active.
async fn asyncapi(State(flows): State<Arc<Flows>>, PathText(name): PathText) -> Result<Json<Value>, Problem> {
    let flow = flows.active(&name).ok_or_else(|| not_started(&flows, &name))?;
    Ok(Json(flow.asyncapi()))
}
