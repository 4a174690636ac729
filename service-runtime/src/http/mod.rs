//! The HTTP server around a service's routes: listening, health, answers to bad requests, graceful stop.

pub mod batch;
mod health;
mod json_body;
mod problem;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpSocket};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{info, warn};

use crate::settings::{Settings, SettingsError};
use crate::{CancellationToken, Fatal};

pub use health::{Check, Health, probe_ready};
pub use json_body::JsonBody;
pub use problem::Problem;

/// The largest request body that is read, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Where a service listens.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpSettings {
    bind_address: IpAddr,
    port: u16,
    shutdown_timeout_ms: u64,
}

impl TryFrom<&Settings> for HttpSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        settings.section()
    }
}

impl HttpSettings {
    /// Where a client on this machine reaches the server.
    pub fn local_address(&self) -> SocketAddr {
        let everywhere = self.bind_address.is_unspecified();
        SocketAddr::new(if everywhere { Ipv4Addr::LOCALHOST.into() } else { self.bind_address }, self.port)
    }
}

/// A port that is ours, before the routes exist: a taken one stops the start at once.
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    shutdown_timeout: Duration,
}

impl HttpServer {
    /// Takes the port.
    ///
    /// # Errors
    /// When it is in use, or may not be used.
    pub async fn bind(settings: &HttpSettings) -> Result<Self, Fatal> {
        let wanted = SocketAddr::new(settings.bind_address, settings.port);
        let error = |error: std::io::Error| {
            Fatal::new(format!(
                "can't listen on {wanted}: {error}. Stop what holds port {}, or choose another port (PORT; a flag of standalone)",
                settings.port
            ))
        };
        let listener = listen(wanted).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address, shutdown_timeout: Duration::from_millis(settings.shutdown_timeout_ms) })
    }

    /// Serves `routes` and `/health/…` until `shutdown`; then finishes the requests in hand, within the limit.
    pub async fn serve(self, routes: Router, health: Health, shutdown: CancellationToken) -> Result<(), Fatal> {
        let app = Router::new()
            .route("/health/live", get(|| async { "live\n" }))
            .route("/health/ready", get(health::ready).with_state(health))
            .merge(routes)
            .fallback(|uri: axum::http::Uri| async move {
                Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            })
            .method_not_allowed_fallback(|method: axum::http::Method, uri: axum::http::Uri| async move {
                let detail = format!("{} does not take {method}", uri.path());
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(CatchPanicLayer::custom(problem::from_panic));
        info!(address = %self.address, "HTTP ready");

        let stopped = shutdown.clone();
        let graceful = axum::serve(self.listener.tap_io(|stream| drop(stream.set_nodelay(true))), app)
            .with_graceful_shutdown(async move { shutdown.cancelled().await })
            .into_future();
        let out_of_time = async {
            stopped.cancelled().await;
            tokio::time::sleep(self.shutdown_timeout).await;
        };
        tokio::select! {
            result = graceful => result.map_err(|error| Fatal::new(format!("the HTTP server ended: {error}"))),
            () = out_of_time => {
                warn!("some requests were not finished in time");
                Ok(())
            }
        }
    }
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
