//! How fast acts on many sagas follow each other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The pace of all acts together, whoever asks for them: each sends a command, or calls a service.
pub struct Pace {
    each: Duration,
    /// How many go at once: a quarter of a second's, as the sweeper's.
    pub group: usize,
    /// When the next ones may go.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn of(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let group = (per_second / 4).max(1) as usize;
        Self { each: Duration::from_secs(1) / per_second, group, next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many may go.
    pub async fn turn_of(&self, sagas: usize) {
        tokio::time::sleep_until(self.taken(sagas, Instant::now())).await;
    }

    /// When so many may go. Those that ask next come after them.
    fn taken(&self, sagas: usize, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now);
        *next = at + self.each * u32::try_from(sagas).unwrap_or(u32::MAX);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_ask_next_wait_for_those_before_and_a_pause_is_not_made_up_for() {
        let (pace, now) = (Pace::of(1000), Instant::now());
        let after = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!(pace.group, 250);
        assert_eq!(pace.taken(250, now), now);
        assert_eq!(pace.taken(100, now), after(250));
        assert_eq!(pace.taken(0, now), after(350));
        assert_eq!(pace.taken(250, after(60_000)), after(60_000));
        assert_eq!(pace.taken(1, after(60_000)), after(60_250));
        assert_eq!(Pace::of(1).group, 1);
    }
}
