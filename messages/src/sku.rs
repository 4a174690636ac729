//! What a shop calls one of its products.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most characters of a SKU.
pub(crate) const MOST: usize = 64;

/// A stock keeping unit: 1 to 64 of letters, digits, `.`, `_` and `-`, the first a letter or a digit (`..` would be a path).
/// Upper and lower case differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sku(String);

/// A text is no SKU. Meant for the person who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 of letters, digits, `.`, `_` and `-`, and begin with a letter or a digit")]
pub struct NotASku;

impl Sku {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sku {
    type Error = NotASku;

    fn try_from(text: String) -> Result<Self, NotASku> {
        let is_sku = (1..=MOST).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        is_sku.then_some(Self(text)).ok_or(NotASku)
    }
}

impl From<Sku> for String {
    fn from(sku: Sku) -> Self {
        sku.0
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
