//! Who orders: an id that the client's own system gave.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user's id: not blank, at most 128 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

/// Which rule a user id breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    #[error("must not be blank")]
    Blank,
    #[error("must have at most 128 characters")]
    TooLong,
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = UserIdError;

    fn try_from(text: String) -> Result<Self, UserIdError> {
        if text.trim().is_empty() {
            Err(UserIdError::Blank)
        } else if text.chars().count() > 128 {
            Err(UserIdError::TooLong)
        } else if text.chars().any(char::is_control) {
            Err(UserIdError::ControlCharacter)
        } else {
            Ok(Self(text))
        }
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
            ("", UserIdError::Blank),
            (" \t", UserIdError::Blank),
            ("u\u{0}1", UserIdError::ControlCharacter),
            (&"u".repeat(129), UserIdError::TooLong),
        ] {
            assert_eq!(UserId::try_from(text.to_owned()), Err(error), "{text:?}");
        }
        assert!(UserId::try_from("ü".repeat(128)).is_ok(), "characters are counted, not bytes");
    }
}
