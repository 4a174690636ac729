//! What the platform's participants share: all that lies between a command and its reply, but for the decision.
//!
//! A participant has one row for each order ([`Row`], with its SQL) and a pure [`Participant::decide`]. Here is what keeps
//! the other rules of docs/participants.md: a row is committed before the reply that it is made into is sent; a row that
//! somebody else stored meanwhile is decided on again; a call to the outside is announced by a committed row; and nothing
//! is done anew for an order whose row retention has removed.

mod handling;
mod service;
mod store;

use std::convert::Infallible;

use axum::Router;
use messages::groups::Group;
use messages::{DecodeError, OrderId, OutgoingRecord, Timestamp};
use service_runtime::database::DatabaseClock;
use service_runtime::kafka::{Producer, Retry};
use service_runtime::metrics::Metrics;
use service_runtime::settings::{Settings, SettingsError};
use service_runtime::{CancellationToken, Fatal};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use utoipa::OpenApi;

pub use service::{Config, openapi, run};
pub use store::{Common, Row, Statement, stored};

/// What to do next with a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Next<Row, Reply, Call = Infallible> {
    /// Store this row if the stored one is still the one that was decided on; then decide again.
    Write(Row),
    /// Make this call to the outside, which the row announces; store the row that comes of it, then decide again.
    Ask { call: Call, announced: Row },
    /// Done: this is the reply.
    Reply(Reply),
    /// The command contradicts the stored row. It gets no reply.
    Contradiction(String),
}

/// [`Next`] in a participant's own types.
pub type NextOf<P> = Next<<P as Participant>::Row, <P as Participant>::Reply, <P as Participant>::Call>;

/// What was about to be done for an order whose saga has ended and whose row is gone.
pub struct Anew<Row> {
    /// Why it is not done, for the dead letter.
    pub why: &'static str,
    /// The row that takes back what was stored a moment ago.
    pub undone: Option<Row>,
}

/// What is a participant's own.
pub trait Participant: Send + Sync + Sized + 'static {
    /// The service's name: the source of its replies.
    const NAME: &'static str;
    /// Where its commands come from: those that each order needs, and the others.
    const GROUPS: [Group; 2];
    /// Where its rows are read and removed by HTTP: "/payments", say.
    const PATH: &'static str;
    /// Of its database.
    const MIGRATIONS: Migrator;

    /// The settings that are its own.
    type Settings: for<'a> TryFrom<&'a Settings, Error = SettingsError>;
    type Command: Send;
    type Row: Row;
    type Reply: Send;
    /// A call to the outside. [`Infallible`]: it makes none.
    type Call: Send;
    /// What a decision depends on beside the command and the row: whether there is stock, say.
    type Facts: Send;
    /// Describes [`Participant::routes`].
    type Described: OpenApi;

    /// Starts what it needs.
    ///
    /// # Errors
    /// When it can't: the service ends.
    fn start(
        settings: Self::Settings,
        pool: &PgPool,
        clock: &DatabaseClock,
        metrics: &Metrics,
    ) -> impl Future<Output = Result<Self, Fatal>> + Send;

    /// What it does by itself, until `stop`. Most do nothing.
    fn work(
        _: PgPool,
        _: Producer,
        _: Metrics,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), Fatal>> + Send {
        async move {
            stop.cancelled().await;
            Ok(())
        }
    }

    /// `GET <PATH>/{orderId}`, and what it has beside that.
    fn routes(pool: PgPool) -> Router;

    /// Reads a record of one of the groups' topics.
    fn read(topic: &str, body: &[u8]) -> Result<Self::Command, DecodeError>;

    fn order_id(command: &Self::Command) -> OrderId;

    /// Finds out, once for each command that comes, what the decision depends on.
    fn facts(&self) -> impl Future<Output = Self::Facts> + Send;

    /// Notes that this row was stored, by this process and for the first time.
    fn stored(&self, _: &Self::Row) {}

    /// The next thing to do with a command, given the order's stored row. Pure: a command that comes again, to an unchanged
    /// row, gets the same reply, byte for byte.
    fn decide(command: &Self::Command, stored: Option<&Self::Row>, facts: &Self::Facts, now: Timestamp)
    -> NextOf<Self>;

    /// Makes a call, and answers the row that comes of it. One of the same status means that the call was refused for good,
    /// and what the row announces still has to happen: the command gets no reply, and a person is needed. `None`: whether
    /// the call took effect is not known; the command gets no reply either, and comes again.
    fn ask(
        &self,
        call: Self::Call,
        announced: &Self::Row,
    ) -> impl Future<Output = Result<Option<Self::Row>, Retry>> + Send;

    /// Whether the next thing to do must not be done for an order whose saga has ended. Asked about old orders only.
    fn anew(next: &NextOf<Self>, stored: Option<&Self::Row>, now: Timestamp) -> Option<Anew<Self::Row>>;

    /// The record to produce; its `source` is [`Participant::NAME`].
    fn to_record(reply: &Self::Reply, traceparent: Option<&str>) -> OutgoingRecord;
}
