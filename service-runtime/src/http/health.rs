//! `/health/live`: the process runs. `/health/ready`: it can do its work now; the body says what is wrong if not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::CancellationToken;

/// How long a check may take before it counts as failed.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Ok,
    /// Something is wrong, but the service does its work.
    Degraded(String),
    /// The service works, but takes no new work, because somebody wants it so.
    Closed(String),
    /// The service can't do its work.
    Failed(String),
}

const NOT_READY: &str = "not ready";

type CheckFn = dyn Fn() -> BoxFuture<'static, Check> + Send + Sync;

/// What readiness depends on: named checks, run anew for each request.
#[derive(Clone, Default)]
pub struct Health {
    checks: Vec<(&'static str, Arc<CheckFn>)>,
}

impl Health {
    /// Adds a check.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        check: impl Fn() -> BoxFuture<'static, Check> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name, Arc::new(check)));
        self
    }

    /// Adds the check that the service was not told to stop.
    #[must_use]
    pub(super) fn with_stop(self, told_to_stop: CancellationToken) -> Self {
        self.with("running", move || {
            let check = if told_to_stop.is_cancelled() { Check::Closed("it stops".to_owned()) } else { Check::Ok };
            Box::pin(std::future::ready(check))
        })
    }

    /// Adds the check that the database answers.
    #[must_use]
    pub fn with_database(self, pool: PgPool) -> Self {
        self.with("database", move || {
            let pool = pool.clone();
            Box::pin(async move {
                match sqlx::query("SELECT 1").execute(&pool).await {
                    Ok(_) => Check::Ok,
                    Err(error) => Check::Failed(error.to_string()),
                }
            })
        })
    }
}

pub(super) async fn ready(State(health): State<Health>) -> (StatusCode, Json<Value>) {
    let checks = health.checks.iter().map(|(name, check)| async move {
        let outcome = tokio::time::timeout(CHECK_LIMIT, check()).await;
        (*name, outcome.unwrap_or_else(|_| Check::Failed(format!("no answer within {CHECK_LIMIT:?}"))))
    });
    let checks = futures::future::join_all(checks).await;
    let any = |wanted: fn(&Check) -> bool| checks.iter().any(|(_, check)| wanted(check));
    let (code, status) = if any(|check| matches!(check, Check::Failed(_))) {
        (StatusCode::SERVICE_UNAVAILABLE, NOT_READY)
    } else if any(|check| matches!(check, Check::Closed(_))) {
        (StatusCode::SERVICE_UNAVAILABLE, "closed")
    } else if any(|check| matches!(check, Check::Degraded(_))) {
        (StatusCode::OK, "degraded")
    } else {
        (StatusCode::OK, "ready")
    };
    let checks: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| {
            let text = match check {
                Check::Ok => "ok".to_owned(),
                Check::Degraded(why) => format!("degraded: {why}"),
                Check::Closed(why) => format!("closed: {why}"),
                Check::Failed(why) => format!("failed: {why}"),
            };
            (name.to_owned(), text.into())
        })
        .collect();
    (code, Json(json!({ "status": status, "checks": checks })))
}

/// Whether the service at `address` says that it can do its work. One that is closed can.
pub async fn probe_ready(address: SocketAddr) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let Ok(Ok(answer)) = tokio::time::timeout(2 * CHECK_LIMIT, exchange).await else { return false };
    let body = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
    body.and_then(|body| Some(body["status"].as_str()? != NOT_READY)).unwrap_or(false)
}
