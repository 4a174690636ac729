//! A message that is ready to be sent, in plain types: whoever makes one needs no Kafka client.

use std::borrow::Cow;

/// A record to be produced. Its topic is named without the prefix that an installation may add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRecord {
    pub topic: Cow<'static, str>,
    /// The saga's id: all records of a saga share a partition.
    pub key: String,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
}
