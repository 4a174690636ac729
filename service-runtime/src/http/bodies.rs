//! Requests' bodies that are waited for. A body whose bytes came with its head costs nothing here; one that has to be
//! waited for counts, with what has come of it, until it is complete. All that count may hold so many bytes together, and
//! those of one client a quarter of them: beyond it the slowest gives way. None is waited for longer than 10 s.
//!
//! So the rate at which bodies come decides, not what their heads promise, and nobody takes anything from the others by
//! sending slowly.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Problem;
use super::clients::Client;
use super::connection::Connection;
use super::limits::{BODY_LIMIT, Shed, ShedCounts};

/// What a body counts for beside its bytes: the connection's buffers, and the request that waits.
const OVERHEAD: usize = 8 * 1024;

/// What a piece of a body counts for beside its bytes: it is kept as a buffer of its own.
const PIECE: usize = 64;

/// A client's share of all bytes is one of so many.
const SHARES: usize = 4;

/// The bodies that are waited for. Clones share them.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Shared>);

struct Shared {
    max_bytes: usize,
    awaited: Mutex<AwaitedBodies>,
    shed: ShedCounts,
}

#[derive(Default)]
struct AwaitedBodies {
    bodies: HashMap<u64, Awaited>,
    by_client: HashMap<Client, usize>,
    bytes: usize,
    next: u64,
}

struct Awaited {
    client: Client,
    bytes: usize,
    since: Instant,
    fate: Arc<Fate>,
}

/// Whether a body is given up, and whom that wakes.
#[derive(Default)]
struct Fate {
    given_up: AtomicU8,
    waker: AtomicWaker,
}

impl Fate {
    const WAITED_FOR: u8 = 0;
    const TOO_SLOW: u8 = 1;
    const SLOWEST: u8 = 2;

    fn given_up(&self) -> Option<GivenUp> {
        match self.given_up.load(Ordering::Acquire) {
            Self::WAITED_FOR => None,
            Self::TOO_SLOW => Some(GivenUp::TooSlow),
            _ => Some(GivenUp::Slowest),
        }
    }
}

/// A body was given up before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GivenUp {
    #[error("the body did not come within {} s", BODY_LIMIT.as_secs())]
    TooSlow,
    #[error("the body came too slowly while too many others came: send it again, all at once")]
    Slowest,
}

impl GivenUp {
    /// 408, if that is why a body could not be read.
    pub(super) fn problem(error: &(dyn Error + 'static)) -> Option<Problem> {
        let mut causes = std::iter::successors(Some(error), |&cause| cause.source());
        let why = causes.find_map(|cause| cause.downcast_ref::<Self>())?;
        let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, why.to_string());
        Some(problem.with_header(header::CONNECTION, "close"))
    }
}

impl Bodies {
    pub(super) fn new(max_bytes: usize, shed: ShedCounts) -> Self {
        Self(Arc::new(Shared { max_bytes, awaited: Mutex::default(), shed }))
    }

    /// `incoming`, counted for `client` while it is waited for.
    pub(super) fn track(&self, incoming: Incoming, client: Client, connection: Arc<Connection>) -> TrackedBody {
        TrackedBody { incoming, client, bytes: 0, bodies: self.clone(), connection, awaited: None }
    }

    /// How many there are, and the bytes that they count for.
    pub(super) fn standing(&self) -> (usize, usize) {
        let all = self.all();
        (all.bodies.len(), all.bytes)
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.0.max_bytes
    }

    /// Gives up those that are waited for longer than `limit`.
    pub(super) fn give_up_older_than(&self, limit: Duration) {
        let mut all = self.all();
        let old = all.bodies.iter().filter(|(_, body)| body.since.elapsed() > limit);
        for number in old.map(|(number, _)| *number).collect::<Vec<_>>() {
            all.give_up(number, Fate::TOO_SLOW);
            self.0.shed.note(Shed::SlowBody);
        }
    }

