//! Many requests in one: `POST /batch` takes `[{"method", "path", "body"}, …]` and answers `[{"status", "body"}, …]`
//! in the same order. Each is served as if it had come alone, side by side with the others, so that what they store
//! shares a statement; saved is what a request costs on its way.

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Request, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router, middleware};
use futures::future::join_all;
use messages::object::Object;
use messages::{TRACEPARENT, TraceContext};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{OpenApi, ToSchema};

use super::description::PROBLEM_JSON;
use super::json_body::JsonText;
use super::{Problem, problem};
use crate::trace::{self, Tracer};

/// The most requests in a batch.
pub const MAX_REQUESTS: usize = 500;

/// The largest batch, in bytes.
const MAX_BATCH_BODY: usize = 1024 * 1024;

/// One request of a batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchedRequest {
    #[schema(pattern = "^[A-Za-z]+$", examples("POST"))]
    pub method: String,
    /// With its query, if it has one.
    #[schema(pattern = r"^/[!$-;=?-Z\[\]_a-z~]*$", examples("/orders"))]
    pub path: String,
    /// What the request would have as its body; null for none.
    #[schema(value_type = serde_json::Value)]
    pub body: Box<RawValue>,
    /// The header of that name, if the request has one. What is no trace context counts as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The answer to one request of a batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchedAnswer {
    #[schema(minimum = 100, maximum = 599)]
    pub status: u16,
    #[schema(value_type = serde_json::Value)]
    pub body: Box<RawValue>,
}

/// `routes`, which may be asked one by one or many at once.
pub fn batched(routes: Router, tracer: Tracer) -> Router {
    let limit = DefaultBodyLimit::max(MAX_BATCH_BODY);
    // A panic is one request's own.
    let each = routes.clone().layer(CatchPanicLayer::custom(problem::from_panic));
    let each = each.layer(middleware::from_fn_with_state(tracer, trace::serve));
    routes.merge(Router::new().route("/batch", post(answer_all)).with_state(each).layer(limit))
}

/// Describes `POST /batch`.
#[derive(OpenApi)]
#[openapi(paths(answer_all))]
pub struct Described;

