//! Retention: how long rows are kept, and the request by which those of old ids are removed, in small batches.
//!
//! Ids are UUIDs of version 7, which begin with the time they were minted at. So one id is a horizon: every smaller
//! one is older. It is stored with what it removes, in one statement, and stands for all that was removed: a command
//! about an id below it that has no row is not a new one.

mod orchestrator;
mod rows;

use std::fmt;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::delete;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta};
use messages::{Timestamp, TimestampText};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema, openapi};
use uuid::{Builder, Uuid};

use crate::database::DatabaseClock;
use crate::http::description::{DatabaseProblems, PROBLEM_JSON, QueryProblems};
use crate::http::{Problem, refuse_idempotency_key};
use crate::settings::{Settings, SettingsError, require};

pub use self::orchestrator::{Horizon, Orchestrator, OrchestratorSettings};
pub use self::rows::{Rows, Table};

use self::rows::Removal;

/// How many rows one statement looks at.
pub const AT_ONCE: i64 = 1000;

/// Ids of this age may be below a horizon. The least retention is a day; clocks differ by less than the rest.
const MAY_BE_REMOVED: TimeDelta = TimeDelta::hours(12);

/// The longest retention, in days: some hundred years.
const MOST_DAYS: u32 = 36_500;

/// `RETENTION_DAYS`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Retention {
    retention_days: u32,
}

impl TryFrom<&Settings> for Retention {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        require("retention_days", section.retention_days <= MOST_DAYS, "must be at most 36500")?;
        Ok(section)
    }
}

impl Retention {
    /// How long rows are kept. `None`: for ever.
    pub fn limit(self) -> Option<TimeDelta> {
        (self.retention_days > 0).then(|| TimeDelta::days(self.retention_days.into()))
    }

    /// What may be removed below `before`: 409 for what is to be kept, 422 for what is no id of version 7.
    fn permit(self, before: Uuid, now: Timestamp) -> Result<Timestamp, Problem> {
        let refused = |why: String| Problem::new(StatusCode::CONFLICT, why);
        let limit = self.limit().ok_or_else(|| refused("RETENTION_DAYS is 0 here: everything is kept".to_owned()))?;
        let minted =
            minted_at(before).ok_or_else(|| Problem::invalid_field("before", "must be a UUID of version 7"))?;
        let unchanged_since = now - limit;
        if minted > unchanged_since {
            return Err(refused(format!(
                "{before} is of {}: younger than RETENTION_DAYS={self}, which holds here",
                TimestampText(minted)
            )));
        }
        Ok(unchanged_since)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.retention_days.fmt(f)
    }
}

/// The smallest id that is minted at `at` (RFC 9562, section 5.7: it begins with the ms since 1970).
pub fn first_id_at(at: Timestamp) -> Uuid {
    Builder::from_unix_timestamp_millis(at.timestamp_millis().try_into().unwrap_or(0), &[0; 10]).into_uuid()
}

/// When an id was minted. `None` for one of another version.
pub fn minted_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanoseconds) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    DateTime::from_timestamp(seconds.try_into().ok()?, nanoseconds)
}

/// Whether an id's row may have been removed: then ask the database before a row is written for it anew. New ids,
/// that is nearly all, are not worth the question.
pub fn may_be_removed(id: Uuid, now: Timestamp) -> bool {
    minted_at(id).is_none_or(|minted| minted < now - MAY_BE_REMOVED)
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    #[schema(minimum = 0, maximum = 1000)]
    pub removed: i64,
    /// There may be more behind this id: the next batch's `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
}

impl Removed {
    /// Of a batch that looked at so many rows, up to `last`.
    pub fn of(removed: i64, looked_at: i64, last: Option<Uuid>) -> Self {
        Self { removed, next: last.filter(|_| looked_at == AT_ONCE) }
    }
}

/// `DELETE <path>?before=<id>&after=<id>`: removes one batch. 200 with [`Removed`]; 409 when this service's own
/// `RETENTION_DAYS` does not permit it, or sagas below `before` may not have ended, so that a mistaken call removes
/// nothing.
pub fn router(
    path: &str,
    rows: Rows,
    retention: Retention,
    orchestrator: Orchestrator,
    clock: DatabaseClock,
) -> Router {
    Router::new().route(path, delete(remove)).with_state((rows, retention, orchestrator, clock))
}

