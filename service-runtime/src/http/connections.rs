//! The connections of a server: how many there may be, and which of them has to go when another one comes.
//!
//! There are never more than the process has descriptors for, less what databases, Kafka and files need: so many are
//! reserved for these, and more where descriptors ran out all the same. When all are taken, a newcomer gets the place of
//! one that does nothing for anybody: idle, slow in sending its request, or slow in taking its answer. Of those the client
//! that has the most connections loses the one first that has been so for longest. So who opens many takes them from
//! himself, and nobody has to be known or counted before.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tracing::warn;

use super::bodies::Bodies;
use super::clients::Client;
use super::connection::{Connection, Overdue, Phase};
use super::health::Check;
use super::limits::{BEHIND_GRACE, BODY_LIMIT, Limits, Shed, ShedCounts};
use crate::metrics::{Gauge, Metrics};

/// Descriptors that a service needs for its database (up to 23), Kafka, other services, files.
const RESERVED: usize = 96;

/// How many connections are closed, and their descriptors left to the rest of the process, when there was none for another
/// one. One of them is given back with each sweep.
const SPARED: usize = 8;

/// So many connections there may be however few descriptors there are.
const LEAST: usize = 16;

/// One client may have all connections but one in so many.
const KEPT_FOR_OTHERS: usize = 4;

/// Of all connections, one in so many is closed at a time: looking for them costs more than closing them.
const EVICTED_AT_ONCE: usize = 64;

/// How often the log reports that connections are closed to make room.
const REPORTED: Duration = Duration::from_secs(60);

/// The servers of this process: `standalone` has four, which share its descriptors.
static SERVERS: AtomicUsize = AtomicUsize::new(0);

/// The connections of one server.
pub(super) struct Connections {
    pub limits: Limits,
    pub bodies: Bodies,
    open: Mutex<Open>,
    /// How many connections leave the rest of the process what it needs, as far as that is known.
    affordable: AtomicUsize,
    shed: ShedCounts,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Arc<Connection>>,
    by_client: HashMap<Client, usize>,
    next: u64,
    reported: Option<Instant>,
}

/// A connection that is one of those that are open until this goes.
pub(super) struct Admitted {
    pub connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.open().remove(&self.connection);
    }
}

/// Why a new connection is refused, with the connection.
pub(super) struct Refused {
    pub stream: TcpStream,
    pub why: Shed,
}

impl Connections {
    pub(super) fn new(limits: &Limits, metrics: &Metrics) -> Arc<Self> {
        SERVERS.fetch_add(1, Ordering::Relaxed);
        let shed = ShedCounts::new(metrics);
        let connections = Arc::new(Self {
            bodies: Bodies::new(limits.http_bodies_max_bytes, shed.clone()),
            limits: limits.clone(),
            open: Mutex::default(),
            affordable: AtomicUsize::new(usize::MAX),
            shed,
        });
        let (shown, gauges) = (Arc::downgrade(&connections), Gauges::new(metrics));
        metrics.before_shown(move || {
            if let Some(connections) = shown.upgrade() {
                gauges.show(&connections);
            }
            Box::pin(std::future::ready(()))
        });
        connections
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
        let share = (descriptors / SERVERS.load(Ordering::Relaxed).max(1)).saturating_sub(RESERVED);
        self.limits.http_max_connections.min(share).min(self.affordable.load(Ordering::Relaxed)).max(LEAST)
    }

    /// Takes a new connection in, if need be in place of another one.
    pub(super) fn admit(self: &Arc<Self>, stream: TcpStream, peer: IpAddr) -> Result<Admitted, Refused> {
        let (most, is_of_proxy) = (self.most(), self.limits.trusted_proxies.trust(peer));
        let client = Client::from(peer);
        let at_once = (most / EVICTED_AT_ONCE).max(1);
        let mut open = self.open();
        let own = open.by_client.get(&client).copied().unwrap_or_default();
        if !is_of_proxy && own >= most - most / KEPT_FOR_OTHERS && !self.evict(&mut open, Some(client), at_once) {
            return Err(self.refused(stream, Shed::ClientConnections));
        }
        if open.connections.len() >= most && !self.evict(&mut open, None, at_once) {
            return Err(self.refused(stream, Shed::Connections));
        }
        let number = open.next;
        open.next += 1;
        let connection = Arc::new(Connection::new(number, stream, client, is_of_proxy, self.limits.http2));
        open.insert(connection.clone());
        Ok(Admitted { connection, connections: self.clone() })
    }

