//! Publishing flows: `POST /flows` checks a file, stores it, creates its topics and activates it. What was published is
//! never changed: another file is another version.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flow::Flow;
use messages::TimestampText;
use serde::{Deserialize, Serialize};
use service_runtime::database::{Session, StoreError, again_if_lost, within_limit};
use service_runtime::http::description::{BodyProblems, DatabaseProblems, PROBLEM_JSON};
use service_runtime::http::{JsonBody, PathText, Problem, YamlText};
use service_runtime::kafka::CreationError;
use service_runtime::retention::Retention;
use sqlx::PgPool;
use tracing::info;
use utoipa::{OpenApi, ToSchema};

use crate::flow_topics::{Topics, topics};
use crate::publishable::{publishable, refused};
use crate::registry::Flows;
use crate::rehearsals::Rehearsals;
use crate::saga::flows::PAY_FIRST;
use crate::store::flows::{self as rows, Change, Changed, Publication, Published, Stored, Undecided};
use service_runtime::http::act::Act;

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(publish, list, versions, version, activate, retire))]
pub struct Described;

/// What publishing needs.
pub struct Publisher {
    pub session: Session,
    pub pool: PgPool,
    pub flows: Arc<Flows>,
    pub topics: Topics,
    pub retention: Retention,
    pub rehearsals: Rehearsals,
}

pub fn router(publisher: Arc<Publisher>) -> Router {
    Router::new()
        .route("/flows", post(publish).get(list))
        .route("/flows/{name}", get(versions))
        .route("/flows/{name}/{version}", get(version))
        .route("/flows/{name}/{version}/activate", post(activate))
        .route("/flows/{name}/{version}/retire", post(retire))
        .with_state(publisher)
}

/// A published flow.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowBody {
    pub name: String,
    pub version: i32,
    /// SHA-256 of the file as it was written, in hexadecimal digits.
    pub digest: String,
    /// ACTIVE: new sagas start by it. INACTIVE: by another version, or by none. RETIRED: none start by it any more.
    #[schema(schema_with = states)]
    pub state: &'static str,
    /// It came with a release.
    pub built_in: bool,
    pub published_by: String,
    pub reason: String,
    pub published_at: TimestampText,
    /// Sagas of this version that have not ended.
    pub unfinished: i64,
    /// The file, where one version was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source: Option<String>,
}

/// Published flows.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowsBody {
    /// By name, the newest version first.
    pub flows: Vec<FlowBody>,
}

/// The versions of one flow, and what was done with them.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionsBody {
    /// The newest first.
    pub flows: Vec<FlowBody>,
    /// The oldest first.
    pub changes: Vec<ChangeBody>,
}

/// What somebody did with a version.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeBody {
    pub version: i32,
    /// PUBLISHED, ACTIVATED or RETIRED.
    pub change: String,
    pub by: String,
    pub reason: String,
    pub at: TimestampText,
}

/// Who publishes, why, and whether new sagas start by it at once (they do unless this says `false`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishQuery {
    by: String,
    reason: String,
    #[serde(default = "yes")]
    activate: bool,
}

const fn yes() -> bool {
    true
}

const STATES: [&str; 3] = ["ACTIVE", "INACTIVE", "RETIRED"];

fn states() -> utoipa::openapi::ObjectBuilder {
    messages::schema::one_of(STATES)
}

type Shared = State<Arc<Publisher>>;

