//! Who reads which topics.
//!
//! A fetch names every partition that its consumer has, and the broker looks at each of them. So what a checkout without items
//! needs that succeeds is read apart from what only others need.

use crate::order_created::ORDER_CREATED;
use crate::topics::{Message as _, SIGNALS};
use crate::{commands as c, events as e};

/// A consumer group of the platform.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub name: &'static str,
    pub topics: &'static [&'static str],
    /// The group that read some of these topics in earlier releases. Where this one has no offset yet, it begins at that one's.
    pub formerly: Option<&'static str>,
}

impl Group {
    /// Which of its service's groups it is: `refunds` of `payment-service.refunds`. The first one's is its service's name.
    pub fn part(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, part)| part)
    }
}

pub const PAYMENT: Group = Group { name: "payment-service", topics: &[c::ChargePayment::TOPIC.name()], formerly: None };

/// What gives a payment back.
pub const REFUNDS: Group =
    Group { name: "payment-service.refunds", topics: &[c::RefundPayment::TOPIC.name()], formerly: Some(PAYMENT.name) };

pub const INVENTORY: Group =
    Group { name: "inventory-service", topics: &[c::ReserveInventory::TOPIC.name()], formerly: None };

/// What becomes of goods that are reserved.
pub const RESERVED: Group = Group {
    name: "inventory-service.reserved",
    topics: &[c::ReleaseInventory::TOPIC.name(), c::CommitInventory::TOPIC.name(), c::KeepInventory::TOPIC.name()],
    formerly: Some(INVENTORY.name),
};

/// Replies by which sagas of built-in flows go forward.
pub const REPLIES: Group = Group {
    name: "saga-orchestrator",
    topics: &[e::PaymentCharged::TOPIC.name(), e::InventoryReserved::TOPIC.name(), e::InventoryCommitted::TOPIC.name()],
    formerly: None,
};

/// Replies by which sagas of built-in flows turn back.
pub const FAILURES: Group = Group {
    name: "saga-orchestrator.failures",
    topics: &[
        e::PaymentFailed::TOPIC.name(),
        e::PaymentRefunded::TOPIC.name(),
        e::InventoryFailed::TOPIC.name(),
        e::InventoryReleased::TOPIC.name(),
    ],
    formerly: Some(REPLIES.name),
};

/// Replies that only sagas of users' flows wait for; beside these, `<flow>.replies` of each of them. This group holds up no
/// checkout.
pub const FLOWS: Group =
    Group { name: "saga-orchestrator.flows", topics: &[e::InventoryKept::TOPIC.name()], formerly: None };

/// Signals. Likewise.
pub const OF_SIGNALS: Group = Group { name: "saga-orchestrator.signals", topics: &[SIGNALS], formerly: None };

/// Events that start sagas; beside orders, the topics that users' flows name. They may have to wait, and nothing else must wait
/// for them.
pub const STARTS: Group = Group { name: "saga-orchestrator.starts", topics: &[ORDER_CREATED], formerly: None };

/// All of them.
pub const GROUPS: [Group; 9] = [PAYMENT, REFUNDS, INVENTORY, RESERVED, REPLIES, FAILURES, FLOWS, OF_SIGNALS, STARTS];

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
