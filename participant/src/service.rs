//! The service around a participant: its settings, and what runs in it.

use std::sync::Arc;

use service_runtime::database::{self, DatabaseClock, DatabaseSettings};
use service_runtime::http::description::complete;
use service_runtime::http::{Health, HttpServer, HttpSettings};
use service_runtime::kafka::{Consumer, KafkaSettings, Producer};
use service_runtime::metrics::Metrics;
use service_runtime::program::stop_when_done;
use service_runtime::retention::{Orchestrator, OrchestratorSettings, Retention, Rows, described, router};
use service_runtime::settings::{Settings, SettingsError};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use crate::Participant;
use crate::handling::Handling;
use crate::store::{Row as _, Store};

/// A participant's settings: those that all have, and its own.
#[derive(Debug, Clone)]
pub struct Config<S> {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    kafka: KafkaSettings,
    own: S,
    retention: Retention,
    orchestrator: OrchestratorSettings,
}

impl<S> TryFrom<&Settings> for Config<S>
where
    S: for<'a> TryFrom<&'a Settings, Error = SettingsError>,
{
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            http: settings.try_into()?,
            trace: settings.try_into()?,
            database: settings.try_into()?,
            kafka: settings.try_into()?,
            own: settings.try_into()?,
            retention: settings.try_into()?,
            orchestrator: settings.section()?,
        })
    }
}

/// The description of a participant's HTTP interface.
pub fn openapi<P: Participant>() -> OpenApi {
    complete(P::Described::openapi().merge_from(described(P::PATH)))
}

/// Serves until `shutdown`.
///
/// # Errors
/// When it can't start, or stops by itself.
pub async fn run<P: Participant>(config: Config<P::Settings>, shutdown: CancellationToken) -> Result<(), Fatal> {
    // A wrong URL ends the start before anything is opened.
    let orchestrator = Orchestrator::connect(&config.orchestrator)?;
    let metrics = Metrics::of(P::NAME);
    let server = HttpServer::bind(&config.http, &metrics, &shutdown).await?;
    let tracer = Tracer::open(&config.trace, P::NAME)?;
    let pool = database::open(&config.database, &P::MIGRATIONS, &metrics).await?;
    let clock = DatabaseClock::start(&pool, &metrics, shutdown.clone()).await;
    let partitions = Consumer::prepare(&config.kafka, P::NAME, &P::GROUPS).await?;
    let open = |group| Consumer::open(&config.kafka, P::NAME, (group, partitions), &metrics, &tracer);
    let (consumer, others) = (open(P::GROUPS[0])?, open(P::GROUPS[1])?);
    let producer = Producer::open(&config.kafka, P::NAME, &metrics)?;
    let (group, other_group) = (consumer.state(), others.state());
    let health = Health::default()
        .with_database(&pool)
        .with_clock(&clock)
        .with("kafka", move || Box::pin(std::future::ready(group.check())))
        .with(P::GROUPS[1].part(), move || Box::pin(std::future::ready(other_group.check())));
    let participant = P::start(config.own, &pool, &clock, &metrics).await?;
    let old = Rows::of(&pool, P::Row::TABLE);
    let routes =
        router(P::PATH, old.clone(), config.retention, orchestrator, clock.clone()).merge(P::routes(pool.clone()));
    let handling = Arc::new(Handling { participant, store: Store::open(&pool, &metrics), old, clock });

    // Whichever ends first, by the signal or by an error, ends the other.
    let stop = shutdown.child_token();
    let (worked, consumed, others_consumed, served) = tokio::join!(
        stop_when_done(&stop, P::work(pool.clone(), producer.clone(), metrics.clone(), stop.clone())),
        stop_when_done(&stop, consumer.run(handling.clone(), producer.clone(), stop.clone())),
        stop_when_done(&stop, others.run(handling.clone(), producer.clone(), stop.clone())),
        stop_when_done(&stop, server.serve(routes, openapi::<P>, health, metrics, tracer.clone(), stop.clone())),
    );
    database::close(pool).await;
    tracer.close().await;
    worked.and(consumed).and(others_consumed).and(served)
}