/// 200 with all answers, whatever each says; 400, 413 or 415 if the batch itself can't be read.
#[utoipa::path(
    post, path = "/batch", operation_id = "batch", tag = "Orders",
    summary = "Many requests in one, each answered as if it had come alone",
    request_body(content = Vec<BatchedRequest>, description = "At most 500 requests and 1 MiB",
        example = json!([{"method": "POST", "path": "/orders", "body": {"userId": "u1", "totalAmount": 500}}])),
    responses(
        (status = 200, description = "All answers, in the order of the requests, whatever each says", body = Vec<BatchedAnswer>,
            example = json!([{"status": 422, "body": {"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "`userId` must not be blank", "field": "userId"}}])),
        (status = 400, description = "Not a batch of requests", body = Problem, content_type = PROBLEM_JSON),
        (status = 408, description = "The body did not come", body = Problem, content_type = PROBLEM_JSON),
        (status = 413, description = "More than 500 requests, or more than 1 MiB", body = Problem, content_type = PROBLEM_JSON),
        (status = 415, description = "Not declared as JSON", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn answer_all(
    State(routes): State<Router>,
    JsonText(batch): JsonText<MAX_BATCH_BODY>,
) -> Result<Json<Vec<BatchedAnswer>>, Problem> {
    let requests: Vec<Object<BatchedRequest>> = serde_json::from_slice(&batch).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not a batch of requests: {error}"))
    })?;
    if requests.len() > MAX_REQUESTS {
        let detail = format!("a batch has at most {MAX_REQUESTS} requests, not {}", requests.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let answers = requests.into_iter().map(|Object(request)| answer(routes.clone(), request));
    join_all(answers).await.into_iter().collect::<Result<_, _>>().map(Json)
}

async fn answer(routes: Router, request: BatchedRequest) -> Result<BatchedAnswer, Problem> {
    let unusable = |why: &str| Problem::new(StatusCode::BAD_REQUEST, format!("a request's {why}"));
    if !is_path(&request.path) {
        return Err(unusable("path must begin with `/` and have no characters but those of a URL"));
    }
    if request.method.is_empty() || !request.method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(unusable("method must be letters"));
    }
    let mut built = Request::builder()
        .method(request.method.as_str())
        .uri(request.path)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(traceparent) = request.traceparent.filter(|text| text.parse::<TraceContext>().is_ok()) {
        built = built.header(TRACEPARENT, traceparent);
    }
    let request =
        built.body(Body::from(request.body.get().to_owned())).map_err(|error| unusable(&error.to_string()))?;
    let Ok(response) = routes.oneshot(request).await;
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    // What is not JSON is told as a text; nothing is told as null.
    let body = match serde_json::from_slice::<Box<RawValue>>(&body) {
        Ok(json) => json,
        Err(_) if body.is_empty() => RawValue::NULL.to_owned(),
        Err(_) => to_raw_value(&String::from_utf8_lossy(&body)).unwrap_or_else(|_| RawValue::NULL.to_owned()),
    };
    Ok(BatchedAnswer { status, body })
}

/// RFC 3986, section 3.3, with the query behind it. A fragment is none of the server's business.
fn is_path(text: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_graphic() && !br##""#<>\^`{|}"##.contains(&byte);
    text.starts_with('/') && text.bytes().all(belongs)
}

#[cfg(test)]
mod tests {
    use axum::extract::Path;
    use axum::routing::{get, put};
    use serde_json::{Value, json};

    use super::*;

    async fn ask(batch: &Value) -> (StatusCode, Value) {
        ask_declared(batch, "application/json").await
    }

    async fn ask_declared(batch: &Value, content_type: &str) -> (StatusCode, Value) {
        let double = async |Path(n): Path<u32>, Json(by): Json<u32>| Json(n * by);
        let panics = async || -> StatusCode { panic!("on purpose") };
        let routes =
            Router::new().route("/numbers/{n}", put(double)).route("/text", get("words")).route("/panic", get(panics));
        let request = Request::post("/batch").header(header::CONTENT_TYPE, content_type);
        let request = request.body(Body::from(batch.to_string())).unwrap();
        let Ok(response) = batched(routes, Tracer::off()).oneshot(request).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn each_request_is_answered_as_if_it_had_come_alone() {
        let batch = json!([
            {"method": "PUT", "path": "/numbers/7", "body": 3},
            {"method": "PUT", "path": "/numbers/8", "body": "three"},
            {"method": "GET", "path": "/text", "body": null},
            {"method": "PUT", "path": "/elsewhere", "body": 1},
            {"method": "GET", "path": "/panic", "body": null},
        ]);
        let (status, answers) = ask(&batch).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answers[0], json!({"status": 200, "body": 21}));
        assert_eq!(answers[1]["status"], json!(422));
        assert_eq!(answers[2], json!({"status": 200, "body": "words"}));
        assert_eq!(answers[3], json!({"status": 404, "body": null}));
        assert_eq!(answers[4]["status"], json!(500), "a panic is one request's own");
    }

    #[test]
    fn a_path_is_what_a_url_may_hold() {
        for (text, is_path) in [
            ("/orders/7?a=b%20c", true),
            ("/", true),
            ("", false),
            ("orders", false),
            ("/a#b", false),
            ("/ü", false),
            ("/a b", false),
        ] {
            assert_eq!(super::is_path(text), is_path, "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_no_batch_is_refused_as_a_whole() {
        let (status, problem) = ask(&json!([{"method": "GET"}])).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("missing field")), "{problem}");
        let (status, problem) = ask(&json!([["GET", "/text", null, null]])).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("expected a JSON object")),
            "{problem}"
        );
        let many: Vec<_> =
            (0..=MAX_REQUESTS).map(|_| json!({"method": "GET", "path": "/text", "body": null})).collect();
        assert_eq!(ask(&json!(many)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        // What a page of another site may send without being asked for leave.
        let (status, problem) = ask_declared(&json!([]), "text/plain").await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{problem}");
    }
}
