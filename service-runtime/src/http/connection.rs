//! One connection: what it is at, so that the server knows which one it may close.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::clients::Client;
use super::limits::{HEAD_LIMIT, Limits, READ_LIMIT, Shed};

/// How often a connection whose next request is there already is asked whether it has been closed.
const CLOSED_POLL: Duration = Duration::from_secs(1);

/// What a client that takes too long for its request's head gets.
const HEAD_TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has no request.
    Idle,
    /// A request's head is coming.
    Head,
    /// A request's body is waited for.
    Body,
    /// A request is being answered, until the system has taken the answer's last byte.
    Busy,
}

/// A client's connection.
pub struct Connection {
    number: u64,
    pub(super) stream: TcpStream,
    client: Client,
    is_of_proxy: bool,
    may_be_http2: bool,
    is_http2: AtomicBool,
    opened: Instant,
    /// A [`Phase`], and since when: milliseconds from `opened` on, times four.
    phase: AtomicU64,
    /// Requests that are being answered: with HTTP/2 several at once.
    requests: AtomicU32,
    /// Since when the client reads nothing of what is sent: milliseconds from `opened` on. 0: it does.
    unread_since: AtomicU64,
    /// Since when there are bytes to send that the system does not take, likewise. A client that reads slowly ends
    /// `unread_since` with each byte, and this one only with the last.
    unsent_since: AtomicU64,
    /// Since when there is more of an answer than was taken of it, likewise, for each such answer.
    untaken_since: Mutex<Vec<u64>>,
    /// The head of its request did not come in time.
    head_is_late: AtomicBool,
}

impl Connection {
    /// `is_of_proxy`: its requests are those of several clients. `may_be_http2`: the server understands that.
    pub(super) fn new(number: u64, stream: TcpStream, client: Client, is_of_proxy: bool, may_be_http2: bool) -> Self {
        Self {
            number,
            stream,
            client,
            is_of_proxy,
            may_be_http2,
            is_http2: AtomicBool::new(false),
            opened: Instant::now(),
            phase: AtomicU64::new(Phase::Idle as u64),
            requests: AtomicU32::new(0),
            unread_since: AtomicU64::new(0),
            unsent_since: AtomicU64::new(0),
            untaken_since: Mutex::default(),
            head_is_late: AtomicBool::new(false),
        }
    }

    /// Its number in this process.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Who it counts for.
    pub(super) const fn client(&self) -> Client {
        self.client
    }

    pub(super) const fn is_of_proxy(&self) -> bool {
        self.is_of_proxy
    }

