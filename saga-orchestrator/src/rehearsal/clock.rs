//! The modelled clock: milliseconds since its beginning.

use messages::Timestamp;

/// The beginning of the modelled clock, in 2027.
const BEGINNING: i64 = 1_800_000_000_000;

/// A time of the modelled clock.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from_timestamp_millis(BEGINNING + ms as i64).unwrap_or_default()
}

/// The milliseconds of a time: the inverse of [`timestamp`].
pub fn ms_of(time: Timestamp) -> u64 {
    u64::try_from(time.timestamp_millis() - BEGINNING).unwrap_or(0)
}
