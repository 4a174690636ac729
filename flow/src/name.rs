//! Names of steps, undos and causes: what stands in `sagas.step` and `sagas.cause`.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The most characters of a name.
const MAX_NAME: usize = 40;

/// The name of a step, an undo, a cause or an end: capitals, digits and `_`, a letter first, at most 40. Nothing in it
/// can end the quotes around it in a statement. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// `None` for a text that is no name.
    pub fn new(text: &str) -> Option<Self> {
        let permitted = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let is_name =
            text.len() <= MAX_NAME && text.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(permitted);
        is_name.then(|| Self::of(text))
    }

    /// A name whose form was checked.
    pub(crate) fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Name {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_end_the_quotes_around_it() {
        assert_eq!(Name::new("ORDER_CREATE").unwrap(), "ORDER_CREATE");
        for text in ["", "order", "1ST", "_A", "A'", "A B", "A\"; DROP TABLE sagas", &"A".repeat(41)] {
            assert_eq!(Name::new(text), None, "{text}");
        }
    }
}
