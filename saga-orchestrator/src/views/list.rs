//! `GET /sagas`: the newest sagas that fit a filter, page by page.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use flow::{Flow, Name, WAITING};
use messages::schema::Amount;
use messages::{Currency, Timestamp, TimestampText, UserId};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use service_runtime::database::again_if_lost;
use service_runtime::http::Problem;
use service_runtime::http::description::{DatabaseProblems, QueryProblems};
use sqlx::PgPool;
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Views;
use super::saga::AttentionBody;
use crate::described;
use crate::outcome::money;
use crate::registry::Flows;
use crate::store::lists::{self, Filter, Listed, NO_CURRENCY};

pub const STATUSES: [&str; 5] = ["RUNNING", WAITING, "COMPENSATING", "COMPLETED", "FAILED"];

/// How many sagas a page has unless asked otherwise.
const PAGE: i64 = 50;

/// How many it has at most.
pub const MOST: i64 = 500;

/// The query of `GET /sagas`. All of it is optional; what is given must all hold.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// One or more of RUNNING, WAITING, COMPENSATING, COMPLETED, FAILED, with commas between.
    #[param(schema_with = wanted_statuses, style = Form, explode = false)]
    pub status: Option<String>,
    /// What is pending (PAYMENT_CHARGE, ...), or how it ended (COMPLETED, INVENTORY_FAILED, ...).
    #[param(schema_with = described::wanted_step)]
    pub step: Option<String>,
    /// The name of the flow that they run by (pay-first and reserve-first: those of `POST /checkout`).
    pub flow: Option<String>,
    /// `true`: only those that a person should look at.
    pub needs_attention: Option<bool>,
    /// The user who ordered.
    #[param(value_type = Option<UserId>)]
    pub user_id: Option<String>,
    /// The saga of this order.
    pub order_id: Option<Uuid>,
    /// Begun at this time or later (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Begun before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// How many, 1 to 500; 50 unless given.
    #[param(minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<i64>,
    /// Older than this saga: `next` of the page before.
    pub before: Option<Uuid>,
}

/// A page of sagas, newest first.
#[derive(Serialize, ToSchema)]
pub struct ListBody {
    pub sagas: Vec<ListedBody>,
    /// The next page's `before`; null where this is the last.
    pub next: Option<Uuid>,
}

/// A saga in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedBody {
    pub saga_id: Uuid,
    pub order_id: Uuid,
    #[schema(schema_with = described::statuses)]
    pub status: String,
    #[schema(schema_with = described::any_step)]
    pub step: String,
    pub reason: Option<String>,
    #[schema(value_type = UserId)]
    pub user_id: String,
    /// Absent where the flow is about no money, and so is `currency`.
    #[schema(value_type = Option<Amount>, nullable = false)]
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option", skip_serializing_if = "Option::is_none")]
    pub total_amount: Option<Decimal>,
    #[schema(value_type = Option<Currency>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    pub created_at: TimestampText,
    pub updated_at: TimestampText,
    /// The flow that it runs by, with its version: `pay-first v1`.
    pub definition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_attention: Option<AttentionBody>,
}

impl ListedBody {
    /// What it is about: `500 USD`.
    pub fn money(&self) -> Option<String> {
        money(self.total_amount, self.currency.as_ref())
    }
}

fn wanted_statuses() -> ArrayBuilder {
    ArrayBuilder::new().items(described::statuses())
}

