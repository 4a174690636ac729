//! The database's clock, as this process knows it. Rows are stamped by several processes and judged by the database, so
//! times that are compared come from one clock, and that is the database's: it is read once a second, and in between the
//! time that passes is measured by this machine's monotonic clock, which nobody sets. How far this machine's own clock
//! is off is watched as well: it stamps the log, and minted ids.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{SubsecRound as _, TimeDelta};
use messages::Timestamp;
use sqlx::{PgPool, Row as _};
use tracing::{info, warn};

use super::{Session, StoreError, within_limit};
use crate::CancellationToken;
use crate::http::Check;
use crate::metrics::{Metrics, Seconds};

/// How often the clock is read.
const EVERY: Duration = Duration::from_secs(1);

/// How long after a try that failed the first one is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// A reading that took longer says too little.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);

/// At the start so many readings may take longer: then the quickest of them has to do.
const MAX_SLOW_READINGS: usize = 10;

/// What is reported: this machine's clock is off by more than this. It is over once it is off by less than half.
const MAX_SKEW: TimeDelta = TimeDelta::seconds(1);

/// The database's clock. Clones share it.
#[derive(Clone)]
pub struct DatabaseClock {
    known: Arc<RwLock<Known>>,
    shown: Seconds,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// The database's time at this moment.
    time: Timestamp,
    at: Instant,
    /// How far this machine's clock was ahead of it at the last reading.
    skew: TimeDelta,
    /// It was reported.
    is_off: bool,
}

/// One look at both clocks.
#[derive(Debug, Clone, Copy)]
struct Reading {
    database: Timestamp,
    /// This machine's clock, and its monotonic one, when the answer came.
    own: Timestamp,
    at: Instant,
    round_trip: Duration,
}

impl DatabaseClock {
    /// Reads the clock, as soon as it can, and goes on reading it until `stop`.
    pub async fn start(pool: &PgPool, metrics: &Metrics, stop: CancellationToken) -> Self {
        let session = Session::beside(pool);
        let clock = Self::from(first(&session).await, metrics);
        let watched = clock.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => {}
                }
                // While the database is away, what is known of its clock holds.
                if let Ok(reading) = within_limit(read(&session)).await
                    && reading.round_trip <= MAX_ROUND_TRIP
                {
                    watched.note(reading);
                }
            }
        });
        clock
    }

    fn from(first: Reading, metrics: &Metrics) -> Self {
        let help = "How far this machine's clock is ahead of its database's, in seconds; below 0: behind.";
        let shown = metrics.seconds("database_clock_skew_seconds", help);
        let known = Known { time: first.estimate(), at: first.at, skew: TimeDelta::zero(), is_off: false };
        let clock = Self { known: Arc::new(RwLock::new(known)), shown };
        clock.note(first);
        clock
    }

    /// The database's present time, in whole microseconds.
    pub fn now(&self) -> Timestamp {
        self.known().at(Instant::now()).trunc_subsecs(6)
    }

    /// For readiness: degraded while this machine's clock is off.
    pub fn check(&self) -> Check {
        let known = self.known();
        if known.is_off { Check::Degraded(described(known.skew)) } else { Check::Ok }
    }

    fn note(&self, reading: Reading) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let (before, estimate) = (*known, reading.estimate());
        // Within what the reading leaves open the clock goes on evenly.
        let uncertain = TimeDelta::from_std(reading.round_trip / 2).unwrap_or(TimeDelta::zero());
        if (before.at(reading.at) - estimate).abs() > uncertain {
            (known.time, known.at) = (estimate, reading.at);
        }
        known.skew = reading.own - known.at(reading.at);
        known.is_off = known.skew.abs() > if before.is_off { MAX_SKEW / 2 } else { MAX_SKEW };
        self.shown.set(known.skew.as_seconds_f64());
        match (before.is_off, known.is_off) {
            (false, true) => warn!("{}: set it (NTP). Deadlines are by the database's clock", described(known.skew)),
            (true, false) => info!("this machine's clock agrees with the database's again"),
            _ => {}
        }
    }

    fn known(&self) -> Known {
        *self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn at(&self, moment: Instant) -> Timestamp {
        let since = TimeDelta::from_std(moment.saturating_duration_since(self.at)).unwrap_or(TimeDelta::zero());
        self.time + since
    }
}

impl Reading {
    /// The database's time when the answer came: it was read about half-way.
    fn estimate(&self) -> Timestamp {
        self.database + TimeDelta::from_std(self.round_trip / 2).unwrap_or(TimeDelta::zero())
    }
}

