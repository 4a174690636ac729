//! Dead letters: what is added to a record that is set aside, and which ones were set aside already.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Record;

/// An error in a dead letter's header is cut to so many characters: it may quote the record.
const MAX_ERROR: usize = 1024;

/// So many letters are remembered, some 500 kB; then none is.
const REMEMBERED: usize = 10_000;

/// And for so long: the letter may have been removed since.
const ANEW: Duration = Duration::from_secs(3600);

/// The headers that say where a record came from and why it was set aside.
pub(super) fn added_headers(record: &Record, why: &str, service: &str) -> [(&'static str, String); 7] {
    [
        ("dlq_topic", record.topic.clone()),
        ("dlq_partition", record.partition.to_string()),
        ("dlq_offset", record.offset.to_string()),
        ("dlq_timestamp", record.timestamp_ms.map_or_else(String::new, |ms| ms.to_string())),
        ("dlq_error", why.chars().take(MAX_ERROR).collect()),
        ("dlq_service", service.to_owned()),
        ("dlq_version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

/// The messages that this process has set aside. A saga repeats its command until it is answered: with a letter for each
/// repetition, one saga would hide all other letters within the hour. So there is one an hour.
#[derive(Default)]
pub(super) struct Letters {
    known: Mutex<HashMap<u64, Instant>>,
    hasher: RandomState,
}

impl Letters {
    /// Whether this very message was set aside of late.
    pub(super) fn has(&self, record: &Record, now: Instant) -> bool {
        let since = self.of(record).and_then(|message| self.known().get(&message).copied());
        since.is_some_and(|since| now.duration_since(since) < ANEW)
    }

    /// Notes that it was.
    pub(super) fn note(&self, record: &Record, now: Instant) {
        let Some(message) = self.of(record) else { return };
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(message, now);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is what has the same id and the same contents. None of one that was sent back by a person: what became
    /// of it has to be told each time.
    fn of(&self, record: &Record) -> Option<u64> {
        let id = record.header("ce_id").filter(|_| record.header("dlq_redriven_from").is_none())?;
        Some(self.hasher.hash_one((&record.topic, id, &record.key, &record.body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)], body: &str) -> Record {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Record {
            topic: "payment.charge.command".to_owned(),
            partition: 0,
            offset: 7,
            key: Some(b"saga".to_vec()),
            body: body.as_bytes().to_vec(),
            headers: headers.collect(),
            timestamp_ms: None,
        }
    }

    #[test]
    fn a_repetition_is_known_for_an_hour_and_nothing_else_is() {
        let (letters, now) = (Letters::default(), Instant::now());
        let first = record(&[("ce_id", "1"), ("traceparent", "a")], "{}");
        assert!(!letters.has(&first, now));
        letters.note(&first, now);
        assert!(letters.has(&Record { partition: 3, offset: 8, ..record(&[("ce_id", "1")], "{}") }, now));
        assert!(!letters.has(&record(&[("ce_id", "2")], "{}"), now), "another message");
        assert!(!letters.has(&record(&[("ce_id", "1")], "{ }"), now), "another one under the same id");
        let sent_back = record(&[("ce_id", "1"), ("dlq_redriven_from", "0:4")], "{}");
        letters.note(&sent_back, now);
        assert!(!letters.has(&sent_back, now), "sent back by a person, and perhaps not for the last time");
        let without_id = record(&[], "not a message");
        letters.note(&without_id, now);
        assert!(!letters.has(&without_id, now), "what has no id may be anything");
        assert!(!letters.has(&first, now + ANEW), "its letter may be gone");
    }

    #[test]
    fn as_many_as_fit_are_remembered() {
        let letters = Letters::default();
        for n in 0..=REMEMBERED {
            letters.note(&record(&[("ce_id", &n.to_string())], "{}"), Instant::now());
        }
        assert!(letters.has(&record(&[("ce_id", &REMEMBERED.to_string())], "{}"), Instant::now()));
        assert_eq!(letters.known().len(), 1);
    }
}
