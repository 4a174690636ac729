//! The contract between the services: which topics exist, what a message on each of them looks like, and the
//! words (ids, money) that all services share. Participants in other languages read the same JSON; the golden
//! files under `tests/snapshots/` are that contract, word for word.
//!
//! Owns no I/O and imports no other crate of this workspace.

mod announcements;
mod commands;
mod duration;
mod envelope;
mod events;
pub mod groups;
mod ids;
mod items;
mod money;
pub mod object;
mod order_created;
mod record;
pub mod schema;
mod signal;
mod sku;
pub mod text;
mod timestamp;
mod topics;
mod trace_context;
mod user;

pub use announcements::{ChangedOrder, ORDER_EVENTS, OrderEvent, SAGA_OUTCOMES, SagaOutcome};
pub use commands::{
    ChargePayment, CommitInventory, InventoryCommand, KeepInventory, PaymentCommand, RefundPayment, ReleaseInventory,
    ReserveInventory,
};
pub use duration::{HoldFor, NotHoldFor, duration};
pub use envelope::{Command, DecodeError, Envelope};
pub use events::{
    Event, InventoryCommitted, InventoryExpired, InventoryFailed, InventoryKept, InventoryReleased, InventoryReserved,
    PaymentCharged, PaymentFailed, PaymentRefunded,
};
pub use ids::{EventId, OrderId, SagaId};
pub use items::{Item, Items, Short, TooManyLines};
pub use money::{AmountText, Currency, MAX_AMOUNT, Money, MoneyError};
pub use order_created::{ORDER_CREATED, OrderCreated, PlacedOrder};
pub use record::OutgoingRecord;
pub use signal::{MAX_SIGNAL_ID, MAX_SIGNAL_MATCH, MAX_SIGNAL_PAYLOAD, SignalRecord};
pub use sku::{NotASku, Sku};
pub use timestamp::{Timestamp, TimestampText};
pub use topics::{
    ANNOUNCEMENTS, MESSAGE_TOPICS, Message, SIGNALS, TOPICS, Topic, all_topics, dead_letter_topic, partition_for_key,
};
pub use trace_context::{NotATraceContext, TRACEPARENT, TraceContext};
pub use user::UserId;

/// Whether commands go to the simulated gateway and stock of this repository. A platform with real ones has false here:
/// `ALLOW_FORCED_FAILURES` is then off unless it is set.
pub const IS_SIMULATED: bool = true;
