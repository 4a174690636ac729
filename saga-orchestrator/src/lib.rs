//! The orchestrator: takes checkouts over HTTP, drives each one as a saga, answers with its outcome. It owns
//! `orchestrator_db`.
//!
//! - [`saga`]: the pure core, which decides;
//! - `store`: the rows, which say what must happen next;
//! - `coordinator`: stores what the core decides, then carries out what the stored row asks for;
//! - `replies`, `orders`, `sweeper`, `checkout`, `operator`: where inputs come from: Kafka, the order service, time,
//!   clients, people;
//! - `registry`, `publishing`, `publishable`, `supported`: the flows that sagas run by, and what of a flow file this release does;
//! - `start_topic`: events that start sagas of users' flows;
//! - [`rehearsal`]: tries a flow with the core and modelled participants;
//! - `signals`, `signal_topic`: what happens outside and sagas wait for, over HTTP and by a topic;
//! - `retention`: removes what has long ended, in every service;
//! - `mass_acts`: an operator's act on many sagas;
//! - `views`: what people and programs may see of all this;
//! - `dead_letters`: what was set aside, and sending it back;
//! - `forced_failures`: whether a checkout may ask for one;
//! - `dashboard`: the same in a browser, with `stock`, the inventory service's products;
//! - `described`, `flow_openapi`, `flow_asyncapi`: the HTTP interface as OpenAPI, and the topics of a flow as AsyncAPI;
//! - `metrics`: what of it is counted.

mod begin;
mod checkout;
mod coordinator;
mod dashboard;
mod dead_letters;
mod described;
mod flow_asyncapi;
mod flow_openapi;
mod flow_start;
mod flow_topics;
mod forced_failures;
mod gate;
mod idempotency;
mod intake;
mod mass_acts;
mod metrics;
mod operator;
mod orders;
mod outcome;
mod passed_over;
mod publishable;
mod publishing;
mod registry;
pub mod rehearsal;
mod rehearsals;
mod replies;
mod retention;
pub mod saga;
mod signal_topic;
mod signals;
mod start_topic;
mod stock;
mod store;
mod supported;
mod sweeper;
mod views;
mod waiters;

use std::sync::Arc;
use std::time::{Duration, Instant};

use messages::{SAGA_OUTCOMES, SIGNALS, groups};
use serde::Deserialize;
use service_runtime::database::{self, DatabaseClock, DatabaseSettings, Session};
use service_runtime::http::description::Description;
use service_runtime::http::{Check, Health, HttpServer, HttpSettings, client};
use service_runtime::kafka::{Consumer, KafkaSettings, Producer, TopicCreation, require_topics};
use service_runtime::looking::Backlog;
use service_runtime::metrics::Metrics;
use service_runtime::outbox;
use service_runtime::program::stop_when_done;
use service_runtime::retention::Retention;
use service_runtime::settings::{
    HOUR_MS, KAFKA_DEFAULTS, SERVICE_DEFAULTS, Secret, Settings, SettingsError, require, require_within,
};
use service_runtime::trace::{TraceSettings, Tracer};
use service_runtime::{CancellationToken, Fatal};
use tokio::sync::watch;

use crate::checkout::CheckoutFlow;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use crate::checkout::read_checkout;
use crate::coordinator::Coordinator;
pub use crate::described::openapi;
use crate::forced_failures::ForcedFailures;

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

const NAME: &str = "saga-orchestrator";

/// How long a stop waits for calls and sends under way, after the records in hand are finished.
const FINISH_LIMIT: Duration = Duration::from_millis(1000);

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    http: HttpSettings,
    trace: TraceSettings,
    database: DatabaseSettings,
    kafka: KafkaSettings,
    topic_creation: TopicCreation,
    saga: SagaSettings,
    retention: Retention,
}

impl Config {
    /// Has the topics of published flows be created in this way, and not by the brokers' admin API.
    #[must_use]
    pub fn with_topic_creation(self, topic_creation: TopicCreation) -> Self {
        Self { topic_creation, ..self }
    }
}