    fn await_body(&self, client: Client, bytes: usize, since: Instant) -> AwaitedBody {
        let (mut all, fate) = (self.all(), Arc::<Fate>::default());
        let number = all.next;
        all.next += 1;
        all.bodies.insert(number, Awaited { client, bytes: 0, since, fate: fate.clone() });
        self.count(&mut all, number, bytes + OVERHEAD);
        AwaitedBody { number, fate, bodies: self.clone() }
    }

    fn received(&self, number: u64, bytes: usize) {
        self.count(&mut self.all(), number, bytes);
    }

    fn count(&self, all: &mut AwaitedBodies, number: u64, bytes: usize) {
        // One that was given up counts no more.
        let Some(body) = all.bodies.get_mut(&number) else { return };
        body.bytes += bytes;
        let client = body.client;
        all.bytes += bytes;
        *all.by_client.entry(client).or_default() += bytes;
        while all.by_client.get(&client).is_some_and(|bytes| *bytes > self.0.max_bytes / SHARES) {
            let Some(slowest) = all.slowest(Some(client)) else { break };
            all.give_up(slowest, Fate::SLOWEST);
            self.0.shed.note(Shed::ClientBodies);
        }
        while all.bytes > self.0.max_bytes {
            let Some(slowest) = all.slowest(None) else { break };
            all.give_up(slowest, Fate::SLOWEST);
            self.0.shed.note(Shed::Bodies);
        }
    }

