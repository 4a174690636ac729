//! `GET /stats`: how many sagas stand where, and how the newest ones fared. Over all instances, since it is read from
//! the rows; at a bounded cost, since only the newest are read, once a second at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use chrono::TimeDelta;
use messages::{Timestamp, TimestampText};
use serde::{Deserialize, Serialize};
use service_runtime::database::{DatabaseClock, StoreError, again_if_lost};
use service_runtime::http::Problem;
use service_runtime::http::description::{DatabaseProblems, QueryProblems};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::Views;
use crate::registry::Flows;
use crate::store::lists::{self, Recent};
use crate::store::{self, Unfinished};

/// The most sagas that are read for the figures of a time.
const MOST: i64 = 10_000;

/// How long figures are shown again before they are read anew.
const FRESH: Duration = Duration::from_secs(1);

/// The figures of a time are told in so many parts.
const PARTS: i32 = 30;

/// The longest time, in minutes: a day.
const MOST_MINUTES: i64 = 24 * 60;

/// The query of `GET /stats`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// How far to look back, 1 to 1440; 15 unless given.
    #[param(minimum = 1, maximum = 1440, default = 15)]
    pub minutes: Option<i64>,
}

/// How many sagas stand where, and how the newest fared.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatsBody {
    pub at: TimestampText,
    /// Sagas that have not ended, at each step.
    pub unfinished: Vec<StandingBody>,
    pub needing_attention: i64,
    pub recent: RecentBody,
}

/// Unfinished sagas at one step.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StandingBody {
    /// The name of the flow that they run by, and its version.
    pub flow: String,
    pub version: i32,
    pub status: String,
    pub step: String,
    pub sagas: i64,
    /// How long ago the oldest of them began.
    pub oldest_age_seconds: f64,
}

impl From<Unfinished> for StandingBody {
    fn from(at: Unfinished) -> Self {
        let Unfinished { flow, version, status, step, count, oldest_age_seconds, .. } = at;
        Self { flow, version, status, step, sagas: count, oldest_age_seconds }
    }
}

/// The sagas that began since a time.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecentBody {
    /// As asked for; later where there are more sagas than are read (10,000).
    pub since: TimestampText,
    pub sagas: usize,
    /// How many a second began.
    pub per_second: f64,
    /// How many ended how (COMPLETED, PAYMENT_FAILED, ...), or are RUNNING, WAITING or COMPENSATING.
    pub outcomes: BTreeMap<String, u64>,
    /// From beginning to end, of those that have ended.
    pub duration: Option<Quantiles>,
    /// The same time in equal parts, oldest first.
    pub parts: Vec<PartBody>,
}

/// In ms.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// The sagas that began in one part of the time.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartBody {
    pub from: TimestampText,
    pub seconds: f64,
    pub completed: u64,
    pub failed: u64,
    pub unfinished: u64,
    pub duration: Option<Quantiles>,
}

/// Figures, read once a second at most for each time that is asked for.
pub struct Figures {
    pool: PgPool,
    clock: DatabaseClock,
    flows: Arc<Flows>,
    last: Mutex<BTreeMap<i64, (Instant, Arc<StatsBody>)>>,
}

impl Figures {
    pub fn new(pool: PgPool, clock: DatabaseClock, flows: Arc<Flows>) -> Self {
        Self { pool, clock, flows, last: Mutex::default() }
    }

    /// The figures of the last so many minutes, at most a second old.
    ///
    /// # Errors
    /// When the database can't tell.
    pub async fn of(&self, minutes: i64) -> Result<Arc<StatsBody>, StoreError> {
        // Held while they are read: who comes meanwhile gets the same.
        let mut last = self.last.lock().await;
        last.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some((_, figures)) = last.get(&minutes) {
            return Ok(figures.clone());
        }
        let now = self.clock.now();
        let since = now - TimeDelta::minutes(minutes);
        let unfinished = again_if_lost(|| store::unfinished(&self.pool, &self.flows)).await?;
        let waiting = again_if_lost(|| store::waiting_that_need_attention(&self.pool)).await?;
        let figures = Arc::new(StatsBody {
            at: now.into(),
            needing_attention: unfinished.iter().map(|at| at.needing_attention).sum::<i64>() + waiting,
            unfinished: unfinished.into_iter().map(StandingBody::from).collect(),
            recent: recent(&again_if_lost(|| lists::recent(&self.pool, since, MOST)).await?, since, now),
        });
        last.insert(minutes, (Instant::now(), figures.clone()));
        Ok(figures)
    }
}