#[utoipa::path(
    get, path = "/sagas", operation_id = "listSagas", tag = "Sagas", summary = "The newest sagas that fit, page by page", params(ListQuery),
    responses((status = 200, description = "A page, newest first", body = ListBody), QueryProblems, DatabaseProblems),
)]
/// 200 with a page; 400 for a query that makes no sense, naming what is wrong.
pub async fn list(
    State(views): State<Views>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ListBody>, Problem> {
    let Query(query) = query?;
    Ok(Json(page(&views.pool, &views.flows, &query).await?))
}

/// The page that `query` asks for.
///
/// # Errors
/// 400 naming the parameter that is wrong; 503 or 500 for the database's.
pub async fn page(pool: &PgPool, flows: &Flows, query: &ListQuery) -> Result<ListBody, Problem> {
    let (filter, limit) = (filter(query, &flows.all())?, limit(query)?);
    let mut sagas = again_if_lost(|| lists::list(pool, &filter, limit + 1)).await?;
    let more = sagas.len() as i64 > limit;
    sagas.truncate(usize::try_from(limit).unwrap_or_default());
    let next = sagas.last().filter(|_| more).map(|saga| saga.saga_id);
    Ok(ListBody { sagas: sagas.into_iter().map(ListedBody::from).collect(), next })
}

impl From<Listed> for ListedBody {
    fn from(saga: Listed) -> Self {
        let reason = saga.attention_reason.unwrap_or_default();
        let money = (saga.currency != NO_CURRENCY).then_some((saga.total_amount, saga.currency));
        let (total_amount, currency) = money.unzip();
        Self {
            saga_id: saga.saga_id,
            order_id: saga.order_id,
            status: saga.status,
            step: saga.step,
            reason: saga.reason,
            user_id: saga.user_id,
            total_amount,
            currency,
            created_at: saga.created_at.into(),
            updated_at: saga.updated_at.into(),
            definition: format!("{} v{}", saga.definition, saga.definition_version),
            needs_attention: saga.needs_attention_since.map(|since| AttentionBody { since: since.into(), reason }),
        }
    }
}

/// How many sagas are asked for.
///
/// # Errors
/// 400 for too many, and for none.
pub fn limit(query: &ListQuery) -> Result<i64, Problem> {
    let limit = query.limit.unwrap_or(PAGE);
    let permitted = (1..=MOST).contains(&limit);
    permitted.then_some(limit).ok_or_else(|| Problem::invalid_parameter("limit", format_args!("must be 1 to {}", MOST)))
}

/// Which sagas a query asks for.
///
/// # Errors
/// 400 naming the parameter that is wrong.
pub fn filter(query: &ListQuery, flows: &[Arc<Flow>]) -> Result<Filter, Problem> {
    let mut statuses = Vec::new();
    for wanted in query.status.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|text| !text.is_empty()) {
        let known = STATUSES.into_iter().find(|status| status.eq_ignore_ascii_case(wanted));
        statuses.push(
            known.ok_or_else(|| {
                Problem::invalid_parameter("status", format_args!("must be of {}", STATUSES.join(", ")))
            })?,
        );
    }
    let flow = query.flow.as_deref().map(str::trim).filter(|flow| !flow.is_empty());
    let flow = flow.map(|flow| known_flow(flow, flows)).transpose()?;
    let step = query.step.as_deref().map(str::trim).filter(|step| !step.is_empty());
    let step = step.map(|step| known_step(step, flow.as_deref(), flows)).transpose()?;
    if let Some((_, with)) = &step {
        // It says the same, and has an index. With another status there is none.
        let fitting = with.iter().copied().filter(|status| statuses.is_empty() || statuses.contains(status));
        let fitting: Vec<&str> = fitting.collect();
        if fitting.is_empty() {
            let with = with.join(" or ");
            return Err(Problem::invalid_parameter(
                "step",
                format_args!("is one of status {with}: no saga has it with another"),
            ));
        }
        statuses = fitting;
    }
    let user_id = query
        .user_id
        .clone()
        .map(UserId::try_from)
        .transpose()
        .map_err(|error| Problem::invalid_parameter("userId", error))?;
    Ok(Filter {
        statuses: statuses.into_iter().filter_map(Name::new).collect(),
        step: step.map(|(name, _)| name),
        flow,
        needs_attention: query.needs_attention.unwrap_or_default(),
        is_stuck: false,
        user_id: user_id.map(|user_id| user_id.as_str().to_owned()),
        order_id: query.order_id,
        since: query.since,
        until: query.until,
        before: query.before,
    })
}

/// A flow's name as it is stored.
fn known_flow(wanted: &str, flows: &[Arc<Flow>]) -> Result<String, Problem> {
    let found = flows.iter().find(|flow| flow.name.eq_ignore_ascii_case(wanted));
    found.map(|flow| flow.name.clone()).ok_or_else(|| {
        let mut names: Vec<_> = flows.iter().map(|flow| flow.name.as_str()).collect();
        names.dedup();
        Problem::invalid_parameter("flow", format_args!("must be one of {}", names.join(", ")))
    })
}

/// A step as it is stored, and the statuses that sagas at it have: flows may have steps of the same name.
fn known_step(wanted: &str, flow: Option<&str>, flows: &[Arc<Flow>]) -> Result<(Name, Vec<&'static str>), Problem> {
    let of_flow: Vec<Arc<Flow>> = flows.iter().filter(|of| flow.is_none_or(|name| of.name == name)).cloned().collect();
    let known = known_steps(&of_flow);
    let mut found = known.iter().filter(|(step, _)| step.eq_ignore_ascii_case(wanted)).peekable();
    match found.peek() {
        Some((name, _)) => Ok((name.clone(), found.map(|(_, status)| *status).collect())),
        None => {
            let mut names: Vec<_> = known.iter().map(|(step, _)| step.as_str()).collect();
            names.dedup();
            Err(Problem::invalid_parameter("step", format_args!("must be one of {}", names.join(", "))))
        }
    }
}