/// The first reading that says enough, or the best of several slow ones. The database was there a moment ago; where it
/// is not now it is waited for.
async fn first(session: &Session) -> Reading {
    let mut waiting = false;
    let mut slow: Vec<Reading> = Vec::new();
    loop {
        match within_limit(read(session)).await {
            Ok(reading) if reading.round_trip <= MAX_ROUND_TRIP => return reading,
            // It had to connect: the next one has not. Or the database is far away, or very busy.
            Ok(reading) => {
                slow.push(reading);
                if slow.len() >= MAX_SLOW_READINGS
                    && let Some(best) = slow.iter().min_by_key(|reading| reading.round_trip)
                {
                    warn!(round_trip = ?best.round_trip, "the database's clock is known only roughly");
                    return *best;
                }
            }
            Err(error) => {
                if !waiting {
                    warn!(%error, "waiting for the database's clock");
                    waiting = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn read(session: &Session) -> Result<Reading, StoreError> {
    let sent = Instant::now();
    let rows = session.rows(sqlx::query("SELECT clock_timestamp()")).await?;
    let (own, at) = (crate::now(), Instant::now());
    let database = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
    Ok(Reading { database, own, at, round_trip: at - sent })
}

fn described(skew: TimeDelta) -> String {
    let (seconds, direction) =
        (skew.abs().as_seconds_f64(), if skew < TimeDelta::zero() { "behind" } else { "ahead of" });
    format!("this machine's clock is {seconds:.1} s {direction} its database's")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct World {
        begin: Instant,
        clock: DatabaseClock,
        metrics: Metrics,
    }

    impl World {
        fn new(skew_ms: i64) -> Self {
            let (begin, metrics) = (Instant::now(), Metrics::of("test"));
            Self { begin, clock: DatabaseClock::from(reading(begin, 0, skew_ms), &metrics), metrics }
        }

        /// So many ms after the beginning both clocks are read, the own one off by this.
        fn read(&self, after_ms: i64, skew_ms: i64) -> Check {
            self.clock.note(reading(self.begin, after_ms, skew_ms));
            self.clock.check()
        }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn reading(begin: Instant, after_ms: i64, skew_ms: i64) -> Reading {
        let (round_trip, answered) = (4 * MS, begin + MS * after_ms.try_into().unwrap());
        Reading { database: at(after_ms - 2), own: at(after_ms + skew_ms), at: answered, round_trip }
    }

    #[tokio::test]
    async fn a_clock_that_is_off_is_reported_until_it_agrees_again() {
        let world = World::new(-90_000);
        assert_eq!(
            world.clock.check(),
            Check::Degraded("this machine's clock is 90.0 s behind its database's".to_owned())
        );
        assert!(world.metrics.text().await.contains("\ndatabase_clock_skew_seconds -90\n"));
        assert_eq!(world.read(1000, 400), Check::Ok);
        assert_eq!(world.read(2000, -900), Check::Ok);
        assert!(matches!(world.read(3000, 2500), Check::Degraded(why) if why.contains("2.5 s ahead of")));
        assert!(matches!(world.read(4000, 900), Check::Degraded(_)), "nearly: it does not come and go");
        assert_eq!(world.read(5000, 0), Check::Ok);
    }

    #[test]
    fn the_time_is_the_databases_whatever_this_machines_clock_shows() {
        for skew_ms in [0, -90_000, 86_400_000] {
            let world = World::new(skew_ms);
            assert_eq!(world.clock.known().at(world.begin + 500 * MS), at(500));
            world.read(1000, 0);
            world.read(2000, skew_ms);
            assert_eq!(world.clock.known().at(world.begin + 2500 * MS), at(2500));
        }
    }

    #[test]
    fn a_database_whose_clock_jumps_is_followed_and_one_that_wavers_is_not() {
        let world = World::new(0);
        let mut wavering = reading(world.begin, 1000, 0);
        wavering.database += TimeDelta::milliseconds(1);
        world.clock.note(wavering);
        assert_eq!(world.clock.known().at(world.begin + 1000 * MS), at(1000), "within half the round trip");
        let mut jumped = reading(world.begin, 2000, 0);
        jumped.database += TimeDelta::seconds(30);
        world.clock.note(jumped);
        assert_eq!(world.clock.known().at(world.begin + 2000 * MS), at(32_000));
    }
}
