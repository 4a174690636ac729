//! Rate, errors and duration of the requests, by method, route and status. A route is told as the pattern that it was
//! registered with, and a method that HTTP does not know as "other": a client can't make a series.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use crate::metrics::{Count, Counts, Histogram, Histograms, Metrics};

/// The route of what no route takes, and a method that HTTP does not know.
const OTHER: &str = "other";

/// The status of a request whose client hung up before the answer. Not one of HTTP's: nginx tells it so.
const HUNG_UP: u16 = 499;

/// Where requests are counted.
pub(super) struct Requests {
    counts: Counts,
    seconds: Histograms,
    /// The series that there are, by route: to resolve labels costs more than to count.
    series: RwLock<HashMap<Box<str>, Vec<Series>>>,
}

struct Series {
    method: &'static str,
    status: u16,
    count: Count,
    /// The same for each status of a method and route.
    seconds: Histogram,
}

impl Requests {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let (counts, seconds) = metrics.http();
        Self { counts, seconds, series: RwLock::default() }
    }

    fn count(&self, method: &'static str, route: &str, status: u16, seconds: f64) {
        if !self.count_known(method, route, status, seconds) {
            // Should two come here at once, the second one's series is the first one's: the registry has it.
            let series = Series {
                method,
                status,
                count: self.counts.with_label_values(&[method, route, &status.to_string()]),
                seconds: self.seconds.with_label_values(&[method, route]),
            };
            let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(route.into()).or_default().push(series);
            drop(all);
            self.count_known(method, route, status, seconds);
        }
    }

    fn count_known(&self, method: &'static str, route: &str, status: u16, seconds: f64) -> bool {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(route).and_then(|all| all.iter().find(|one| one.method == method && one.status == status));
        if let Some(series) = known {
            series.count.inc();
            series.seconds.observe(seconds);
        }
        known.is_some()
    }
}

/// A request under way. It is counted when this goes, which it does with a client that hangs up as well.
struct Measured {
    requests: Arc<Requests>,
    method: &'static str,
    route: Option<MatchedPath>,
    began: Instant,
    status: u16,
}

impl Drop for Measured {
    fn drop(&mut self) {
        let route = self.route.as_ref().map_or(OTHER, MatchedPath::as_str);
        self.requests.count(self.method, route, self.status, self.began.elapsed().as_secs_f64());
    }
}

/// Counts the requests that pass.
pub(super) async fn measure(State(requests): State<Arc<Requests>>, request: Request, next: Next) -> Response {
    let (method, route) = (name(request.method()), request.extensions().get::<MatchedPath>().cloned());
    let mut measured = Measured { requests, method, route, began: Instant::now(), status: HUNG_UP };
    let response = next.run(request).await;
    measured.status = response.status().as_u16();
    response
}

/// The methods of RFC 9110, section 9.3, and RFC 5789.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::middleware;
    use axum::routing::{get, post};
    use futures::FutureExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn app(metrics: &Metrics) -> Router {
        Router::new()
            .route("/things/{id}", get(|| async { "thing" }))
            .route("/slow", post(async || -> StatusCode { pending().await }))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(middleware::from_fn_with_state(Arc::new(Requests::new(metrics)), measure))
    }

    fn request(method: &str, path: &str) -> Request {
        Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    async fn counted(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text().await;
        text.lines().filter(|line| line.starts_with("http_requests_total{")).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn requests_are_counted_by_the_routes_pattern_and_nothing_that_a_client_makes_up() {
        let metrics = Metrics::of("s");
        let app = app(&metrics);
        for (method, path) in [
            ("GET", "/things/1"),
            ("GET", "/things/2"),
            ("BREW", "/things/1"),
            ("GET", "/no/such"),
            ("PUT", "/nor/such"),
        ] {
            let Ok(_) = app.clone().oneshot(request(method, path)).await;
        }

        assert_eq!(
            counted(&metrics).await,
            [
                r#"http_requests_total{method="GET",route="/things/{id}",status="200"} 2"#,
                r#"http_requests_total{method="GET",route="other",status="404"} 1"#,
                r#"http_requests_total{method="PUT",route="other",status="404"} 1"#,
                r#"http_requests_total{method="other",route="/things/{id}",status="405"} 1"#,
            ]
        );
        let line = r#"http_request_duration_seconds_count{method="GET",route="/things/{id}"} 2"#;
        assert!(metrics.text().await.lines().any(|found| found == line));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_is_counted_too() {
        let metrics = Metrics::of("s");

        let answer = app(&metrics).oneshot(request("POST", "/slow")).now_or_never();

        assert!(answer.is_none());
        assert_eq!(counted(&metrics).await, [r#"http_requests_total{method="POST",route="/slow",status="499"} 1"#]);
    }
}
