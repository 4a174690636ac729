//! The HTTP server around a service's routes: listening, health, metrics, answers to bad requests, graceful stop.

mod accepting;
pub mod act;
pub mod batch;
mod bodies;
mod client;
mod clients;
mod connection;
mod connections;
pub mod description;
mod health;
mod idempotency_key;
mod json_body;
mod limits;
mod measured;
mod origin;
mod path_text;
mod prefer;
mod problem;
mod reference;
mod starting;
mod transport;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{info, warn};

use crate::metrics::{self, Metrics};
use crate::settings::{HOUR_MS, Settings, SettingsError, require_within};
use crate::trace::{self, Tracer};
use crate::{CancellationToken, Fatal};

use self::connections::Connections;
use self::description::Description;
use self::limits::Limits;
use self::origin::{AllowedHosts, Guard};

pub use client::client;
pub use clients::{Caller, Client};
pub use health::{Check, Health, probe_ready};
pub use idempotency_key::{IdempotencyKey, TakenKey};
pub use json_body::{JsonBody, JsonText, YamlText, refuse_idempotency_key};
pub use path_text::PathText;
pub use prefer::Preferences;
pub use problem::{Finding, INTERNAL, Problem};

/// The largest request body that is read, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Where a service listens.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpSettings {
    bind_address: IpAddr,
    port: u16,
    #[serde(deserialize_with = "allowed_hosts")]
    allowed_hosts: AllowedHosts,
    shutdown_drain_ms: u64,
    shutdown_timeout_ms: u64,
    /// A section of its own, with bounds.
    #[serde(skip)]
    limits: Limits,
}

fn allowed_hosts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<AllowedHosts, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl TryFrom<&Settings> for HttpSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section = Self { limits: Limits::checked(settings)?, ..settings.section()? };
        require_within("port", section.port, 1..=u16::MAX)?;
        require_within("shutdown_drain_ms", section.shutdown_drain_ms, 0..=HOUR_MS)?;
        require_within("shutdown_timeout_ms", section.shutdown_timeout_ms, 0..=HOUR_MS)?;
        Ok(section)
    }
}

impl HttpSettings {
    /// Where a client on this machine reaches the server.
    pub fn local_address(&self) -> SocketAddr {
        let everywhere = self.bind_address.is_unspecified();
        SocketAddr::new(if everywhere { Ipv4Addr::LOCALHOST.into() } else { self.bind_address }, self.port)
    }

    /// How long a stop takes that has requests and records to finish: until then it need not be cut short.
    pub fn stop_limit(&self) -> Duration {
        self.drain() + self.shutdown_timeout()
    }

    /// How long requests in hand have after the drain.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }

    /// How long the server goes on after it was told to stop, so that its clients have time to go elsewhere.
    fn drain(&self) -> Duration {
        Duration::from_millis(self.shutdown_drain_ms)
    }
}

/// A port that is ours, before the routes exist: a taken one stops the start at once. Until [`HttpServer::serve`] it says
/// that the service starts, and keeps what else it is asked.
pub struct HttpServer {
    routes: starting::Give,
    guard: Guard,
    /// Tells it to end; and its end.
    end: CancellationToken,
    serving: JoinHandle<()>,
    connections: Arc<Connections>,
    address: SocketAddr,
    told_to_stop: CancellationToken,
    drain: Duration,
    shutdown_timeout: Duration,
}

