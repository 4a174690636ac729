//! What the server answers before the service has started: a migration of a large table takes minutes, in which a probe
//! must not take the process for dead, or it would be killed and begin anew for ever.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::health::{self, NOT_READY, Readiness};

/// A listener that two servers accept from, one after the other.
#[derive(Clone)]
pub(super) struct Shared(pub Arc<TcpListener>);

impl Listener for Shared {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                // That connection's own end.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                    ) => {}
                // No file descriptors, say: some are given back with every connection that ends.
                Err(error) => {
                    tracing::error!(%error, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Where the service's routes will be.
pub(super) type Routes = watch::Receiver<Option<Router>>;

/// `/health/…` is answered at once, everything else as soon as there are routes. Each answer ends its connection, so that
/// the next request goes to the server itself.
pub(super) fn router(routes: Routes) -> Router {
    let ready = async || {
        let checks = BTreeMap::from([("running", "failed: it starts".to_owned())]);
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { checks, status: NOT_READY }))
    };
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(ready))
        .fallback(wait)
        .with_state(routes)
        .layer(axum::middleware::map_response(close))
}

async fn wait(State(mut routes): State<Routes>, request: Request) -> Response {
    let routes = match routes.wait_for(Option::is_some).await {
        Ok(routes) => routes.clone(),
        Err(_) => None,
    };
    match routes {
        Some(routes) => routes.oneshot(request).await.into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