    /// What it is at, and since when.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let packed = self.phase.load(Ordering::Relaxed);
        let is_answering =
            || self.requests.load(Ordering::Relaxed) > 0 || self.unsent_since.load(Ordering::Relaxed) > 0;
        let phase = match packed % 4 {
            // The next request may be coming already.
            0 | 1 if is_answering() => Phase::Busy,
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Body,
            _ => Phase::Busy,
        };
        (phase, self.opened + Duration::from_millis(packed / 4))
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(self.milliseconds() * 4 + phase as u64, Ordering::Relaxed);
    }

    fn milliseconds(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Notes that a request's head is there. Its answer has been taken when the value goes.
    pub(super) fn begin_request(self: &Arc<Self>) -> ActiveRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.enter(Phase::Busy);
        ActiveRequest { connection: self.clone(), untaken_since: None }
    }

    /// Notes that a body is waited for. Over HTTP/2 the connection has other requests beside it.
    pub(super) fn awaits_body(&self) {
        if !self.is_http2.load(Ordering::Relaxed) {
            self.enter(Phase::Body);
        }
    }

    /// Notes that the body is there, or that nobody waits for it any more.
    pub(super) fn has_body(&self) {
        if self.phase().0 == Phase::Body {
            self.enter(Phase::Busy);
        }
    }

    pub(super) fn has_read(&self, bytes: &[u8]) {
        // Also while the answer before is still being sent, or its client would have no limit for this head.
        if self.requests.load(Ordering::Relaxed) > 0 || self.phase.load(Ordering::Relaxed) % 4 != Phase::Idle as u64 {
            return;
        }
        // The preface of HTTP/2, in whose frames no head can be told from a sign of life.
        if self.may_be_http2 && bytes.starts_with(b"PRI") {
            self.is_http2.store(true, Ordering::Relaxed);
        } else if !self.is_http2.load(Ordering::Relaxed) {
            self.enter(Phase::Head);
        }
    }

    /// Notes that the client reads.
    pub(super) fn has_sent_some(&self) {
        self.unread_since.store(0, Ordering::Relaxed);
    }

    /// Notes that the system does not take what is to be sent.
    pub(super) fn can_not_send(&self) {
        // At least 1: 0 says that all was sent.
        let now = self.milliseconds().max(1);
        for since in [&self.unread_since, &self.unsent_since] {
            let _ = since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that the system has taken all that was to be sent.
    pub(super) fn has_sent_all(&self) {
        if self.unsent_since.load(Ordering::Relaxed) == 0 {
            return;
        }
        // While the client was busy with the answer, the time for its next request did not run.
        match self.phase.load(Ordering::Relaxed) % 4 {
            0 => self.enter(Phase::Idle),
            1 => self.enter(Phase::Head),
            _ => {}
        }
        self.unsent_since.store(0, Ordering::Relaxed);
    }

    /// Since when its client has not taken all that is there for it. `None`: it has. Over HTTP/2 a client may also have
    /// closed its window, of which the socket knows nothing.
    pub(super) fn behind_since(&self) -> Option<Instant> {
        let unsent_since = Some(self.unsent_since.load(Ordering::Relaxed)).filter(|since| *since > 0);
        let since = self.untaken_since().iter().copied().chain(unsent_since).min()?;
        Some(self.opened + Duration::from_millis(since))
    }

    fn untaken_since(&self) -> MutexGuard<'_, Vec<u64>> {
        self.untaken_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it should be closed by now, if it should.
    pub(super) fn overdue(&self, limits: &Limits) -> Option<Overdue> {
        let unread_since = self.unread_since.load(Ordering::Relaxed);
        let reads_nothing =
            unread_since > 0 && self.milliseconds().saturating_sub(unread_since) > READ_LIMIT.as_millis() as u64;
        if reads_nothing || self.behind_since().is_some_and(|since| since.elapsed() > limits.answer()) {
            return Some(Overdue::Shed(Shed::SlowReader));
        }
        match self.phase() {
            (Phase::Head, since) if since.elapsed() > HEAD_LIMIT && !self.head_is_late.load(Ordering::Relaxed) => {
                Some(Overdue::Shed(Shed::SlowHead))
            }
            (Phase::Idle, since) if since.elapsed() > limits.idle() => Some(Overdue::Idle),
            _ => None,
        }
    }

    /// Has its task answer that the request's head is late, and end it. Only the task knows whether the rest of the head
    /// came at this very moment, and an answer is under way.
    pub(super) fn end_late_head(&self) {
        self.head_is_late.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Read);
    }

    /// Called by the connection's task when it finds nothing more to read.
    pub(super) fn answer_late_head(&self) {
        if self.head_is_late.load(Ordering::Relaxed) && self.phase().0 == Phase::Head {
            let _ = self.stream.try_write(HEAD_TOO_SLOW);
        }
    }

    /// Ends it at once: what reads or writes it sees its end.
    pub(super) fn close(&self) {
        if self.behind_since().is_some() {
            // What the system holds for a slow client, up to megabytes, would stay until the client has taken it.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    /// Waits until the client has closed its sending side.
    pub(super) async fn sending_ended(&self) {
        loop {
            match self.stream.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(CLOSED_POLL).await,
                _ => return,
            }
        }
    }
}

/// Why a connection should be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It had no request for long.
    Idle,
    Shed(Shed),
}

