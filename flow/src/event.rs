//! An event of any flow: what stands around a payload that has no type here.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use messages::{EventId, OrderId, SagaId};
use serde_json::value::RawValue;

use crate::read::{Members, Misfit};

/// The body of a reply, read as far as it is the same in all flows. Fields that are not known are ignored.
pub struct RawEvent<'a> {
    pub event_id: EventId,
    /// The `eventId` of the command that it answers.
    pub causation_id: Option<EventId>,
    pub saga_id: SagaId,
    /// A JSON object.
    pub payload: &'a str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> RawEvent<'a> {
    /// Reads a record's body.
    ///
    /// # Errors
    /// The field that is missing or wrong.
    pub fn read(body: &'a [u8]) -> Result<Self, Misfit> {
        let members = members(body)?;
        Ok(Self {
            payload: payload(&members)?,
            event_id: required(&members, "eventId")?,
            causation_id: id(&members, "causationId")?,
            saga_id: required(&members, "sagaId")?,
            members,
        })
    }

    /// What its saga is about, which stands under the name that the flow gives it.
    ///
    /// # Errors
    /// When there is no such field, or it is no id.
    pub fn subject(&self, field: &str) -> Result<OrderId, Misfit> {
        required(&self.members, field)
    }
}

/// The body of an event that starts a saga. Fields that are not known are ignored.
pub struct StartEvent<'a> {
    /// What its saga is about. There is one saga for it, however often the event comes.
    pub subject: OrderId,
    /// A JSON object.
    pub payload: &'a str,
}

impl<'a> StartEvent<'a> {
    /// Reads a record's body. `subject` is the name that the flow gives its subject.
    ///
    /// # Errors
    /// The field that is missing or wrong.
    pub fn read(body: &'a [u8], subject: &str) -> Result<Self, Misfit> {
        let members = members(body)?;
        let event = Self { subject: required(&members, subject)?, payload: payload(&members)? };
        match event.subject.as_uuid().get_version_num() {
            7 => Ok(event),
            other => Err(wrong(subject, format_args!("must be a UUID of version 7, and is of version {other}"))),
        }
    }
}

fn members(body: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>, Misfit> {
    let whole = |why: String| Misfit { field: String::new(), why };
    let text = std::str::from_utf8(body).map_err(|error| whole(error.to_string()))?;
    let Members(members) = serde_json::from_str(text).map_err(|error| whole(error.to_string()))?;
    Ok(members)
}

fn payload<'a>(members: &[(Cow<'a, str>, &'a RawValue)]) -> Result<&'a str, Misfit> {
    let payload = member(members, "payload").ok_or_else(|| wrong("payload", "is missing"))?.get();
    if payload.starts_with('{') { Ok(payload) } else { Err(wrong("payload", "must be a JSON object")) }
}

fn member<'a>(members: &[(Cow<'a, str>, &'a RawValue)], field: &str) -> Option<&'a RawValue> {
    members.iter().find_map(|(name, json)| (name == field).then_some(*json))
}

fn id<T: FromStr<Err: Display>>(members: &[(Cow<'_, str>, &RawValue)], field: &str) -> Result<Option<T>, Misfit> {
    let Some(json) = member(members, field).filter(|json| json.get() != "null") else { return Ok(None) };
    let text: Cow<'_, str> = serde_json::from_str(json.get()).map_err(|_| wrong(field, "must be a text"))?;
    text.parse().map(Some).map_err(|error| wrong(field, format_args!("is no id: {error}")))
}

fn required<T: FromStr<Err: Display>>(members: &[(Cow<'_, str>, &RawValue)], field: &str) -> Result<T, Misfit> {
    id(members, field)?.ok_or_else(|| wrong(field, "is missing"))
}

fn wrong(field: &str, why: impl Display) -> Misfit {
    Misfit { field: field.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKED: &str = r#"{"eventId":"968b5bb3-524a-56f0-bea6-ff12d7bd9c72","causationId":null,"later":[1],
        "sagaId":"01a1fcfc-71e1-7774-8bfb-889f9eb14880","tripId":"01a1fcfc-71e1-7774-8bfb-88a030f9fbb9",
        "timestamp":"2026-11-21T07:22:45.089Z","payload":{"bookingRef":"H1"}}"#;

    #[test]
    fn what_is_the_same_in_all_flows_is_read() {
        let event = RawEvent::read(BOOKED.as_bytes()).unwrap();
        assert_eq!(event.saga_id.to_string(), "01a1fcfc-71e1-7774-8bfb-889f9eb14880");
        assert_eq!(event.causation_id, None);
        assert_eq!(event.payload, r#"{"bookingRef":"H1"}"#);
        assert_eq!(event.subject("tripId").unwrap().to_string(), "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9");
        assert_eq!(event.subject("orderId").unwrap_err().to_string(), "`orderId` is missing");
    }

    #[test]
    fn an_event_that_starts_a_saga_names_its_subject_and_has_a_payload() {
        let placed = r#"{"orderId":"01a1fcfc-71e1-7774-8bfb-88a030f9fbb9","at":7,"payload":{"userId":"u1"}}"#;
        let event = StartEvent::read(placed.as_bytes(), "orderId").unwrap();
        assert_eq!(event.subject.to_string(), "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9");
        assert_eq!(event.payload, r#"{"userId":"u1"}"#);
        for (from, to, why) in [
            ("orderId", "tripId", "`orderId` is missing"),
            ("01a1fcfc", "no", "`orderId` is no id"),
            ("71e1-7774", "71e1-4774", "`orderId` must be a UUID of version 7, and is of version 4"),
            (r#""01a1fcfc-71e1-7774-8bfb-88a030f9fbb9""#, "7", "`orderId` must be a text"),
            ("payload", "data", "`payload` is missing"),
            (r#"{"userId":"u1"}"#, "null", "`payload` must be a JSON object"),
            ("{\"orderId", "[\"orderId", "invalid type: sequence"),
        ] {
            let event = placed.replacen(from, to, 1);
            let error = StartEvent::read(event.as_bytes(), "orderId").map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, why) in [
            (r#""eventId":"968b5bb3-524a-56f0-bea6-ff12d7bd9c72","#, "", "`eventId` is missing"),
            ("null", "7", "`causationId` must be a text"),
            ("889f9eb14880", "8", "`sagaId` is no id"),
            (r#"{"bookingRef":"H1"}"#, "[]", "`payload` must be a JSON object"),
            (r#""later":[1]"#, r#""sagaId":"x""#, "duplicate field `sagaId`"),
        ] {
            let error = RawEvent::read(BOOKED.replacen(from, to, 1).as_bytes()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(RawEvent::read(b"\xff").is_err() && RawEvent::read(b"[]").is_err());
    }
}
