//! Points in time, and how they are written: always with six digits of a second, which is what the databases keep. A
//! reader that expects a fixed width, or sorts by the text, then never meets another one.

use std::fmt;

use chrono::SecondsFormat;
use serde::{Deserialize, Serialize, Serializer};

/// A point in time, UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// A point in time as it is written: RFC 3339, UTC, with six digits of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct TimestampText(pub Timestamp);

impl From<Timestamp> for TimestampText {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl fmt::Display for TimestampText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl Serialize for TimestampText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// For a field that is read as well: `#[serde(serialize_with = …)]`.
pub(crate) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    TimestampText(*at).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_always_has_six_digits() {
        for (read, written) in [
            ("2026-11-21T07:22:45.089557Z", "2026-11-21T07:22:45.089557Z"),
            ("2026-11-21T07:22:45.089Z", "2026-11-21T07:22:45.089000Z"),
            ("2026-11-21T07:22:45Z", "2026-11-21T07:22:45.000000Z"),
            ("2026-11-21T08:22:45.5+01:00", "2026-11-21T07:22:45.500000Z"),
        ] {
            assert_eq!(TimestampText(read.parse().unwrap()).to_string(), written);
        }
    }
}
