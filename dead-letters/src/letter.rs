//! A dead letter: a record that a service has set aside, with headers that say where it came from and why; and the
//! marker that stands behind it once it was sent back.

use chrono::{DateTime, Utc};
use messages::object::Object;
use messages::{EventId, OrderId, SagaId, TimestampText, dead_letter_topic};
use serde::Deserialize;
use service_runtime::kafka::{Headers, Record};

use super::topics::belongs_to_none;

/// What the services, and we, write into a letter's headers.
const OURS: &[u8] = b"dlq_";

/// A marker's headers: which letter was sent back, and who did it, why and when.
const REDRIVEN: &str = "dlq_redriven";
const REDRIVEN_BY: &str = "dlq_redriven_by";
const REDRIVEN_REASON: &str = "dlq_redriven_reason";
const REDRIVEN_AT: &str = "dlq_redriven_at";

/// In a record that was sent back: the letter that it was.
const REDRIVEN_FROM: &str = "dlq_redriven_from";

/// Where a record stands in its topic, as `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

/// One dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The topic that it came from, without prefix. The letter itself is on that topic's dead-letter topic.
    pub topic: String,
    pub place: Place,
    pub record: Record,
}

/// That a letter was sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    pub letter: Place,
    pub by: String,
    pub reason: String,
    pub at: String,
}

/// Which saga a letter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    To(SagaId),
    /// Neither its body nor its key tells.
    Unknown,
    /// Its body names one, its key another.
    Contradictory,
}

impl Place {
    pub const fn of(record: &Record) -> Self {
        Self { partition: record.partition, offset: record.offset }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once(':').and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        numbers.ok_or("expected PARTITION:OFFSET, such as 0:42")
    }
}

impl Letter {
    /// The letter that this record of `topic`'s dead-letter topic is. None if it is a marker.
    pub fn of(topic: &str, record: Record) -> Option<Self> {
        let place = Place::of(&record);
        record.header(REDRIVEN).is_none().then(|| Self { topic: topic.to_owned(), place, record })
    }

    /// How many bytes its record had, where that was too large to be kept whole.
    pub fn cut_from(&self) -> Option<&str> {
        self.record.header("dlq_cut_from")
    }

    /// Why it was set aside, as the service said.
    pub fn error(&self) -> &str {
        self.record.header("dlq_error").unwrap_or_default()
    }

    /// Where it stood in the topic that it came from.
    pub fn origin(&self) -> Option<Place> {
        let number = |name| self.record.header(name);
        Some(Place { partition: number("dlq_partition")?.parse().ok()?, offset: number("dlq_offset")?.parse().ok()? })
    }

    /// When it was set aside, by the broker's or the service's clock.
    pub fn at(&self) -> Option<DateTime<Utc>> {
        self.record.timestamp_ms.and_then(DateTime::from_timestamp_millis)
    }

    pub fn belongs(&self) -> Belongs {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "sagaId")]
            saga_id: SagaId,
        }
        if belongs_to_none(&self.topic) {
            // Its key may look like any id.
            return Belongs::Unknown;
        }
        let in_body = serde_json::from_slice(&self.record.body).ok().map(|Object(Body { saga_id })| saga_id);
        let key = self.record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        match (in_body, key.and_then(|key| key.parse().ok())) {
            (Some(body), Some(key)) if body != key => Belongs::Contradictory,
            (Some(saga_id), _) | (None, Some(saga_id)) => Belongs::To(saga_id),
            (None, None) => Belongs::Unknown,
        }
    }

    /// The order that its body is about.
    pub fn order_id(&self) -> Option<OrderId> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "orderId")]
            order_id: OrderId,
        }
        serde_json::from_slice(&self.record.body).ok().map(|Object(Body { order_id })| order_id)
    }

    /// The message that its body says it is.
    pub fn event_id(&self) -> Option<EventId> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "eventId")]
            event_id: EventId,
        }
        serde_json::from_slice(&self.record.body).ok().map(|Object(Body { event_id })| event_id)
    }

    /// The headers that it goes back with: its own, and where it comes from.
    pub fn headers_back(&self) -> Headers {
        let own = self.record.headers.iter().filter(|(name, _)| !name.starts_with(OURS)).cloned();
        let from = format!("{}:{}", dead_letter_topic(&self.topic), self.place);
        own.chain([(REDRIVEN_FROM.into(), from.into_bytes())]).collect()
    }

    /// Whether its headers say that it came from the topic whose letters it stands among.
    pub fn is_at_home(&self) -> bool {
        self.record.header("dlq_topic") == Some(&self.topic)
    }
}