    fn all(&self) -> MutexGuard<'_, AwaitedBodies> {
        self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AwaitedBodies {
    /// The one that has got least for the time it has been waited for. One that has only begun is not slow.
    fn slowest(&self, of: Option<Client>) -> Option<u64> {
        let rate = |body: &Awaited| body.bytes as f64 / body.since.elapsed().as_secs_f64().max(1e-6);
        let candidates = self.bodies.iter().filter(|(_, body)| of.is_none_or(|client| body.client == client));
        candidates
            .map(|(number, body)| (rate(body), *number))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, number)| number)
    }

    fn give_up(&mut self, number: u64, fate: u8) {
        if let Some(body) = self.remove(number) {
            body.fate.given_up.store(fate, Ordering::Release);
            body.fate.waker.wake();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Awaited> {
        let body = self.bodies.remove(&number)?;
        self.bytes -= body.bytes;
        if let Some(bytes) = self.by_client.get_mut(&body.client) {
            *bytes -= body.bytes;
            if *bytes == 0 {
                self.by_client.remove(&body.client);
            }
        }
        Some(body)
    }
}

/// A body's place among those that are waited for.
struct AwaitedBody {
    number: u64,
    fate: Arc<Fate>,
    bodies: Bodies,
}

impl Drop for AwaitedBody {
    fn drop(&mut self) {
        self.bodies.all().remove(self.number);
    }
}

/// A request's body as it comes.
pub(super) struct TrackedBody {
    incoming: Incoming,
    client: Client,
    /// What has come so far.
    bytes: usize,
    bodies: Bodies,
    connection: Arc<Connection>,
    /// Since it first had to be waited for.
    awaited: Option<AwaitedBody>,
}

impl TrackedBody {
    /// Counts a piece. One that was waited for is copied: as it comes it holds a buffer of 8 KiB, however small it is, and
    /// who sends byte by byte would have all of them kept.
    fn received(&mut self, data: Bytes) -> Bytes {
        self.bytes += data.len();
        let Some(awaited) = &self.awaited else { return data };
        self.bodies.received(awaited.number, data.len() + PIECE);
        Bytes::copy_from_slice(&data)
    }

    fn end_waiting(&mut self) {
        if self.awaited.take().is_some() {
            self.connection.has_body();
        }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        let polled = Pin::new(&mut body.incoming).poll_frame(cx);
        if polled.is_pending() {
            let (bodies, client, bytes) = (&body.bodies, body.client, body.bytes);
            let awaited = body.awaited.get_or_insert_with(|| {
                body.connection.awaits_body();
                bodies.await_body(client, bytes, Instant::now())
            });
            awaited.fate.waker.register(cx.waker());
        }
        // Asked after the waker is known, so that nothing is missed in between.
        if let Some(why) = body.awaited.as_ref().and_then(|awaited| awaited.fate.given_up()) {
            return Poll::Ready(Some(Err(why.into())));
        }
        let Some(frame) = std::task::ready!(polled) else {
            body.end_waiting();
            return Poll::Ready(None);
        };
        Poll::Ready(Some(frame.map(|frame| frame.map_data(|data| body.received(data))).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.end_waiting();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::metrics::Metrics;

    const MIB: usize = 1024 * 1024;

    fn bodies(max_bytes: usize) -> Bodies {
        Bodies::new(max_bytes, ShedCounts::new(&Metrics::of("test")))
    }

    fn client(number: u8) -> Client {
        IpAddr::from([192, 0, 2, number]).into()
    }

    /// A body that has been waited for since some seconds ago, of which so much has come.
    fn awaited(bodies: &Bodies, client: Client, seconds: u64, bytes: usize) -> AwaitedBody {
        bodies.await_body(client, bytes, Instant::now() - Duration::from_secs(seconds))
    }

    #[test]
    fn bodies_count_while_they_are_waited_for_and_no_longer() {
        let bodies = bodies(MIB);
        let (first, second) = (awaited(&bodies, client(1), 0, 100), awaited(&bodies, client(1), 0, 0));
        bodies.received(first.number, 50);
        assert_eq!(bodies.standing(), (2, 2 * OVERHEAD + 150));
        drop(first);
        assert_eq!(bodies.standing(), (1, OVERHEAD));
        drop(second);
        assert_eq!(bodies.standing(), (0, 0));
        assert!(bodies.all().by_client.is_empty());
    }

    #[test]
    fn beyond_a_clients_share_its_slowest_body_gives_way_and_nobody_elses() {
        let bodies = bodies(MIB);
        let other = awaited(&bodies, client(2), 9, 0);
        let slow = awaited(&bodies, client(1), 9, 1000);
        let quick = awaited(&bodies, client(1), 1, 64 * 1024);
        let mut more = Vec::new();
        while slow.fate.given_up().is_none() {
            more.push(awaited(&bodies, client(1), 0, 0));
            assert!(more.len() < SHARES * MIB / OVERHEAD, "none gave way");
        }
        assert_eq!(slow.fate.given_up(), Some(GivenUp::Slowest));
        assert!(bodies.all().by_client[&client(1)] <= MIB / SHARES);
        for kept in more.iter().chain([&other, &quick]) {
            assert_eq!(kept.fate.given_up(), None);
        }
    }

    #[test]
    fn beyond_all_bytes_the_slowest_of_all_gives_way() {
        let bodies = bodies(MIB);
        let slow = awaited(&bodies, client(1), 9, 10);
        let quick = awaited(&bodies, client(2), 1, 60_000);
        let mut more = Vec::new();
        for number in 3..30 {
            more.push(awaited(&bodies, client(number), 1, 60_000));
        }
        assert_eq!(slow.fate.given_up(), Some(GivenUp::Slowest));
        assert!(bodies.standing().1 <= MIB);
        drop((quick, more));
        assert_eq!(bodies.standing(), (0, 0), "one that was given up is counted no more");
    }

    #[test]
    fn what_is_waited_for_too_long_is_given_up_with_408() {
        let bodies = bodies(MIB);
        let (old, young) = (awaited(&bodies, client(1), 11, 10_000), awaited(&bodies, client(1), 9, 0));

        bodies.give_up_older_than(BODY_LIMIT);

        assert_eq!((old.fate.given_up(), young.fate.given_up()), (Some(GivenUp::TooSlow), None));
        let error = axum::Error::new(axum::Error::new(GivenUp::TooSlow));
        let problem = GivenUp::problem(&error).unwrap();
        assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
        assert!(problem.detail().contains("10 s"), "{}", problem.detail());
        assert!(GivenUp::problem(&axum::Error::new(std::io::Error::other("cut off"))).is_none());
    }
}
