//! Dead letters: what is added to a record that is set aside, and which ones were set aside already.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Record;

/// An error in a dead letter's header is cut to so many characters: it may quote the record.
const MAX_ERROR: usize = 1024;

/// So many letters are remembered, some 200 kB; then none is.
const REMEMBERED: usize = 10_000;

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
/// repetition, one saga would hide all other letters within the hour.
#[derive(Default)]
pub(super) struct Letters {
    known: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Letters {
    /// Whether this very message was set aside before.
    pub(super) fn has(&self, record: &Record) -> bool {
        self.of(record).is_some_and(|message| self.known().contains(&message))
    }

    /// Notes that it was.
    pub(super) fn note(&self, record: &Record) {
        let Some(message) = self.of(record) else { return };
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(message);
    }

    fn known(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is what has the same id and the same contents. One that was sent back by a person is another: what
    /// became of it has to be told.
    fn of(&self, record: &Record) -> Option<u64> {
        let (id, sent_back) = (record.header("ce_id")?, record.header("dlq_redriven_from"));
        Some(self.hasher.hash_one((&record.topic, id, sent_back, &record.key, &record.body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)], body: &str) -> Record {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
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
    fn a_repetition_is_known_and_nothing_else_is() {
        let letters = Letters::default();
        let first = record(&[("ce_id", "1"), ("traceparent", "a")], "{}");
        assert!(!letters.has(&first));
        letters.note(&first);
        assert!(letters.has(&Record { partition: 3, offset: 8, ..record(&[("ce_id", "1")], "{}") }));
        assert!(!letters.has(&record(&[("ce_id", "2")], "{}")), "another message");
        assert!(!letters.has(&record(&[("ce_id", "1")], "{ }")), "another one under the same id");
        assert!(!letters.has(&record(&[("ce_id", "1"), ("dlq_redriven_from", "0:4")], "{}")), "sent back by a person");
        let without_id = record(&[], "not a message");
        letters.note(&without_id);
        assert!(!letters.has(&without_id), "what has no id may be anything");
    }

    #[test]
    fn as_many_as_fit_are_remembered() {
        let letters = Letters::default();
        for n in 0..=REMEMBERED {
            letters.note(&record(&[("ce_id", &n.to_string())], "{}"));
        }
        assert!(letters.has(&record(&[("ce_id", &REMEMBERED.to_string())], "{}")));
        assert_eq!(letters.known().len(), 1);
    }
}
