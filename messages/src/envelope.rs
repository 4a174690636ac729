//! The envelope around every payload, and the headers beside it.

use std::borrow::Cow;
use std::io::Write as _;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::object::{self, Object};
use crate::{EventId, Message, OrderId, OutgoingRecord, SagaId, Timestamp, TimestampText, timestamp};

/// One message as it stands on Kafka: JSON, keys in camel case. Readers ignore fields that they don't know, so
/// the contract may grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: DeserializeOwned"))]
pub struct Envelope<T> {
    /// The message's own id. A message that is sent again keeps it.
    pub event_id: EventId,
    /// In an event, the `eventId` of the command that it answers; absent in a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<EventId>,
    pub saga_id: SagaId,
    pub order_id: OrderId,
    /// When the sender decided to send it: a repeated message keeps its timestamp too.
    #[serde(serialize_with = "timestamp::serialize")]
    #[schema(value_type = TimestampText)]
    pub timestamp: Timestamp,
    #[serde(deserialize_with = "object::deserialize")]
    pub payload: T,
}

/// Why a record can't be read as a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not a valid message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no message type belongs to topic {0:?}")]
    UnknownTopic(String),
}

impl<T: DeserializeOwned> Envelope<T> {
    /// Reads a record's body.
    ///
    /// # Errors
    /// [`DecodeError::Json`] names the field that is missing or wrong, and where.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Object(envelope) = serde_json::from_slice(body)?;
        Ok(envelope)
    }
}

impl<T: Message> Envelope<T> {
    /// The event that answers this command. Its id is derived from the command's, so the same reply to a command
    /// that came twice is the same message.
    pub fn reply<R: Message>(&self, payload: R, timestamp: Timestamp) -> Envelope<R> {
        Envelope {
            event_id: EventId::derived(self.event_id, R::TOPIC.name()),
            causation_id: Some(self.event_id),
            saga_id: self.saga_id,
            order_id: self.order_id,
            timestamp,
            payload,
        }
    }

    /// The record to produce: body as JSON, keyed by saga, with CloudEvents headers (binary content mode of the
    /// Kafka protocol binding 1.0.2). `source` is the sending service; `traceparent` a W3C trace context.
    pub fn to_record(&self, source: &'static str, traceparent: Option<&str>) -> OutgoingRecord {
        let topic = T::TOPIC.name();
        OutgoingRecord {
            topic: topic.into(),
            key: self.saga_id.to_string(),
            body: serde_json::to_vec(self).expect("a message of plain fields always has a JSON form"),
            headers: headers(self.event_id, topic, self.timestamp, source, traceparent),
        }
    }
}

/// A command of any flow: what stands around a payload that has no type here. Its bytes are those of an [`Envelope`].
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    pub event_id: EventId,
    pub saga_id: SagaId,
    /// What the saga is about: the field's name, of letters and digits, and the id. `orderId` in a checkout.
    pub subject: (&'a str, OrderId),
    pub timestamp: Timestamp,
}

impl Command<'_> {
    /// The record to produce, as [`Envelope::to_record`] makes it; `payload` writes the payload's JSON.
    pub fn to_record(
        &self,
        topic: Cow<'static, str>,
        source: &'static str,
        traceparent: Option<&str>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> OutgoingRecord {
        let Self { event_id, saga_id, subject: (name, subject), timestamp } = *self;
        // The envelope and a small payload.
        let mut body = Vec::with_capacity(384);
        let timestamp_text = TimestampText(timestamp);
        // A vector takes whatever is written.
        let _ = write!(
            body,
            r#"{{"eventId":"{event_id}","sagaId":"{saga_id}","{name}":"{subject}","timestamp":"{timestamp_text}","payload":"#
        );
        payload(&mut body);
        body.push(b'}');
        let headers = headers(event_id, &topic, timestamp, source, traceparent);
        OutgoingRecord { topic, key: saga_id.to_string(), body, headers }
    }
}

/// The headers beside a message.
pub fn headers(
    event_id: EventId,
    topic: &str,
    timestamp: Timestamp,
    source: &'static str,
    traceparent: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", event_id.to_string()),
        ("ce_type", topic.to_owned()),
        ("ce_source", format!("/{source}")),
        ("ce_time", TimestampText(timestamp).to_string()),
    ];
    if let Some(traceparent) = traceparent {
        headers.push(("traceparent", traceparent.to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InventoryReserved, PaymentCharged};

    const CHARGED: &str = r#"{"eventId":"968b5bb3-524a-56f0-bea6-ff12d7bd9c72",
        "sagaId":"01a1fcfc-71e1-7774-8bfb-889f9eb14880","orderId":"01a1fcfc-71e1-7774-8bfb-88a030f9fbb9",
        "timestamp":"2026-11-21T07:22:45.089Z","payload":{"money":{"amount":19.90,"currency":"EUR"}}}"#;

    #[test]
    fn a_message_is_an_object_all_the_way_down() {
        assert!(Envelope::<PaymentCharged>::decode(CHARGED.as_bytes()).is_ok());
        let id = "968b5bb3-524a-56f0-bea6-ff12d7bd9c72";
        let whole = format!(r#"["{id}",null,"{id}","{id}","2026-11-21T07:22:45.089Z",{{}}]"#);
        assert!(Envelope::<InventoryReserved>::decode(whole.as_bytes()).is_err());
        for (object, array) in [
            (r#"{"money":{"amount":19.90,"currency":"EUR"}}"#, r#"[{"amount":19.90,"currency":"EUR"}]"#),
            (r#"{"amount":19.90,"currency":"EUR"}"#, r#"[19.90,"EUR"]"#),
        ] {
            let body = CHARGED.replace(object, array);
            let error = Envelope::<PaymentCharged>::decode(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("expected a JSON object"), "{body}: {error}");
        }
    }

    #[test]
    fn a_command_without_a_type_has_the_bytes_of_one_that_has() {
        let charged = Envelope::<PaymentCharged>::decode(CHARGED.as_bytes()).unwrap();
        let Envelope { event_id, saga_id, order_id, timestamp, .. } = charged;
        let command = Command { event_id, saga_id, subject: ("orderId", order_id), timestamp };
        let payload = |body: &mut Vec<u8>| body.extend_from_slice(&serde_json::to_vec(&charged.payload).unwrap());
        for traceparent in [None, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")] {
            let typed = charged.to_record("orchestrator", traceparent);
            assert_eq!(command.to_record(typed.topic.clone(), "orchestrator", traceparent, payload), typed);
        }
    }

    #[test]
    fn a_timestamp_is_written_with_six_digits_in_the_body_and_in_the_header() {
        let record = Envelope::<PaymentCharged>::decode(CHARGED.as_bytes()).unwrap().to_record("payment-service", None);
        let body = String::from_utf8(record.body).unwrap();
        assert!(body.contains(r#""timestamp":"2026-11-21T07:22:45.089000Z""#), "{body}");
        assert!(
            record.headers.contains(&("ce_time", "2026-11-21T07:22:45.089000Z".to_owned())),
            "{:?}",
            record.headers
        );
    }
}
