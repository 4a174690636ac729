//! Who orders: an id that the client's own system gave.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::{TextError, check_accepted_name, check_name};

/// The most characters that a user's id may have.
pub(crate) const MAX_USER_ID: usize = 128;

/// A user's id: not blank, at most 128 characters, no control characters. A new one ([`UserId::new`]) also has no
/// character that can't be seen; earlier releases took those, and what they took is still read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// The id that a new request gives.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(text: String) -> Result<Self, TextError> {
        let user_id = Self(text);
        user_id.check_new().map(|()| user_id)
    }

    /// Whether a new request may give it.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_new(&self) -> Result<(), TextError> {
        check_name(&self.0, MAX_USER_ID)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An id that was accepted before: from a database, from Kafka, or of a saga that runs.
impl TryFrom<String> for UserId {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        check_accepted_name(&text, MAX_USER_ID).map(|()| Self(text))
    }
}

impl From<UserId> for String {
    fn from(user_id: UserId) -> Self {
        user_id.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_told_apart() {
        for (text, error) in [
            ("", TextError::Blank),
            (" \t", TextError::Blank),
            ("u\u{0}1", TextError::ControlCharacter('\0')),
            (&"u".repeat(129), TextError::TooLong(128)),
        ] {
            assert_eq!(UserId::try_from(text.to_owned()), Err(error.clone()), "{text:?}");
            assert_eq!(UserId::new(text.to_owned()), Err(error), "{text:?}");
        }
        assert!(UserId::new("ü".repeat(128)).is_ok(), "characters are counted, not bytes");
    }

    #[test]
    fn an_id_that_an_earlier_release_accepted_is_still_read_and_no_longer_accepted() {
        let hidden = "u\u{200b}1".to_owned();
        assert_eq!(UserId::new(hidden.clone()), Err(TextError::Invisible('\u{200b}')));
        assert_eq!(UserId::try_from(hidden.clone()).unwrap().as_str(), hidden);
    }
}
