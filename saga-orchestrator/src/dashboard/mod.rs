//! The dashboard: where every customer's money is, and what happens next, in a browser. Server-rendered from what
//! [`crate::views`] tells, with a little script that keeps it fresh and sends what buttons ask for: the very requests of
//! the HTTP API, shown before they are sent. Everything is in the binary; nothing is fetched from elsewhere.

mod charts;
mod dead_letters;
mod flow_drawing;
mod flow_page;
mod flows;
mod format;
mod layout;
mod mass_act;
mod new_checkout;
mod overview;
mod saga_page;
mod stock;
mod timeline;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::Markup;
use service_runtime::http::Problem;

use crate::dead_letters::DeadLetters;
use crate::gate::Gate;
use crate::publishing::Publisher;
use crate::stock::Stock;
use crate::views::Views;

/// What the pages are made of.
#[derive(Clone)]
pub struct Dashboard {
    pub views: Views,
    pub gate: Arc<Gate>,
    pub letters: DeadLetters,
    pub publisher: Arc<Publisher>,
    pub stock: Stock,
    /// Whether a checkout may ask for a failure.
    pub forced_failures: bool,
}

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Nothing from elsewhere, and no script or style but ours: a customer's name can't become one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub fn router(dashboard: Dashboard) -> Router {
    Router::new()
        .route("/", get(overview::show))
        .route("/dashboard/sagas/{id}", get(saga_page::show))
        .route("/dashboard/find", get(saga_page::find))
        .route("/dashboard/retry", get(mass_act::retry))
        .route("/dashboard/cancel", get(mass_act::cancel))
        .route("/dashboard/new", get(new_checkout::show))
        .route("/dashboard/flows", get(flows::show))
        .route("/dashboard/flows/{name}", get(flow_page::newest))
        .route("/dashboard/flows/{name}/{version}", get(flow_page::show))
        .route("/dashboard/publish", get(flows::publish))
        .route("/dashboard/start/{name}", get(flow_page::start))
        .route("/dashboard/dead-letters", get(dead_letters::show))
        .route("/dashboard/stock", get(stock::show))
        .route("/dashboard/stock/{sku}", get(stock::product))
        .route("/dashboard/stock/{sku}/receipts", post(stock::receive))
        .route("/dashboard/stock/{sku}/adjustments", post(stock::adjust))
        .with_state(dashboard)
        .route("/assets/style.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/assets/script.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/assets/icon.svg", get(async || asset("image/svg+xml", ICON)))
        .layer(middleware::from_fn(protect))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    // Asked for anew after an hour: a new release may bring another one.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=3600")], text).into_response()
}

async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// A page, or why there is none: also as a page.
struct Page(StatusCode, Markup);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.1.into_string()).into_response()
    }
}

impl From<Markup> for Page {
    fn from(markup: Markup) -> Self {
        Self(StatusCode::OK, markup)
    }
}

impl From<Problem> for Page {
    fn from(problem: Problem) -> Self {
        Self(problem.status(), layout::problem(&problem))
    }
}
