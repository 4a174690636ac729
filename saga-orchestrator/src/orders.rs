//! Calls of the order service. What its answers mean to a saga is told by [`crate::saga::answers`].
//!
//! Calls that arrive while a request is under way share the next one (`POST /batch`): on its way a request costs more
//! than what it asks for.

use std::time::Duration;

use futures::future::try_join_all;
use messages::object::Object;
use messages::{Currency, OrderId, SagaId, TRACEPARENT};
use reqwest::{Client, Method, StatusCode, header};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use service_runtime::batch::{Answers, Backoff, Batch, Batcher};
use service_runtime::http::batch::{BatchedAnswer, BatchedRequest};
use service_runtime::http::client;
use service_runtime::metrics::Metrics;
use service_runtime::trace::{self, Kind, Span};
use service_runtime::{Fatal, percent_encoded};
use tracing::{debug, warn};

use crate::SagaSettings;
use crate::saga::answers::interpret;
use crate::saga::{OrderCall, Reply};

/// Quick retries of one call; beyond them the sweeper calls again.
const TRIES: u32 = 3;

/// How many characters of why an order is cancelled are sent: the head of a request has 16 KiB.
const MAX_WHY: usize = 500;

/// How many bytes of an unexpected answer are logged.
const MAX_LOGGED: usize = 1024;

/// The order service.
pub struct OrderService {
    /// Apart, so that an order that somebody has locked in the database holds up no new ones.
    creates: Batcher<Calls>,
    changes: Batcher<Calls>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateBody<'a> {
    order_id: OrderId,
    saga_id: SagaId,
    user_id: &'a str,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    total_amount: Decimal,
    currency: Currency,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TransitionBody {
    status: &'static str,
    saga_id: SagaId,
}

impl OrderService {
    /// Prepares the client; nothing is sent yet.
    pub fn connect(settings: &SagaSettings, metrics: &Metrics) -> Result<Self, Fatal> {
        let (client, base) = client("ORDER_SERVICE_URL", settings.order_service_url.get(), "")?;
        let base = base.as_str().trim_end_matches('/').to_owned();
        let client = client
            .timeout(Duration::from_millis(settings.order_service_timeout_ms))
            .build()
            .map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
        let calls = || Batcher::start(Calls { client: client.clone(), base: base.clone() }, metrics);
        Ok(Self { creates: calls(), changes: calls() })
    }

    /// Makes a call. `None` where the outcome is not known: the call is to be made again.
    pub async fn call(&self, call: &OrderCall) -> Option<Reply> {
        let calls = match call {
            OrderCall::Create { .. } => &self.creates,
            OrderCall::Confirm { .. } | OrderCall::Cancel { .. } => &self.changes,
        };
        let span = trace::child(Kind::Client, || span_name(call).into());
        let traceparent = span.context().map(|context| context.to_string());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(200));
        for last in (0..TRIES).map(|tried| tried + 1 == TRIES) {
            let passing = match calls.submit(Call { call: call.clone(), traceparent: traceparent.clone() }).await {
                Ok(Answered::With(answer)) if is_passing(answer.status) => answer.body.to_string(),
                Ok(Answered::With(answer)) => {
                    span.set("http.response.status_code", i64::from(answer.status.as_u16()));
                    return understood(call, &answer);
                }
                Ok(Answered::NotSent(why)) => why,
                // A time-out has used up its time: the sweeper's turn.
                Ok(Answered::Unknown(why)) => return unknown(call, &span, &why),
                Err(error) => return unknown(call, &span, &error.to_string()),
            };
            if last {
                return unknown(call, &span, &passing);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
        None
    }
}

/// A call, and the span that it is made for.
#[derive(Debug, Clone)]
struct Call {
    call: OrderCall,
    traceparent: Option<String>,
}

/// What became of a call.
#[derive(Debug, Clone)]
enum Answered {
    With(Answer),
    /// Nobody took it.
    NotSent(String),
    /// No answer came: it may have been carried out.
    Unknown(String),
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    body: Box<RawValue>,
}

/// Requests to the order service, one at a time, each with all the calls that wait.
struct Calls {
    client: Client,
    /// Its URL, without a slash at the end.
    base: String,
}

impl Batch for Calls {
    type Item = Call;
    type Answer = Answered;
    const NAME: &'static str = "order calls";
    const IS_STATEMENT: bool = false;

