//! Whether answers reach the process whose client waits for them, by the orchestrators' metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Sub;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e_tests::Client;

/// How often the metrics are read. What a process counts after its last reading is not known.
const LOOK: Duration = Duration::from_millis(250);

/// What the orchestrators have counted since the watch began, over their restarts.
#[derive(Clone)]
pub struct Routing {
    by_process: Arc<Mutex<BTreeMap<SocketAddr, Process>>>,
}

#[derive(Default)]
struct Process {
    before: Replies,
    now: Replies,
    waiters: u64,
}

/// Ends of sagas of which waiting requests were told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replies {
    here: u64,
    elsewhere: u64,
}

impl Routing {
    /// Looks from now on.
    pub fn watch(client: &Client, orchestrators: &[SocketAddr]) -> Self {
        let routing = Self { by_process: Arc::default() };
        for address in orchestrators.iter().copied() {
            let (client, routing) = (client.clone(), routing.clone());
            tokio::spawn(async move {
                loop {
                    if let Ok(answer) = client.get_url(&format!("http://{address}/metrics")).await {
                        routing.note(address, &answer.text);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            });
        }
        routing
    }

    /// All replies so far, as of the last look.
    pub fn replies(&self) -> Replies {
        let processes = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        let all = processes.values().flat_map(|process| [process.before, process.now]);
        all.fold(Replies::default(), Replies::and)
    }

    /// Requests that wait now, in all processes.
    pub fn waiters(&self) -> u64 {
        self.by_process.lock().unwrap_or_else(PoisonError::into_inner).values().map(|process| process.waiters).sum()
    }

    fn note(&self, address: SocketAddr, metrics: &str) {
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        let here = value(r#"replies_total{waiter="here"}"#);
        let now = Replies { here, elsewhere: value(r#"replies_total{waiter="elsewhere"}"#) };
        let mut processes = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = processes.entry(address).or_default();
        // Another process began to count from 0.
        if now.here + now.elsewhere < process.now.here + process.now.elsewhere {
            process.before = process.before.and(process.now);
        }
        (process.now, process.waiters) = (now, value("checkout_waiters"));
    }
}

impl Replies {
    /// The share that was told by the process that was asked, of 1.
    pub fn share_here(self) -> f64 {
        self.here as f64 / (self.here + self.elsewhere).max(1) as f64
    }

    fn and(self, other: Self) -> Self {
        Self { here: self.here + other.here, elsewhere: self.elsewhere + other.elsewhere }
    }
}

impl Sub for Replies {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { here: self.here - earlier.here, elsewhere: self.elsewhere - earlier.elsewhere }
    }
}

impl std::fmt::Display for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (share, elsewhere) = (self.share_here() * 100.0, self.elsewhere);
        write!(f, "{share:.2} % told by the process that was asked, {elsewhere} by the row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_counted_stays_when_its_successor_begins_from_zero() {
        let (routing, address) = (Routing { by_process: Arc::default() }, ([127, 0, 0, 1], 1).into());
        let metrics = |here, elsewhere| {
            format!(
                "replies_total{{waiter=\"elsewhere\"}} {elsewhere}\nreplies_total{{waiter=\"here\"}} {here}\ncheckout_waiters 3\n"
            )
        };
        for (here, elsewhere) in [(70, 1), (90, 1), (0, 0), (8, 1)] {
            routing.note(address, &metrics(here, elsewhere));
        }
        let replies = routing.replies();
        assert_eq!((replies.here, replies.elsewhere, routing.waiters()), (98, 2, 3));
        assert!((replies.share_here() - 0.98).abs() < 1e-9);
    }
}
