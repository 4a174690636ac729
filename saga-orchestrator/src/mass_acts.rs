//! An operator's act on all sagas that fit a filter. `GET /sagas/retry` and `GET /sagas/cancel` take the query of
//! `GET /sagas` and show which sagas the act is for; `POST` does it on a page of them, each by the function of the act on
//! one saga, and returns where the next page begins. Nothing is remembered here: a client that goes on sends the next
//! request, and one that is gone, or starts anew, leaves sagas that still fit and others that do not any more.

mod act;
mod pace;
mod preview;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use service_runtime::database::{StoreError, again_if_lost};
use service_runtime::http::description::{BodyProblems, DatabaseProblems, QueryProblems};
use service_runtime::http::{JsonBody, Problem};
use service_runtime::trace;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Required};
use utoipa::{Modify, OpenApi, ToSchema, openapi};
use uuid::Uuid;

pub use self::act::MassAct;
use self::pace::Pace;
pub use self::preview::{PlaceBody, PreviewBody, preview, sums};
use crate::coordinator::{ApplyError, Coordinator};
use crate::operator::{self, Act, NotDone, step_into};
use crate::registry::Flows;
use crate::saga::Operator;
use crate::store::lists::{self, Listed};
use crate::views::list::{self, ListQuery};

/// No saga is begun with after so long in one request. What is left of its page is the next request's.
const AT_WORK: Duration = Duration::from_secs(5);

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(preview_retry, retry, preview_cancel, cancel), modifiers(&NeedsLimit))]
pub struct Described;

/// An act's `limit` has to be given, that of a list not.
struct NeedsLimit;

impl Modify for NeedsLimit {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let acts = document.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
        let parameters = acts.filter_map(|act| act.parameters.as_mut()).flatten();
        for parameter in parameters {
            if let RefOr::T(limit) = parameter
                && limit.name == "limit"
            {
                limit.required = Required::True;
                limit.description = Some(format!("How many, 1 to {}.", list::MOST));
                let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
                limit.schema = Some(number.maximum(Some(list::MOST)).into());
            }
        }
    }
}

/// The routes. The acts of all requests together ask other services for no more than `per_second` things a second.
pub fn router(coordinator: Arc<Coordinator>, pool: PgPool, per_second: u32) -> Router {
    let acts = MassActs { coordinator, pool, pace: Pace::of(per_second) };
    Router::new()
        .route("/sagas/retry", get(preview_retry).post(retry))
        .route("/sagas/cancel", get(preview_cancel).post(cancel))
        .with_state(Arc::new(acts))
}

struct MassActs {
    coordinator: Arc<Coordinator>,
    pool: PgPool,
    pace: Pace,
}

/// Who, why, on how many, and whether all sagas are meant where the query has no filter.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MassActBody {
    #[schema(schema_with = operator::name)]
    by: String,
    #[schema(schema_with = operator::words)]
    reason: String,
    /// Has to be `true` where the query has no filter.
    #[serde(default)]
    all: bool,
    /// On how many it is done at most, 1 to 500. Those that it is refused for do not count.
    #[serde(default = "most", rename = "atMost")]
    #[schema(minimum = 1, maximum = 500, default = 500)]
    at_most: i64,
}

const fn most() -> i64 {
    list::MOST
}

/// What became of a page of sagas.
#[derive(Serialize, ToSchema)]
struct ActedBody {
    /// How many the act was done on.
    #[schema(minimum = 0)]
    done: usize,
    /// Those that it was not done on, by why.
    refused: Vec<RefusedBody>,
    /// The next request's `before`; null where no more fit.
    next: Option<Uuid>,
}

/// Sagas that an act was not done on for one reason.
#[derive(Serialize, ToSchema)]
struct RefusedBody {
    reason: String,
    #[schema(minimum = 1)]
    sagas: usize,
}

type Asked = Result<Query<ListQuery>, QueryRejection>;

#[utoipa::path(
    get, path = "/sagas/retry", operation_id = "previewRetries", tag = "Operators", params(ListQuery),
    summary = "Which sagas of a query nobody has answered in time",
    responses((status = 200, description = "How many, where they stand, and the newest of them. Nothing is changed", body = PreviewBody), QueryProblems, DatabaseProblems),
)]
/// Those that were repeated, are due to be, or need attention. `limit` does not count here.
async fn preview_retry(State(acts): State<Arc<MassActs>>, query: Asked) -> Result<Json<PreviewBody>, Problem> {
    previewed(&acts, MassAct::Retry, query).await
}

#[utoipa::path(
    post, path = "/sagas/retry", operation_id = "retrySagas", tag = "Operators", params(ListQuery),
    summary = "Have what is pending repeated now, by many sagas",
    request_body(content = MassActBody, example = json!({"by": "ann", "reason": "the gateway is back"})),
    responses((status = 200, description = "What became of this page", body = ActedBody), BodyProblems, DatabaseProblems),
)]
/// A page of those that nobody has answered in time, newest first: of at most `limit`, which has to be given. They are
/// asked for no faster than the sweeper repeats (`RESEND_PER_SECOND`), so a request may end before its page does.
async fn retry(
    State(acts): State<Arc<MassActs>>,
    query: Asked,
    body: JsonBody<MassActBody>,
) -> Result<Json<ActedBody>, Problem> {
    acted(&acts, MassAct::Retry, query, body).await
}

