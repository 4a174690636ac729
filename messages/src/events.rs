//! Events: a participant's reply to a command. A repeated command gets the same event again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DecodeError, Envelope, EventId, Message, Money, OrderId, SagaId, Short, TimestampText, Topic};

/// The money was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentCharged {
    pub money: Money,
}

/// The money was not taken, and never will be for this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentFailed {
    pub reason: String,
}

/// The net charge is zero, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRefunded {
    pub money: Money,
    /// True when a charge was given back; false when none had been taken.
    pub money_returned: bool,
}

/// The goods are set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryReserved {
    /// From then on they are free again, unless they are kept or committed before. Absent: they are set aside without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<TimestampText>,
}

/// The goods were not set aside, and never will be for this order; or they are not any more, and can't be kept or committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryFailed {
    pub reason: String,
    /// The products of which there were too few pieces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub short: Vec<Short>,
}

/// No goods are held for the order, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryReleased {}

/// The goods have left the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryCommitted {}

/// The goods are set aside without a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryKept {}

/// The time for which goods were set aside is over: they are free again. It answers no command, and moves no saga: that one
/// learns of it when it wants the goods kept or committed. For whoever wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryExpired {
    pub expires_at: TimestampText,
}

impl Message for InventoryExpired {
    const TOPIC: Topic<Self> = Topic::new("inventory.expired");
}

macro_rules! events {
    ($($name:ident => $topic:literal,)+) => {
        $(impl Message for $name {
            const TOPIC: Topic<Self> = Topic::new($topic);
        })+

        /// Any of our participants' replies.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Event {
            $($name(Envelope<$name>),)+
        }

        impl Event {
            /// The topics that events arrive on.
            pub const TOPICS: [&str; [$($topic),+].len()] = [$($name::TOPIC.name()),+];

            /// Reads a record of one of [`Self::TOPICS`].
            pub fn decode(topic: &str, body: &[u8]) -> Result<Self, DecodeError> {
                match topic {
                    $($topic => Envelope::decode(body).map(Self::$name),)+
                    other => Err(DecodeError::UnknownTopic(other.to_owned())),
                }
            }

            pub fn event_id(&self) -> EventId {
                match self { $(Self::$name(envelope) => envelope.event_id,)+ }
            }

            /// The command that it answers.
            pub fn causation_id(&self) -> Option<EventId> {
                match self { $(Self::$name(envelope) => envelope.causation_id,)+ }
            }

            pub fn saga_id(&self) -> SagaId {
                match self { $(Self::$name(envelope) => envelope.saga_id,)+ }
            }

            pub fn order_id(&self) -> OrderId {
                match self { $(Self::$name(envelope) => envelope.order_id,)+ }
            }
        }
    };
}

events! {
    PaymentCharged => "payment.charged",
    PaymentFailed => "payment.failed",
    PaymentRefunded => "payment.refunded",
    InventoryReserved => "inventory.reserved",
    InventoryFailed => "inventory.failed",
    InventoryReleased => "inventory.released",
    InventoryCommitted => "inventory.committed",
    InventoryKept => "inventory.kept",
}
