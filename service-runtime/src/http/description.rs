//! The description of a service's HTTP interface (OpenAPI 3.1), made from the code that serves it: each service tells
//! its own routes, here are those and the answers that all have in common.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Type};
use utoipa::{IntoResponses, OpenApi as _};

use super::{INTERNAL, Problem, health, reference};

/// The media type of errors.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Nothing from elsewhere, and no script: the page is text.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

/// What every service answers besides its own routes.
#[derive(utoipa::OpenApi)]
#[openapi(paths(health::live, health::ready, metrics, openapi, docs), components(schemas(Problem)))]
struct Common;

/// A service's own routes, with those that all services have.
pub fn complete(service: OpenApi) -> OpenApi {
    let mut document = service.merge_from(Common::openapi());
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        let parameters = operations.into_iter().flatten().filter_map(|operation| operation.parameters.as_mut());
        parameters.flatten().for_each(without_null);
    }
    document
}

/// A parameter that may be left out is described as one that may be null, which no query and no header can be.
fn without_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(parameter) = parameter
        && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = types.as_slice() {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// What `/openapi.json` and `/docs` show: made when it is first asked for, and again when it is asked for after a change.
pub struct Description {
    describe: Arc<dyn Fn() -> OpenApi + Send + Sync>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    made: Option<Made>,
    changes: Option<watch::Receiver<()>>,
}

#[derive(Clone)]
struct Made {
    document: Bytes,
    page: Bytes,
}

impl<F: Fn() -> OpenApi + Send + Sync + 'static> From<F> for Description {
    fn from(describe: F) -> Self {
        Self { describe: Arc::new(describe), last: Mutex::default() }
    }
}

impl Description {
    /// What it is made from changes at times.
    #[must_use]
    pub fn made_anew_after(self, changes: watch::Receiver<()>) -> Self {
        Self { last: Mutex::new(Last { made: None, changes: Some(changes) }), ..self }
    }

    async fn made(&self) -> Made {
        let Last { made, changes } = &mut *self.last.lock().await;
        if let Some(changes) = changes.as_mut().filter(|changes| changes.has_changed().unwrap_or(false)) {
            // First: what changes from here on is another change.
            changes.mark_unchanged();
            *made = None;
        }
        if let Some(made) = made {
            return made.clone();
        }
        let describe = self.describe.clone();
        // It takes milliseconds, in which the service's thread has other things to do.
        let anew = spawn_blocking(move || Made::of(&describe())).await;
        made.insert(anew.unwrap_or_else(|error| resume_unwind(error.into_panic()))).clone()
    }
}

impl Made {
    fn of(document: &OpenApi) -> Self {
        let page = reference::page(document).into_string().into();
        Self { document: document.to_json().unwrap_or_default().into(), page }
    }
}

/// `/openapi.json` and `/docs`.
pub(super) fn router(description: Description) -> Router {
    let described = Arc::new(description);
    let also = described.clone();
    let json = [(header::CONTENT_TYPE, "application/json")];
    let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    Router::new()
        .route("/openapi.json", get(async move || (json, described.made().await.document).into_response()))
        .route("/docs", get(async move || (html, also.made().await.page).into_response()))
}

#[utoipa::path(get, path = "/metrics", tag = "Watching", summary = "Metrics, for Prometheus", responses(
    (status = 200, description = "In Prometheus' text format", body = String, content_type = "text/plain",
        example = "http_requests_total{method=\"GET\",route=\"/health/ready\",status=\"200\"} 2\n"),
))]
#[expect(dead_code, reason = "only described here: the route is a closure in `HttpServer::serve`")]
fn metrics() {}

#[utoipa::path(get, path = "/openapi.json", tag = "About", summary = "This description, as OpenAPI 3.1", responses(
    (status = 200, description = "The document", body = serde_json::Value, content_type = "application/json"),
))]
#[expect(dead_code, reason = "only described here: the route is a closure in `router`")]
fn openapi() {}

#[utoipa::path(get, path = "/docs", tag = "About", summary = "This description, as a page to read", responses(
    (status = 200, description = "The page", body = String, content_type = "text/html"),
))]
#[expect(dead_code, reason = "only described here: the route is a closure in `router`")]
fn docs() {}

/// An error answer with an example. `again`: it may have `Retry-After`.
fn problem(status: StatusCode, description: &str, detail: &str, again: bool) -> (String, RefOr<Response>) {
    let title = status.canonical_reason().unwrap_or_default();
    let example = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
    let mut response = ResponseBuilder::new().description(description).content(PROBLEM_JSON, content);
    if again {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
        let retry_after =
            HeaderBuilder::new().schema(Some(seconds)).description(Some("In how many seconds to try again"));
        response = response.header("retry-after", retry_after.build());
    }
    (status.as_u16().to_string(), response.build().into())
}

macro_rules! problems {
    ($(#[$doc:meta])* $name:ident: $(($status:ident, $description:literal, $detail:expr, $again:literal)),+) => {
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$(problem(StatusCode::$status, $description, $detail, $again)),+].into()
            }
        }
    };
}

problems! {
    /// What a [`JsonBody`](super::JsonBody) is refused for.
    BodyProblems:
    (BAD_REQUEST, "Not JSON, or a path or header that makes no sense", "the body is not valid JSON: EOF while parsing a value at line 1 column 0", false),
    (REQUEST_TIMEOUT, "The body did not come", "the body did not come within 10 s", false),
    (PAYLOAD_TOO_LARGE, "The body is larger than 64 KiB", "the body is larger than 65536 bytes", false),
    (UNSUPPORTED_MEDIA_TYPE, "The body is not declared as JSON, or is compressed", "the body must be JSON, with the header `Content-Type: application/json`", false),
    (UNPROCESSABLE_ENTITY, "JSON of another shape, or a value that breaks a rule: `field` and `detail` say which", "`totalAmount` must be greater than 0", false)
}
problems! {
    /// What whoever asks a database has to expect.
    DatabaseProblems:
    (INTERNAL_SERVER_ERROR, "Internal error: the server's log has its cause under the `errorId`", INTERNAL, false),
    (SERVICE_UNAVAILABLE, "The database can't be reached", "the database is not available", true)
}
problems! {
    /// A path with what is no id, or one that nobody knows.
    IdProblems:
    (BAD_REQUEST, "The path holds what is no UUID", "\"7\" is not an id (a UUID)", false),
    (NOT_FOUND, "There is no such thing", "there is nothing with the id 01a1fcfc-71e1-7774-8bfb-889f9eb14880", false)
}
problems! {
    /// A query that makes no sense.
    QueryProblems:
    (BAD_REQUEST, "A parameter that is unknown, or breaks a rule", "`limit` must be 1 to 500", false)
}
problems! {
    /// An id in the path that nobody knows, where there is a body as well.
    NotFound:
    (NOT_FOUND, "There is no such thing", "there is nothing with the id 01a1fcfc-71e1-7774-8bfb-889f9eb14880", false)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_description_is_made_when_it_is_asked_for_and_again_only_after_a_change() {
        let (changes, count) = (watch::Sender::new(()), Arc::new(AtomicUsize::new(0)));
        let made = count.clone();
        let description = Description::from(move || {
            made.fetch_add(1, Ordering::Relaxed);
            OpenApi::default()
        });
        let description = description.made_anew_after(changes.subscribe());
        assert_eq!(count.load(Ordering::Relaxed), 0);
        for times in 1..=3 {
            description.made().await;
            description.made().await;
            assert_eq!(count.load(Ordering::Relaxed), times);
            changes.send_replace(());
            changes.send_replace(());
        }
    }
}
