//! Orders: created PENDING, then CONFIRMED or CANCELLED, over HTTP. The service owns `order_db`.
//!
//! It promises that everything may be repeated: the same create answers the stored order, the same transition is
//! accepted again. An order that belongs to a saga is moved by that saga only.

pub mod answers;
pub mod order;
mod routes;
mod store;

use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Reads};
use service_runtime::database::{self, DatabaseClock, DatabaseSettings, Session};
use service_runtime::http::batch;
use service_runtime::http::description::complete;
use service_runtime::http::{Health, HttpServer, HttpSettings};
use service_runtime::metrics::Metrics;
use service_runtime::retention::{Orchestrator, OrchestratorSettings, Retention, Rows, described, router};
use service_runtime::settings::{SERVICE_DEFAULTS, Settings, SettingsError};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

/// Every setting with its default.
pub const DEFAULTS: [&str; 2] = [include_str!("../default.toml"), SERVICE_DEFAULTS];

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    retention: Retention,
    orchestrator: OrchestratorSettings,
}

impl TryFrom<&Settings> for Config {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            http: settings.try_into()?,
            trace: settings.try_into()?,
            database: settings.try_into()?,
            retention: settings.try_into()?,
            orchestrator: settings.section()?,
        })
    }
}

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    let with_batch = routes::Described::openapi().merge_from(batch::Described::openapi());
    complete(with_batch.merge_from(described("/orders")))
}

/// Serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fatal> {
    // A wrong URL ends the start before anything is opened.
    let orchestrator = Orchestrator::connect(&config.orchestrator)?;
    let metrics = Metrics::of("order-service");
    let server = HttpServer::bind(&config.http, &metrics, &shutdown).await?;
    let stop = server.drained();
    let tracer = Tracer::open(&config.trace, "order-service")?;
    let pool = database::open(&config.database, &sqlx::migrate!(), &metrics).await?;
    let clock = DatabaseClock::start(&pool, &metrics, shutdown.clone()).await;
    let orders = routes::Orders {
        creates: Batcher::start(ConditionalWrites::to(store::Creates(Session::beside(&pool), clock.clone())), &metrics),
        transitions: Batcher::start(
            ConditionalWrites::to(store::Transitions(Session::beside(&pool).impatient_of_locks(), clock.clone())),
            &metrics,
        ),
        tombstones: Batcher::start(
            ConditionalWrites::to(store::Tombstones(Session::beside(&pool), clock.clone())),
            &metrics,
        ),
        stored: Batcher::start(Reads(store::Creates(Session::beside(&pool), clock.clone())), &metrics),
    };
    let old = Rows::of(&pool, store::REMOVABLE);
    let removal = router("/orders", old, config.retention, orchestrator, clock.clone());
    let routes = routes::router(orders, tracer.clone()).merge(removal);
    let health = Health::default().with_database(&pool).with_clock(&clock);
    let served = server.serve(routes, openapi, health, metrics, tracer.clone(), stop).await;
    database::close(pool).await;
    tracer.close().await;
    served
}