#[utoipa::path(
    get, path = "/sagas/cancel", operation_id = "previewCancels", tag = "Operators", params(ListQuery),
    summary = "Which sagas of a query have not turned back",
    responses((status = 200, description = "How many, where they stand, and the newest of them. Nothing is changed", body = PreviewBody), QueryProblems, DatabaseProblems),
)]
/// Those that run or wait; where their flow does not permit it any more, `refused` has the rule. `limit` does not count
/// here.
async fn preview_cancel(State(acts): State<Arc<MassActs>>, query: Asked) -> Result<Json<PreviewBody>, Problem> {
    previewed(&acts, MassAct::Cancel, query).await
}

#[utoipa::path(
    post, path = "/sagas/cancel", operation_id = "cancelSagas", tag = "Operators", params(ListQuery),
    summary = "Have many sagas undone",
    request_body(content = MassActBody, example = json!({"by": "ann", "reason": "the hotel has closed"})),
    responses((status = 200, description = "What became of this page", body = ActedBody), BodyProblems, DatabaseProblems),
)]
/// A page of those that run or wait, newest first: of at most `limit`, which has to be given. They turn back no faster
/// than the sweeper repeats (`RESEND_PER_SECOND`), so a request may end before its page does.
async fn cancel(
    State(acts): State<Arc<MassActs>>,
    query: Asked,
    body: JsonBody<MassActBody>,
) -> Result<Json<ActedBody>, Problem> {
    acted(&acts, MassAct::Cancel, query, body).await
}

fn read(query: Asked) -> Result<ListQuery, Problem> {
    let Query(query) = query?;
    Ok(query)
}

async fn previewed(acts: &MassActs, act: MassAct, query: Asked) -> Result<Json<PreviewBody>, Problem> {
    Ok(Json(preview(&acts.pool, &acts.coordinator.flows, act, &read(query)?).await?))
}

async fn acted(
    acts: &MassActs,
    act: MassAct,
    query: Asked,
    JsonBody(body): JsonBody<MassActBody>,
) -> Result<Json<ActedBody>, Problem> {
    let query = read(query)?;
    let MassActBody { by, reason, all, at_most } = body;
    let Act { by, reason } = Act { by, reason }.validated()?;
    let meant = act.meant(&query, &acts.coordinator.flows)?;
    if query.limit.is_none() {
        return Err(Problem::invalid_parameter("limit", "must be given: on how many sagas at most it is done"));
    }
    let limit = list::limit(&query)?;
    if meant.all && !all {
        return Err(Problem::invalid_field("all", "must be true where the query has no filter: all sagas are meant"));
    }
    if !(1..=list::MOST).contains(&at_most) {
        return Err(Problem::invalid_field("atMost", format_args!("must be 1 to {}", list::MOST)));
    }
    let fitting = again_if_lost(|| lists::list(&acts.pool, &meant.filter, limit + 1)).await?;
    let flows = &acts.coordinator.flows;
    let judged: Vec<Judged> = fitting.into_iter().map(|saga| Judged::of(act, flows, saga)).collect();
    let (page, more) = judged.split_at(end_of(&judged, limit, at_most));
    acts.on(page, !more.is_empty(), &Operator { by, reason, act: act.of_operator() }).await.map(Json)
}

/// A saga of a page.
struct Judged {
    saga_id: Uuid,
    /// Why the act is refused where it stands.
    refused: Option<String>,
}

impl Judged {
    fn of(act: MassAct, flows: &Flows, saga: Listed) -> Self {
        let definition = (saga.definition.as_str(), saga.definition_version);
        Self { saga_id: saga.saga_id, refused: act.refused(flows, definition, &saga.status, &saga.step) }
    }
}

/// Where a page ends: after `limit` sagas, or before the first one that the act would be done on though it has been on
/// `at_most`.
fn end_of(sagas: &[Judged], limit: i64, at_most: i64) -> usize {
    let [limit, at_most] = [limit, at_most].map(|count| usize::try_from(count).unwrap_or_default());
    let mut permitted = sagas.iter().enumerate().filter(|(_, saga)| saga.refused.is_none());
    let end = permitted.nth(at_most).map_or(sagas.len(), |(at, _)| at);
    end.min(limit)
}

