//! Payments: takes charge and refund commands from Kafka, asks the gateway, answers with events. The service owns
//! `payment_db`.
//!
//! It promises that an order is charged at most once and refunded at most once, however often its commands come,
//! in whatever order, and whenever the process dies: see [`payment`] for the rules.

mod gateway;
pub mod payment;
mod reading;
mod store;

use axum::Router;
use messages::groups::{self, Group};
use messages::{DecodeError, OrderId, OutgoingRecord, PaymentCommand, Timestamp};
use participant::{Anew, Participant};
use service_runtime::database::{DatabaseClock, Session};
use service_runtime::kafka::Retry;
use service_runtime::metrics::Metrics;
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS};
use service_runtime::{CancellationToken, Fatal};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tracing::debug;
use utoipa::openapi::OpenApi;

use crate::gateway::{CallError, GatewaySettings, SimulatedGateway};
use crate::payment::{Call, Next, Payment, Reply, decide, settle};

/// Every setting with its default.
pub const DEFAULTS: [&str; 3] = [include_str!("../default.toml"), KAFKA_DEFAULTS, SERVICE_DEFAULTS];

/// The service's settings.
pub type Config = participant::Config<GatewaySettings>;

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    participant::openapi::<Payments>()
}

/// Serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fatal> {
    participant::run::<Payments>(config, shutdown).await
}

struct Payments {
    gateway: SimulatedGateway,
    clock: DatabaseClock,
}

impl Participant for Payments {
    const NAME: &'static str = "payment-service";
    const GROUPS: [Group; 2] = [groups::PAYMENT, groups::REFUNDS];
    const PATH: &'static str = "/payments";
    const MIGRATIONS: Migrator = sqlx::migrate!();

    type Settings = GatewaySettings;
    type Command = PaymentCommand;
    type Row = Payment;
    type Reply = Reply;
    type Call = Call;
    type Facts = ();
    type Described = reading::Described;

    async fn start(
        settings: GatewaySettings,
        pool: &PgPool,
        clock: &DatabaseClock,
        metrics: &Metrics,
    ) -> Result<Self, Fatal> {
        let gateway = SimulatedGateway::start(Session::beside(pool), settings, metrics);
        Ok(Self { gateway, clock: clock.clone() })
    }

    fn routes(pool: PgPool) -> Router {
        reading::router(pool)
    }

    fn read(topic: &str, body: &[u8]) -> Result<PaymentCommand, DecodeError> {
        PaymentCommand::decode(topic, body)
    }

    fn order_id(command: &PaymentCommand) -> OrderId {
        command.order_id()
    }

    async fn facts(&self) {}

    fn decide(command: &PaymentCommand, stored: Option<&Payment>, (): &(), now: Timestamp) -> Next {
        decide(command, stored, now)
    }

    async fn ask(&self, call: Call, announced: &Payment) -> Result<Option<Payment>, Retry> {
        match self.gateway.call(call).await {
            Ok(answer) => Ok(Some(settle(announced, answer, self.clock.now()))),
            Err(CallError::Store(error)) => Err(error.into()),
            Err(error @ CallError::Unreachable) => {
                debug!(order_id = %announced.order_id, %error);
                Ok(None)
            }
        }
    }

    fn anew(next: &Next, _: Option<&Payment>, _: Timestamp) -> Option<Anew<Payment>> {
        matches!(next, Next::Ask { .. }).then_some(Anew { why: "no money is moved for it again", undone: None })
    }

    fn to_record(reply: &Reply, traceparent: Option<&str>) -> OutgoingRecord {
        reply.to_record(Self::NAME, traceparent)
    }
}
