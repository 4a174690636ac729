//! Requests that are served within a span.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use messages::{TRACEPARENT, TraceContext};

use super::{Kind, Tracer};

/// Serves a request within a span, which its handler sees as the request's `traceparent`. Of the requests that come
/// without one only checkouts begin a trace: nobody looks for what a page or a probe did.
pub(crate) async fn serve(State(tracer): State<Tracer>, mut request: Request, next: Next) -> Response {
    if !tracer.is_on() {
        return next.run(request).await;
    }
    let given = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let given: Option<TraceContext> = given.and_then(|text| text.parse().ok());
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let name = || format!("{} {route}", request.method()).into();
    let (context, span) = match given {
        Some(given) => {
            let span = tracer.span(Kind::Server, Some(given), name);
            (span.context().unwrap_or(given), span)
        }
        None if request.method() == Method::POST && route == "/checkout" => tracer.root(name),
        None => return next.run(request).await,
    };
    if span.is_recorded() {
        span.set("http.request.method", request.method().to_string());
        span.set("http.route", route.to_owned());
        span.set("url.path", request.uri().path().to_owned());
    }
    if let Ok(value) = HeaderValue::try_from(context.to_string()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    let response = span.around(next.run(request)).await;
    span.set("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.fail(response.status().canonical_reason().unwrap_or("an error of the server"));
    }
    response
}
