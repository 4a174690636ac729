//! The services' HTTP APIs, as this program uses them: mostly the orchestrator's. Bodies are taken as they come: fields that a newer release
//! adds do no harm.

use std::time::Duration;

use clap::Args;
use flow::CHECKOUTS;
use messages::Timestamp;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use service_runtime::Fatal;
use uuid::Uuid;

/// How long an answer may take. A checkout's may take as long as `CHECKOUT_WAIT_MS`, which is the service's.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the orchestrator is.
#[derive(Debug, Clone, Args)]
pub struct OrchestratorAddress {
    /// The orchestrator's HTTP address
    #[arg(
        long,
        env = "ORCHESTRATOR_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "http://localhost:4000",
        global = true
    )]
    pub orchestrator_url: String,
}

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    base: String,
    /// What it is, and which flag says where it is.
    name: &'static str,
    flag: &'static str,
}

/// An answer: its status, and its body as JSON.
#[derive(Debug)]
pub struct Told {
    pub status: StatusCode,
    pub body: Value,
}

/// A saga with its history, as `GET /sagas/{id}` tells it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saga {
    pub saga_id: Uuid,
    pub order_id: Uuid,
    pub status: String,
    pub step: String,
    pub user_id: String,
    /// Absent where the flow is about no money, and so is the currency.
    pub total_amount: Option<serde_json::Number>,
    pub currency: Option<String>,
    /// The flow that it runs by, and its version: `trip v1`.
    pub definition: String,
    pub created_at: Timestamp,
    pub duration_ms: f64,
    pub needs_attention: Option<Attention>,
    #[serde(default)]
    pub resolved_by_hand: bool,
    pub pending: Option<Pending>,
    pub trace_id: Option<String>,
    pub history: Vec<Entry>,
    pub ignored: Vec<Ignored>,
}

/// Why a person should look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Attention {
    pub since: Timestamp,
    pub reason: String,
}

/// What happens next.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    pub effect: String,
    pub command_id: Option<Uuid>,
    pub attempts: i64,
    pub next_attempt_at: Timestamp,
    pub deadline_at: Option<Timestamp>,
}

/// A move.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub seq: i64,
    pub at: Timestamp,
    pub duration_ms: Option<f64>,
    pub input: String,
    pub event_id: Option<Uuid>,
    pub status: String,
    pub step: String,
    pub reason: Option<String>,
    pub effect: Option<String>,
    pub command_id: Option<Uuid>,
    pub by: Option<String>,
    pub evidence: Option<String>,
}

/// A reply that did not count.
#[derive(Debug, Clone, Deserialize)]
pub struct Ignored {
    pub input: String,
    pub state: String,
    pub count: i64,
}

impl Saga {
    /// Whether it is a checkout, and no saga of a user's flow.
    pub fn is_checkout(&self) -> bool {
        self.definition.split(' ').next().is_some_and(|flow| CHECKOUTS.contains(&flow))
    }
}

impl Api {
    /// A client of the orchestrator there. Nothing is sent yet.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn at(address: &OrchestratorAddress) -> Result<Self, Fatal> {
        Self::of("the orchestrator", "--orchestrator-url", &address.orchestrator_url)
    }

    /// A client of the service at `url`, which `flag` has given. Nothing is sent yet.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn of(name: &'static str, flag: &'static str, url: &str) -> Result<Self, Fatal> {
        // rustls asks each process to choose its cryptography, once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = match url.starts_with("https:") {
            true => Client::builder(),
            // Without TLS there is no need of the system's certificates, which a small image may lack.
            false => Client::builder().tls_certs_only([]),
        };
        // The services never redirect: whatever listens there must not send an operator's acts elsewhere.
        let http = client.redirect(Policy::none()).no_proxy().connect_timeout(Duration::from_secs(3)).build();
        let http = http.map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), name, flag })
    }

    /// `GET`. Whatever the status is.
    ///
    /// # Errors
    /// When no answer comes, or one that is not JSON.
    pub async fn get(&self, path: &str) -> Result<Told, Fatal> {
        self.told(self.http.get(format!("{}{path}", self.base)).timeout(LIMIT)).await
    }

    /// `POST` of a JSON body, with more headers. Whatever the status is.
    ///
    /// # Errors
    /// When no answer comes, or one that is not JSON.
    pub async fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Told, Fatal> {
        let request = self.http.request(Method::POST, format!("{}{path}", self.base)).json(body).timeout(LIMIT);
        self.told(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// `PUT` of a JSON body. Whatever the status is.
    ///
    /// # Errors
    /// When no answer comes, or one that is not JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Told, Fatal> {
        self.told(self.http.request(Method::PUT, format!("{}{path}", self.base)).json(body).timeout(LIMIT)).await
    }

    /// `POST` of a text of this type. Whatever the status is.
    ///
    /// # Errors
    /// When no answer comes, or one that is not JSON.
    pub async fn post_text(&self, path: &str, content_type: &str, text: Vec<u8>) -> Result<Told, Fatal> {
        let request = self.http.post(format!("{}{path}", self.base)).header("Content-Type", content_type);
        self.told(request.body(text).timeout(LIMIT)).await
    }

    /// An open stream of events.
    ///
    /// # Errors
    /// When it is not answered 200.
    pub async fn stream(&self, path: &str, last_event_id: Option<&str>) -> Result<Response, Fatal> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let answer = request.send().await.map_err(|error| self.away(&error))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.json().await.unwrap_or(Value::Null);
        Err(Told { status, body }.refusal())
    }

    async fn told(&self, request: reqwest::RequestBuilder) -> Result<Told, Fatal> {
        let answer = request.send().await.map_err(|error| self.away(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.away(&error))?;
        let body = serde_json::from_str(&text).map_err(|_| {
            Fatal::new(format!("{} answers {status} with what is not JSON: is it {}?", self.shown(), self.name))
        })?;
        Ok(Told { status, body })
    }

    /// Where it is, without a name and a password.
    fn shown(&self) -> &str {
        let (scheme, rest) = self.base.split_once("://").unwrap_or(("", &self.base));
        let authority = rest.find('/').unwrap_or(rest.len());
        match rest[..authority].rfind('@') {
            // The scheme goes with them: the rest is one piece of the text.
            Some(at) => &rest[at + 1..],
            None if scheme.is_empty() => rest,
            None => &self.base,
        }
    }

    fn away(&self, error: &reqwest::Error) -> Fatal {
        let why = if error.is_timeout() { "no answer came in time".to_owned() } else { root(error) };
        Fatal::new(format!(
            "{} can't be reached at {}: {why}. Is it running? {} says where it is",
            self.name,
            self.shown(),
            self.flag
        ))
    }
}

/// What lies at the bottom of an error.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl Told {
    /// The body of a 200.
    ///
    /// # Errors
    /// What the problem says, for any other status.
    pub fn ok<T: DeserializeOwned>(self) -> Result<T, Fatal> {
        if self.status != StatusCode::OK {
            return Err(self.refusal());
        }
        self.read()
    }

    /// The body, whatever the status is.
    ///
    /// # Errors
    /// When it is not what was expected.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Fatal> {
        serde_json::from_value(self.body)
            .map_err(|error| Fatal::new(format!("an answer that is not understood: {error}")))
    }

    /// What the problem says.
    pub fn refusal(&self) -> Fatal {
        let detail = self.body["detail"].as_str().unwrap_or("no reason was given");
        let id = self.body["errorId"].as_str().map_or_else(String::new, |id| format!(" (errorId {id})"));
        Fatal::new(format!("{}: {detail}{id}", self.status))
    }
}
