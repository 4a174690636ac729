//! Commands: what the orchestrator asks of a participant. Each may come more than once, and a compensation may
//! come before, after or without the action that it undoes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DecodeError, Envelope, Message, Money, OrderId, Topic, UserId};

/// Take the money for an order, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChargePayment {
    pub user_id: UserId,
    pub money: Money,
    /// The gateway is to decline this charge (for trying the failure path out).
    #[serde(default)]
    pub force_fail: bool,
}

/// Make the net charge of an order zero, for good: give back what was charged, and refuse a charge that comes
/// later. `money` is what the charge asked for, so that a mix-up shows; what goes back is what was charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefundPayment {
    pub money: Money,
    /// Why the saga turned back, such as `INVENTORY_FAILED`.
    pub reason: String,
}

/// Set the goods of an order aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReserveInventory {
    /// The reservation is to fail as out of stock (for trying the failure path out).
    #[serde(default)]
    pub force_fail: bool,
}

/// Give the goods of an order free, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseInventory {
    /// Why the saga turned back, such as `TIMED_OUT`.
    pub reason: String,
}

impl Message for ChargePayment {
    const TOPIC: Topic<Self> = Topic::new("payment.charge.command");
}
impl Message for RefundPayment {
    const TOPIC: Topic<Self> = Topic::new("payment.refund.command");
}
impl Message for ReserveInventory {
    const TOPIC: Topic<Self> = Topic::new("inventory.reserve.command");
}
impl Message for ReleaseInventory {
    const TOPIC: Topic<Self> = Topic::new("inventory.release.command");
}

/// What the payment service is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentCommand {
    Charge(Envelope<ChargePayment>),
    Refund(Envelope<RefundPayment>),
}

impl PaymentCommand {
    /// The topics that these commands arrive on.
    pub const TOPICS: [&str; 2] = [ChargePayment::TOPIC.name(), RefundPayment::TOPIC.name()];

    /// Reads a record of one of [`Self::TOPICS`].
    pub fn decode(topic: &str, body: &[u8]) -> Result<Self, DecodeError> {
        match topic {
            t if t == ChargePayment::TOPIC.name() => Envelope::decode(body).map(Self::Charge),
            t if t == RefundPayment::TOPIC.name() => Envelope::decode(body).map(Self::Refund),
            other => Err(DecodeError::UnknownTopic(other.to_owned())),
        }
    }

    /// The order that it is about.
    pub const fn order_id(&self) -> OrderId {
        match self {
            Self::Charge(command) => command.order_id,
            Self::Refund(command) => command.order_id,
        }
    }
}

/// What the inventory service is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventoryCommand {
    Reserve(Envelope<ReserveInventory>),
    Release(Envelope<ReleaseInventory>),
}

impl InventoryCommand {
    /// The topics that these commands arrive on.
    pub const TOPICS: [&str; 2] = [ReserveInventory::TOPIC.name(), ReleaseInventory::TOPIC.name()];

    /// Reads a record of one of [`Self::TOPICS`].
    pub fn decode(topic: &str, body: &[u8]) -> Result<Self, DecodeError> {
        match topic {
            t if t == ReserveInventory::TOPIC.name() => Envelope::decode(body).map(Self::Reserve),
            t if t == ReleaseInventory::TOPIC.name() => Envelope::decode(body).map(Self::Release),
            other => Err(DecodeError::UnknownTopic(other.to_owned())),
        }
    }

    /// The order that it is about.
    pub const fn order_id(&self) -> OrderId {
        match self {
            Self::Reserve(command) => command.order_id,
            Self::Release(command) => command.order_id,
        }
    }
}
