//! Orders: created PENDING, then CONFIRMED or CANCELLED, over HTTP. The service owns `order_db`.
//!
//! It promises that everything may be repeated: the same create answers the stored order, the same transition is
//! accepted again. An order that belongs to a saga is moved by that saga only. One that is placed directly is announced on
//! Kafka until a saga has taken it up.

mod announcing;
pub mod answers;
pub mod order;
mod routes;
mod store;

use std::time::Duration;

use serde::Deserialize;
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Reads};
use service_runtime::database::{self, DatabaseClock, DatabaseSettings, Session};
use service_runtime::http::batch;
use service_runtime::http::description::complete;
use service_runtime::http::{Health, HttpServer, HttpSettings};
use service_runtime::kafka::{KafkaSettings, Producer};
use service_runtime::looking::Backlog;
use service_runtime::metrics::Metrics;
use service_runtime::outbox;
use service_runtime::program::stop_when_done;
use service_runtime::retention::{Orchestrator, OrchestratorSettings, Retention, Rows, described, router};
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings, SettingsError};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use tokio::sync::Semaphore;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

/// The service's name on Kafka, in metrics and in traces.
const NAME: &str = "order-service";

/// How long what is on its way to Kafka may take at the end. What is not acknowledged by then is announced again.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    kafka: KafkaSettings,
    retention: Retention,
    orchestrator: OrchestratorSettings,
    orders: OrderSettings,
}

/// See `default.toml` for what it means.
#[derive(Debug, Clone, Copy, Deserialize)]
struct OrderSettings {
    publish_order_events: bool,
}

impl TryFrom<&Settings> for Config {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            http: settings.try_into()?,
            trace: settings.try_into()?,
            database: settings.try_into()?,
            kafka: settings.try_into()?,
            retention: settings.try_into()?,
            orchestrator: settings.section()?,
            orders: settings.section()?,
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
    let metrics = Metrics::of(NAME);
    let server = HttpServer::bind(&config.http, &metrics, &shutdown).await?;
    let stop = server.drained();
    let tracer = Tracer::open(&config.trace, NAME)?;
    let pool = database::open(&config.database, &sqlx::migrate!(), &metrics).await?;
    let clock = DatabaseClock::start(&pool, &metrics, shutdown.clone()).await;
    let is_announced = config.orders.publish_order_events;
    let producer = Producer::open(&config.kafka, NAME, &metrics)?;
    let writing = store::Writing { clock: clock.clone(), is_announced };
    let orders = routes::Orders {
        listing: Session::beside(&pool),
        producer: producer.clone(),
        clock: clock.clone(),
        waiting: Semaphore::new(routes::MOST_WAITING),
        stop: stop.clone(),
        keyed: Batcher::start(
            ConditionalWrites::to(store::KeyedCreates(Session::beside(&pool), writing.clone())),
            &metrics,
        ),
        creates: Batcher::start(
            ConditionalWrites::to(store::Creates(Session::beside(&pool), writing.clone())),
            &metrics,
        ),
        transitions: Batcher::start(
            ConditionalWrites::to(store::Transitions(Session::beside(&pool).impatient_of_locks(), writing.clone())),
            &metrics,
        ),
        tombstones: Batcher::start(
            ConditionalWrites::to(store::Tombstones(Session::beside(&pool), clock.clone())),
            &metrics,
        ),
        stored: Batcher::start(Reads(store::Creates(Session::beside(&pool), writing.clone())), &metrics),
    };
    let old = Rows::of(&pool, store::REMOVABLE);
    let removal = router("/orders", old, config.retention, orchestrator, clock.clone());
    let routes = routes::router(orders, tracer.clone()).merge(removal);
    let awaiting = Backlog::of("orders that await their sagas");
    let shown = awaiting.clone();
    let health = Health::default()
        .with_database(&pool)
        .with_clock(&clock)
        .with("orders", move || Box::pin(std::future::ready(shown.check())));
    let unsent = Backlog::of("changes of orders that are not published");
    let shown = unsent.clone();
    let health = health.with("events", move || Box::pin(std::future::ready(shown.check())));
    let publish = async {
        if is_announced {
            let events = store::Events(Session::beside(&pool));
            outbox::send(&pool, &producer, &metrics, &unsent, &events, stop.clone()).await;
        }
    };
    let session = Session::beside(&pool);
    let (served, (), ()) = tokio::join!(
        stop_when_done(&stop, server.serve(routes, openapi, health, metrics.clone(), tracer.clone(), stop.clone())),
        announcing::announce_again(&session, &producer, &metrics, &awaiting, stop.clone()),
        publish,
    );
    producer.flush(FLUSH_LIMIT).await;
    database::close(pool).await;
    tracer.close().await;
    served
}
