//! The platform as its users see it: the services' HTTP, the databases' SQL, and the topics.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use standalone::platform::Ports;
use uuid::Uuid;

use crate::process::LogTail;
use crate::{Answer, Databases, KafkaClient, agreement, databases, eventually};

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    Orchestrator,
    Order,
    Payment,
    Inventory,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Order, Self::Payment, Self::Inventory, Self::Orchestrator];

    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Orchestrator => "saga-orchestrator",
            Self::Order => "order-service",
            Self::Payment => "payment-service",
            Self::Inventory => "inventory-service",
        }
    }

    /// The short name of its database, as [`Ports::databases`] has it.
    pub const fn database(self) -> &'static str {
        match self {
            Self::Orchestrator => "orchestrator",
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Inventory => "inventory",
        }
    }

    pub const fn port(self, ports: &Ports) -> u16 {
        match self {
            Self::Orchestrator => ports.orchestrator,
            Self::Order => ports.order,
            Self::Payment => ports.payment,
            Self::Inventory => ports.inventory,
        }
    }
}

/// Access to a running platform. Clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    pub ports: Ports,
    pub databases: Databases,
    /// Of the databases, by their short names.
    urls: Arc<Vec<(&'static str, String)>>,
    pub kafka: KafkaClient,
    logs: Arc<Vec<LogTail>>,
}

impl Client {
    pub(crate) fn new(ports: Ports, data_dir: &Path, kafka: KafkaClient, logs: Vec<LogTail>) -> Result<Self> {
        // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Some tests send a thousand requests at once.
        service_runtime::program::allow_all_files();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(90)).build()?;
        let urls = databases::urls(&ports, data_dir)?;
        let databases = Databases::at(&urls)?;
        Ok(Self { http, ports, databases, urls: Arc::new(urls), kafka, logs: Arc::new(logs) })
    }

    pub fn request(&self, service: Service, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://127.0.0.1:{}{path}", service.port(&self.ports)))
    }

    /// `GET` of any address.
    pub async fn get_url(&self, url: &str) -> Result<Answer> {
        Answer::read(self.http.get(url).send().await?).await
    }

    /// `POST` to any address.
    pub async fn post_url(&self, url: &str, body: &Value) -> Result<Answer> {
        Answer::read(self.http.post(url).json(body).send().await?).await
    }

    pub async fn get(&self, service: Service, path: &str) -> Result<Answer> {
        Answer::read(self.request(service, Method::GET, path).send().await?).await
    }

    pub async fn post(&self, service: Service, path: &str, body: &Value) -> Result<Answer> {
        Answer::read(self.request(service, Method::POST, path).json(body).send().await?).await
    }

    pub async fn patch(&self, service: Service, path: &str, body: &Value) -> Result<Answer> {
        Answer::read(self.request(service, Method::PATCH, path).json(body).send().await?).await
    }

    /// `POST /checkout`.
    pub async fn checkout(&self, body: &Value) -> Result<Answer> {
        self.post(Service::Orchestrator, "/checkout", body).await
    }

    /// `POST /checkout` with an `Idempotency-Key`.
    pub async fn checkout_with_key(&self, key: &str, body: &Value) -> Result<Answer> {
        let request = self.request(Service::Orchestrator, Method::POST, "/checkout").json(body);
        Answer::read(request.header("Idempotency-Key", key).send().await?).await
    }

    /// `POST /flows`: publishes a flow file.
    pub async fn publish_flow(&self, source: &str) -> Result<Answer> {
        let request = self.request(Service::Orchestrator, Method::POST, "/flows?by=ann&reason=a%20test");
        let request = request.header("Content-Type", "application/yaml").body(source.to_owned());
        Answer::read(request.send().await?).await
    }

    /// `POST /checkout` with `Prefer: respond-async`.
    pub async fn checkout_async(&self, body: &Value) -> Result<Answer> {
        let request = self.request(Service::Orchestrator, Method::POST, "/checkout").json(body);
        Answer::read(request.header("Prefer", "respond-async").send().await?).await
    }

    /// Sends plain checkouts, all at once, each from a task of its own.
    pub fn checkouts(&self, count: u32) -> tokio::task::JoinSet<Result<Answer>> {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 1..=count {
            let client = self.clone();
            let body = json!({"userId": format!("user-{n}"), "totalAmount": n});
            tasks.spawn(async move { client.checkout(&body).await });
        }
        tasks
    }

    /// What the services have logged since this client was made.
    pub fn log(&self) -> String {
        self.logs.iter().map(LogTail::text).collect()
    }

    /// Where a service's database is.
    pub fn database_url(&self, service: Service) -> Result<String> {
        let url = self.urls.iter().find(|(name, _)| *name == service.database());
        Ok(url.context("each service has a database")?.1.clone())
    }

    /// `GET /sagas/{id}`.
    pub async fn saga(&self, saga_id: Uuid) -> Result<Value> {
        let answer = self.get(Service::Orchestrator, &format!("/sagas/{saga_id}")).await?;
        anyhow::ensure!(answer.status == 200, "saga {saga_id}: {} {}", answer.status, answer.text);
        answer.json()
    }

    /// Waits for a saga's end; answers what `GET <location>` says then.
    pub async fn end_of(&self, location: &str, limit: Duration) -> Result<Value> {
        eventually(&format!("{location} ends"), limit, async || {
            let saga = self.get(Service::Orchestrator, location).await?.json()?;
            Ok(matches!(saga["status"].as_str(), Some("COMPLETED" | "FAILED")).then_some(saga))
        })
        .await
    }

    /// Waits until `count` sagas are stored, and at least one of them has not ended.
    pub async fn in_flight(&self, count: i64) -> Result<()> {
        let what = format!("{count} sagas are stored and some run");
        eventually(&what, Duration::from_secs(20), async || {
            let (stored, unended) = self.databases.saga_counts().await?;
            Ok((stored >= count && unended > 0).then_some(()))
        })
        .await
    }

    /// Waits until no saga is unfinished.
    pub async fn all_end(&self, limit: Duration) -> Result<()> {
        eventually("no saga is RUNNING, WAITING or COMPENSATING", limit, async || {
            let (_, unended) = self.databases.saga_counts().await?;
            Ok((unended == 0).then_some(()))
        })
        .await
    }

    /// Waits until all sagas have ended, then checks that the four databases agree about each of them.
    pub async fn all_end_in_agreement(&self, limit: Duration) -> Result<agreement::Rows> {
        self.all_end(limit).await?;
        agreement::about_everything(&self.databases).await?;
        agreement::Rows::read(&self.databases).await
    }

    /// Checks that the four databases agree about these sagas, which have ended.
    pub async fn agree_about(&self, saga_ids: &[Uuid]) -> Result<()> {
        let mut sagas = agreement::Rows::read(&self.databases).await?.sagas;
        sagas.retain(|saga| saga_ids.contains(&saga.saga_id));
        anyhow::ensure!(sagas.len() == saga_ids.len(), "not all of {saga_ids:?} are stored");
        let orders: Vec<Uuid> = sagas.iter().map(|saga| saga.order_id).collect();
        agreement::about(&self.databases, &orders).await
    }
}

/// The id in a body's field.
pub fn id(body: &Value, field: &str) -> Result<Uuid> {
    let text = body[field].as_str().with_context(|| format!("no {field} in {body}"))?;
    Ok(text.parse()?)
}
