//! What a check reports: where in the file, which rule is broken, and how to mend it.

use std::fmt;

use crate::rule::Rule;

/// A place in a flow file. Both numbers begin at 1; a column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub at: Position,
    pub rule: Rule,
    /// What is wrong, and how to mend it where that is not plain.
    pub message: String,
}

/// `12:5: unknown-key: …`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.at.line, self.at.column, self.rule, self.message)
    }
}

/// The findings of one check, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn report(&mut self, at: Position, rule: Rule, message: impl Into<String>) {
        self.0.push(Finding { at, rule, message: message.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the file.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.at);
        self.0
    }
}
