//! Shapes: what a field of a request, a reply or a signal may hold.

use serde_json::Value as Json;

use crate::format::{bytes, integer};
use crate::payload::constant;
use crate::yaml::Node;

/// What a field may hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub kind: ShapeKind,
    pub is_optional: bool,
    pub default: Option<Json>,
    /// Characters of a text, bytes of JSON.
    pub max: Option<usize>,
    /// Items of a list, or the greatest count.
    pub most: Option<u64>,
    pub pattern: Option<String>,
    /// The fields of a record, or of a list's items.
    pub of: Vec<(String, Shape)>,
}

macro_rules! kinds {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ShapeKind { $($variant),+ }

        impl ShapeKind {
            /// As a file has them.
            pub const NAMES: &[&str] = &[$($name),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

kinds! {
    Text = "text", UserId = "user_id", Email = "email", Address = "address", Sku = "sku", Count = "count",
    Amount = "amount", Currency = "currency", Money = "money", Boolean = "boolean", Date = "date", Json = "json",
    List = "list", Record = "record",
}

impl Shape {
    /// Reads a node that has the form.
    pub(crate) fn of(node: &Node) -> Self {
        let text = |name: &str| node.get(name).map(Node::text);
        Self {
            kind: text("type").and_then(ShapeKind::of).unwrap_or(ShapeKind::Json),
            is_optional: text("optional") == Some("true"),
            default: node.get("default").map(constant),
            max: text("max").and_then(bytes),
            most: text("most").and_then(integer).and_then(|most| most.try_into().ok()),
            pattern: text("pattern").map(str::to_owned),
            of: node
                .get("of")
                .into_iter()
                .flat_map(Node::entries)
                .map(|(name, shape)| (name.name.clone(), Self::of(shape)))
                .collect(),
        }
    }

    /// Whether a value of this shape may be missing where it is read.
    pub fn may_be_missing(&self) -> bool {
        self.is_optional && self.default.is_none()
    }
}
