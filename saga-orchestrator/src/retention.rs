//! Removes finished orders that are older than `RETENTION_DAYS`, in every service, here last.
//!
//! One order id is the horizon: below it all sagas ended that long ago. It moves over some sagas at a time, is stored,
//! and only then are the services asked to remove what is below it. It moves on once all have done so: whatever is
//! away, or dies, is asked again. A saga that has not ended holds it, so its rows stay, everywhere.

use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::TimeDelta;
use messages::Timestamp;
use messages::object::Object;
use reqwest::{Client, Url};
use service_runtime::database::{StoreError, within_limit};
use service_runtime::http::description::DatabaseProblems;
use service_runtime::http::{Problem, client};
use service_runtime::retention::{AT_ONCE, Horizon, Removed, Retention, first_id_at};
use service_runtime::{CancellationToken, Fatal};
use sqlx::{Connection as _, PgConnection, PgPool};
use tracing::{info, warn};
use utoipa::OpenApi;
use uuid::Uuid;

use crate::SagaSettings;
use crate::store::old_sagas::{self, Candidate};

/// How long after a round the next one begins; and after one that something has interrupted.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_IN_TROUBLE: Duration = Duration::from_secs(5);

/// How long after a batch the next one begins: removing must not crowd out checkouts.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// By how much orders have to be older than the retention: a service whose clock is behind refuses otherwise.
const CLOCKS: TimeDelta = TimeDelta::minutes(10);

/// How long a service may take for a batch.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The key of the advisory lock: one instance removes at a time. It must differ from those of other locks here.
const LOCK: i64 = 0x7265_7465_6e74_696f;

