//! Payments: takes charge and refund commands from Kafka, asks the gateway, answers with events. The service owns
//! `payment_db`.
//!
//! It promises that an order is charged at most once and refunded at most once, however often its commands come,
//! in whatever order, and whenever the process dies: see [`payment`] for the rules.

mod gateway;
mod handler;
pub mod payment;
mod reading;
mod store;

use service_runtime::batch::Batcher;
use service_runtime::conditional::ConditionalWrites;
use service_runtime::database::{self, DatabaseClock, DatabaseSettings, Session};
use service_runtime::http::description::complete;
use service_runtime::http::{Health, HttpServer, HttpSettings};
use service_runtime::kafka::{Consumer, KafkaSettings, Producer};
use service_runtime::metrics::Metrics;
use service_runtime::program::stop_when_done;
use service_runtime::retention::{Orchestrator, OrchestratorSettings, Retention, Rows, described, router};
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings, SettingsError};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

const NAME: &str = "payment-service";

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    kafka: KafkaSettings,
    gateway: gateway::GatewaySettings,
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
            kafka: settings.try_into()?,
            gateway: settings.try_into()?,
            retention: settings.try_into()?,
            orchestrator: settings.section()?,
        })
    }
}

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    complete(reading::Described::openapi().merge_from(described("/payments")))
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
    let consumer = Consumer::open(&config.kafka, NAME, &messages::PaymentCommand::TOPICS, &metrics, &tracer).await?;
    let producer = Producer::open(&config.kafka, NAME, &metrics)?;
    let group = consumer.state();
    let health = Health::default()
        .with_database(&pool)
        .with_clock(&clock)
        .with("kafka", move || Box::pin(std::future::ready(group.check())));
    let gateway = gateway::SimulatedGateway::start(Session::beside(&pool), config.gateway, &metrics);
    let old = Rows::of(&pool, store::REMOVABLE);
    let routes = router("/payments", old.clone(), config.retention, orchestrator, clock.clone())
        .merge(reading::router(pool.clone()));
    let handler = handler::Payments {
        writes: handler::Writes {
            new: Batcher::start(ConditionalWrites::to(store::NewPayments(Session::beside(&pool))), &metrics),
            moves: Batcher::start(
                ConditionalWrites::to(store::Moves(Session::beside(&pool).impatient_of_locks())),
                &metrics,
            ),
        },
        gateway,
        old,
        clock,
    };

    // Whichever ends first, by the signal or by an error, ends the other.
    let stop = shutdown.child_token();
    let (consumed, served) = tokio::join!(
        stop_when_done(&stop, consumer.run(handler, producer, stop.clone())),
        stop_when_done(&stop, server.serve(routes, openapi, health, metrics, tracer.clone(), stop.clone())),
    );
    database::close(pool).await;
    tracer.close().await;
    consumed.and(served)
}