    fn refused(&self, stream: TcpStream, why: Shed) -> Refused {
        self.shed.note(why);
        Refused { stream, why }
    }

    /// Closes connections when the process has no descriptor left for another one: databases and Kafka have none either.
    pub(super) fn make_room(&self) -> bool {
        let mut open = self.open();
        self.affordable.store(open.connections.len().saturating_sub(SPARED), Ordering::Relaxed);
        self.evict(&mut open, None, SPARED)
    }

    /// Closes what has had time enough.
    pub(super) fn sweep(&self) {
        let _ = self.affordable.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
        let mut open = self.open();
        let overdue = |connection: &Arc<Connection>| Some((connection.clone(), connection.overdue(&self.limits)?));
        for (connection, why) in open.connections.values().filter_map(overdue).collect::<Vec<_>>() {
            if let Overdue::Shed(why) = why {
                self.shed.note(why);
            }
            if why == Overdue::Shed(Shed::SlowHead) {
                connection.end_late_head();
                continue;
            }
            connection.close();
            open.remove(&connection);
        }
        drop(open);
        self.bodies.give_up_older_than(BODY_LIMIT);
    }

    /// For readiness: whether the connections or the bodies that are waited for are nearly all there may be.
    pub(super) fn check(&self) -> Check {
        let (open, most) = (self.open().connections.len(), self.most());
        let connections = Check::unless_nearly_full(open, most, || format!("{open} of {most} connections are open"));
        if connections != Check::Ok {
            return connections;
        }
        let (bodies, bytes) = self.bodies.standing();
        Check::unless_nearly_full(bytes, self.bodies.max_bytes(), || {
            format!("{bodies} requests' bodies are waited for (HTTP_BODIES_MAX_BYTES)")
        })
    }

