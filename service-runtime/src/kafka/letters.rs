//! Dead letters: what is added to a record that is set aside, and which ones were set aside already.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Record;

/// An error in a dead letter's header is cut to so many characters: it may quote the record.
const MAX_ERROR: usize = 1024;

/// The most that a letter's key, body and foreign headers may have together, in bytes: a dead-letter topic takes records of
/// 2 MiB. Compressed, a record may be larger than that when it is read.
const MAX_LETTER: usize = 2 * 1024 * 1024 - 64 * 1024;

/// What is kept of the body of one that has more, and then nothing else of it, in bytes.
const CUT: usize = 256 * 1024;

/// So many letters are remembered, some 500 kB; then none is.
const REMEMBERED: usize = 10_000;

/// And for so long: the letter may have been removed since.
const ANEW: Duration = Duration::from_secs(3600);

/// A record as it is set aside: as it came, unless no topic would take it.
pub(super) struct Copy<'a> {
    pub key: Option<&'a [u8]>,
    pub body: &'a [u8],
    pub headers: &'a [(Vec<u8>, Vec<u8>)],
    /// How many bytes its body had, where it was cut. Such a letter can't be sent back.
    pub cut_from: Option<usize>,
}

impl<'a> Copy<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let (key, body) = (record.key.as_deref(), record.body.as_slice());
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        if key.map_or(0, <[u8]>::len) + body.len() + headers <= MAX_LETTER {
            return Self { key, body, headers: &record.headers, cut_from: None };
        }
        Self { key: None, body: &body[..body.len().min(CUT)], headers: &[], cut_from: Some(body.len()) }
    }
}

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
    fn a_record_that_no_dead_letter_topic_would_take_is_cut() {
        let whole = record(&[("ce_id", "1")], &"x".repeat(MAX_LETTER - 100));
        let copy = Copy::of(&whole);
        assert_eq!((copy.body.len(), copy.headers.len(), copy.cut_from), (MAX_LETTER - 100, 1, None));
        let large_body = record(&[("ce_id", "1")], &"x".repeat(3 * 1024 * 1024));
        let large_header = record(&[("note", &"x".repeat(3 * 1024 * 1024))], "{}");
        let large_key = Record { key: Some(vec![b'k'; 3 * 1024 * 1024]), ..record(&[], "{}") };
        for (large, kept) in [(large_body, CUT), (large_header, 2), (large_key, 2)] {
            let copy = Copy::of(&large);
            assert_eq!((copy.key, copy.body.len(), copy.headers.len()), (None, kept, 0));
            assert_eq!(copy.cut_from, Some(large.body.len()));
        }
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