    async fn run(&self, calls: &[Call]) -> Answers<Answered> {
        let answers = match calls {
            [call] => self.one(call).await.map(|answer| vec![answer]),
            calls => self.all(calls).await,
        };
        Ok(match answers {
            Ok(answers) => answers.into_iter().map(|answer| Ok(Answered::With(answer))).collect(),
            Err(failure) => calls.iter().map(|_| Ok(failure.clone())).collect(),
        })
    }
}

impl Calls {
    async fn one(&self, call: &Call) -> Result<Answer, Answered> {
        let BatchedRequest { method, path, body, traceparent } = request(call)?;
        let method = method.parse().map_err(|_| Answered::NotSent(format!("{method} is no method")))?;
        let (status, body) = self.send(method, &path, body.get().to_owned(), traceparent).await?;
        // What is not JSON has a status all the same.
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Ok(Answer { status, body })
    }

    async fn all(&self, calls: &[Call]) -> Result<Vec<Answer>, Answered> {
        let requests = calls.iter().map(request).collect::<Result<Vec<_>, _>>()?;
        let requests = serde_json::to_string(&requests).map_err(|error| Answered::NotSent(error.to_string()))?;
        let (status, body) = self.send(Method::POST, "/batch", requests, None).await?;
        // An older release, or a proxy, knows no batches, or none with all that is in ours; or it is too large, since orders have
        // many lines. Nothing of it was done then. (Where something was, calls may be repeated.)
        let is_none = [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::BAD_REQUEST,
            StatusCode::PAYLOAD_TOO_LARGE,
        ];
        if is_none.contains(&status) {
            return try_join_all(calls.iter().map(|call| self.one(call))).await;
        }
        if !status.is_success() {
            let body: Box<RawValue> = serde_json::from_slice(&body).unwrap_or_else(|_| RawValue::NULL.to_owned());
            return match is_passing(status) {
                true => Ok(calls.iter().map(|_| Answer { status, body: body.clone() }).collect()),
                false => Err(Answered::Unknown(format!("a batch of calls is answered {status} {body}"))),
            };
        }
        let answers: Vec<Object<BatchedAnswer>> =
            serde_json::from_slice(&body).map_err(|error| Answered::Unknown(error.to_string()))?;
        if answers.len() != calls.len() {
            return Err(Answered::Unknown(format!("{} calls got {} answers", calls.len(), answers.len())));
        }
        let answers = answers.into_iter().map(|Object(BatchedAnswer { status, body })| {
            let status = StatusCode::from_u16(status).map_err(|error| Answered::Unknown(error.to_string()))?;
            Ok(Answer { status, body })
        });
        answers.collect()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        json: String,
        traceparent: Option<String>,
    ) -> Result<(StatusCode, Vec<u8>), Answered> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(traceparent) = traceparent {
            request = request.header(TRACEPARENT, traceparent);
        }
        let answer = request.header(header::CONTENT_TYPE, "application/json").body(json).send().await;
        // Without the URL, which may hold a password.
        let answer = answer.map_err(|error| match error.is_connect() {
            true => Answered::NotSent(error.without_url().to_string()),
            false => Answered::Unknown(error.without_url().to_string()),
        })?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| Answered::Unknown(error.without_url().to_string()))?;
        Ok((status, body.into()))
    }
}

fn request(Call { call, traceparent }: &Call) -> Result<BatchedRequest, Answered> {
    let (method, path, body) = match call {
        OrderCall::Create { order_id, saga_id, user_id, money, items } => {
            let (total_amount, currency) = (money.amount(), money.currency());
            let user_id = user_id.as_str();
            let items = items.clone().map(RawValue::from_string).transpose();
            let items = items.map_err(|error| Answered::NotSent(error.to_string()))?;
            let body = CreateBody { order_id: *order_id, saga_id: *saga_id, user_id, total_amount, currency, items };
            ("POST", "/orders".to_owned(), to_raw_value(&body))
        }
        OrderCall::Confirm { order_id, saga_id } => transition(order_id, "CONFIRMED", *saga_id, &[]),
        OrderCall::Cancel { order_id, saga_id, reason, detail } => {
            transition(order_id, "CANCELLED", *saga_id, &[("reason", reason), ("detail", detail)])
        }
    };
    let body = body.map_err(|error| Answered::NotSent(error.to_string()))?;
    Ok(BatchedRequest { method: method.to_owned(), path, body, traceparent: traceparent.clone() })
}