    /// Closes up to `count` of those that do nothing for anybody; returns whether there were any.
    fn evict(&self, open: &mut Open, of: Option<Client>, count: usize) -> bool {
        let mut candidates: Vec<_> = open
            .connections
            .values()
            .filter(|connection| of.is_none_or(|client| connection.client() == client && !connection.is_of_proxy()))
            .filter_map(|connection| {
                let since = useless_since(connection)?;
                // A proxy's connections count for nobody, and go last.
                let count = open.by_client.get(&connection.client()).filter(|_| !connection.is_of_proxy());
                Some((Reverse(count.copied().unwrap_or_default()), since, connection.clone()))
            })
            .collect();
        let count = count.min(candidates.len());
        if count == 0 {
            return false;
        }
        let key = |(count, since, _): &(Reverse<usize>, Instant, _)| (*count, *since);
        candidates.select_nth_unstable_by_key(count - 1, key);
        let greediest = candidates.iter().map(|(Reverse(count), ..)| *count).max().unwrap_or_default();
        for (.., connection) in candidates.drain(..count) {
            self.shed.note(Shed::Evicted);
            connection.close();
            open.remove(&connection);
        }
        if open.reported.is_none_or(|reported| reported.elapsed() > REPORTED) {
            open.reported = Some(Instant::now());
            let greediest_client = open.by_client.iter().max_by_key(|(_, count)| **count);
            let client = greediest_client.map(|(client, _)| client.to_string()).unwrap_or_default();
            warn!(
                most = self.most(),
                client,
                connections = greediest,
                "idle and slow connections are closed to make room for others"
            );
        }
        true
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since when a connection does nothing for anybody, if so. Of those that take their answers slowly: with a grace.
fn useless_since(connection: &Connection) -> Option<Instant> {
    match connection.phase() {
        (Phase::Busy, _) => connection.behind_since().filter(|since| since.elapsed() > BEHIND_GRACE),
        (_, since) => Some(since),
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        SERVERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Open {
    fn insert(&mut self, connection: Arc<Connection>) {
        if !connection.is_of_proxy() {
            *self.by_client.entry(connection.client()).or_default() += 1;
        }
        self.connections.insert(connection.number(), connection);
    }

    fn remove(&mut self, connection: &Connection) {
        if self.connections.remove(&connection.number()).is_none() || connection.is_of_proxy() {
            return;
        }
        if let Some(count) = self.by_client.get_mut(&connection.client()) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&connection.client());
            }
        }
    }
}

/// What is shown of them.
struct Gauges {
    phases: [(Phase, Gauge); 4],
    most: Gauge,
    bodies: Gauge,
    body_bytes: Gauge,
    max_body_bytes: Gauge,
}

impl Gauges {
    fn new(metrics: &Metrics) -> Self {
        let help = "Open connections, by what they are at; head and body: a request that is not complete.";
        let phases = metrics.gauges_by("http_connections", help, &["phase"]);
        let phase = |phase, name| (phase, phases.with_label_values(&[name]));
        Self {
            phases: [
                phase(Phase::Idle, "idle"),
                phase(Phase::Head, "head"),
                phase(Phase::Body, "body"),
                phase(Phase::Busy, "busy"),
            ],
            most: metrics.gauge("http_connections_max", "How many connections there may be."),
            bodies: metrics.gauge("http_bodies_awaited", "Requests' bodies that are waited for."),
            body_bytes: metrics.gauge("http_bodies_awaited_bytes", "What they count for, in bytes."),
            max_body_bytes: metrics.gauge("http_bodies_max_bytes", "HTTP_BODIES_MAX_BYTES."),
        }
    }

