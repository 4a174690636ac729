//! Commands: what the orchestrator asks of a participant. Each may come more than once, and a compensation may
//! come before, after or without the action that it undoes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DecodeError, Envelope, EventId, HoldFor, Item, Items, Message, Money, OrderId, SagaId, Topic, UserId};

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

/// Set the goods of an order aside: pieces of products, or of nothing that is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReserveInventory {
    /// The reservation is to fail as out of stock (for trying the failure path out).
    #[serde(default)]
    pub force_fail: bool,
    /// What is set aside, all of it or nothing.
    #[serde(default, skip_serializing_if = "Items::is_empty")]
    #[schema(value_type = Vec<Item>, max_items = 100)]
    pub items: Items,
    /// How long they are set aside. Absent: as long as the inventory service is set to, for goods that are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_for: Option<HoldFor>,
}

/// The goods of an order go to the customer: they leave the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitInventory {}

/// Set the goods of an order aside without a limit from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeepInventory {}

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
impl Message for CommitInventory {
    const TOPIC: Topic<Self> = Topic::new("inventory.commit.command");
}
impl Message for KeepInventory {
    const TOPIC: Topic<Self> = Topic::new("inventory.keep.command");
}

macro_rules! commands {
    ($(#[$doc:meta])* $name:ident => $($variant:ident($payload:ident),)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($variant(Envelope<$payload>),)+
        }

        impl $name {
            /// The topics that these commands arrive on.
            pub const TOPICS: [&str; [$(stringify!($variant)),+].len()] = [$($payload::TOPIC.name()),+];

            /// Reads a record of one of [`Self::TOPICS`].
            pub fn decode(topic: &str, body: &[u8]) -> Result<Self, DecodeError> {
                match topic {
                    $(t if t == $payload::TOPIC.name() => Envelope::decode(body).map(Self::$variant),)+
                    other => Err(DecodeError::UnknownTopic(other.to_owned())),
                }
            }

            pub const fn event_id(&self) -> EventId {
                match self { $(Self::$variant(command) => command.event_id,)+ }
            }

            pub const fn saga_id(&self) -> SagaId {
                match self { $(Self::$variant(command) => command.saga_id,)+ }
            }

            /// The order that it is about.
            pub const fn order_id(&self) -> OrderId {
                match self { $(Self::$variant(command) => command.order_id,)+ }
            }
        }
    };
}

commands! {
    /// What the payment service is asked for.
    PaymentCommand =>
    Charge(ChargePayment),
    Refund(RefundPayment),
}

commands! {
    /// What the inventory service is asked for.
    InventoryCommand =>
    Reserve(ReserveInventory),
    Release(ReleaseInventory),
    Commit(CommitInventory),
    Keep(KeepInventory),
}