fn transition(
    order_id: &OrderId,
    status: &'static str,
    saga_id: SagaId,
    why: &[(&str, &Option<String>)],
) -> (&'static str, String, serde_json::Result<Box<RawValue>>) {
    let body = TransitionBody { status, saga_id };
    // In the query: an older release refuses a body with more in it, and takes no notice of this.
    let cut = |text: &str| text.chars().take(MAX_WHY).collect::<String>();
    let why = why.iter().filter_map(|(name, text)| Some(format!("{name}={}", percent_encoded(&cut(text.as_deref()?)))));
    let query = why.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    ("PATCH", format!("/orders/{order_id}/status{mark}{query}"), to_raw_value(&body))
}

fn span_name(call: &OrderCall) -> &'static str {
    match call {
        OrderCall::Create { .. } => "POST /orders",
        OrderCall::Confirm { .. } => "PATCH /orders/{orderId}/status CONFIRMED",
        OrderCall::Cancel { .. } => "PATCH /orders/{orderId}/status CANCELLED",
    }
}

/// Answers that say nothing of the order itself.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

fn understood(call: &OrderCall, Answer { status, body }: &Answer) -> Option<Reply> {
    let body = body.get();
    let reply = interpret(call, status.as_u16(), body.as_bytes());
    if reply.is_none() {
        let body = body.get(..MAX_LOGGED).unwrap_or(body);
        let (saga_id, order_id) = call.ids();
        warn!(call = span_name(call), %saga_id, %order_id, %status, body, "unexpected answer of the order service");
    }
    reply
}

fn unknown(call: &OrderCall, span: &Span, why: &str) -> Option<Reply> {
    span.fail(why);
    let (saga_id, order_id) = call.ids();
    debug!(call = span_name(call), %saga_id, %order_id, why, "no answer of the order service; calling again later");
    None
}

#[cfg(test)]
mod tests {
    use messages::Money;

    use super::*;

    #[test]
    fn the_calls_have_these_very_bytes() {
        let order_id: OrderId = "0198f5a0-0000-7000-8000-000000000002".parse().unwrap();
        let saga_id: SagaId = "0198f5a0-0000-7000-8000-000000000001".parse().unwrap();
        let user_id = "ann \"the\" buyer".to_owned().try_into().unwrap();
        let money = Money::parse("19.90", "EUR".parse().unwrap()).unwrap();
        let sent = |call: OrderCall| {
            let Ok(request) = request(&Call { call, traceparent: None }) else { panic!("every call has a request") };
            format!("{} {} {}", request.method, request.path, request.body)
        };
        assert_eq!(
            sent(OrderCall::Create { order_id, saga_id, user_id, money, items: None }),
            r#"POST /orders {"orderId":"0198f5a0-0000-7000-8000-000000000002","sagaId":"0198f5a0-0000-7000-8000-000000000001","userId":"ann \"the\" buyer","totalAmount":19.90,"currency":"EUR"}"#
        );
        let items = Some(r#"[{"sku":"mug","qty":2}]"#.to_owned());
        let user_id = "u1".to_owned().try_into().unwrap();
        assert_eq!(
            sent(OrderCall::Create { order_id, saga_id, user_id, money, items }),
            r#"POST /orders {"orderId":"0198f5a0-0000-7000-8000-000000000002","sagaId":"0198f5a0-0000-7000-8000-000000000001","userId":"u1","totalAmount":19.90,"currency":"EUR","items":[{"sku":"mug","qty":2}]}"#
        );
        let patch = |status: &str| {
            format!(
                r#"PATCH /orders/{order_id}/status {{"status":"{status}","sagaId":"0198f5a0-0000-7000-8000-000000000001"}}"#
            )
        };
        assert_eq!(sent(OrderCall::Confirm { order_id, saga_id }), patch("CONFIRMED"));
        let cancel = |reason: Option<&str>, detail: Option<&str>| {
            let [reason, detail] = [reason, detail].map(|text| text.map(str::to_owned));
            sent(OrderCall::Cancel { order_id, saga_id, reason, detail })
        };
        assert_eq!(cancel(None, None), patch("CANCELLED"));
        let why = patch("CANCELLED").replace("/status", "/status?reason=OUT_OF_STOCK&detail=2%20lamps%2C%201%20left");
        assert_eq!(cancel(Some("OUT_OF_STOCK"), Some("2 lamps, 1 left")), why);
    }
}
