//! `GET /sagas/{id}/rows`: what the other three services have stored about the saga's order, as they report it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use flow::{Asked, Flow, Step};
use messages::{OrderId, SagaId};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service_runtime::Fatal;
use service_runtime::database::again_if_lost;
use service_runtime::http::description::{DatabaseProblems, IdProblems, PROBLEM_JSON};
use service_runtime::http::{PathText, Problem, client};
use utoipa::ToSchema;

use super::Views;
use crate::SagaSettings;
use crate::outcome::{of_unknown_definition, parse_id};
use crate::store::{self, Stored};

/// How long a service may take: a person is waiting.
const LIMIT: Duration = Duration::from_secs(2);

/// What the other services tell of one order. Null: the saga's flow does not ask that service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowsBody {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    #[schema(required = true)]
    pub order: Option<Told>,
    #[schema(required = true)]
    pub payment: Option<Told>,
    #[schema(required = true)]
    pub reservation: Option<Told>,
}

/// A service's answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// What was asked: `GET http://localhost:4002/payments/…`.
    pub request: String,
    /// Its row, or null where it has none.
    #[schema(value_type = Option<serde_json::Value>)]
    pub row: Option<Box<RawValue>>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The three other services.
#[derive(Clone)]
pub struct Participants {
    order: (Client, Url),
    payment: (Client, Url),
    inventory: (Client, Url),
}

impl Participants {
    /// Prepares the clients; nothing is asked yet.
    pub fn new(settings: &SagaSettings) -> Result<Self, Fatal> {
        let participant = |variable, url, resource| {
            let (builder, url) = client(variable, url, resource)?;
            let client = builder.timeout(LIMIT).build();
            let client = client.map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
            Ok::<_, Fatal>((client, url))
        };
        Ok(Self {
            order: participant("ORDER_SERVICE_URL", settings.order_service_url.get(), "orders")?,
            payment: participant("PAYMENT_SERVICE_URL", settings.payment_service_url.get(), "payments")?,
            inventory: participant("INVENTORY_SERVICE_URL", settings.inventory_service_url.get(), "reservations")?,
        })
    }

    /// Asks those that the saga's flow asks, all at once. One that does not answer is reported as such.
    pub async fn rows(&self, saga_id: SagaId, order_id: OrderId, flow: &Flow) -> RowsBody {
        let of = async |is_asked: bool, participant| {
            if is_asked { Some(ask(participant, order_id).await) } else { None }
        };
        let asks_topic =
            |first: &str| asked(flow).any(|of| matches!(of, Asked::Topic(topic) if topic.starts_with(first)));
        let asks_order = asked(flow).any(|of| matches!(of, Asked::Action(_)));
        let (order, payment, reservation) = tokio::join!(
            of(asks_order, &self.order),
            of(asks_topic("payment."), &self.payment),
            of(asks_topic("inventory."), &self.inventory),
        );
        RowsBody { saga_id, order_id, order, payment, reservation }
    }
}

/// Whom the steps of a flow ask.
fn asked(flow: &Flow) -> impl Iterator<Item = &Asked> {
    flow.steps.iter().filter_map(Step::question).map(|question| &question.ask.of)
}

async fn ask((client, collection): &(Client, Url), order_id: OrderId) -> Told {
    let of_order = |collection: &Url| format!("{}/{order_id}", collection.as_str().trim_end_matches('/'));
    let url = of_order(collection);
    // A name and a password in it are no reader's business.
    let mut shown = collection.clone();
    let _ = shown.set_username("").and_then(|()| shown.set_password(None));
    let request = format!("GET {}", of_order(&shown));
    let answer = async {
        let answer = client.get(&url).send().await.map_err(|error| no_answer(&error))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| no_answer(&error))?;
        match status {
            StatusCode::OK => RawValue::from_string(body).map(Some).map_err(|_| "its answer is not JSON".to_owned()),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(refusal(status, &body)),
        }
    };
    match answer.await {
        Ok(row) => Told { request, row, error: None },
        Err(error) => Told { request, row: None, error: Some(error) },
    }
}

fn no_answer(error: &reqwest::Error) -> String {
    match (error.is_timeout(), error.is_connect()) {
        (true, _) => format!("it did not answer within {LIMIT:?}"),
        (false, true) => "it can't be reached".to_owned(),
        (false, false) => "its answer broke off".to_owned(),
    }
}

/// Its own words are not repeated, since it may be an older release that quotes its database; the id is, under which its
/// log has the cause.
fn refusal(status: StatusCode, body: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        error_id: String,
    }
    match serde_json::from_str::<Refusal>(body) {
        Ok(Refusal { error_id }) => format!("it answered {status}, error {error_id}"),
        Err(_) => format!("it answered {status}"),
    }
}

#[utoipa::path(
    get, path = "/sagas/{id}/rows", operation_id = "readRows", tag = "Sagas", summary = "What the other services have stored about the saga's order",
    params(("id" = SagaId, Path, description = "The saga's id")),
    responses(
        (status = 200, description = "Each service's row, or why it could not be asked; null where the saga's flow does not ask it", body = RowsBody), IdProblems, DatabaseProblems,
        (status = 409, description = "It runs by a definition that this release does not know", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 200 with what each service has; a service that is away has an `error` instead of a row. 404 for an unknown saga.
pub async fn rows(State(views): State<Views>, PathText(id): PathText) -> Result<Json<RowsBody>, Problem> {
    let saga_id = parse_id(&id)?;
    match again_if_lost(|| store::read(&views.pool, &views.flows, saga_id)).await? {
        Some(Stored::Saga(saga)) => Ok(Json(views.participants.rows(saga_id, saga.order_id, &saga.flow).await)),
        Some(Stored::UnknownDefinition { name, version, .. }) => Err(of_unknown_definition(saga_id, &name, version)),
        None => Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no saga {saga_id}"))),
    }
}
