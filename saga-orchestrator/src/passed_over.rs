//! Replies of sagas whose definition this release does not know: a newer release started them, and was rolled back or
//! runs beside this one. Such a reply is passed over. The release that knows the definition repeats the command and
//! gets the same reply, so nothing is lost; held back, these replies would fill `KAFKA_MAX_IN_FLIGHT` and stop all others.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use messages::SagaId;
use service_runtime::http::Check;
use service_runtime::metrics::{Count, Metrics};
use tracing::warn;

/// How long after the last such reply readiness reports it.
const REPORTED: Duration = Duration::from_secs(60);

/// For how many sagas it is remembered that they were logged. At the limit it starts anew: one line more for some.
const MAX_LOGGED: usize = 10_000;

/// Counts the replies that are passed over, and reports them.
pub struct PassedOver {
    total: Count,
    episode: Mutex<Episode>,
}

/// Replies that were passed over with no longer than [`REPORTED`] between them.
#[derive(Default)]
struct Episode {
    replies: u64,
    definition: String,
    last: Option<Instant>,
    logged: HashSet<SagaId>,
}

impl PassedOver {
    /// Registers the count.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "Replies that were passed over: their sagas run by a definition that this release does not know.";
        Self { total: metrics.count("saga_replies_passed_over_total", help), episode: Mutex::default() }
    }

    /// Notes one. Each saga is logged once.
    pub fn note(&self, saga_id: SagaId, definition: &str, now: Instant) {
        self.total.inc();
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        if !episode.is_current(now) {
            episode.replies = 0;
        }
        episode.replies += 1;
        episode.last = Some(now);
        definition.clone_into(&mut episode.definition);
        if episode.logged.len() >= MAX_LOGGED {
            episode.logged.clear();
        }
        if episode.logged.insert(saga_id) {
            warn!(
                %saga_id, definition,
                "a reply is passed over: this release does not know its saga's definition; one that does goes on with it"
            );
        }
    }

    /// For readiness: degraded until a while after the last such reply. What such a saga holds, money for one, waits for
    /// the release that knows it.
    pub fn check(&self, now: Instant) -> Check {
        let episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        match episode.last.filter(|_| episode.is_current(now)) {
            None => Check::Ok,
            Some(last) => {
                let (replies, definition) = (episode.replies, &episode.definition);
                let ago = now.saturating_duration_since(last).as_secs();
                Check::Degraded(format!(
                    "{replies} replies were passed over, the last one {ago} s ago: this release does not know the \
                     definition {definition}; sagas that run by it wait for a release that does"
                ))
            }
        }
    }
}

impl Episode {
    fn is_current(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < REPORTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_reports_such_replies_until_a_while_after_the_last() {
        let (passed_over, begin) = (PassedOver::new(&Metrics::of("test")), Instant::now());
        assert_eq!(passed_over.check(begin), Check::Ok);
        let note = |after: Duration| passed_over.note(SagaId::new(), "pay-later v7", begin + after);
        note(Duration::ZERO);
        note(REPORTED / 2);

        let Check::Degraded(why) = passed_over.check(begin + REPORTED) else { panic!("it is within the time") };
        assert!(why.contains("2 replies") && why.contains("pay-later v7"), "{why}");
        assert_eq!(passed_over.check(begin + REPORTED / 2 + REPORTED), Check::Ok);

        note(REPORTED * 3);
        let Check::Degraded(why) = passed_over.check(begin + REPORTED * 3) else { panic!("it happened again") };
        assert!(why.contains("1 replies"), "those before are over: {why}");
        assert_eq!(passed_over.total.get(), 3, "the count never goes back");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (passed_over, now) = (PassedOver::new(&Metrics::of("test")), Instant::now());
        for _ in 0..MAX_LOGGED + 10 {
            passed_over.note(SagaId::new(), "pay-later v7", now);
        }
        assert_eq!(passed_over.episode.lock().unwrap().logged.len(), 10);
    }
}
