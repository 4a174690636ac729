//! The server's loop: takes connections in, serves each in a task of its own, and ends them with the server.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use tracing::warn;

use super::clients::Caller;
use super::connection::{self, ActiveRequest};
use super::connections::{Admitted, Connections, Refused};
use super::limits::{MAX_BUFFER, MAX_HEAD, Shed};
use super::starting::LateRoutes;
use super::transport::Transport;
use crate::CancellationToken;

/// How often connections that have had time enough are looked for.
const SWEEP: Duration = Duration::from_millis(500);

/// How long no connection is taken after the system had no descriptor for one, and none could be freed.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);

/// The pause after connections were closed to free descriptors. It delays everyone in the listen queue once for each
/// connection ahead of them: with [`NO_DESCRIPTOR`] and a hundred clients that reconnect each second, an honest one waited 5 s.
const FREEING: Duration = Duration::from_millis(1);

/// How long a refused client has to read why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// So many refused clients are given that time at once; beyond it their connections are just closed.
const MAX_REFUSALS: usize = 64;

/// The most requests that one HTTP/2 connection may have at a time.
const MAX_STREAMS: u32 = 32;

/// How often an HTTP/2 client is asked for a sign of life, and how long it may take.
const PING: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(10);

/// Serves `routes` to all who connect until `end`, then the requests in hand.
pub(super) async fn accept(
    listener: TcpListener,
    connections: Arc<Connections>,
    routes: LateRoutes,
    end: CancellationToken,
) {
    let (serving, refusing, protocols) = (TaskTracker::new(), TaskTracker::new(), Protocols::new(&connections));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            _ = sweep.tick() => {
                connections.sweep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            // It was gone before it was taken (accept(2)).
            Err(error) if is_of_client(&error) => continue,
            Err(error) => {
                let pause = match connections.make_room() {
                    true => FREEING,
                    false => {
                        warn!(%error, "no connection can be taken");
                        NO_DESCRIPTOR
                    }
                };
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        prepare(&stream);
        match connections.admit(stream, peer) {
            Ok(admitted) => {
                let (connections, protocols) = (connections.clone(), protocols.clone());
                let (routes, end) = (routes.clone(), end.clone());
                serving.spawn(async move { protocols.serve(admitted, peer, connections, routes, end).await });
            }
            Err(refused) if refusing.len() < MAX_REFUSALS => {
                refusing.spawn(tokio::time::timeout(REFUSAL_LIMIT, refuse(refused)));
            }
            Err(_) => {}
        }
    }
    drop(listener);
    serving.close();
    loop {
        tokio::select! {
            () = serving.wait() => return,
            _ = sweep.tick() => connections.sweep(),
        }
    }
}

fn is_of_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Small answers must not wait for one another, and a client that is gone without a word is noticed: a stream that nobody
/// reads would hold its connection for ever.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_socket_keepalive(stream, true);
}

/// Answers before any request: a client that is refused learns why, and when to come again.
async fn refuse(Refused { mut stream, why }: Refused) -> std::io::Result<()> {
    let (status, detail) = match why {
        Shed::ClientConnections => (StatusCode::TOO_MANY_REQUESTS, "your address has too many connections"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "too many connections are open"),
    };
    let title = status.canonical_reason().unwrap_or_default();
    let body =
        format!(r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{detail}"}}"#, status.as_u16());
    let answer = format!(
        "HTTP/1.1 {} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nRetry-After: 1\r\n\
         Connection: close\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\r\n{body}",
        status.as_u16(),
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // What is unread when a connection is closed resets it, and the client may lose the answer.
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// How requests are read. HTTP/2 without TLS is understood only where the settings want it: one connection of it can
/// have many requests.
#[derive(Clone)]
enum Protocols {
    Http1(http1::Builder),
    Http1AndHttp2(auto::Builder<TokioExecutor>),
}

impl Protocols {
    fn new(connections: &Connections) -> Self {
        if connections.limits.http2 {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().half_close(true).max_buf_size(MAX_BUFFER);
            let mut http2 = builder.http2();
            http2.max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD as u32);
            http2.initial_stream_window_size(MAX_BUFFER as u32).initial_connection_window_size(4 * MAX_BUFFER as u32);
            http2.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING_LIMIT);
            return Self::Http1AndHttp2(builder);
        }
        let mut builder = http1::Builder::new();
        builder.half_close(true).max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFER);
        Self::Http1(builder)
    }

    async fn serve(
        &self,
        admitted: Admitted,
        peer: IpAddr,
        connections: Arc<Connections>,
        routes: LateRoutes,
        end: CancellationToken,
    ) {
        let connection = admitted.connection.clone();
        let transport = TokioIo::new(Transport(connection.clone()));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (request, active) = received(request, &connection, peer, &connections);
            let mut routes = routes.clone();
            async move {
                let response = routes.call(request).await?;
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, active)))
            }
        });
        match self {
            Self::Http1(builder) => {
                let serving = builder.serve_connection(transport, service);
                until_end(serving, &end, |serving| serving.graceful_shutdown()).await;
            }
            Self::Http1AndHttp2(builder) => {
                let serving = builder.serve_connection(transport, service);
                until_end(serving, &end, |serving| serving.graceful_shutdown()).await;
            }
        }
    }
}

/// The request as handlers get it: with its caller, and with a body that counts while it is waited for.
fn received(
    request: hyper::Request<Incoming>,
    connection: &Arc<connection::Connection>,
    peer: IpAddr,
    connections: &Connections,
) -> (Request, ActiveRequest) {
    let active = connection.begin_request();
    let (mut head, body) = request.into_parts();
    let client = match connection.is_of_proxy() {
        true => connections.limits.trusted_proxies.forwarded_client(peer, &head.headers).into(),
        false => connection.client(),
    };
    head.extensions.insert(Caller::new(client, connection.clone()));
    let body = match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(connections.bodies.track(body, client, connection.clone())),
    };
    (Request::from_parts(head, body), active)
}

/// A connection until it ends by itself; from `end` on it takes no further request.
async fn until_end<C: Future>(serving: C, end: &CancellationToken, graceful: impl FnOnce(Pin<&mut C>)) {
    // What went wrong with a connection is its client's business.
    let mut serving = pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = end.cancelled() => graceful(serving.as_mut()),
    }
    let _ = serving.await;
}

/// An answer's body: until it is taken, its request is being answered.
struct Answer {
    body: Body,
    active: ActiveRequest,
}

impl Answer {
    fn new(body: Body, mut active: ActiveRequest) -> Self {
        active.has_more();
        Self { body, active }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // It is asked for the next frame when the client, or a buffer for it, has room. So it is the client that is
        // waited for until nothing more is there.
        match frame {
            Poll::Ready(_) => self.active.has_more(),
            Poll::Pending => self.active.is_taken(),
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
