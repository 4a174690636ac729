//! The places of event streams: how many may be open at once in all, by one client, and on one connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{StatusCode, header};
use service_runtime::http::{Caller, Check, Client, Problem};
use service_runtime::metrics::{Count, Gauge, Metrics};

/// The most streams on one connection, which HTTP/2 allows: its other requests need room.
const PER_CONNECTION: usize = 8;

/// The places. Clones share them.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    max: usize,
    max_per_client: usize,
    taken: Mutex<Taken>,
    open: Gauge,
    too_many: Count,
    too_many_of_client: Count,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_client: HashMap<Client, usize>,
    by_connection: HashMap<u64, usize>,
}

/// A stream's place; it is free again when dropped.
pub struct Place {
    places: Places,
    client: Option<Client>,
    connection: Option<u64>,
}

impl Places {
    pub fn new(max: usize, max_per_client: usize, metrics: &Metrics) -> Self {
        let help = "Streams of events that were refused, by which limit.";
        let [too_many, too_many_of_client] =
            metrics.counts("event_streams_refused_total", help, "limit", ["all", "client"]);
        metrics.gauge("event_streams_max", "EVENT_STREAMS_MAX.").set(i64::try_from(max).unwrap_or(i64::MAX));
        let open = metrics.gauge("event_streams", "Streams of events that are open.");
        Self(Arc::new(Shared { max, max_per_client, taken: Mutex::default(), open, too_many, too_many_of_client }))
    }

    /// A place for a stream of this caller's; 429 when the caller has too many, 503 when there are too many in all.
    pub fn take(&self, caller: &Caller) -> Result<Place, Problem> {
        let (client, connection) = (caller.client(), caller.own_connection());
        let mut taken = self.taken();
        let of = |client| taken.by_client.get(&client).copied().unwrap_or_default();
        let on = |connection| taken.by_connection.get(&connection).copied().unwrap_or_default();
        if client.is_some_and(|client| of(client) >= self.0.max_per_client) {
            self.0.too_many_of_client.inc();
            return Err(of_client(
                "too many streams of events are open from your address (EVENT_STREAMS_MAX_PER_CLIENT)",
            ));
        }
        if connection.is_some_and(|connection| on(connection) >= PER_CONNECTION) {
            self.0.too_many_of_client.inc();
            return Err(of_client("too many streams of events are open on this connection"));
        }
        if taken.all >= self.0.max {
            self.0.too_many.inc();
            return Err(Problem::unavailable("too many streams of events are open (EVENT_STREAMS_MAX)", 5));
        }
        taken.all += 1;
        client.into_iter().for_each(|client| *taken.by_client.entry(client).or_default() += 1);
        connection.into_iter().for_each(|connection| *taken.by_connection.entry(connection).or_default() += 1);
        self.0.open.inc();
        Ok(Place { places: self.clone(), client, connection })
    }

    /// Whether nobody has a stream.
    pub fn are_free(&self) -> bool {
        self.taken().all == 0
    }

    /// For readiness: whether nearly all are taken.
    pub fn check(&self) -> Check {
        let (all, max) = (self.taken().all, self.0.max);
        Check::unless_nearly_full(all, max, || format!("{all} of {max} streams of events are open"))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        self.client.into_iter().for_each(|client| give_back(&mut taken.by_client, client));
        self.connection.into_iter().for_each(|connection| give_back(&mut taken.by_connection, connection));
        self.places.0.open.dec();
    }
}

fn of_client(detail: &str) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(header::RETRY_AFTER, "5")
}

fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
