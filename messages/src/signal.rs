//! A signal as a record of its topic: something that happened outside, and that a saga waits for.

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::ObjectBuilder;

use crate::object::Object;
use crate::{DecodeError, schema};

/// The most characters of what a signal names, and of its own id.
pub const MAX_SIGNAL_MATCH: usize = 255;
pub const MAX_SIGNAL_ID: usize = 200;

/// The most bytes of a signal's payload.
pub const MAX_SIGNAL_PAYLOAD: usize = 16 * 1024;

/// A signal on the topic [`SIGNALS`](crate::SIGNALS). It has no envelope: who sends it knows of no saga. Its texts are
/// checked by whoever stores it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = Signal)]
pub struct SignalRecord {
    /// The kind of signal, as flows name it.
    #[schema(example = "carrier.scanned")]
    pub kind: String,
    /// What it names: the saga that waits for this kind of signal and this text takes it.
    #[serde(rename = "match")]
    #[schema(schema_with = matched)]
    pub matched: String,
    /// The sender's own id of it: sent or read again, it is the same signal.
    #[schema(schema_with = own_id)]
    pub id: String,
    /// A JSON object, of at most 16 KiB: what a flow keeps of it.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub payload: Option<Box<RawValue>>,
}

fn matched() -> ObjectBuilder {
    schema::prose(MAX_SIGNAL_MATCH)
}

fn own_id() -> ObjectBuilder {
    schema::name(MAX_SIGNAL_ID)
}

impl SignalRecord {
    /// Reads a record's body.
    ///
    /// # Errors
    /// [`DecodeError::Json`] names the field that is missing or wrong, and where.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Object(signal) = serde_json::from_slice(body)?;
        Ok(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_an_object_that_names_itself_and_may_hold_more_than_is_known() {
        let read = SignalRecord::decode(br#"{"kind":"a.b","match":"M-1","id":"7","at":1,"payload":{"n":1.50}}"#);
        let read = read.unwrap();
        assert_eq!((&*read.kind, &*read.matched, &*read.id), ("a.b", "M-1", "7"));
        assert_eq!(read.payload.unwrap().get(), r#"{"n":1.50}"#, "as it was written");
        let without = SignalRecord::decode(br#"{"kind":"a.b","match":"M-1","id":"7"}"#).unwrap();
        assert!(without.payload.is_none());
    }

    #[test]
    fn what_a_signal_lacks_is_named() {
        for (body, words) in [
            (r#"{"match":"M-1","id":"7"}"#, "`kind`"),
            (r#"{"kind":"a.b","id":"7"}"#, "`match`"),
            (r#"{"kind":"a.b","match":"M-1"}"#, "`id`"),
            (r#"{"kind":"a.b","match":7,"id":"7"}"#, "expected a string"),
            (r#"["a.b","M-1","7",null]"#, "expected a JSON object"),
            ("carrier.scanned 1Z999", "not a valid message"),
        ] {
            let error = SignalRecord::decode(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
        }
    }
}
