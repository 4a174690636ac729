//! Inventory: takes reserve, keep, commit and release commands from Kafka and answers with events. The service owns
//! `inventory_db`.
//!
//! It promises that an order holds goods at most once, and none after a release, however often its commands come
//! and in whatever order: see [`reservation`] for the rules.

mod astray;
mod expiring;
mod metrics;
mod products;
mod reading;
pub mod reservation;
mod reserving;
mod stock;
mod store;

use std::convert::Infallible;

use axum::Router;
use messages::groups::{self, Group};
use messages::{DecodeError, InventoryCommand, OrderId, OutgoingRecord, Timestamp};
use participant::{Anew, Participant};
use service_runtime::database::DatabaseClock;
use service_runtime::kafka::{Producer, Retry};
use service_runtime::metrics::Metrics;
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS};
use service_runtime::{CancellationToken, Fatal};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use utoipa::openapi::OpenApi;

use crate::reservation::{Facts, Next, Reply, Reservation, decide, reserved_anew};
use crate::stock::StockSettings;

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

/// The service's settings.
pub type Config = participant::Config<StockSettings>;

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    participant::openapi::<Reservations>()
}

/// Serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fatal> {
    participant::run::<Reservations>(config, shutdown).await
}

struct Reservations {
    stock: StockSettings,
    metrics: metrics::Reservations,
}

impl Participant for Reservations {
    const NAME: &'static str = "inventory-service";
    const GROUPS: [Group; 2] = [groups::INVENTORY, groups::RESERVED];
    const PATH: &'static str = "/reservations";
    const MIGRATIONS: Migrator = sqlx::migrate!();

    type Settings = StockSettings;
    type Command = InventoryCommand;
    type Row = Reservation;
    type Reply = Reply;
    type Call = Infallible;
    type Facts = Facts;
    type Described = reading::Described;

    async fn start(stock: StockSettings, pool: &PgPool, _: &DatabaseClock, metrics: &Metrics) -> Result<Self, Fatal> {
        if stock.sample_products {
            products::samples::store(pool).await?;
        }
        Ok(Self { stock, metrics: metrics::Reservations::new(metrics) })
    }

    async fn work(pool: PgPool, producer: Producer, metrics: Metrics, stop: CancellationToken) -> Result<(), Fatal> {
        let expired = metrics.count("inventory_expired_total", "Holds whose time was over.");
        tokio::join!(
            expiring::expire(&pool, &producer, &expired, stop.clone()),
            expiring::announce_again(&pool, &producer, stop.clone()),
            metrics::watch_stock(&pool, &metrics, stop.clone()),
            astray::give_back(&pool, stop),
        );
        Ok(())
    }

    fn routes(pool: PgPool) -> Router {
        reading::router(pool.clone()).merge(products::router(pool))
    }

    fn read(topic: &str, body: &[u8]) -> Result<InventoryCommand, DecodeError> {
        InventoryCommand::decode(topic, body)
    }

    fn order_id(command: &InventoryCommand) -> OrderId {
        command.order_id()
    }

    async fn facts(&self) -> Facts {
        self.stock.look().await
    }

    fn stored(&self, row: &Reservation) {
        self.metrics.note(row);
    }

    fn decide(command: &InventoryCommand, stored: Option<&Reservation>, facts: &Facts, now: Timestamp) -> Next {
        decide(command, stored, facts, now)
    }

    async fn ask(&self, call: Infallible, _: &Reservation) -> Result<Option<Reservation>, Retry> {
        match call {}
    }

    fn anew(next: &Next, stored: Option<&Reservation>, now: Timestamp) -> Option<Anew<Reservation>> {
        matches!(next, Next::Reply(_)).then(|| reserved_anew(stored?, now)).flatten()
    }

    fn to_record(reply: &Reply, traceparent: Option<&str>) -> OutgoingRecord {
        reply.to_record(Self::NAME, traceparent)
    }
}
