//! Ids as types of their own, so that a saga's id is never passed where an order's is meant.
//!
//! All are UUIDs; new ones are version 7 (RFC 9562): they sort by the time they were made, which keeps the
//! primary-key indexes of the tables dense.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{NoContext, Uuid};

use crate::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id (UUIDv7, from this machine's clock and randomness).
            #[expect(clippy::new_without_default, reason = "each call gives another id: not a default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// A new id that says that it was made at this time, to the millisecond. Times before 1970 count as then.
            pub fn new_at(time: Timestamp) -> Self {
                let seconds = time.timestamp().try_into().unwrap_or_default();
                let made = uuid::Timestamp::from_unix(NoContext, seconds, time.timestamp_subsec_nanos());
                Self(Uuid::new_v7(made))
            }

            /// The id as a plain UUID, for drivers.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// Identifies one saga, that is one checkout. The key of every message on Kafka.
    SagaId
}
id! {
    /// Identifies one order. Minted by the orchestrator before the order exists anywhere.
    OrderId
}
id! {
    /// Identifies one message. A message that is sent again keeps its id.
    EventId
}

impl EventId {
    /// The id of the one message that `cause` (a saga or a command) leads to under the name `what`: the same
    /// arguments always give the same id (UUIDv5), so a repeated message is recognised without storing its id.
    pub fn derived(cause: impl Into<Uuid>, what: &str) -> Self {
        Self(Uuid::new_v5(&cause.into(), what.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_it_was_made() {
        let time: Timestamp = "2026-01-01T00:00:00.123456Z".parse().unwrap();
        let [one, other] = [SagaId::new_at(time), SagaId::new_at(time)];
        assert_ne!(one, other);
        for id in [one, other] {
            assert_eq!(id.as_uuid().get_version_num(), 7);
            assert_eq!(id.as_uuid().get_timestamp().unwrap().to_unix(), (1_767_225_600, 123_000_000));
        }
        assert!(one < SagaId::new_at(time + std::time::Duration::from_millis(1)));
    }
}