#[utoipa::path(
    post, path = "/flows", operation_id = "publishFlow", tag = "Flows", summary = "Publish a flow: check and simulate its file, store it, create its topics, and have new sagas start by it",
    params(
        ("by" = String, Query, description = "Who publishes it", max_length = 128),
        ("reason" = String, Query, description = "Why", max_length = 1000),
        ("activate" = Option<bool>, Query, description = "`false`: new sagas do not start by it yet"),
    ),
    request_body(content = String, content_type = "application/yaml", description = "The flow file, at most 64 KiB"),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "The same file was published before", body = FlowBody),
        (status = 201, description = "It is published", body = FlowBody, headers(("location" = String, description = "Where it is read"))),
        (status = 409, description = "Another file has this name and version", body = Problem, content_type = PROBLEM_JSON),
        (status = 422, description = "The file, a test in it or a simulated saga breaks a rule: `findings` has each with line, column, rule and message. Nothing is stored",
            body = Problem, content_type = PROBLEM_JSON),
        (status = 503, description = "The file is stored, and Kafka does not have its topics: publish it again. Or the database does not answer",
            body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 201, or 200 for a file that was published before. 422 with all findings.
async fn publish(
    State(publisher): Shared,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    YamlText(body): YamlText,
) -> Result<Response, Problem> {
    let Query(PublishQuery { by, reason, activate }) = query.map_err(|error| {
        let detail = format!("`by` and `reason` have to stand in the query, and `activate` may: {}", error.body_text());
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    let Act { by, reason } = Act { by, reason }.validated()?;
    let (flow, source) = publishable(&publisher.retention, &body)?;
    let Flow { name, version, digest, .. } = &*flow;
    // What was published before was simulated then.
    if publisher.flows.find(name, *version).is_none_or(|there| there.digest != *digest)
        && let Some(finding) = publisher.rehearsals.of(&flow).await?
    {
        return Err(refused(vec![finding]));
    }
    let publication =
        Publication { name, version: *version, digest, source, built_in: false, by: &by, reason: &reason };
    // Stored twice it is stored once.
    let stored = asked(|| rows::publish(&publisher.session, publication)).await?;
    if let Stored::Other(there) = stored {
        let detail = format!(
            "{name} v{version} is published already, with digest {there}; this file has {digest}. A changed flow needs a new version"
        );
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    publisher.create_topics(&flow).await?;
    if activate {
        let key = (name.as_str(), *version);
        asked(|| rows::activate_once(&publisher.session, key, Undecided::Version, &by, &reason)).await?;
    }
    asked(|| publisher.flows.refresh()).await?;
    info!(flow = name, version, digest, by, reason, activate, "a flow was published");
    let body = Json(publisher.one(name, *version, false).await?);
    let status = if stored == Stored::New { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, format!("/flows/{name}/{version}"))], body).into_response())
}

#[utoipa::path(
    get, path = "/flows", operation_id = "listFlows", tag = "Flows", summary = "The published flows",
    responses((status = 200, description = "By name, the newest version first", body = FlowsBody), DatabaseProblems),
)]
async fn list(State(publisher): Shared) -> Result<Json<FlowsBody>, Problem> {
    let (flows, _) = publisher.read().await?;
    Ok(Json(FlowsBody { flows }))
}

