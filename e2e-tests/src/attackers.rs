//! Clients that hold connections and want nothing: the honest ones have to be served beside them. On Linux the whole of
//! 127.0.0.0/8 is this machine's own, so each of them has an address of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Between two bytes of what is sent slowly.
const TRICKLE: Duration = Duration::from_millis(700);

/// Before a connection that was closed is opened anew.
const PAUSE: Duration = Duration::from_secs(1);

/// How a connection is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It asks nothing.
    Idle,
    /// A request's head never ends.
    Head,
    /// A checkout's body comes byte by byte.
    Body,
    /// A stream of all events.
    Stream,
}

impl Hold {
    fn prelude(self, to: SocketAddr) -> String {
        match self {
            Self::Idle => String::new(),
            Self::Head => format!("POST /checkout HTTP/1.1\r\nHost: {to}\r\nX-Slow: "),
            Self::Body => format!(
                "POST /checkout HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{{"
            ),
            Self::Stream => format!("GET /events HTTP/1.1\r\nHost: {to}\r\n\r\n"),
        }
    }
}

/// Held connections, each opened anew whenever it is closed, until the value goes.
pub struct Attack {
    _clients: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    held: AtomicUsize,
    closed: AtomicUsize,
    sent: AtomicUsize,
}

impl Attack {
    /// Holds `count` connections from this address.
    pub fn start(count: usize, from: Ipv4Addr, to: SocketAddr, hold: Hold) -> Self {
        let (mut clients, counts) = (JoinSet::new(), Arc::<Counts>::default());
        for _ in 0..count {
            let counts = counts.clone();
            clients.spawn(async move {
                loop {
                    let _ = once(from, to, hold, &counts).await;
                    counts.closed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { _clients: clients, counts }
    }

    /// How many connections are held now.
    pub fn held(&self) -> usize {
        self.counts.held.load(Ordering::Relaxed)
    }

    /// How often one could not be opened, or was closed.
    pub fn closed(&self) -> usize {
        self.counts.closed.load(Ordering::Relaxed)
    }

    /// How many bytes were sent so far.
    pub fn sent(&self) -> usize {
        self.counts.sent.load(Ordering::Relaxed)
    }
}

/// A connection from its beginning to its end.
async fn once(from: Ipv4Addr, to: SocketAddr, hold: Hold, counts: &Counts) -> Result<()> {
    let mut stream = connect(from, to).await?;
    let prelude = hold.prelude(to);
    stream.write_all(prelude.as_bytes()).await?;
    counts.sent.fetch_add(prelude.len(), Ordering::Relaxed);
    if hold == Hold::Stream {
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        anyhow::ensure!(status.ends_with(b" 200"), "it was refused");
    }
    let _held = Held::one_more(&counts.held);
    let mut answer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => {
                let read = read?;
                // An answer to what asks nothing, or is not complete, is a refusal.
                if read == 0 || hold != Hold::Stream {
                    return Ok(());
                }
            }
            () = tokio::time::sleep(TRICKLE), if matches!(hold, Hold::Head | Hold::Body) => {
                stream.write_all(b" ").await?;
                counts.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn one_more(held: &'a AtomicUsize) -> Self {
        held.fetch_add(1, Ordering::Relaxed);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection from this address of the machine.
pub async fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.into(), 0))?;
    socket.connect(to).await.with_context(|| format!("from {from} to {to}"))
}

/// What comes back on a connection until the server closes it, after `request` was sent; at most so long.
pub async fn exchange(mut stream: TcpStream, request: &str, limit: Duration) -> Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    read.with_context(|| format!("the connection was not closed within {limit:?}: {answer:?}"))?
        .with_context(|| format!("after {answer:?}"))?;
    Ok(answer)
}

/// An HTTP client at this address, which opens a connection for each request.
pub fn http_from(from: Ipv4Addr) -> Result<reqwest::Client> {
    // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).local_address(IpAddr::V4(from));
    Ok(client.pool_max_idle_per_host(0).timeout(Duration::from_secs(60)).build()?)
}
