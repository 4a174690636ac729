//! The letters on Kafka, and which of them are meant.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use messages::{SagaId, dead_letter_topic};
use service_runtime::Fatal;
use service_runtime::kafka::{KafkaSettings, TopicReader};

use super::topics::is_always_there;
use super::{Belongs, Letter, Marker, Place, Topics};

/// Which letters are meant. Without a condition all are.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only letters that came from this topic.
    pub topic: Option<String>,
    /// Only letters whose error contains this.
    pub error: Option<String>,
    /// Only letters of this saga.
    pub saga: Option<SagaId>,
    /// Only the letter at this place of its dead-letter topic.
    pub place: Option<Place>,
    /// Only letters that were set aside since then.
    pub since: Option<DateTime<Utc>>,
}

/// Calls `each` for every letter that is meant, with the newest marker behind it, in the order of its partition. Read
/// one by one: memory does not grow with what was set aside, only with what was sent back. `client` is the name by which
/// the broker knows the reader.
///
/// # Errors
/// When Kafka can't be read, or `each` says so.
pub async fn read(
    kafka: &KafkaSettings,
    client: &str,
    topics: &Topics,
    filter: &Filter,
    mut each: impl AsyncFnMut(Letter, Option<&Marker>) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    for topic in filter.of(topics) {
        // Markers come after their letters, so they are looked for first. They are few: people write them.
        let mut markers = HashMap::new();
        let Some(mut reader) = open(kafka, client, topic, i64::MAX).await? else { continue };
        while let Some(record) = reader.next().await? {
            markers.extend(Marker::read(&record).map(|marker| (marker.letter, marker)));
        }
        let Some(mut reader) = open(kafka, client, topic, i64::MAX).await? else { continue };
        while let Some(record) = reader.next().await? {
            if let Some(letter) = Letter::of(topic, record).filter(|letter| filter.means(letter)) {
                let marker = markers.get(&letter.place);
                each(letter, marker).await?;
            }
        }
    }
    Ok(())
}

/// How much is kept of letters' bodies, in bytes: theirs are a few hundred each, but anybody may have written there.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The newest letters, at most `limit` and 4 MiB of them, among the last `most` records of each partition, each with its
/// marker. Memory holds twice as many.
///
/// # Errors
/// When Kafka can't be read.
pub async fn newest(
    kafka: &KafkaSettings,
    client: &str,
    topics: &Topics,
    filter: &Filter,
    most: i64,
    limit: usize,
) -> Result<Vec<(Letter, Option<Marker>)>, Fatal> {
    let mut all = Vec::new();
    for topic in filter.of(topics) {
        let mut markers = HashMap::new();
        let (mut letters, mut bytes) = (Vec::new(), 0);
        let Some(mut reader) = open(kafka, client, topic, most).await? else { continue };
        while let Some(record) = reader.next().await? {
            match Marker::read(&record) {
                Some(marker) => drop(markers.insert(marker.letter, marker)),
                None => {
                    let letter = Letter::of(topic, record).filter(|letter| filter.means(letter));
                    bytes += letter.as_ref().map_or(0, |letter| letter.record.body.len());
                    letters.extend(letter.map(|letter| (letter, None)));
                }
            }
            if letters.len() >= 2 * limit || bytes >= 2 * MOST_BYTES {
                bytes = keep_newest(&mut letters, limit);
            }
        }
        // A marker stands behind its letter, so it is among the last as well.
        all.extend(letters.into_iter().map(|(letter, _)| {
            let marker = markers.remove(&letter.place);
            (letter, marker)
        }));
        keep_newest(&mut all, limit);
    }
    Ok(all)
}

/// Sorts by age and keeps the newest, at least one. Answers how many bytes their bodies have.
fn keep_newest(letters: &mut Vec<(Letter, Option<Marker>)>, limit: usize) -> usize {
    letters.sort_by_key(|(letter, _)| std::cmp::Reverse((letter.at(), letter.place.offset)));
    letters.truncate(limit);
    let (mut kept, mut bytes) = (0, 0);
    for (letter, _) in letters.iter() {
        let with_it = bytes + letter.record.body.len();
        if kept > 0 && with_it > MOST_BYTES {
            break;
        }
        (kept, bytes) = (kept + 1, with_it);
    }
    letters.truncate(kept);
    bytes
}

