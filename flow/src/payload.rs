//! Payload templates: constants and slots, in any nesting. Compiled once, filled for each message.

use serde_json::Value as Json;

use crate::file::At;
use crate::slot::Slot;
use crate::yaml::{Node, Value};

/// A payload with its slots still open.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    Constant(Json),
    Slot(At<Slot>),
    /// In the order of the file: the same bytes each time.
    Object(Vec<(String, Payload)>),
    List(Vec<Payload>),
}

impl Payload {
    /// Reads a node that has the form.
    pub(crate) fn of(node: &Node) -> Self {
        match &node.value {
            Value::Scalar { text, .. } if text.starts_with('$') => {
                Self::Slot(At { at: node.at, value: text.parse().unwrap_or(Slot::NOTHING) })
            }
            Value::Empty | Value::Scalar { .. } => Self::Constant(constant(node)),
            Value::List(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Map(_) => {
                Self::Object(node.entries().map(|(key, value)| (key.name.clone(), Self::of(value))).collect())
            }
        }
    }

    /// Whether it is an object with this field.
    pub fn has(&self, field: &str) -> bool {
        matches!(self, Self::Object(fields) if fields.iter().any(|(name, _)| name == field))
    }

    /// All slots, in the order of the file.
    pub fn slots(&self) -> Vec<&At<Slot>> {
        match self {
            Self::Constant(_) => Vec::new(),
            Self::Slot(slot) => vec![slot],
            Self::Object(fields) => fields.iter().flat_map(|(_, value)| value.slots()).collect(),
            Self::List(items) => items.iter().flat_map(Self::slots).collect(),
        }
    }
}

/// A constant: a text in quotes is a text; `true`, `false`, `null` and a JSON number are what they look like.
pub(crate) fn constant(node: &Node) -> Json {
    let Value::Scalar { text, is_quoted } = &node.value else { return Json::Null };
    let looks_like = || serde_json::from_str(text).ok().filter(|json: &Json| !json.is_string());
    (!is_quoted).then(looks_like).flatten().unwrap_or_else(|| Json::String(text.clone()))
}
