//! `/health/live`: the process runs. `/health/ready`: it can do its work now; the body says what is wrong if not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::future::BoxFuture;
use messages::schema::one_of;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use utoipa::ToSchema;
use utoipa::openapi::ObjectBuilder;

use crate::CancellationToken;
use crate::database::{DatabaseClock, Session, StoreError, again_if_lost};

/// How long a check may take before it counts as failed.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// All who ask within this time share one answer of the database.
const SHARED_FOR: Duration = Duration::from_millis(250);

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

/// From this share of a limit on, readiness reports it.
const NEARLY: f64 = 0.9;

impl Check {
    /// Degraded, for the reason that `why` gives, where nearly all of `max` are taken. Not where none are wanted.
    pub fn unless_nearly_full(taken: usize, max: usize, why: impl FnOnce() -> String) -> Self {
        if max > 0 && taken as f64 >= max as f64 * NEARLY { Self::Degraded(why()) } else { Self::Ok }
    }
}

const READY: &str = "ready";
const DEGRADED: &str = "degraded";
const CLOSED: &str = "closed";
pub(super) const NOT_READY: &str = "not ready";

/// The check that it has started and does not stop.
pub(super) const RUNNING: &str = "running";

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
        self.with(RUNNING, move || {
            let check = if told_to_stop.is_cancelled() { Check::Closed("it stops".to_owned()) } else { Check::Ok };
            Box::pin(std::future::ready(check))
        })
    }

    /// Adds the check that this machine's clock agrees with the database's.
    #[must_use]
    pub fn with_clock(self, clock: &DatabaseClock) -> Self {
        let clock = clock.clone();
        self.with("clock", move || Box::pin(std::future::ready(clock.check())))
    }

    /// Adds the check that the database answers.
    #[must_use]
    pub fn with_database(self, pool: &PgPool) -> Self {
        // So that it says what is wrong, and not only that there is no answer.
        let session = Arc::new(Session::beside(pool).impatient(CHECK_LIMIT * 4 / 5));
        let last = Arc::new(Mutex::new(LastAnswer::default()));
        self.with("database", move || {
            let (session, last) = (session.clone(), last.clone());
            Box::pin(async move {
                // Who waits here shares what the one before is answered.
                let mut last = last.lock().await;
                if last.at.is_none_or(|at| at.elapsed() >= SHARED_FOR) {
                    let outcome = again_if_lost(|| session.rows(sqlx::query("SELECT 1"))).await;
                    last.trouble = outcome.err().map(|error| same_or(error, last.trouble.take()));
                    last.at = Some(Instant::now());
                }
                last.trouble.as_ref().map_or(Check::Ok, |error| Check::Failed(error.reported()))
            })
        })
    }
}

/// What the database has answered last.
#[derive(Default)]
struct LastAnswer {
    at: Option<Instant>,
    trouble: Option<StoreError>,
}

/// The trouble that there was before, if it is the same: everybody may ask, and the log has it once.
fn same_or(error: StoreError, before: Option<StoreError>) -> StoreError {
    before.filter(|before| before.cause().text() == error.cause().text()).unwrap_or(error)
}

/// Whether the service can do its work now, and what each check says.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// By name: `ok`, or `degraded`, `closed` or `failed` and why.
    #[schema(example = json!({"database": "ok", "running": "ok"}))]
    pub(super) checks: BTreeMap<&'static str, String>,
    #[schema(schema_with = statuses)]
    pub(super) status: &'static str,
}

fn statuses() -> ObjectBuilder {
    one_of([READY, DEGRADED, CLOSED, NOT_READY])
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "Watching", summary = "Whether the process runs", responses(
    (status = 200, description = "It does", body = String, content_type = "text/plain", example = "live\n"),
))]
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// 503 with the same body when it can't do its work, or takes no new work.
#[utoipa::path(get, path = "/health/ready", tag = "Watching", summary = "Whether the service can do its work now", responses(
    (status = 200, description = "It can: `ready`, or `degraded` where something is wrong", body = Readiness,
        example = json!({"checks": {"database": "ok", "running": "ok"}, "status": "ready"})),
    (status = 503, description = "It can't (`not ready`), or takes no new work because somebody wants it so (`closed`)",
        body = Readiness, example = json!({"checks": {"database": "ok", "running": "closed: it stops"}, "status": "closed"})),
))]
pub(super) async fn ready(State(health): State<Health>) -> (StatusCode, Json<Readiness>) {
    let checks = health.checks.iter().map(|(name, check)| async move {
        let outcome = tokio::time::timeout(CHECK_LIMIT, check()).await;
        (*name, outcome.unwrap_or_else(|_| Check::Failed(format!("no answer within {CHECK_LIMIT:?}"))))
    });
    let checks = futures::future::join_all(checks).await;
    let any = |wanted: fn(&Check) -> bool| checks.iter().any(|(_, check)| wanted(check));
    let (code, status) = if any(|check| matches!(check, Check::Failed(_))) {
        (StatusCode::SERVICE_UNAVAILABLE, NOT_READY)
    } else if any(|check| matches!(check, Check::Closed(_))) {
        (StatusCode::SERVICE_UNAVAILABLE, CLOSED)
    } else if any(|check| matches!(check, Check::Degraded(_))) {
        (StatusCode::OK, DEGRADED)
    } else {
        (StatusCode::OK, READY)
    };
    let checks = checks
        .into_iter()
        .map(|(name, check)| {
            let text = match check {
                Check::Ok => "ok".to_owned(),
                Check::Degraded(why) => format!("degraded: {why}"),
                Check::Closed(why) => format!("closed: {why}"),
                Check::Failed(why) => format!("failed: {why}"),
            };
            (name, text)
        })
        .collect();
    (code, Json(Readiness { checks, status }))
}

/// Whether the service at `address` says that it can do its work. One that an operator has closed can, one that stops
/// can't.
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
    body.is_some_and(|body| {
        body["status"].as_str().is_some_and(|status| status != NOT_READY) && body["checks"][RUNNING] == "ok"
    })
}
