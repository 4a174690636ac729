//! What the inventory service has of products, for the dashboard; and movements by hand on their way there.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use messages::{OrderId, TimestampText};
use reqwest::{Client, RequestBuilder, Url, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use service_runtime::http::{Problem, client};
use service_runtime::{Fatal, percent_encoded};

use crate::SagaSettings;

/// Time limit of a request: a person is waiting.
const LIMIT: Duration = Duration::from_secs(2);

/// The inventory service, asked about its products.
#[derive(Clone)]
pub struct Stock {
    client: Client,
    /// Of `/products`.
    url: Url,
}

/// A product, and its pieces.
#[derive(Debug, Deserialize)]
pub struct Product {
    pub sku: String,
    pub name: String,
    pub available: i64,
    pub reserved: i64,
    pub committed: i64,
    /// The latest first. Not in a list of products.
    #[serde(default)]
    pub movements: Vec<Movement>,
}

/// An entry of its ledger.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Movement {
    pub kind: String,
    pub quantity: i64,
    pub order_id: Option<OrderId>,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub at: TimestampText,
}

/// A page of products.
#[derive(Debug, Deserialize)]
pub struct Products {
    pub products: Vec<Product>,
    pub next: Option<String>,
}

/// What a person does to a product's pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByHand {
    Receipt,
    Adjustment,
}

impl ByHand {
    /// Below the product's address.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Receipt => "receipts",
            Self::Adjustment => "adjustments",
        }
    }
}

impl Stock {
    /// Prepares the client; nothing is asked yet.
    pub fn new(settings: &SagaSettings) -> Result<Self, Fatal> {
        let (builder, url) = client("INVENTORY_SERVICE_URL", settings.inventory_service_url.get(), "products")?;
        let client = builder.timeout(LIMIT).build();
        let client = client.map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
        Ok(Self { client, url })
    }

    /// Products whose SKU or name has `search` in it, after the SKU `after`.
    ///
    /// # Errors
    /// 503 where the service can't be asked; what it answers to a bad question.
    pub async fn list(&self, search: &str, after: &str) -> Result<Products, Problem> {
        let given = [("search", search), ("after", after)].into_iter().filter(|(_, value)| !value.is_empty());
        let query =
            given.map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect::<Vec<_>>().join("&");
        let mut url = self.url.clone();
        url.set_query((!query.is_empty()).then_some(&query));
        answer(self.client.get(url)).await
    }

    /// One, with its latest movements.
    ///
    /// # Errors
    /// 404 for an unknown SKU; as [`Stock::list`].
    pub async fn product(&self, sku: &str) -> Result<Product, Problem> {
        answer(self.client.get(self.address(sku, ""))).await
    }

    /// Records pieces that came or went, once under its key.
    ///
    /// # Errors
    /// What the service refuses it with; 503 where it can't be asked, or its answer does not come: it may have counted then, and may
    /// be sent again, with the same key.
    pub async fn move_by_hand(
        &self,
        (by_hand, sku, key): (ByHand, &str, &str),
        (quantity, by, reason): (i64, &str, &str),
    ) -> Result<Value, Problem> {
        let body = json!({"quantity": quantity, "by": by, "reason": reason}).to_string();
        let request = self.client.post(self.address(sku, &format!("/{}", by_hand.path())));
        let key = HeaderValue::from_str(key);
        let key = key.map_err(|_| {
            Problem::invalid_field("key", "must have no characters but those of ASCII that can be seen")
        })?;
        let request = request.header("Idempotency-Key", key).header(header::CONTENT_TYPE, "application/json");
        answer(request.body(body)).await
    }

    fn address(&self, sku: &str, below: &str) -> String {
        format!("{}/{}{below}", self.url.as_str().trim_end_matches('/'), percent_encoded(sku))
    }
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Problem> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        detail: Option<String>,
        error_id: Option<String>,
    }

    let away = |why: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("the inventory service {why}"));
    let no_answer = |error: reqwest::Error| match error.is_connect() {
        true => away("can't be reached"),
        false => away(
            "did not answer in time: if it was to count something, that may have happened. Send it again from here, with the same key",
        ),
    };
    let answer = request.send().await.map_err(no_answer)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(no_answer)?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| away("gave an answer that is not understood"));
    }
    let refusal = serde_json::from_slice(&body).unwrap_or(Refusal { detail: None, error_id: None });
    match refusal.detail.filter(|_| status.is_client_error()) {
        Some(detail) => Err(Problem::new(status, detail)),
        None => {
            let id = refusal.error_id.map(|id| format!(", error {id}")).unwrap_or_default();
            Err(away(&format!("answered {status}{id}")))
        }
    }
}
