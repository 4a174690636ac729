//! Fills payload templates: the bytes of a message, from the values that a saga has.

use std::io::Write as _;

use crate::payload::Payload;
use crate::slot::Slot;
use crate::value::{list, object};

impl Payload {
    /// Writes the payload as JSON, its fields in the order of the file: the same bytes for the same values. `value`
    /// writes what a slot refers to; where it returns false the value is missing, it has written nothing, and `null`
    /// stands there.
    pub fn fill(&self, out: &mut Vec<u8>, value: &mut dyn FnMut(&Slot, &mut Vec<u8>) -> bool) {
        match self {
            // A vector takes whatever is written.
            Self::Constant(json) => drop(write!(out, "{json}")),
            Self::Slot(slot) => {
                if !value(slot, out) {
                    out.extend_from_slice(b"null");
                }
            }
            Self::Object(fields) => {
                object(out, fields.iter().map(|(name, part)| (name.as_str(), part)), |part, out| part.fill(out, value));
            }
            Self::List(items) => list(out, items, |item, out| item.fill(out, value)),
        }
    }
}