/// The query of a removal.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Batch {
    /// The horizon, a UUID of version 7: rows of smaller ids are removed.
    before: Uuid,
    /// `next` of the batch before.
    #[serde(default)]
    #[param(required = false)]
    after: Uuid,
}

#[derive(OpenApi)]
#[openapi(paths(remove))]
struct Described;

/// Describes the removal at `path`.
pub fn described(path: &str) -> openapi::OpenApi {
    openapi::OpenApi::default().nest(path, Described::openapi())
}

/// It removes what ended before, and changed last, longer ago than this service's own `RETENTION_DAYS`; and only where the
/// orchestrator, which is asked, knows that all sagas below `before` have ended.
#[utoipa::path(
    delete, path = "", operation_id = "remove", tag = "Retention", summary = "Remove a batch of old rows", params(Batch),
    responses(
        QueryProblems, DatabaseProblems,
        (status = 200, description = "So many were removed; with `next` there may be more", body = Removed,
            example = json!({"removed": 1000, "next": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9"})),
        (status = 409, description = "`RETENTION_DAYS` does not permit it, or sagas of these orders may not have ended: nothing was removed", body = Problem, content_type = PROBLEM_JSON),
        (status = 422, description = "`before` is no UUID of version 7", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
async fn remove(
    State((rows, retention, orchestrator, clock)): State<(Rows, Retention, Orchestrator, DatabaseClock)>,
    headers: HeaderMap,
    batch: Result<Query<Batch>, QueryRejection>,
) -> Result<Json<Removed>, Problem> {
    refuse_idempotency_key(&headers)?;
    let Query(Batch { before, after }) = batch?;
    let unchanged_since = retention.permit(before, clock.now())?;
    orchestrator.permits(before).await?;
    Ok(Json(rows.remove(&Removal { before, after, unchanged_since }).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_tells_when_it_was_minted_and_the_first_of_a_moment_is_the_smallest() {
        let moment = at("2026-01-01T00:00:00.123Z");
        let first = first_id_at(moment);
        assert_eq!(first.to_string(), "019b76da-a87b-7000-8000-000000000000");
        assert_eq!(minted_at(first), Some(moment));
        let before = first_id_at(moment - TimeDelta::milliseconds(1));
        assert!(before < first && first < first_id_at(moment + TimeDelta::milliseconds(1)));
        let now = crate::now();
        let new = Uuid::now_v7();
        assert!(first_id_at(now) <= new, "{new}");
        assert!((minted_at(new).unwrap() - now).abs() < TimeDelta::seconds(10));
        assert_eq!(minted_at("8e03978e-40d5-43dd-bc93-6894a57f9324".parse().unwrap()), None);
    }

    #[test]
    fn only_a_horizon_older_than_the_services_own_retention_is_permitted() {
        let now = at("2026-03-01T00:00:00Z");
        let status = |days, before| Retention { retention_days: days }.permit(before, now).map_err(|p| p.status());
        let horizon = first_id_at(now - TimeDelta::days(10));
        assert_eq!(status(10, horizon), Ok(now - TimeDelta::days(10)));
        assert_eq!(status(9, horizon), Ok(now - TimeDelta::days(9)));
        assert_eq!(status(11, horizon), Err(StatusCode::CONFLICT));
        assert_eq!(status(0, horizon), Err(StatusCode::CONFLICT));
        assert_eq!(status(10, Uuid::nil()), Err(StatusCode::UNPROCESSABLE_ENTITY));
    }

    #[test]
    fn a_refusal_names_the_setting() {
        for days in [0, 30] {
            let problem = Retention { retention_days: days }.permit(Uuid::now_v7(), crate::now()).unwrap_err();
            let body = serde_json::to_string(&problem).unwrap();
            assert!(body.contains("RETENTION_DAYS"), "{body}");
        }
    }

    #[test]
    fn only_old_ids_and_those_that_do_not_tell_their_age_may_be_removed() {
        let now = crate::now();
        assert!(!may_be_removed(Uuid::now_v7(), now));
        assert!(may_be_removed(first_id_at(now - TimeDelta::days(1)), now));
        assert!(may_be_removed("8e03978e-40d5-43dd-bc93-6894a57f9324".parse().unwrap(), now));
    }
}