    fn show(&self, connections: &Connections) {
        let mut counts = [0; 4];
        for connection in connections.open().connections.values() {
            counts[connection.phase().0 as usize] += 1;
        }
        for (phase, gauge) in &self.phases {
            gauge.set(counts[*phase as usize]);
        }
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let (bodies, bytes) = connections.bodies.standing();
        self.most.set(number(connections.most()));
        self.bodies.set(number(bodies));
        self.body_bytes.set(number(bytes));
        self.max_body_bytes.set(number(connections.bodies.max_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::{SERVICE_DEFAULTS, Settings};

    const MOST: usize = 32;

    fn connections(trusted_proxies: &str) -> Arc<Connections> {
        let settings = Settings::load(&[SERVICE_DEFAULTS], None, std::iter::empty()).unwrap();
        let settings = settings.with("http_max_connections", MOST as i64).unwrap();
        let settings = settings.with("trusted_proxies", trusted_proxies).unwrap();
        Connections::new(&Limits::checked(&settings).unwrap(), &Metrics::of("test"))
    }

    /// A new connection as if it came from 192.0.2.`peer`, with its client's end.
    async fn admitted(connections: &Arc<Connections>, peer: u8) -> Result<(Admitted, TcpStream), Shed> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let admitted = connections.admit(stream, IpAddr::from([192, 0, 2, peer]));
        admitted.map(|admitted| (admitted, client)).map_err(|refused| refused.why)
    }

    async fn is_closed(client: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(Duration::from_millis(50), client.read(&mut [0; 8])).await;
        matches!(read, Ok(Ok(0)))
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_the_oldest_idle_connection_of_the_client_with_the_most() {
        let connections = connections("");
        let mut honest = admitted(&connections, 1).await.ok().unwrap();
        let mut oldest = admitted(&connections, 2).await.ok().unwrap();
        let busy = oldest.0.connection.begin_request();
        let mut attackers = Vec::new();
        for _ in 2..MOST {
            attackers.push(admitted(&connections, if attackers.len() < 20 { 2 } else { 3 }).await.ok().unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }

        let newcomer = admitted(&connections, 4).await;

        assert!(newcomer.is_ok());
        assert!(is_closed(&mut attackers[0].1).await, "the oldest idle one of the client with the most");
        assert!(!is_closed(&mut attackers[1].1).await);
        assert!(!is_closed(&mut honest.1).await);
        assert!(!is_closed(&mut oldest.1).await, "an older one that is busy");
        assert_eq!(connections.open().connections.len(), MOST);
        assert_ne!(connections.check(), Check::Ok);
        drop((busy, newcomer, oldest, attackers));
        assert_eq!(connections.open().by_client.len(), 1);
        assert_eq!(connections.check(), Check::Ok);
    }

    #[tokio::test]
    async fn who_keeps_all_busy_is_refused_before_the_others_are() {
        let connections = connections("192.0.2.9");
        let mut busy = Vec::new();
        while let Ok((admitted, client)) = admitted(&connections, 2).await {
            busy.push((admitted.connection.begin_request(), admitted, client));
        }
        assert_eq!(busy.len(), MOST - MOST / KEPT_FOR_OTHERS);
        assert_eq!(admitted(&connections, 2).await.err(), Some(Shed::ClientConnections));
        // A proxy's connections are those of many clients.
        while let Ok((admitted, client)) = admitted(&connections, 9).await {
            busy.push((admitted.connection.begin_request(), admitted, client));
        }
        assert_eq!(busy.len(), MOST);
        assert_eq!(admitted(&connections, 1).await.err(), Some(Shed::Connections));

        busy.pop();

        assert!(admitted(&connections, 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_the_one_that_takes_its_answer_most_slowly() {
        let connections = connections("");
        let mut busy = Vec::new();
        for n in 0..MOST {
            let (admitted, client) = admitted(&connections, n as u8).await.ok().unwrap();
            let mut request = admitted.connection.begin_request();
            // The others' answers are not there yet, or were taken as far as they are.
            if n % 2 == 0 {
                request.has_more();
            }
            if n % 4 == 0 {
                request.is_taken();
            }
            busy.push((request, admitted, client));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(admitted(&connections, 200).await.err(), Some(Shed::Connections), "they may be quick");
        tokio::time::sleep(BEHIND_GRACE).await;

        let newcomers = [admitted(&connections, 201).await, admitted(&connections, 202).await];

        assert!(newcomers.iter().all(Result::is_ok));
        for (n, (.., client)) in busy.iter_mut().enumerate() {
            assert_eq!(is_closed(client).await, [2, 6].contains(&n), "the connection {n}");
        }
    }

    #[tokio::test]
    async fn where_descriptors_run_out_there_are_fewer_connections_until_they_come_back() {
        let connections = connections("");
        let mut clients = Vec::new();
        for n in 0..MOST {
            clients.push(admitted(&connections, n as u8).await.ok().unwrap());
        }

        assert!(connections.make_room());

        assert_eq!(connections.open().connections.len(), MOST - SPARED);
        assert_eq!(connections.most(), MOST - SPARED);
        assert_ne!(connections.check(), Check::Ok);
        let newcomer = admitted(&connections, 200).await;
        assert!(newcomer.is_ok());
        assert_eq!(connections.open().connections.len(), MOST - SPARED, "it has another's place");
        for _ in 0..2 * SPARED {
            connections.sweep();
        }
        assert_eq!(connections.most(), MOST);
    }

    #[tokio::test]
    async fn a_proxys_idle_connections_go_last() {
        let connections = connections("192.0.2.9");
        let mut of_proxy = Vec::new();
        for _ in 1..MOST {
            of_proxy.push(admitted(&connections, 9).await.ok().unwrap());
        }
        let mut other = admitted(&connections, 1).await.ok().unwrap();

        let newcomer = admitted(&connections, 2).await;

        assert!(newcomer.is_ok());
        assert!(is_closed(&mut other.1).await);
        assert!(!is_closed(&mut of_proxy[0].1).await);
    }
}