impl Marker {
    /// The marker for a letter that is sent back now.
    pub fn now(letter: Place, by: &str, reason: &str) -> Self {
        let at = TimestampText(Utc::now()).to_string();
        Self { letter, by: by.to_owned(), reason: reason.to_owned(), at }
    }

    /// The marker that this record is, if it is one.
    pub fn read(record: &Record) -> Option<Self> {
        let text = |name| record.header(name).unwrap_or_default().to_owned();
        let letter = record.header(REDRIVEN)?.parse().ok()?;
        Some(Self { letter, by: text(REDRIVEN_BY), reason: text(REDRIVEN_REASON), at: text(REDRIVEN_AT) })
    }

    pub fn headers(&self) -> Headers {
        let Self { letter, by, reason, at } = self;
        let headers =
            [(REDRIVEN, &letter.to_string()), (REDRIVEN_BY, by), (REDRIVEN_REASON, reason), (REDRIVEN_AT, at)];
        headers.map(|(name, value)| (name.into(), value.as_bytes().to_vec())).into()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const SAGA: &str = "01a1fcfc-71e1-7774-8bfb-889f9eb14880";

    /// A letter as the payment service writes them.
    pub fn letter(key: Option<&str>, body: &str) -> Letter {
        let headers = [
            ("ce_id", "7"),
            ("dlq_topic", "payment.charge.command"),
            ("dlq_partition", "1"),
            ("dlq_offset", "42"),
            ("dlq_error", "the database refused: no"),
        ];
        let record = Record {
            topic: "payment.charge.command.dlq".to_owned(),
            partition: 0,
            offset: 3,
            key: key.map(|key| key.as_bytes().to_vec()),
            body: body.as_bytes().to_vec(),
            headers: headers.map(|(name, value)| (name.into(), value.as_bytes().to_vec())).into(),
            timestamp_ms: Some(1_700_000_000_000),
        };
        Letter::of("payment.charge.command", record).unwrap()
    }

    #[test]
    fn a_letter_goes_back_as_it_came_and_says_which_letter_it_was() {
        let mut letter = letter(Some(SAGA), "{}");
        // It was sent back before, and set aside again.
        letter.record.headers.push(("dlq_redriven_from".into(), b"elsewhere".to_vec()));
        let headers = letter.headers_back();
        let expected = [("ce_id", "7"), ("dlq_redriven_from", "payment.charge.command.dlq:0:3")];
        assert_eq!(headers, expected.map(|(name, value)| (name.into(), value.as_bytes().to_vec())));
    }

    #[test]
    fn its_saga_is_told_by_its_body_or_its_key_and_not_by_two_that_differ() {
        let body = format!(r#"{{"sagaId":"{SAGA}"}}"#);
        let saga = Belongs::To(SAGA.parse().unwrap());
        assert_eq!(letter(None, &body).belongs(), saga);
        assert_eq!(letter(Some(SAGA), "this is not JSON").belongs(), saga);
        assert_eq!(letter(Some(SAGA), &body).belongs(), saga);
        assert_eq!(letter(Some("no id"), "{}").belongs(), Belongs::Unknown);
        assert_eq!(letter(None, &format!(r#"["{SAGA}"]"#)).belongs(), Belongs::Unknown, "an array has no fields");
        assert_eq!(letter(Some("01a1fcfc-7230-76b6-a18c-dd32b0c90385"), &body).belongs(), Belongs::Contradictory);
    }

    #[test]
    fn a_marker_is_read_as_it_was_written_and_is_no_letter() {
        let marker = Marker::now("0:3".parse().unwrap(), "ada", "the constraint is gone");
        let mut record = letter(None, "").record;
        record.headers = marker.headers();
        assert_eq!(Marker::read(&record), Some(marker));
        assert!(Letter::of("payment.charge.command", record).is_none());
        assert_eq!(Marker::read(&letter(None, "").record), None);
    }

    #[test]
    fn a_place_is_written_as_partition_and_offset() {
        let place: Place = "1:42".parse().unwrap();
        assert_eq!((place.partition, place.offset, place.to_string().as_str()), (1, 42, "1:42"));
        assert_eq!(letter(None, "").origin(), Some(place));
        for wrong in ["1", "1:", ":2", "a:b"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
