//! What the server answers before the service has started: a migration of a large table takes minutes, in which a probe
//! must not take the process for dead, or it would be killed and begin anew for ever.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::future::RouteFuture;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::sync::watch;
use tower::{Service, ServiceExt as _};

use super::health::{self, NOT_READY, RUNNING, Readiness};
use super::origin::{self, Guard};

/// The service's routes, which are given later. Until then `/health/…` is answered here, and everything else waits for
/// them.
#[derive(Clone)]
pub(super) struct LateRoutes {
    routes: watch::Receiver<Option<Router>>,
    until_then: Router,
}

/// How the routes are given.
pub(super) type Give = watch::Sender<Option<Router>>;

pub(super) fn late_routes(guard: Guard) -> (Give, LateRoutes) {
    let (give, routes) = watch::channel(None);
    let ready = async || {
        let checks = BTreeMap::from([(RUNNING, "failed: it starts".to_owned())]);
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { checks, status: NOT_READY }))
    };
    let until_then = Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(ready))
        .fallback(wait)
        .with_state(routes.clone())
        .layer(middleware::from_fn_with_state(guard, origin::guard));
    (give, LateRoutes { routes, until_then })
}

async fn wait(State(mut routes): State<watch::Receiver<Option<Router>>>, request: Request) -> Response {
    // An error: the start has failed, and the process ends.
    let routes = routes.wait_for(Option::is_some).await.ok().and_then(|routes| routes.clone());
    match routes {
        Some(routes) => routes.oneshot(request).await.into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl Service<Request> for LateRoutes {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> RouteFuture<Infallible> {
        let given = self.routes.borrow().clone();
        given.unwrap_or_else(|| self.until_then.clone()).call(request)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_service_that_starts_answers_probes_and_no_page_of_another_site() {
        let (_give, routes) = late_routes(Guard::new("".parse().unwrap()));
        for (path, host, status) in
            [("/health/live", "probe.test", 200), ("/health/ready", "localhost", 503), ("/sagas", "evil.test", 421)]
        {
            let request = Request::builder().uri(path).header("host", host).body(Body::empty()).unwrap();
            let Ok(answer) = routes.clone().oneshot(request).await;
            assert_eq!(answer.status().as_u16(), status, "{path}");
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        }
    }
}