impl MassActs {
    /// Does an act on these sagas, in their order. `more`: others fit behind them.
    async fn on(&self, page: &[Judged], more: bool, operator: &Operator) -> Result<ActedBody, Problem> {
        let begun = Instant::now();
        let (mut acting, mut tally, mut at) = (JoinSet::new(), Tally::default(), 0);
        for group in page.chunks(self.pace.group) {
            at += group.len();
            let mut permitted = Vec::new();
            for saga in group {
                match &saga.refused {
                    Some(why) => tally.refuse(why.clone()),
                    None => permitted.push(saga.saga_id),
                }
            }
            self.pace.turn_of(permitted.len()).await;
            for saga_id in permitted {
                let (coordinator, operator) = (self.coordinator.clone(), operator.clone());
                acting.spawn(trace::carried(async move { step_into(&coordinator, saga_id.into(), operator).await }));
            }
            if begun.elapsed() > AT_WORK {
                break;
            }
        }
        let mut failure = None;
        for outcome in acting.join_all().await {
            if let Err(error) = tally.count(outcome.map(drop)) {
                failure.get_or_insert(error);
            }
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
        let next = page[..at].last().filter(|_| more || at < page.len()).map(|saga| saga.saga_id);
        Ok(tally.told(next))
    }
}

/// What became of sagas so far.
#[derive(Default)]
struct Tally {
    done: usize,
    refused: BTreeMap<String, usize>,
}

impl Tally {
    fn refuse(&mut self, why: String) {
        *self.refused.entry(why).or_default() += 1;
    }

    /// Counts what became of one saga. An error is the database's own, and may concern all of them.
    fn count(&mut self, outcome: Result<(), NotDone>) -> Result<(), StoreError> {
        match outcome {
            Ok(()) => self.done += 1,
            Err(NotDone::Refused(why)) => self.refuse(why),
            Err(NotDone::Failed(ApplyError::Store(error))) => match &error {
                StoreError::NotSent(_) | StoreError::Unavailable(_) => return Err(error),
                StoreError::Locked(_) => self.refuse("another transaction holds the saga's row".to_owned()),
                StoreError::Refused(cause) => {
                    cause.log("an operator's act can't be stored");
                    self.refuse("internal error: the server's log has its cause".to_owned());
                }
            },
            Err(NotDone::Failed(ApplyError::UnknownSaga(_))) => self.refuse("the saga was removed".to_owned()),
            Err(NotDone::Failed(ApplyError::UnknownDefinition { definition, .. })) => {
                self.refuse(format!("the saga runs by {definition}, which this release does not know"));
            }
            // Only a participant's reply can contradict its saga.
            Err(NotDone::Failed(ApplyError::Contradiction(why))) => self.refuse(why),
        }
        Ok(())
    }

    fn told(self, next: Option<Uuid>) -> ActedBody {
        let refused = self.refused.into_iter().map(|(reason, sagas)| RefusedBody { reason, sagas }).collect();
        ActedBody { done: self.done, refused, next }
    }
}

#[cfg(test)]
mod tests {
    use messages::SagaId;
    use service_runtime::Cause;

    use super::*;

    #[test]
    fn a_page_has_as_many_as_are_permitted_and_passes_those_that_are_refused() {
        let page = |places: &str| -> Vec<Judged> {
            let refused = places.chars().map(|place| (place == 'r').then(|| "a rule".to_owned()));
            refused.map(|refused| Judged { saga_id: Uuid::nil(), refused }).collect()
        };
        for (sagas, limit, at_most, end) in [
            ("rrrpr", 500, 1, 5),
            ("rrrprp", 500, 1, 5),
            ("ppp", 500, 3, 3),
            ("pppp", 500, 3, 3),
            ("pppp", 2, 3, 2),
            ("rrrp", 3, 1, 3),
            ("", 500, 1, 0),
        ] {
            assert_eq!(end_of(&page(sagas), limit, at_most), end, "{sagas} of {limit}, {at_most} at most");
        }
    }

    #[test]
    fn what_concerns_one_saga_is_counted_by_why_and_what_concerns_the_database_ends_the_request() {
        let store = |error: StoreError| Err(NotDone::Failed(ApplyError::Store(error)));
        let cause = || Cause::from("relation \"sagas\"".to_owned());
        let saga_id: SagaId = Uuid::nil().into();
        let mut tally = Tally::default();
        for outcome in [
            Ok(()),
            Err(NotDone::Refused("it has ended".to_owned())),
            Err(NotDone::Refused("it has ended".to_owned())),
            store(StoreError::Locked(cause())),
            store(StoreError::Refused(cause())),
            Err(NotDone::Failed(ApplyError::UnknownSaga(saga_id))),
            Err(NotDone::Failed(ApplyError::UnknownDefinition { saga_id, definition: "trip v9".to_owned() })),
        ] {
            tally.count(outcome).unwrap();
        }
        for away in [StoreError::NotSent(cause()), StoreError::Unavailable(cause())] {
            tally.count(store(away)).unwrap_err();
        }
        let told = tally.told(None);
        let refused: Vec<_> = told.refused.iter().map(|refused| (refused.reason.as_str(), refused.sagas)).collect();
        let expected = [
            ("another transaction holds the saga's row", 1),
            ("internal error: the server's log has its cause", 1),
            ("it has ended", 2),
            ("the saga runs by trip v9, which this release does not know", 1),
            ("the saga was removed", 1),
        ];
        assert_eq!((told.done, &refused[..]), (1, &expected[..]));
    }
}
