//! Clients that take their answers slowly, over sockets.

use std::net::{Ipv4Addr, SocketAddr};

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
    end: CancellationToken,
    _give: Give,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Server {
    async fn start() -> Self {
        let settings = Settings::load(&[SERVICE_DEFAULTS], None, std::iter::empty()).unwrap();
        let end = CancellationToken::new();
        let connections = Connections::new(&Limits::checked(&settings).unwrap(), &Metrics::of("test"));
        let routes = Router::new().route("/large", get(async || vec![b'x'; LARGE]));
        let (give, late) = late_routes(Guard::new("".parse().unwrap()));
        give.send_replace(Some(routes));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, connections, late, end.clone()));
        Self { address, end, _give: give }
    }

    /// A client for which the system receives little ahead of it.
    async fn client(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.connect(self.address).await.unwrap()
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
    let server = Server::start().await;
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
