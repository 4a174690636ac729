//! Why something failed, in words that no client may read: the text of a database or a library may quote rows and name
//! tables and hosts. The text goes to the log, under an id; answers, dead letters and pages name only the id.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::error;

/// The cause of an error. Displayed, it is what everybody may read. Clones are the same cause.
#[derive(Clone)]
pub struct Cause(Arc<Inner>);

struct Inner {
    id: String,
    text: String,
    hint: Option<String>,
    is_logged: AtomicBool,
}

impl Cause {
    /// With an id of its own.
    pub fn new(text: impl Into<String>) -> Self {
        Self::with_hint(text.into(), None)
    }

    /// `hint` is what everybody may read of it: a code, say, and nothing that depends on rows.
    pub(crate) fn with_hint(text: String, hint: Option<String>) -> Self {
        // 48 bits: short enough to be read aloud, and unique within any log.
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        Self(Arc::new(Inner { id, text, hint, is_logged: AtomicBool::new(false) }))
    }

    /// The id under which the log has the text.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The text, for the log only.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Logs the text under the id, once. `what` is what could not be done.
    pub fn log(&self, what: &str) {
        if !self.0.is_logged.swap(true, Ordering::Relaxed) {
            error!(error_id = self.id(), cause = self.text(), "{what}");
        }
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// `SQLSTATE 23514, constraint above_zero; error 5f3a0c91d2e4`.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hint) = &self.0.hint {
            write!(f, "{hint}; ")?;
        }
        write!(f, "error {}", self.0.id)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_may_read_of_a_cause_is_its_id_and_never_its_text() {
        let cause = Cause::new("card 4111111111111111");
        for shown in [cause.to_string(), format!("{cause:?}")] {
            assert!(shown.contains(cause.id()) && !shown.contains("4111"), "{shown}");
        }
        assert_eq!(cause.text(), "card 4111111111111111");
        assert_ne!(cause.id(), Cause::new("card 4111111111111111").id());
        assert_eq!(cause.id().len(), 12);
    }
}
