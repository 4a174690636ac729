//! Inventory: takes reserve and release commands from Kafka and answers with events. The service owns
//! `inventory_db`.
//!
//! It promises that an order holds goods at most once, and none after a release, however often its commands come
//! and in whatever order: see [`reservation`] for the rules.

mod handler;
mod reading;
pub mod reservation;
mod store;

use std::time::Duration;

use serde::Deserialize;
use service_runtime::batch::Batcher;
use service_runtime::conditional::ConditionalWrites;
use service_runtime::database::{self, DatabaseClock, DatabaseSettings, Session};
use service_runtime::http::description::complete;
use service_runtime::http::{Health, HttpServer, HttpSettings};
use service_runtime::kafka::{Consumer, KafkaSettings, Producer};
use service_runtime::metrics::Metrics;
use service_runtime::program::stop_when_done;
use service_runtime::retention::{Orchestrator, OrchestratorSettings, Retention, Rows, described, router};
use service_runtime::settings::{
    HOUR_MS, KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings, SettingsError, Share, require_within,
};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

const NAME: &str = "inventory-service";

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    kafka: KafkaSettings,
    stock: StockSettings,
    retention: Retention,
    orchestrator: OrchestratorSettings,
}

#[derive(Debug, Clone, Deserialize)]
struct StockSettings {
    inventory_failure_rate: Share,
    inventory_processing_ms: u64,
}

impl TryFrom<&Settings> for StockSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        require_within("inventory_processing_ms", section.inventory_processing_ms, 0..=HOUR_MS)?;
        Ok(section)
    }
}

impl TryFrom<&Settings> for Config {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            http: settings.try_into()?,
            trace: settings.try_into()?,
            database: settings.try_into()?,
            kafka: settings.try_into()?,
            stock: settings.try_into()?,
            retention: settings.try_into()?,
            orchestrator: settings.section()?,
        })
    }
}

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    complete(reading::Described::openapi().merge_from(described("/reservations")))
}

/// Serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fatal> {
    // A wrong URL ends the start before anything is opened.
    let orchestrator = Orchestrator::connect(&config.orchestrator)?;
    let metrics = Metrics::of(NAME);
    let server = HttpServer::bind(&config.http, &metrics, &shutdown).await?;
    let tracer = Tracer::open(&config.trace, NAME)?;
    let pool = database::open(&config.database, &sqlx::migrate!(), &metrics).await?;
    let clock = DatabaseClock::start(&pool, &metrics, shutdown.clone()).await;
    let consumer = Consumer::open(&config.kafka, NAME, &messages::InventoryCommand::TOPICS, &metrics, &tracer).await?;
    let producer = Producer::open(&config.kafka, NAME, &metrics)?;
    let group = consumer.state();
    let health = Health::default()
        .with_database(&pool)
        .with_clock(&clock)
        .with("kafka", move || Box::pin(std::future::ready(group.check())));
    let old = Rows::of(&pool, store::REMOVABLE);
    let routes = router("/reservations", old.clone(), config.retention, orchestrator, clock.clone())
        .merge(reading::router(pool.clone()));
    let handler = handler::Reservations {
        new: Batcher::start(ConditionalWrites::to(store::NewReservations(Session::beside(&pool))), &metrics),
        moves: Batcher::start(
            ConditionalWrites::to(store::Moves(Session::beside(&pool).impatient_of_locks())),
            &metrics,
        ),
        failure_rate: config.stock.inventory_failure_rate,
        processing: Duration::from_millis(config.stock.inventory_processing_ms),
        old,
        clock,
    };

    let stop = shutdown.child_token();
    let (consumed, served) = tokio::join!(
        stop_when_done(&stop, consumer.run(handler, producer, stop.clone())),
        stop_when_done(&stop, server.serve(routes, openapi, health, metrics, tracer.clone(), stop.clone())),
    );
    database::close(pool).await;
    tracer.close().await;
    consumed.and(served)
}