/// See `default.toml` for what each setting means. A URL may hold a password.
#[derive(Debug, Clone, Deserialize)]
struct SagaSettings {
    order_service_url: Secret,
    payment_service_url: Secret,
    inventory_service_url: Secret,
    order_service_timeout_ms: u64,
    checkout_wait_ms: u64,
    checkout_max_waiting: usize,
    checkout_max_unfinished: u32,
    #[serde(with = "humantime_serde")]
    idempotency_retention: Duration,
    saga_timeout_ms: u64,
    resend_first_ms: u32,
    resend_max_ms: u32,
    resend_per_second: u32,
    attention_after: u32,
    event_streams_max: usize,
    event_streams_max_per_client: usize,
    allow_forced_failures: ForcedFailures,
    checkout_flow: CheckoutFlow,
    publish_outcomes: bool,
}

impl SagaSettings {
    /// Whether the other services' URLs can be used: wrong ones end the start before anything is opened.
    fn check_urls(&self) -> Result<(), Fatal> {
        for (variable, url) in [
            ("ORDER_SERVICE_URL", &self.order_service_url),
            ("PAYMENT_SERVICE_URL", &self.payment_service_url),
            ("INVENTORY_SERVICE_URL", &self.inventory_service_url),
        ] {
            drop(client(variable, url.get(), "")?);
        }
        Ok(())
    }
}

impl TryFrom<&Settings> for Config {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let (saga, retention) = (SagaSettings::checked(settings)?, Retention::try_from(settings)?);
        let keeps_keys =
            retention.limit().is_none_or(|limit| limit.to_std().is_ok_and(|limit| limit >= saga.idempotency_retention));
        require("retention_days", keeps_keys, "must be at least IDEMPOTENCY_RETENTION, or 0 to keep everything")?;
        Ok(Self {
            http: settings.try_into()?,
            trace: settings.try_into()?,
            database: settings.try_into()?,
            kafka: settings.try_into()?,
            topic_creation: TopicCreation::default(),
            saga,
            retention,
        })
    }
}

impl SagaSettings {
    fn checked(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        // Quicker than an order service under load answers, every saga would time out; slower than a step's deadline too.
        require_within("order_service_timeout_ms", section.order_service_timeout_ms, 50..=60_000)?;
        require_within("checkout_wait_ms", section.checkout_wait_ms, 0..=24 * HOUR_MS)?;
        require_within("checkout_max_waiting", section.checkout_max_waiting, 1..=1_000_000)?;
        // They are counted twice a second.
        require_within("checkout_max_unfinished", section.checkout_max_unfinished, 1..=10_000_000)?;
        // A client that repeats its request has to find the saga.
        let retention = section.idempotency_retention;
        let bounds = Duration::from_secs(1)..=Duration::from_secs(36_500 * 24 * 3600);
        require("idempotency_retention", bounds.contains(&retention), "must be 1s to 36500days")?;
        require_within("saga_timeout_ms", section.saga_timeout_ms, 1000..=30 * 24 * HOUR_MS)?;
        // The sweeper looks four times a second: in less than that nothing has been answered yet.
        require_within("resend_first_ms", section.resend_first_ms, 100..=HOUR_MS as u32)?;
        require_within("resend_max_ms", section.resend_max_ms, 100..=HOUR_MS as u32)?;
        let rises = section.resend_max_ms >= section.resend_first_ms;
        require(
            "resend_max_ms",
            rises,
            "must be at least RESEND_FIRST_MS: repetitions come further and further apart",
        )?;
        require_within("resend_per_second", section.resend_per_second, 1..=1_000_000)?;
        require_within("attention_after", section.attention_after, 1..=1_000_000)?;
        require_within("event_streams_max", section.event_streams_max, 0..=1_000_000)?;
        require_within("event_streams_max_per_client", section.event_streams_max_per_client, 1..=1_000_000)?;
        Ok(section)
    }
}

/// Serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fatal> {
    config.saga.check_urls()?;
    let metrics = Metrics::of(NAME);
    let server = HttpServer::bind(&config.http, &metrics, &shutdown).await?;
    let stop = server.drained();
    let tracer = Tracer::open(&config.trace, NAME)?;
    let pool = database::open(&config.database, &sqlx::migrate!(), &metrics).await?;
    let clock = DatabaseClock::start(&pool, &metrics, stop.clone()).await;
    store::definitions::check_unchanged(&pool).await?;
    let flows = Arc::new(registry::Flows::new(Session::beside(&pool), &config.saga));
    flows.open().await?;
    publishable::check_running(&pool, &flows, &config.retention).await?;
    // That of signals may be missing: `kafka-init` of the release before has not made it.
    let outcomes = config.saga.publish_outcomes.then_some(SAGA_OUTCOMES);
    let topics: Vec<String> = messages::MESSAGE_TOPICS.into_iter().chain(outcomes).map(str::to_owned).collect();
    require_topics(&config.kafka, NAME, &topics).await?;
    let partitions = Consumer::prepare(&config.kafka, NAME, &[groups::REPLIES, groups::FAILURES]).await?;
    let open = |group| Consumer::open(&config.kafka, NAME, (group, partitions), &metrics, &tracer);
    let (consumer, failure_consumer) = (open(groups::REPLIES)?, open(groups::FAILURES)?);
    let producer = Producer::open(&config.kafka, NAME, &metrics)?;
    let flow_consumer =
        Consumer::open_growing(&config.kafka, NAME, groups::FLOWS.name, flows.reply_topics(), &metrics, &tracer);
    let groups =
        replies::Groups { replies: consumer.state(), failures: failure_consumer.state(), flows: flow_consumer.state() };
    let (_, signal_topics) = watch::channel(vec![SIGNALS.to_owned()]);
    let unhurried = config.kafka.unhurried();
    let signal_consumer =
        Consumer::open_growing(&unhurried, NAME, groups::OF_SIGNALS.name, signal_topics, &metrics, &tracer);
    let start_consumer =
        Consumer::open_growing(&unhurried, NAME, groups::STARTS.name, flows.start_topics(), &metrics, &tracer);
    metrics::standing::show(&metrics, pool.clone(), flows.clone());

    let gate = gate::Gate::at(Session::beside(&pool), config.saga.checkout_max_unfinished, &metrics).await;
    let gate = Arc::new(gate.map_err(|error| Fatal::new(error.to_string()))?);
    let orders = orders::OrderService::connect(&config.saga, &metrics)?;
    let SagaSettings { event_streams_max, event_streams_max_per_client, checkout_max_waiting, .. } = config.saga;
    let streams = views::streams::Places::new(event_streams_max, event_streams_max_per_client, &metrics);
    let places = intake::Places::new(checkout_max_waiting, &metrics, flows.clone());
    let views =
        views::Views::open(pool.clone(), clock.clone(), flows.clone(), &config.saga, streams.clone(), stop.clone())?;
    let remover = retention::Remover::new(pool.clone(), config.retention, &config.saga)?;
    let is_announced = config.saga.publish_outcomes;
    let database = store::Database { pool: &pool, clock: clock.clone(), is_announced };
    let coordinator = Coordinator::new(database, producer.clone(), orders, flows.clone(), &metrics, &tracer);
    let coordinator = Arc::new(coordinator);
    let passed_over = Arc::new(passed_over::PassedOver::new(&metrics));
    let (watched_gate, reported) = (gate.clone(), passed_over.clone());
    let mut health = Health::default()
        .with_database(&pool)
        .with_clock(&clock)
        .with("definitions", move || Box::pin(std::future::ready(reported.check(Instant::now()))));
    // A checkout is accepted without Kafka: it is stored, and goes on once Kafka is back.
    for (name, group) in [
        ("kafka", groups.replies.clone()),
        ("failures", groups.failures.clone()),
        ("flows", groups.flows.clone()),
        ("signals", signal_consumer.state()),
        ("starts", start_consumer.state()),
    ] {
        health = health.with(name, move || {
            let check = group.trouble().map_or(Check::Ok, Check::Degraded);
            Box::pin(std::future::ready(check))
        });
    }
    let health = health
        .with("intake", move || Box::pin(std::future::ready(watched_gate.check())))
        .with("event streams", move || Box::pin(std::future::ready(streams.check())));
    let unsent = Backlog::of("ends of sagas that are not published");
    let shown = unsent.clone();
    let health = health.with("outcomes", move || Box::pin(std::future::ready(shown.check())));
    let watched_places = places.clone();
    let health = health.with("waiting", move || Box::pin(std::future::ready(watched_places.check())));

    let intake = intake::Intake::new(
        coordinator.clone(),
        groups,
        gate.clone(),
        places,
        &config.saga,
        stop.clone(),
        config.http.shutdown_timeout(),
    );
    let letters = dead_letters::DeadLetters::new(config.kafka.clone(), producer.clone(), pool.clone(), flows.clone());
    let forced_failures = config.saga.allow_forced_failures.get();
    let topics = flow_topics::Topics { creation: config.topic_creation, kafka: config.kafka.clone() };
    let publisher = publishing::Publisher {
        session: Session::beside(&pool),
        pool: pool.clone(),
        flows: flows.clone(),
        topics: topics.clone(),
        retention: config.retention,
        rehearsals: rehearsals::Rehearsals::default(),
    };
    let publisher = Arc::new(publisher);
    let dashboard = dashboard::Dashboard {
        views: views.clone(),
        gate: gate.clone(),
        letters: letters.clone(),
        publisher: publisher.clone(),
        stock: stock::Stock::new(&config.saga)?,
        forced_failures,
    };
    let intake = Arc::new(intake);
    let waited_in = intake.clone();
    let look_at_rows = waiters::look_at_rows(
        coordinator.waiters.clone(),
        move |saga_id, flow| waited_in.may_be_answered_elsewhere(saga_id, flow),
        Session::beside(&pool),
        flows.clone(),
        stop.clone(),
    );
    let routes = checkout::router(intake.clone())
        .merge(flow_start::router(intake))
        .merge(publishing::router(publisher))
        .merge(flow_asyncapi::router(flows.clone()))
        .merge(views::router(views))
        .merge(dead_letters::router(letters))
        .merge(dashboard::router(dashboard))
        .merge(operator::router(coordinator.clone(), gate.clone()))
        .merge(mass_acts::router(coordinator.clone(), pool.clone(), config.saga.resend_per_second))
        .merge(signals::router(coordinator.clone()))
        .merge(retention::router(pool.clone()));
    let described = flows.clone();
    let description = Description::from(move || described::openapi_of(&described.startable()));
    let description = description.made_anew_after(flows.changes());
    let replies = Arc::new(replies::Replies::new(coordinator.clone(), passed_over));
    let retention = config.saga.idempotency_retention;
    let signal_topic = signal_topic::SignalTopic(coordinator.clone());
    let start_topics = start_topic::StartTopics {
        coordinator: coordinator.clone(),
        gate: gate.clone(),
        pool: pool.clone(),
        retention: config.retention,
    };
    let publish = async {
        if is_announced {
            let outcomes = store::announced::Outcomes { session: Session::beside(&pool), flows: flows.clone() };
            outbox::send(&pool, &producer, &metrics, &unsent, &outcomes, stop.clone()).await;
        }
    };
    let consume_platforms = async {
        let platforms = || replies::PlatformReplies(replies.clone());
        let (forward, back) = tokio::join!(
            stop_when_done(&stop, consumer.run(platforms(), producer.clone(), stop.clone())),
            stop_when_done(&stop, failure_consumer.run(platforms(), producer.clone(), stop.clone())),
        );
        forward.and(back)
    };
    let (consumed, flows_consumed, signals_consumed, starts_consumed, served, (), (), (), (), (), (), (), (), (), ()) = tokio::join!(
        consume_platforms,
        stop_when_done(&stop, flow_consumer.run(replies::FlowReplies(replies.clone()), producer.clone(), stop.clone())),
        stop_when_done(&stop, signal_consumer.run(signal_topic, producer.clone(), stop.clone())),
        stop_when_done(&stop, start_consumer.run(start_topics, producer.clone(), stop.clone())),
        stop_when_done(&stop, server.serve(routes, description, health, metrics.clone(), tracer.clone(), stop.clone())),
        stop_when_done(&stop, sweeper::run(coordinator.clone(), Session::beside(&pool), &config.saga, stop.clone())),
        stop_when_done(&stop, look_at_rows),
        stop_when_done(&stop, gate.watch(stop.clone())),
        stop_when_done(&stop, flows.watch(stop.clone())),
        stop_when_done(&stop, flow_topics::keep_topics(flows.clone(), topics, stop.clone())),
        stop_when_done(&stop, idempotency::forget_old_keys(pool.clone(), retention, stop.clone())),
        stop_when_done(&stop, signals::meet(coordinator.clone(), stop.clone())),
        stop_when_done(&stop, signals::forget_old(pool.clone(), stop.clone())),
        stop_when_done(&stop, remover.run(stop.clone())),
        publish,
    );
    // One after the other: a call that ends now has its saga's next command sent.
    coordinator.finish(FINISH_LIMIT).await;
    producer.flush(FINISH_LIMIT).await;
    database::close(pool).await;
    tracer.close().await;
    consumed.and(flows_consumed).and(signals_consumed).and(starts_consumed).and(served)
}
