//! How the newest sagas of a flow fared at each of its steps. Of all instances, since it is read from the history; at a
//! bounded cost, since only the newest are read, once in two seconds at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use service_runtime::database::{DatabaseClock, StoreError, again_if_lost};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::lists::{self, StepFigures};

/// How far the figures look back, in minutes.
pub const MINUTES: i64 = 15;

/// The most sagas whose history is read for them.
pub const MAX_SAGAS: i64 = 1000;

/// How long figures are shown again before they are read anew.
const FRESH: Duration = Duration::from_secs(2);

/// Which flow: its name and version.
type Key = (String, i32);

/// Figures, and when they were read.
type Read = (Instant, Arc<Vec<StepFigures>>);

/// Figures of flows, as they were last read.
pub struct FlowFigures {
    pool: PgPool,
    clock: DatabaseClock,
    last: Mutex<BTreeMap<Key, Read>>,
}

impl FlowFigures {
    pub fn new(pool: PgPool, clock: DatabaseClock) -> Self {
        Self { pool, clock, last: Mutex::default() }
    }

    /// Those of one version of a flow, at most two seconds old.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn of(&self, name: &str, version: i32) -> Result<Arc<Vec<StepFigures>>, StoreError> {
        let key = (name.to_owned(), version);
        // Held while they are read: other readers get the same.
        let mut last = self.last.lock().await;
        last.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some((_, figures)) = last.get(&key) {
            return Ok(figures.clone());
        }
        let since = self.clock.now() - TimeDelta::minutes(MINUTES);
        let read = || lists::step_figures(&self.pool, (name, version), since, MAX_SAGAS);
        let figures = Arc::new(again_if_lost(read).await?);
        last.insert(key, (Instant::now(), figures.clone()));
        Ok(figures)
    }
}
