//! Which topics exist, and which type travels on each: the type names its topic, so a wrong pair can't be written.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::announcements::{ORDER_EVENTS, SAGA_OUTCOMES};
use crate::order_created::ORDER_CREATED;
use crate::{commands as c, events as e};

/// A topic that carries messages of type `T`.
pub struct Topic<T> {
    name: &'static str,
    payload: PhantomData<fn() -> T>,
}

impl<T> Topic<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, payload: PhantomData }
    }

    /// The topic's name on Kafka, without the prefix that an installation may add.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A payload: it belongs to one topic.
pub trait Message: Serialize + DeserializeOwned {
    const TOPIC: Topic<Self>;
}

/// Where signals come, beside `POST /signals/{kind}`: what happened outside and sagas wait for.
pub const SIGNALS: &str = "saga.signals";

/// The topics of the messages that drive sagas, commands first.
pub const MESSAGE_TOPICS: [&str; 14] = [
    c::ChargePayment::TOPIC.name,
    c::RefundPayment::TOPIC.name,
    c::ReserveInventory::TOPIC.name,
    c::ReleaseInventory::TOPIC.name,
    c::CommitInventory::TOPIC.name,
    c::KeepInventory::TOPIC.name,
    e::PaymentCharged::TOPIC.name,
    e::PaymentFailed::TOPIC.name,
    e::PaymentRefunded::TOPIC.name,
    e::InventoryReserved::TOPIC.name,
    e::InventoryFailed::TOPIC.name,
    e::InventoryReleased::TOPIC.name,
    e::InventoryCommitted::TOPIC.name,
    e::InventoryKept::TOPIC.name,
];

/// The topics that the platform reads: those of messages, then [`SIGNALS`] and [`ORDER_CREATED`]. Each also has a dead-letter
/// topic.
pub const TOPICS: [&str; MESSAGE_TOPICS.len() + 2] = {
    let mut all = [SIGNALS; MESSAGE_TOPICS.len() + 2];
    let (of_messages, others) = all.split_at_mut(MESSAGE_TOPICS.len());
    of_messages.copy_from_slice(&MESSAGE_TOPICS);
    others.copy_from_slice(&[SIGNALS, ORDER_CREATED]);
    all
};

/// Where the platform says what others may want to hear. It reads nothing there itself.
pub const ANNOUNCEMENTS: [&str; 3] = [e::InventoryExpired::TOPIC.name, SAGA_OUTCOMES, ORDER_EVENTS];

/// All topics of the platform, with those of dead letters.
pub fn all_topics() -> impl Iterator<Item = String> {
    let read = TOPICS.into_iter().flat_map(|topic| [topic.to_owned(), dead_letter_topic(topic)]);
    read.chain(ANNOUNCEMENTS.map(str::to_owned))
}

/// Where records of `topic` go that can't be handled.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// The partition that a key belongs to, of `partitions`: the hash of Kafka's Java clients (murmur2, seed
/// 0x9747b28c, sign bit cleared; `BuiltInPartitioner.partitionForKey`), which librdkafka calls `murmur2_random`.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mix = |k: u32| {
        let k = k.wrapping_mul(M);
        (k ^ (k >> 24)).wrapping_mul(M)
    };
    let mut chunks = data.chunks_exact(4);
    let mut h = 0x9747_b28c ^ data.len() as u32;
    for chunk in &mut chunks {
        h = h.wrapping_mul(M) ^ mix(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::murmur2;

    /// Vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafkas_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
