//! One connection: its bytes, and what it is at, so that the server knows which one it may close.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::clients::Client;
use super::limits::{HEAD_LIMIT, READ_LIMIT, Shed};

/// The most that one read takes: the buffer is cleared before, which costs time.
const MAX_READ: usize = 16 * 1024;

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
    /// A request is being answered.
    Busy,
}

/// A client's connection.
pub struct Connection {
    number: u64,
    stream: TcpStream,
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
        let phase = match packed % 4 {
            0 if self.requests.load(Ordering::Relaxed) > 0 => Phase::Busy,
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
        ActiveRequest(self.clone())
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

    fn has_read(&self, bytes: &[u8]) {
        match self.phase().0 {
            // The preface of HTTP/2, in whose frames no head can be told from a sign of life.
            Phase::Idle if self.may_be_http2 && bytes.starts_with(b"PRI") => {
                self.is_http2.store(true, Ordering::Relaxed)
            }
            Phase::Idle if !self.is_http2.load(Ordering::Relaxed) => self.enter(Phase::Head),
            _ => {}
        }
    }

    /// Why it should be closed by now, if it should.
    pub(super) fn overdue(&self, idle_limit: Duration) -> Option<Overdue> {
        let unread_since = self.unread_since.load(Ordering::Relaxed);
        if unread_since > 0 && self.milliseconds().saturating_sub(unread_since) > READ_LIMIT.as_millis() as u64 {
            return Some(Overdue::Shed(Shed::SlowReader));
        }
        match self.phase() {
            (Phase::Head, since) if since.elapsed() > HEAD_LIMIT => Some(Overdue::Shed(Shed::SlowHead)),
            (Phase::Idle, since) if since.elapsed() > idle_limit => Some(Overdue::Idle),
            _ => None,
        }
    }

    /// Ends it for a reason that its client is told as far as HTTP has words for it.
    pub(super) fn close_overdue(&self, why: Overdue) {
        if why == Overdue::Shed(Shed::SlowHead) {
            // No answer is under way, so this is one.
            let _ = self.stream.try_write(HEAD_TOO_SLOW);
        }
        self.close();
    }

    /// Ends it at once: what reads or writes it sees its end.
    pub(super) fn close(&self) {
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
pub(super) struct ActiveRequest(Arc<Connection>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.enter(Phase::Idle);
        }
    }
}

/// A connection's bytes. It is shared with those who may close it, or ask whether its client has closed it.
pub(super) struct Transport(pub Arc<Connection>);

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let room = buffer.remaining().min(MAX_READ);
            let into = buffer.initialize_unfilled_to(room);
            let mut read = 0;
            let outcome = stream.try_io(Interest::READABLE, || {
                read = rustix::io::read(stream, &mut *into)?;
                // Less than asked for: all has been read, and the system reports when there is more (epoll(7), on
                // EPOLLET). This is how tokio's own stream saves a call that would find nothing.
                if 0 < read && read < room { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match outcome {
                Err(error) if error.kind() == ErrorKind::WouldBlock && read == 0 => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
            if read > 0 {
                self.0.has_read(&into[..read]);
            }
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl Transport {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let connection = &self.0;
        loop {
            if connection.stream.poll_write_ready(cx)?.is_pending() {
                // At least 1: 0 says that the client reads.
                let now = connection.milliseconds().max(1);
                let _ = connection.unread_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                return Poll::Pending;
            }
            match send(&connection.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => {
                    connection.unread_since.store(0, Ordering::Relaxed);
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An error: it has ended already.
        let _ = rustix::net::shutdown(&self.0.stream, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A connection, and its client's end.
    async fn connected() -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        (Arc::new(Connection::new(1, stream, peer.ip().into(), false, false)), client)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_whatever_their_number() {
        let (connection, mut client) = connected().await;
        let mut server = Transport(connection);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [1, MAX_READ - 1, MAX_READ, MAX_READ + 1, sent.len()] {
            let (mut there, mut back) = (vec![0; length], vec![0; length]);
            let (sending, receiving) = tokio::join!(client.write_all(&sent[..length]), server.read_exact(&mut there));
            sending.unwrap();
            receiving.unwrap();
            let (sending, receiving) = tokio::join!(server.write_all(&there), client.read_exact(&mut back));
            sending.unwrap();
            receiving.unwrap();
            assert!(back == sent[..length], "{length} bytes");
        }
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
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
        assert_eq!(connection.overdue(Duration::from_secs(60)), None);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(connection.overdue(Duration::ZERO), Some(Overdue::Idle));

        connection.close();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