#[utoipa::path(
    get, path = "/stats", operation_id = "readStats", tag = "Sagas", summary = "How many sagas stand where, and how the newest fared", params(StatsQuery),
    responses((status = 200, description = "The figures, at most a second old", body = StatsBody), QueryProblems, DatabaseProblems),
)]
/// 200 with the figures; 400 for a time that is out of bounds.
pub async fn stats(
    State(views): State<Views>,
    query: Result<Query<StatsQuery>, QueryRejection>,
) -> Result<Json<StatsBody>, Problem> {
    let Query(query) = query?;
    let minutes = query.minutes.unwrap_or(15);
    if !(1..=MOST_MINUTES).contains(&minutes) {
        return Err(Problem::invalid_parameter("minutes", format_args!("must be 1 to {MOST_MINUTES}")));
    }
    Ok(Json(StatsBody::clone(&*views.figures.of(minutes).await?)))
}

fn recent(sagas: &[Recent], asked: Timestamp, now: Timestamp) -> RecentBody {
    // Of a time that was read in part only the part that was read is told of.
    let cut = sagas.len() as i64 == MOST;
    let since = sagas.last().filter(|_| cut).map_or(asked, |oldest| oldest.created_at);
    let part = (now - since) / PARTS;
    let mut outcomes = BTreeMap::new();
    for saga in sagas {
        let outcome = if has_ended(saga) { &saga.step } else { &saga.status };
        *outcomes.entry(outcome.clone()).or_default() += 1;
    }
    let seconds = (now - since).as_seconds_f64().max(0.001);
    let parts = (0..PARTS).map(|number| {
        let from = since + part * number;
        let mine: Vec<&Recent> =
            sagas.iter().filter(|saga| saga.created_at >= from && saga.created_at < from + part).collect();
        let count = |is: fn(&Recent) -> bool| mine.iter().filter(|saga| is(saga)).count() as u64;
        PartBody {
            from: from.into(),
            seconds: part.as_seconds_f64(),
            completed: count(|saga| saga.status == "COMPLETED"),
            failed: count(|saga| saga.status == "FAILED"),
            unfinished: count(|saga| !has_ended(saga)),
            duration: quantiles(mine.into_iter()),
        }
    });
    RecentBody {
        since: since.into(),
        sagas: sagas.len(),
        per_second: sagas.len() as f64 / seconds,
        outcomes,
        duration: quantiles(sagas.iter()),
        parts: parts.collect(),
    }
}

fn has_ended(saga: &Recent) -> bool {
    matches!(saga.status.as_str(), "COMPLETED" | "FAILED")
}

/// `None` where none has ended.
fn quantiles<'a>(sagas: impl Iterator<Item = &'a Recent>) -> Option<Quantiles> {
    let ended = sagas.filter(|saga| has_ended(saga));
    let mut ms: Vec<f64> =
        ended.map(|saga| (saga.updated_at - saga.created_at).as_seconds_f64().max(0.0) * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| ms.get(((ms.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
    Some(Quantiles { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga(now: Timestamp, seconds_ago: i64, status: &str, step: &str, ms: i64) -> Recent {
        let created_at = now - TimeDelta::seconds(seconds_ago);
        let updated_at = created_at + TimeDelta::milliseconds(ms);
        Recent { status: status.to_owned(), step: step.to_owned(), created_at, updated_at }
    }

    #[test]
    fn recent_sagas_are_told_by_outcome_and_by_time() {
        let now = "2026-01-01T00:15:00Z".parse().unwrap();
        let sagas = [
            saga(now, 1, "RUNNING", "PAYMENT_CHARGE", 0),
            saga(now, 2, "FAILED", "INVENTORY_FAILED", 30),
            saga(now, 3, "COMPLETED", "COMPLETED", 10),
            saga(now, 890, "COMPLETED", "COMPLETED", 20),
        ];
        let told = recent(&sagas, now - TimeDelta::minutes(15), now);

        let outcomes: Vec<_> = told.outcomes.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(outcomes, [("COMPLETED", 2), ("INVENTORY_FAILED", 1), ("RUNNING", 1)]);
        let duration = told.duration.unwrap();
        assert_eq!((duration.p50_ms, duration.p99_ms, duration.max_ms), (20.0, 30.0, 30.0));
        assert_eq!(told.parts.len(), 30);
        let (first, last) = (&told.parts[0], &told.parts[29]);
        assert_eq!((first.completed, first.failed, first.unfinished), (1, 0, 0));
        assert_eq!((last.completed, last.failed, last.unfinished), (1, 1, 1));
        assert!((last.seconds - 30.0).abs() < 1e-9 && told.parts[15].duration.is_none());
    }

    #[test]
    fn where_there_are_too_many_only_what_was_read_is_told_of() {
        let now = "2026-01-01T00:15:00Z".parse().unwrap();
        let sagas: Vec<_> = (0..MOST).map(|n| saga(now, n / 1000, "COMPLETED", "COMPLETED", 5)).collect();
        let told = recent(&sagas, now - TimeDelta::minutes(15), now);
        assert_eq!(told.since.0, now - TimeDelta::seconds(9));
        assert!((told.per_second - MOST as f64 / 9.0).abs() < 1.0, "{}", told.per_second);
    }
}