/// Removes what is old.
pub struct Remover {
    pool: PgPool,
    /// `None`: everything is kept.
    limit: Option<TimeDelta>,
    /// Each service's name, and where its rows are.
    participants: [(&'static str, Client, Url); 3],
}

/// Why a round ended before its end.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the {service} service does not remove what is old: {why}")]
    Participant { service: &'static str, why: String },
}

/// What a round has done.
#[derive(Debug, Default)]
struct Round {
    removed: i64,
    /// The order of the saga that holds the horizon, because it has not ended.
    held_by: Option<Uuid>,
}

impl Interrupted {
    /// In words for the log, and the same ones for the same trouble.
    fn why(&self) -> String {
        match self {
            Self::Store(error) => format!("{error}: {}", error.cause().text()),
            Self::Participant { .. } => self.to_string(),
        }
    }
}

impl Remover {
    /// Prepares the clients; nothing is asked yet.
    pub fn new(pool: PgPool, retention: Retention, settings: &SagaSettings) -> Result<Self, Fatal> {
        let participant = |service, variable, url, resource| {
            let (builder, url) = client(variable, url, resource)?;
            let client = builder.timeout(CALL_LIMIT).build();
            let client = client.map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
            Ok::<_, Fatal>((service, client, url))
        };
        let participants = [
            participant("order", "ORDER_SERVICE_URL", settings.order_service_url.get(), "orders")?,
            participant("payment", "PAYMENT_SERVICE_URL", settings.payment_service_url.get(), "payments")?,
            participant("inventory", "INVENTORY_SERVICE_URL", settings.inventory_service_url.get(), "reservations")?,
        ];
        Ok(Self { pool, limit: retention.limit(), participants })
    }

    /// Removes until `stop`: at once, then every minute.
    pub async fn run(&self, stop: CancellationToken) {
        let Some(limit) = self.limit else { return stop.cancelled().await };
        let (mut trouble, mut held_by) = (None, None);
        loop {
            let mut round = Round::default();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.locked_round(limit, &mut round) => outcome.map_err(|error| error.why()).err(),
            };
            if round.removed > 0 {
                info!(sagas = round.removed, "removed what is older than RETENTION_DAYS");
            }
            match (&outcome, &trouble) {
                (Some(why), _) if outcome != trouble => warn!(why, "old orders can't be removed now; trying on"),
                (None, Some(_)) => info!("old orders are removed again"),
                _ => {}
            }
            let pause = if outcome.is_some() { PAUSE_IN_TROUBLE } else { PAUSE };
            trouble = outcome;
            if let Some(order_id) = round.held_by.filter(|_| round.held_by != held_by) {
                warn!(%order_id, "an unfinished saga is older than RETENTION_DAYS: it and what came later is kept");
            }
            held_by = round.held_by;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A round, unless another instance is at it.
    async fn locked_round(&self, limit: TimeDelta, round: &mut Round) -> Result<(), Interrupted> {
        // On a connection of its own: however the round ends, it is closed, and that unlocks.
        let mut lock = self.pool.acquire().await.map_err(StoreError::from)?.detach();
        let outcome = match within_limit(try_lock(&mut lock)).await? {
            true => self.round(limit, round).await,
            false => Ok(()),
        };
        let _ = lock.close().await;
        outcome
    }

    async fn round(&self, limit: TimeDelta, round: &mut Round) -> Result<(), Interrupted> {
        let ended_before = within_limit(old_sagas::now(&self.pool)).await? - limit - CLOCKS;
        let newest = first_id_at(ended_before);
        let mut horizon = within_limit(old_sagas::horizon(&self.pool)).await?.unwrap_or_default();
        if !horizon.is_nil() {
            // What the last round has not finished.
            round.removed += self.remove_below(horizon).await?;
        }
        while horizon < newest {
            let candidates = within_limit(old_sagas::candidates(&self.pool, horizon, newest)).await?;
            round.held_by = held_by(&candidates, ended_before);
            let next = next_horizon(&candidates, ended_before, newest);
            if next <= horizon {
                break;
            }
            within_limit(old_sagas::move_horizon(&self.pool, next)).await?;
            round.removed += self.remove_below(next).await?;
            horizon = next;
        }
        Ok(())
    }

    /// Removes all that is below the horizon; answers how many sagas that were.
    async fn remove_below(&self, horizon: Uuid) -> Result<i64, Interrupted> {
        for (service, client, url) in &self.participants {
            let mut after = Some(Uuid::nil());
            while let Some(from) = after {
                let removed = ask(client, url, horizon, from).await;
                after = removed.map_err(|why| Interrupted::Participant { service, why })?.next;
                tokio::time::sleep(BETWEEN_BATCHES).await;
            }
        }
        let mut removed = 0;
        loop {
            let count = within_limit(old_sagas::remove(&self.pool, horizon)).await?;
            removed += count;
            if count < AT_ONCE {
                return Ok(removed);
            }
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
    }
}

/// Describes the route.
#[derive(OpenApi)]
#[openapi(paths(horizon))]
pub struct Described;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/retention", get(horizon)).with_state(pool)
}

/// The other services ask before they remove anything, whoever wants them to.
#[utoipa::path(
    get, path = "/retention", operation_id = "readHorizon", tag = "Retention", summary = "Below which order all sagas have ended, long ago",
    responses((status = 200, description = "The horizon", body = Horizon, example = json!({"horizon": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9"})), DatabaseProblems),
)]
async fn horizon(State(pool): State<PgPool>) -> Result<Json<Horizon>, Problem> {
    Ok(Json(Horizon { horizon: within_limit(old_sagas::ended_below(&pool)).await? }))
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await?)
}

/// Asks a service to remove one batch.
async fn ask(client: &Client, url: &Url, before: Uuid, after: Uuid) -> Result<Removed, String> {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("before", &before.to_string()).append_pair("after", &after.to_string());
    let answer = client.delete(url).send().await.map_err(|error| error.without_url().to_string())?;
    let status = answer.status();
    if status.is_success() {
        let removed = answer.json().await.map(|Object(removed)| removed);
        return removed.map_err(|error| error.without_url().to_string());
    }
    Err(format!("{status}: {}", answer.text().await.unwrap_or_default()))
}

fn stays(saga: &Candidate, ended_before: Timestamp) -> bool {
    !saga.ended || saga.updated_at >= ended_before
}

/// How far the horizon may move over the next sagas: to the first that stays, or to the last of a full page (more come
/// behind it), else to the `newest` id that is old.
fn next_horizon(candidates: &[Candidate], ended_before: Timestamp, newest: Uuid) -> Uuid {
    let full = candidates.len() as i64 == AT_ONCE;
    let first_to_stay = candidates.iter().find(|saga| stays(saga, ended_before));
    first_to_stay.or_else(|| candidates.last().filter(|_| full)).map_or(newest, |saga| saga.order_id)
}

/// The unfinished saga that the horizon stops at, if that is why it stops.
fn held_by(candidates: &[Candidate], ended_before: Timestamp) -> Option<Uuid> {
    let first_to_stay = candidates.iter().find(|saga| stays(saga, ended_before))?;
    (!first_to_stay.ended).then_some(first_to_stay.order_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: TimeDelta = TimeDelta::days(1);

    fn limit() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    /// A saga that began so long before the limit, and moved last so long before it.
    fn saga(began: TimeDelta, moved: TimeDelta, ended: bool) -> Candidate {
        Candidate { order_id: first_id_at(limit() - began), ended, updated_at: limit() - moved }
    }

    fn moves_to(candidates: &[Candidate]) -> Uuid {
        next_horizon(candidates, limit(), first_id_at(limit()))
    }

    #[test]
    fn the_horizon_moves_over_all_that_ended_long_ago() {
        let old = [saga(DAY * 3, DAY * 2, true), saga(DAY * 2, DAY, true)];
        assert_eq!(moves_to(&old), first_id_at(limit()));
        assert_eq!(held_by(&old, limit()), None);
        assert_eq!(moves_to(&[]), first_id_at(limit()), "an idle platform's horizon moves too");
    }

    #[test]
    fn the_horizon_stops_at_a_saga_that_has_not_ended() {
        let stuck = saga(DAY * 2, DAY * 2, false);
        let sagas = [saga(DAY * 3, DAY * 3, true), stuck, saga(DAY, DAY, true)];
        assert_eq!(moves_to(&sagas), stuck.order_id);
        assert_eq!(held_by(&sagas, limit()), Some(stuck.order_id));
        assert_eq!(moves_to(&sagas[1..]), stuck.order_id, "it does not move past it later either");
    }

    #[test]
    fn the_horizon_stops_at_an_old_saga_that_ended_lately() {
        let late = saga(DAY * 30, -TimeDelta::seconds(1), true);
        assert_eq!(moves_to(&[late, saga(DAY, DAY, true)]), late.order_id);
        assert_eq!(held_by(&[late], limit()), None, "nobody need look after it");
        let just = saga(DAY * 30, TimeDelta::zero(), true);
        assert_eq!(moves_to(&[just]), just.order_id);
    }

    #[test]
    fn behind_a_full_page_there_may_be_more() {
        let page: Vec<Candidate> =
            (0..AT_ONCE as i32).map(|n| saga(DAY * 3 - TimeDelta::seconds(1) * n, DAY, true)).collect();
        assert_eq!(moves_to(&page), page.last().unwrap().order_id);
        assert_eq!(moves_to(&page[1..]), first_id_at(limit()));
    }
}
