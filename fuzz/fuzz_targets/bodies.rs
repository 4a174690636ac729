//! A request's body, from raw bytes: `<route's number> <content type> 0 <body>`. Each is answered, with a status of the
//! 4xx where it is not taken; an accepted checkout keeps the rules of money and of users.

#![no_main]

use std::cell::LazyCell;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest as _, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use libfuzzer_sys::fuzz_target;
use messages::MAX_AMOUNT;
use service_runtime::http::batch::batched;
use service_runtime::http::{JsonBody, Problem};
use service_runtime::trace::Tracer;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        Builder::new_current_thread().enable_time().build().expect("a runtime")
    });
}

fuzz_target!(|data: &[u8]| {
    let Some((number, rest)) = data.split_first() else { return };
    let at = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (content_type, body) = (&rest[..at], rest.get(at + 1..).unwrap_or_default().to_vec());
    let Ok(request) = Request::post("/batch").header("content-type", content_type).body(Body::from(body)) else { return };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            match number % 3 {
                0 => checkout(request).await,
                1 => batch(request).await,
                _ => any(request).await,
            }
        });
    });
});

async fn checkout(request: Request) {
    match saga_orchestrator::read_checkout(request).await {
        Ok(checkout) => {
            let money = checkout.money;
            assert!(money.amount() > 0.into() && money.amount() <= MAX_AMOUNT, "{money}");
            assert!(money.amount().scale() <= money.currency().decimals(), "{money}");
            let user = checkout.user_id.as_str();
            assert!(!user.trim().is_empty() && !user.chars().any(char::is_control), "{user:?}");
        }
        Err(problem) => is_the_clients(problem).await,
    }
}

async fn batch(request: Request) {
    let echo = async |JsonBody(body): JsonBody<serde_json::Value>| body.to_string();
    let routes = Router::new().route("/echo", post(echo));
    let Ok(response) = batched(routes, Tracer::off()).oneshot(request).await;
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body in memory");
    assert!(status == StatusCode::OK || status.is_client_error(), "{status}");
    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{}", String::from_utf8_lossy(&body));
}

async fn any(request: Request) {
    if let Err(problem) = JsonBody::<serde_json::Value>::from_request(request, &()).await {
        is_the_clients(problem).await;
    }
}

async fn is_the_clients(problem: Problem) {
    let response = problem.into_response();
    assert!(response.status().is_client_error(), "{}", response.status());
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body in memory");
    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{}", String::from_utf8_lossy(&body));
}