impl HttpServer {
    /// Takes the port. From `told_to_stop` on the server says that it is not ready, and asks for the end of each
    /// connection.
    ///
    /// # Errors
    /// When it is in use, or may not be used.
    pub async fn bind(
        settings: &HttpSettings,
        metrics: &Metrics,
        told_to_stop: &CancellationToken,
    ) -> Result<Self, Fatal> {
        let wanted = SocketAddr::new(settings.bind_address, settings.port);
        let error = |error: std::io::Error| {
            Fatal::new(format!(
                "can't listen on {wanted}: {error}. Stop what holds port {}, or choose another port (PORT; a flag of standalone)",
                settings.port
            ))
        };
        let listener = listen(wanted).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        if settings.allowed_hosts.is_empty() && !settings.bind_address.is_loopback() {
            warn!("only requests for an IP address or `localhost` are served: ALLOWED_HOSTS is empty");
        }
        let guard = Guard::new(settings.allowed_hosts.clone());
        let ((routes, late), end) = (starting::late_routes(guard.clone()), CancellationToken::new());
        let connections = Connections::new(&settings.limits, metrics);
        let serving = tokio::spawn(accepting::accept(listener, connections.clone(), late, end.clone()));
        let (told_to_stop, drain, shutdown_timeout) =
            (told_to_stop.clone(), settings.drain(), settings.shutdown_timeout());
        Ok(Self { routes, guard, end, serving, connections, address, told_to_stop, drain, shutdown_timeout })
    }

    /// The end of the service's work: a while after it was told to stop. Until then it does all that it is asked for.
    pub fn drained(&self) -> CancellationToken {
        let (told_to_stop, drain) = (self.told_to_stop.clone(), self.drain);
        let drained = CancellationToken::new();
        let work = drained.clone();
        tokio::spawn(async move {
            told_to_stop.cancelled().await;
            tokio::time::sleep(drain).await;
            work.cancel();
        });
        drained
    }

    /// Serves `routes`, `/health/…`, `/metrics`, and the description of them all ([`description::complete`]), until
    /// `shutdown`; then accepts no more connections, and finishes the requests in hand, within the limit.
    pub async fn serve(
        self,
        routes: Router,
        description: impl Into<Description>,
        health: Health,
        metrics: Metrics,
        tracer: Tracer,
        shutdown: CancellationToken,
    ) -> Result<(), Fatal> {
        let connections = self.connections;
        let health = health.with_stop(self.told_to_stop.clone());
        let health = health.with("http", move || Box::pin(std::future::ready(connections.check())));
        let requests = Arc::new(measured::Requests::new(&metrics));
        let show_metrics = || async move { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.text().await) };
        let app = Router::new()
            .route("/health/live", get(health::live))
            .route("/health/ready", get(health::ready).with_state(health))
            .route("/metrics", get(show_metrics))
            .merge(description::router(description.into()))
            .merge(routes)
            .fallback(|uri: axum::http::Uri| async move {
                Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            })
            .method_not_allowed_fallback(|method: axum::http::Method, uri: axum::http::Uri| async move {
                let detail = format!("{} does not take {method}", uri.path());
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
            })
            // All in one: the router wraps and boxes each route once for every call of this.
            .layer((
                middleware::from_fn_with_state(self.told_to_stop, close_when_stopping),
                middleware::from_fn_with_state(requests, measured::measure),
                middleware::from_fn_with_state(self.guard, origin::guard),
                middleware::from_fn_with_state(tracer, trace::serve),
                CatchPanicLayer::custom(problem::from_panic),
                DefaultBodyLimit::max(MAX_BODY),
            ));
        self.routes.send_replace(Some(app));
        info!(address = %self.address, "HTTP ready");

        let out_of_time = async {
            shutdown.cancelled().await;
            self.end.cancel();
            tokio::time::sleep(self.shutdown_timeout).await;
        };
        let ended = |error: &dyn Display| Fatal::new(format!("the HTTP server ended: {error}"));
        tokio::select! {
            result = self.serving => result.map_err(|error| ended(&error)),
            () = out_of_time => {
                warn!("some requests were not finished in time");
                Ok(())
            }
        }
    }
}

/// Has the client open its next connection elsewhere (RFC 9112, section 9.6): one that is closed between two requests
/// may be closed under a request that is just being sent.
async fn close_when_stopping(State(told_to_stop): State<CancellationToken>, request: Request, next: Next) -> Response {
    // HTTP/2 says it by a frame of its own.
    let says_it_by_header = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if says_it_by_header && told_to_stop.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The default queue of 128 connections overflows when a few hundred clients come at once, and who is dropped there
/// tries again a second later.
const LISTEN_QUEUE: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_QUEUE)
}
