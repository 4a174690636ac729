//! What each instance looks up again and again in its database.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::CancellationToken;
use crate::database::StoreError;
use crate::http::Check;

/// Longer waits are reported, for example when Kafka is down.
const LONG: Duration = Duration::from_secs(60);

/// What waits to be done, as it was last seen.
#[derive(Debug, Clone)]
pub struct Backlog {
    what: &'static str,
    seen: Arc<Mutex<(i64, Duration)>>,
}

impl Backlog {
    /// Of `what`, in the plural.
    pub fn of(what: &'static str) -> Self {
        Self { what, seen: Arc::default() }
    }

    /// How many there are, and for how long the first of them has waited.
    pub fn note(&self, count: i64, longest: Duration) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = (count, longest);
    }

    /// What health says of it.
    pub fn check(&self) -> Check {
        let (count, longest) = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match longest >= LONG {
            true => Check::Degraded(format!("{}: {count}, the first for {} s", self.what, longest.as_secs())),
            false => Check::Ok,
        }
    }
}

/// Looks every so often until `stop`. Of a database that does not answer one line is logged, which names `what`, until it
/// answers again. Each look sets its own time limit.
pub async fn keep_looking<W: Future<Output = Result<(), StoreError>>>(
    every: Duration,
    what: &'static str,
    stop: CancellationToken,
    look: impl Fn() -> W,
) {
    let mut looking = true;
    loop {
        let next_look = async {
            tokio::time::sleep(every).await;
            look().await
        };
        match stop.run_until_cancelled(next_look).await {
            None => return,
            Some(Ok(())) => looking = true,
            Some(Err(error)) if looking => {
                warn!(error = error.for_log(), "{what} can't be looked up; trying on");
                looking = false;
            }
            Some(Err(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_long_is_reported() {
        let backlog = Backlog::of("orders that await their sagas");
        backlog.note(7, LONG / 2);
        assert_eq!(backlog.check(), Check::Ok);
        backlog.note(7, LONG);
        let text = "orders that await their sagas: 7, the first for 60 s".to_owned();
        assert_eq!(backlog.check(), Check::Degraded(text));
    }
}
