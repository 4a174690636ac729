//! Clients that take their answers slowly, over sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpSocket;

use super::*;
use crate::http::limits::{HEAD_LIMIT, Limits};
use crate::http::origin::Guard;
use crate::http::starting::{Give, late_routes};
use crate::metrics::Metrics;
use crate::settings::{SERVICE_DEFAULTS, Settings};

/// More than the system buffers of a connection.
const LARGE: usize = 16 << 20;

/// How much later than its limit something may happen.
const LATE: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server, until the value goes.
struct Server {
    address: SocketAddr,
    metrics: Metrics,
    end: CancellationToken,
    _give: Give,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Server {
    /// Serves `/large`, and `/events`, of which one comes each 0.3 s, ten in all.
    async fn start(http2: bool, answer_timeout_ms: i64) -> Self {
        let settings = Settings::load(&[SERVICE_DEFAULTS], None, std::iter::empty()).unwrap();
        let settings = settings.with("http2", http2).unwrap();
        let settings = settings.with("http_answer_timeout_ms", answer_timeout_ms).unwrap();
        let (metrics, end) = (Metrics::of("test"), CancellationToken::new());
        let connections = Connections::new(&Limits::checked(&settings).unwrap(), &metrics);
        let events = futures::stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            (n < 10).then(|| (Ok::<_, Infallible>(format!("data: {n}\n\n")), n + 1))
        });
        let events = Arc::new(std::sync::Mutex::new(Some(Box::pin(events))));
        let routes = Router::new().route("/large", get(async || vec![b'x'; LARGE])).route(
            "/events",
            get(async move || {
                let events = events.lock().unwrap().take();
                Body::from_stream(events.unwrap())
            }),
        );
        let (give, late) = late_routes(Guard::new("".parse().unwrap()));
        give.send_replace(Some(routes));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, connections, late, end.clone()));
        Self { address, metrics, end, _give: give }
    }

    /// A client for which the system receives little ahead of it.
    async fn client(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn slow_readers(&self) -> usize {
        let shown = self.metrics.text().await;
        let line = shown.lines().find(|line| line.starts_with(r#"http_shed_total{reason="slow_reader""#));
        line.and_then(|line| line.split(' ').next_back()).map_or(0, |count| count.parse().unwrap())
    }

    /// Calls `turn` until a slow reader was shed. Returns how long that took.
    async fn until_shed(&self, mut turn: impl AsyncFnMut()) -> Duration {
        let began = Instant::now();
        while self.slow_readers().await == 0 {
            assert!(began.elapsed() < LATE, "it is served for ever");
            turn().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    }
}

/// Reads an answer with `LARGE` bytes, and nothing behind it.
async fn large_answer(client: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&head));
    let mut body = vec![0; LARGE];
    client.read_exact(&mut body).await.expect("the whole body");
    assert!(body.iter().all(|byte| *byte == b'x'), "something else is in the answer");
}

#[tokio::test]
async fn a_head_that_is_late_while_the_answer_before_is_still_read_cuts_nothing() {
    let server = Server::start(false, 60_000).await;
    let mut client = server.client().await;
    client.write_all(REQUEST).await.unwrap();
    // Not in one read with the first request.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (begin, end) = REQUEST.split_at(20);
    client.write_all(begin).await.unwrap();

    tokio::time::sleep(HEAD_LIMIT + 2 * SWEEP).await;

    large_answer(&mut client).await;
    // Its time begins now.
    client.write_all(end).await.unwrap();
    large_answer(&mut client).await;
    client.write_all(begin).await.unwrap();
    let mut late = String::new();
    tokio::time::timeout(HEAD_LIMIT + LATE, client.read_to_string(&mut late)).await.unwrap().unwrap();
    assert!(late.starts_with("HTTP/1.1 408 "), "{late:?}");
}

#[tokio::test]
async fn an_answer_that_is_taken_drip_by_drip_ends() {
    let server = Server::start(false, 1000).await;
    let mut client = server.client().await;
    client.write_all(REQUEST).await.unwrap();
    let mut ended = false;

    let took = server.until_shed(async || ended = client.read_exact(&mut [0; 1024]).await.is_err()).await;

    assert!(took > Duration::from_secs(1) && !ended, "after {took:?}");
    // The system keeps nothing for it.
    let read = tokio::time::timeout(LATE, client.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(read.is_err(), "the rest of the answer was still there");
}

#[tokio::test]
async fn an_answer_for_which_an_http2_client_opens_no_window_ends() {
    let server = Server::start(true, 1000).await;
    let mut client = server.client().await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // SETTINGS: INITIAL_WINDOW_SIZE (4) is 0. Then HEADERS with END_STREAM and END_HEADERS on stream 1 (RFC 9113,
    // section 6), whose fields are `:method: GET`, `:scheme: http`, `:path: /large` and `:authority: localhost`.
    client.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0").await.unwrap();
    let fields = b"\x82\x86\x04\x06/large\x01\x09localhost";
    client.write_all(&[&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1], &fields[..]].concat()).await.unwrap();

    let took = server.until_shed(async || {}).await;

    assert!(took > Duration::from_secs(1), "after {took:?}");
}

#[tokio::test]
async fn a_stream_whose_client_keeps_up_has_no_limit() {
    let server = Server::start(false, 1000).await;
    let mut client = server.client().await;
    let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("data: 9\n"), "{answer}");
    assert_eq!(server.slow_readers().await, 0);
}