#[utoipa::path(
    get, path = "/flows/{name}", operation_id = "readFlow", tag = "Flows", summary = "The versions of a flow, and what was done with them",
    params(("name" = String, Path, description = "The flow's name")),
    responses(
        (status = 200, description = "Its versions and changes", body = VersionsBody), DatabaseProblems,
        (status = 404, description = "There is no such flow", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn versions(State(publisher): Shared, PathText(name): PathText) -> Result<Json<VersionsBody>, Problem> {
    let (mut flows, mut changes) = publisher.read().await?;
    flows.retain(|flow| flow.name == name);
    changes.retain(|change| change.name == name);
    if flows.is_empty() {
        return Err(no_such_flow(&name, None));
    }
    let change = |Changed { version, change, actor, reason, at, .. }| ChangeBody {
        version,
        change,
        by: actor,
        reason,
        at: at.into(),
    };
    Ok(Json(VersionsBody { flows, changes: changes.into_iter().map(change).collect() }))
}

#[utoipa::path(
    get, path = "/flows/{name}/{version}", operation_id = "readFlowVersion", tag = "Flows", summary = "One version of a flow, with its file",
    params(("name" = String, Path, description = "The flow's name"), ("version" = i32, Path, description = "Its version")),
    responses(
        (status = 200, description = "The version, with `source`", body = FlowBody), DatabaseProblems,
        (status = 400, description = "The version is no number", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "There is no such version", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn version(
    State(publisher): Shared,
    PathText((name, version)): PathText<(String, i32)>,
) -> Result<Json<FlowBody>, Problem> {
    Ok(Json(publisher.one(&name, version, true).await?))
}

#[utoipa::path(
    post, path = "/flows/{name}/{version}/activate", operation_id = "activateFlow", tag = "Flows", summary = "Have new sagas start by this version",
    params(("name" = String, Path, description = "The flow's name"), ("version" = i32, Path, description = "Its version")),
    request_body(content = Act, example = json!({"by": "ann", "reason": "v2 was wrong"})),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "They do from now on; on other instances within a second", body = FlowBody),
        (status = 404, description = "There is no such version", body = Problem, content_type = PROBLEM_JSON),
        (status = 409, description = "This release can't run it", body = Problem, content_type = PROBLEM_JSON),
        (status = 503, description = "Kafka does not have its topics, or the database does not answer", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn activate(
    State(publisher): Shared,
    PathText((name, version)): PathText<(String, i32)>,
    JsonBody(act): JsonBody<Act>,
) -> Result<Json<FlowBody>, Problem> {
    let Act { by, reason } = act.validated()?;
    publisher.one(&name, version, false).await?;
    asked(|| publisher.flows.refresh()).await?;
    let Some(flow) = publisher.flows.find(&name, version) else {
        let detail = format!(
            "this release can't run {name} v{version}: a newer one has published it, or will have the topics that it asks by"
        );
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    publisher.create_topics(&flow).await?;
    publisher.change((&name, version), Change::Activated, &by, &reason).await?;
    Ok(Json(publisher.one(&name, version, false).await?))
}

#[utoipa::path(
    post, path = "/flows/{name}/{version}/retire", operation_id = "retireFlow", tag = "Flows", summary = "Have no new sagas start by this version",
    params(("name" = String, Path, description = "The flow's name"), ("version" = i32, Path, description = "Its version")),
    request_body(content = Act, example = json!({"by": "ann", "reason": "nobody books trips any more"})),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "None start from now on; those that run go on", body = FlowBody),
        (status = 404, description = "There is no such version", body = Problem, content_type = PROBLEM_JSON),
        (status = 409, description = "`POST /checkout` starts its sagas", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn retire(
    State(publisher): Shared,
    PathText((name, version)): PathText<(String, i32)>,
    JsonBody(act): JsonBody<Act>,
) -> Result<Json<FlowBody>, Problem> {
    let Act { by, reason } = act.validated()?;
    if name == PAY_FIRST {
        let detail =
            "pay-first can't be retired: `POST /checkout` starts its sagas. `POST /intake/pause` closes the intake";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    publisher.change((&name, version), Change::Retired, &by, &reason).await?;
    Ok(Json(publisher.one(&name, version, false).await?))
}

impl Publisher {
    /// Creates the topics of a flow that are missing.
    async fn create_topics(&self, flow: &Flow) -> Result<(), Problem> {
        self.topics.create(&topics(flow)).await.map_err(|error| {
            let stored = format!("{} v{} is stored, and not active", flow.name, flow.version);
            // What Kafka says is for the log.
            let detail = match &error {
                CreationError::Unavailable(_) => format!("{stored}: its topics can't be created now"),
                CreationError::Refused(topics) => {
                    let commands: Vec<&str> = topics.iter().map(|topic| topic.command.as_str()).collect();
                    format!("{stored}: Kafka refuses to create its topics; have this done: {}", commands.join("; "))
                }
            };
            Problem::unavailable(detail, 5).with_cause(&error.to_string().into())
        })
    }

    async fn change(&self, key: (&str, i32), change: Change, by: &str, reason: &str) -> Result<(), Problem> {
        // Twice the same change does no harm.
        let changed = || rows::change(&self.session, key, change, by, reason);
        if !asked(changed).await? {
            return Err(no_such_flow(key.0, Some(key.1)));
        }
        asked(|| self.flows.refresh()).await?;
        info!(flow = key.0, version = key.1, change = change.as_str(), by, reason, "a flow was changed");
        Ok(())
    }

    /// One version, with its file if that is wanted.
    ///
    /// # Errors
    /// 404; 503 or 500 for the database's.
    pub async fn one(&self, name: &str, version: i32, with_source: bool) -> Result<FlowBody, Problem> {
        let (flows, _) = self.read().await?;
        let found = flows.into_iter().find(|flow| flow.name == name && flow.version == version);
        let found = found.ok_or_else(|| no_such_flow(name, Some(version)))?;
        let source = match with_source {
            true => asked(|| rows::source(&self.session, name, version)).await?,
            false => None,
        };
        Ok(FlowBody { source, ..found })
    }

    /// All flows, and all changes.
    ///
    /// # Errors
    /// 503 or 500 for the database's.
    pub async fn read(&self) -> Result<(Vec<FlowBody>, Vec<Changed>), Problem> {
        let published = asked(|| rows::published(&self.session)).await?;
        let changes = asked(|| rows::changes(&self.session)).await?;
        let running = asked(|| rows::running(&self.pool)).await?;
        let running: HashMap<(String, i32), i64> =
            running.into_iter().map(|(name, version, count)| ((name, version), count)).collect();
        let active = crate::registry::active(&changes);
        let flows = published.into_iter().map(|flow| {
            let Published { name, version, digest, built_in, published_by, reason, published_at } = flow;
            let mut own = changes.iter().rev().filter(|change| change.name == name && change.version == version);
            let is_retired = own.next().is_some_and(|last| last.change == Change::Retired.as_str());
            let state = match (active.get(&name) == Some(&version), is_retired) {
                (true, _) => STATES[0],
                (false, false) => STATES[1],
                (false, true) => STATES[2],
            };
            let unfinished = running.get(&(name.clone(), version)).copied().unwrap_or_default();
            FlowBody {
                name,
                version,
                digest,
                state,
                built_in,
                published_by,
                reason,
                published_at: published_at.into(),
                unfinished,
                source: None,
            }
        });
        Ok((flows.collect(), changes))
    }
}

/// Asks the database, once more where the connection was lost: what is done twice here is done once.
async fn asked<T, W: Future<Output = Result<T, StoreError>>>(work: impl Fn() -> W) -> Result<T, StoreError> {
    within_limit(again_if_lost(work)).await
}

fn no_such_flow(name: &str, version: Option<i32>) -> Problem {
    let name: String = name.chars().take(80).collect();
    let version = version.map_or_else(String::new, |version| format!(" v{version}"));
    Problem::new(StatusCode::NOT_FOUND, format!("there is no flow {name:?}{version}"))
}