/// A request that is being answered.
pub(super) struct ActiveRequest {
    connection: Arc<Connection>,
    untaken_since: Option<u64>,
}

impl ActiveRequest {
    /// Notes that there is more of the answer than was taken.
    pub fn has_more(&mut self) {
        if self.untaken_since.is_none() {
            let now = self.connection.milliseconds();
            self.connection.untaken_since().push(now);
            self.untaken_since = Some(now);
        }
    }

    /// Notes that all was taken that is there of the answer.
    pub fn is_taken(&mut self) {
        if let Some(since) = self.untaken_since.take() {
            let mut untaken = self.connection.untaken_since();
            if let Some(own) = untaken.iter().position(|other| *other == since) {
                untaken.swap_remove(own);
            }
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.is_taken();
        if self.connection.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.connection.enter(Phase::Idle);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::transport::Transport;
    use super::*;

    /// A connection, and its client's end.
    pub(in crate::http) async fn connected() -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        (Arc::new(Connection::new(1, stream, peer.ip().into(), false, false)), client)
    }

    #[tokio::test]
    async fn the_end_of_sending_is_noticed_without_reading() {
        let (connection, mut client) = connected().await;
        let mut server = Transport(connection.clone());
        client.write_all(b"request").await.unwrap();
        server.read_exact(&mut [0; 7]).await.unwrap();
        let watch = tokio::spawn(async move { connection.sending_ended().await });
        client.write_all(b"the next one").await.unwrap();
        server.read_exact(&mut [0; 12]).await.unwrap();
        assert!(!watch.is_finished());

        client.shutdown().await.unwrap();

        tokio::time::timeout(Duration::from_secs(10), watch).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_late_head_whose_rest_comes_at_the_last_moment_gets_no_408_into_its_answer() {
        let (connection, mut client) = connected().await;
        let mut server = Transport(connection.clone());
        client.write_all(b"GET / HT").await.unwrap();
        server.read_exact(&mut [0; 8]).await.unwrap();
        // The sweep has found it late, and before it acts the rest is there.
        let request = connection.begin_request();
        server.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();

        connection.end_late_head();

        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.write_all(b"\r\n").await.unwrap();
        drop((request, server, connection));
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\n");
    }

    #[tokio::test]
    async fn a_connection_knows_what_it_is_at() {
        let (connection, mut client) = connected().await;
        let phase = || connection.phase().0;
        let mut server = Transport(connection.clone());
        assert_eq!(phase(), Phase::Idle);

        client.write_all(b"GET / HT").await.unwrap();
        server.read_exact(&mut [0; 8]).await.unwrap();
        assert_eq!(phase(), Phase::Head);
        let request = connection.begin_request();
        assert_eq!(phase(), Phase::Busy);
        connection.awaits_body();
        assert_eq!(phase(), Phase::Body);
        connection.has_body();
        assert_eq!(phase(), Phase::Busy);
        drop(request);
        assert_eq!(phase(), Phase::Idle);
        let limits =
            |idle, answer| Limits { http_idle_timeout_ms: idle, http_answer_timeout_ms: answer, ..Limits::default() };
        assert_eq!(connection.overdue(&limits(60_000, 60_000)), None);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(connection.overdue(&limits(0, 60_000)), Some(Overdue::Idle));

        let (mut first, mut second) = (connection.begin_request(), connection.begin_request());
        assert_eq!(connection.behind_since(), None, "no answer is there");
        first.has_more();
        tokio::time::sleep(Duration::from_millis(5)).await;
        second.has_more();
        assert_eq!(connection.overdue(&limits(0, 60_000)), None);
        assert_eq!(connection.overdue(&limits(60_000, 0)), Some(Overdue::Shed(Shed::SlowReader)));
        let behind = connection.behind_since();
        first.is_taken();
        assert!(connection.behind_since() > behind, "the second one is behind since later");
        drop(second);
        assert_eq!(connection.behind_since(), None, "there is nothing more of the first one as yet");
        drop(first);

        connection.close();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