/// What may stand in `sagas.step` of sagas of these flows, with the status beside it.
pub fn known_steps(flows: &[Arc<Flow>]) -> Vec<(Name, &'static str)> {
    let steps = || flows.iter().flat_map(|flow| &flow.steps);
    let forward = steps().flat_map(|step| {
        let runs = step.wait().is_none().then(|| (step.name.clone(), "RUNNING"));
        let waits = step.wait().is_some() || !step.progress.is_empty();
        runs.into_iter().chain(waits.then(|| (step.name.clone(), WAITING)))
    });
    let back = steps().filter_map(|step| Some((step.undo.as_ref()?.name.clone(), "COMPENSATING")));
    let completed = Name::new("COMPLETED").map(|name| (name, "COMPLETED"));
    let causes = flows.iter().flat_map(|flow| &flow.causes).map(|cause| (cause.clone(), "FAILED"));
    let mut known: Vec<(Name, &str)> = Vec::new();
    for step in forward.chain(back).chain(completed).chain(causes) {
        if !known.contains(&step) {
            known.push(step);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use flow::{Origin, check};

    use super::*;
    use crate::saga::flows::pay_first;

    fn asked(query: &str) -> Result<Filter, String> {
        let uri = format!("http://x/sagas?{query}").parse().unwrap();
        let Query(query) = Query::<ListQuery>::try_from_uri(&uri).map_err(|error| error.body_text())?;
        let trip = check(include_str!("../../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        filter(&query, &[pay_first(), trip]).and_then(|filter| limit(&query).map(|_| filter)).map_err(|problem| {
            assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
            serde_json::to_string(&problem).unwrap()
        })
    }

    #[test]
    fn a_step_tells_the_status_that_has_an_index() {
        let statuses = |query| asked(query).unwrap().statuses;
        assert_eq!(statuses("step=timed_out"), ["FAILED"]);
        assert_eq!(statuses("step=PAYMENT_REFUND"), ["COMPENSATING"]);
        assert_eq!(statuses("step=ORDER_CONFIRM"), ["RUNNING"]);
        assert_eq!(statuses("status=failed,%20COMPLETED"), ["FAILED", "COMPLETED"]);
        assert!(statuses("").is_empty());
    }

    #[test]
    fn what_is_left_blank_is_no_filter() {
        let page = format!("limit=5&before={}", Uuid::nil());
        for query in ["", "status=", "status=,", "status=%20,%20", "flow=%20&step=%20", "needsAttention=false", &page] {
            assert!(asked(query).unwrap().is_all(), "{query}");
        }
        let order = format!("orderId={}", Uuid::nil());
        for query in [
            "status=failed,",
            "step=NO_SEAT",
            "flow=trip",
            "needsAttention=true",
            "userId=u1",
            &order,
            "since=2026-01-31T12:00:00Z",
            "until=2026-01-31T12:00:00Z",
        ] {
            assert!(!asked(query).unwrap().is_all(), "{query}");
        }
    }

    #[test]
    fn steps_and_causes_of_every_flow_are_known_and_of_one_flow_only_its_own() {
        let trips = asked("step=no_seat&flow=Trip").unwrap();
        assert_eq!((trips.flow.as_deref(), &trips.statuses[..]), (Some("trip"), &[Name::new("FAILED").unwrap()][..]));
        assert_eq!(asked("step=CAR_RENT").unwrap().step.unwrap(), "CAR_RENT");
        let error = asked("flow=trip&step=PAYMENT_CHARGE").map(|_| ()).unwrap_err();
        assert!(error.contains("HOTEL_BOOK") && !error.contains("PAYMENT_REFUND"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, name) in [
            ("status=DONE", "RUNNING, WAITING, COMPENSATING, COMPLETED, FAILED"),
            ("step=PAY", "PAYMENT_CHARGE"),
            ("step=TIMED_OUT&status=RUNNING", "`step` is one of status FAILED"),
            ("flow=cruise", "pay-first, trip"),
            ("limit=0", "`limit` must be 1 to 500"),
            ("limit=501", "`limit` must be 1 to 500"),
            ("user=u1", "user"),
            ("orderId=7", "orderId"),
            ("since=yesterday", "since"),
        ] {
            let error = asked(query).map(|_| ()).unwrap_err();
            assert!(error.contains(name), "{query}: {error}");
        }
    }
}
