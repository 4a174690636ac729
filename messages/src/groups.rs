//! Who reads which topics.
//!
//! A fetch names every partition that its reader has, and the broker looks at each of them: what a checkout without items needs
//! is not read together with what it does not need.

use crate::order_created::ORDER_CREATED;
use crate::topics::{Message as _, SIGNALS};
use crate::{commands as c, events as e};

/// A consumer group of the platform.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub name: &'static str,
    pub topics: &'static [&'static str],
}

pub const PAYMENT: Group = Group { name: "payment-service", topics: &c::PaymentCommand::TOPICS };

pub const INVENTORY: Group = Group {
    name: "inventory-service",
    topics: &[c::ReserveInventory::TOPIC.name(), c::ReleaseInventory::TOPIC.name()],
};

/// What is done with goods that are set aside for a time.
pub const HANDOVER: Group = Group {
    name: "inventory-service.handover",
    topics: &[c::CommitInventory::TOPIC.name(), c::KeepInventory::TOPIC.name()],
};

/// Replies that sagas of built-in flows wait for.
pub const REPLIES: Group = Group {
    name: "saga-orchestrator",
    topics: &[
        e::PaymentCharged::TOPIC.name(),
        e::PaymentFailed::TOPIC.name(),
        e::PaymentRefunded::TOPIC.name(),
        e::InventoryReserved::TOPIC.name(),
        e::InventoryFailed::TOPIC.name(),
        e::InventoryReleased::TOPIC.name(),
        e::InventoryCommitted::TOPIC.name(),
    ],
};

/// Replies that only sagas of users' flows wait for; beside these, `<flow>.replies` of each of them. This group holds up no
/// checkout.
pub const FLOWS: Group = Group { name: "saga-orchestrator.flows", topics: &[e::InventoryKept::TOPIC.name()] };

/// Signals. Likewise.
pub const OF_SIGNALS: Group = Group { name: "saga-orchestrator.signals", topics: &[SIGNALS] };

/// Events that start sagas; beside orders, the topics that users' flows name. They may have to wait, and nothing else must wait
/// for them.
pub const STARTS: Group = Group { name: "saga-orchestrator.starts", topics: &[ORDER_CREATED] };

/// All of them.
pub const GROUPS: [Group; 7] = [PAYMENT, INVENTORY, HANDOVER, REPLIES, FLOWS, OF_SIGNALS, STARTS];

#[cfg(test)]
mod tests {
    use super::GROUPS;
    use crate::TOPICS;

    #[test]
    fn every_topic_is_read_by_one_group() {
        let mut read: Vec<&str> = GROUPS.iter().flat_map(|group| group.topics).copied().collect();
        let mut all = TOPICS.to_vec();
        read.sort_unstable();
        all.sort_unstable();
        assert_eq!(read, all);
    }
}
