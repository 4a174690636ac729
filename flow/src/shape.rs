//! Shapes: what a field of a request, a reply or a signal may hold.

use serde_json::Value as Json;

use regex_lite::{Regex, RegexBuilder};

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
    pub pattern: Option<Pattern>,
    /// The fields of a record, or of a list's items.
    pub of: Vec<(String, Shape)>,
}

/// How large a compiled pattern may be, in bytes: a matching text costs its length times this. `[A-Z]{3}` takes a few
/// hundred.
const MAX_PATTERN: usize = 16 * 1024;

/// The most characters of a text that is held against a pattern.
pub(crate) const MAX_MATCHED: usize = 1_000;

/// A regular expression that the whole text has to match. Compiled once.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// `Err`: it is none, of which there is a finding.
    regex: Result<Regex, regex_lite::Error>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bounded = |text: &str| RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
        // By itself first: a parenthesis too many would be made up for by those around it.
        let regex = bounded(text).and_then(|_| bounded(&format!("^(?:{text})$")));
        Self { text: text.to_owned(), regex }
    }

    /// As the file has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Why it is no regular expression.
    pub(crate) fn error(&self) -> Option<&regex_lite::Error> {
        self.regex.as_ref().err()
    }

    pub fn matches(&self, text: &str) -> bool {
        self.regex.as_ref().is_ok_and(|regex| regex.is_match(text))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
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
    /// A value of this kind without further rules.
    pub const fn of_kind(kind: ShapeKind) -> Self {
        Self { kind, is_optional: false, default: None, max: None, most: None, pattern: None, of: Vec::new() }
    }

    /// Reads a node that has the form.
    pub(crate) fn of(node: &Node) -> Self {
        let text = |name: &str| node.get(name).map(Node::text);
        Self {
            kind: text("type").and_then(ShapeKind::of).unwrap_or(ShapeKind::Json),
            is_optional: text("optional") == Some("true"),
            default: node.get("default").map(constant),
            max: text("max").and_then(bytes),
            most: text("most").and_then(integer).and_then(|most| most.try_into().ok()),
            pattern: text("pattern").map(Pattern::new),
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
