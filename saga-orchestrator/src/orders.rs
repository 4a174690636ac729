//! Calls of the order service. What its answers mean to a saga is told by [`crate::saga::answers`].

use std::time::Duration;

use messages::{Currency, OrderId, SagaId};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use rust_decimal::Decimal;
use serde::Serialize;
use service_runtime::Fatal;
use service_runtime::batch::Backoff;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::SagaSettings;
use crate::saga::answers::interpret;
use crate::saga::{Input, OrderCall};

/// Quick retries of one call; beyond them the sweeper calls again.
const TRIES: u32 = 3;

/// How many bytes of an unexpected answer are logged.
const MAX_LOGGED: usize = 1024;

/// The order service, through one pool of kept-alive connections.
pub struct OrderService {
    client: Client,
    orders: Url,
    permits: Semaphore,
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
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TransitionBody {
    status: &'static str,
    saga_id: SagaId,
}

impl OrderService {
    /// Prepares the client; nothing is sent yet.
    pub fn connect(settings: &SagaSettings) -> Result<Self, Fatal> {
        // The URL itself is not repeated: it may hold a password.
        let invalid = |why: &str| Fatal::new(format!("ORDER_SERVICE_URL is not usable: {why}"));
        let url = format!("{}/orders", settings.order_service_url.trim_end_matches('/'));
        let orders = Url::parse(&url).map_err(|error| invalid(&error.to_string()))?;
        let builder = match orders.scheme() {
            // Without TLS there is no need of the system's certificates, which a small image may lack.
            "http" => Client::builder().tls_certs_only([]),
            "https" => Client::builder(),
            _ => return Err(invalid("must be an http:// or https:// URL")),
        };
        // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = builder
            .no_proxy()
            .connect_timeout(Duration::from_millis(500))
            .timeout(Duration::from_millis(settings.order_service_timeout_ms))
            .pool_max_idle_per_host(settings.order_service_max_calls)
            .build()
            .map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
        Ok(Self { client, orders, permits: Semaphore::new(settings.order_service_max_calls.max(1)) })
    }

    /// Makes a call. `None` where the outcome is not known: the call is to be made again.
    pub async fn call(&self, call: &OrderCall) -> Option<Input> {
        let _permit = self.permits.acquire().await.ok()?;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(200));
        for last in (0..TRIES).map(|tried| tried + 1 == TRIES) {
            let passing = match self.request(call).send().await {
                Ok(answer) if is_passing(answer.status()) => answer.status().to_string(),
                Ok(answer) => return understood(call, answer).await,
                Err(error) if error.is_connect() => error.to_string(),
                // A time-out has used up its time: the sweeper's turn.
                Err(error) => return unknown(call, &error.to_string()),
            };
            if last {
                return unknown(call, &passing);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
        None
    }

    fn request(&self, call: &OrderCall) -> RequestBuilder {
        match call {
            OrderCall::Create { order_id, saga_id, user_id, money } => {
                self.client.post(self.orders.clone()).json(&CreateBody {
                    order_id: *order_id,
                    saga_id: *saga_id,
                    user_id: user_id.as_str(),
                    total_amount: money.amount(),
                    currency: money.currency(),
                })
            }
            OrderCall::Confirm { order_id, saga_id } => self.transition(order_id, "CONFIRMED", *saga_id),
            OrderCall::Cancel { order_id, saga_id } => self.transition(order_id, "CANCELLED", *saga_id),
        }
    }

    fn transition(&self, order_id: &OrderId, status: &'static str, saga_id: SagaId) -> RequestBuilder {
        self.client.patch(format!("{}/{order_id}/status", self.orders)).json(&TransitionBody { status, saga_id })
    }
}

/// Answers that say nothing of the order itself.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

async fn understood(call: &OrderCall, answer: Response) -> Option<Input> {
    let status = answer.status();
    let body = answer.bytes().await.ok()?;
    let input = interpret(call, status.as_u16(), &body);
    if input.is_none() {
        let body = String::from_utf8_lossy(&body[..body.len().min(MAX_LOGGED)]);
        warn!(?call, %status, %body, "unexpected answer of the order service");
    }
    input
}

fn unknown(call: &OrderCall, why: &str) -> Option<Input> {
    debug!(?call, why, "no answer of the order service; calling again later");
    None
}