/// One letter, with the newest marker behind it.
///
/// # Errors
/// When Kafka can't be read.
pub async fn find(
    kafka: &KafkaSettings,
    client: &str,
    topic: &str,
    place: Place,
) -> Result<Option<(Letter, Option<Marker>)>, Fatal> {
    let (mut found, mut marked) = (None, None);
    let Some(mut reader) = open(kafka, client, topic, i64::MAX).await? else { return Ok(None) };
    while let Some(record) = reader.next().await? {
        match Marker::read(&record) {
            Some(marker) if marker.letter == place => marked = Some(marker),
            None if Place::of(&record) == place => found = Letter::of(topic, record),
            _ => {}
        }
    }
    Ok(found.map(|letter| (letter, marked)))
}

/// A reader of the last `most` records of each partition of a topic's dead-letter topic. `None` where one is
/// missing that need not be there yet: the letters of other topics are read all the same.
async fn open(kafka: &KafkaSettings, client: &str, topic: &str, most: i64) -> Result<Option<TopicReader>, Fatal> {
    let letters = dead_letter_topic(topic);
    match is_always_there(topic) {
        true => TopicReader::open_tail(kafka, client, &letters, most).await.map(Some),
        false => TopicReader::open_if_there(kafka, client, &letters, most).await,
    }
}

impl Filter {
    fn of<'a>(&'a self, topics: &'a Topics) -> impl Iterator<Item = &'a str> {
        topics.names().filter(|topic| self.topic.as_ref().is_none_or(|only| only == topic))
    }

    fn means(&self, letter: &Letter) -> bool {
        self.error.as_ref().is_none_or(|part| letter.error().contains(part))
            && self.saga.is_none_or(|saga_id| letter.belongs() == Belongs::To(saga_id))
            && self.place.is_none_or(|place| letter.place == place)
            && self.since.is_none_or(|since| letter.at().is_some_and(|at| at >= since))
    }
}

#[cfg(test)]
mod tests {
    use crate::letter::tests::{SAGA, letter};

    use super::*;

    #[test]
    fn a_letter_is_meant_if_it_passes_every_filter() {
        let (saga, other) = (SAGA.parse().ok(), "01a1fcfc-7230-76b6-a18c-dd32b0c90385".parse().ok());
        let of_saga = letter(Some(SAGA), "{}");
        let error = |part: &str| Some(part.to_owned());
        let since = |text: &str| text.parse().ok();
        for (filter, meant) in [
            (Filter::default(), true),
            (Filter { error: error("refused"), ..Filter::default() }, true),
            (Filter { error: error("declined"), ..Filter::default() }, false),
            (Filter { saga, ..Filter::default() }, true),
            (Filter { saga: other, ..Filter::default() }, false),
            (Filter { place: "0:3".parse().ok(), ..Filter::default() }, true),
            (Filter { place: "1:3".parse().ok(), ..Filter::default() }, false),
            // It was set aside on 2023-11-14.
            (Filter { since: since("2023-11-14T00:00:00Z"), ..Filter::default() }, true),
            (Filter { since: since("2023-11-15T00:00:00Z"), ..Filter::default() }, false),
            (Filter { error: error("refused"), saga: other, ..Filter::default() }, false),
        ] {
            assert_eq!(filter.means(&of_saga), meant, "{filter:?}");
        }
    }

    #[test]
    fn the_newest_letters_are_kept_as_far_as_there_is_room_for_their_bodies() {
        let of = |offset: i64, bytes: usize| {
            let mut letter = letter(Some(SAGA), "{}");
            letter.place.offset = offset;
            letter.record.body = vec![b'x'; bytes];
            (letter, None)
        };
        let kept = |mut letters: Vec<_>, limit| {
            let bytes = keep_newest(&mut letters, limit);
            (letters.iter().map(|(letter, _)| letter.place.offset).collect::<Vec<_>>(), bytes)
        };
        assert_eq!(kept(vec![of(1, 10), of(3, 10), of(2, 10)], 2), (vec![3, 2], 20));
        let half = MOST_BYTES / 2;
        assert_eq!(kept(vec![of(1, half), of(2, half), of(3, half)], 9), (vec![3, 2], MOST_BYTES));
        assert_eq!(kept(vec![of(1, 10), of(2, 3 * half)], 9), (vec![2], 3 * half));
        assert_eq!(kept(Vec::new(), 9), (vec![], 0));
    }
}
