//! Slots: the values that a payload may refer to. A closed set; there is no expression language.

use std::fmt;
use std::str::FromStr;

/// A reference to a value that the saga has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub source: Source,
    /// `?` at the end: null where the value is missing.
    pub is_optional: bool,
}

impl Slot {
    /// Stands for what could not be read; a finding was reported there.
    pub(crate) const NOTHING: Self = Self { source: Source::Cause, is_optional: true };
}

/// Where a slot's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `$input.userId`: a field of the request.
    Input(String),
    /// `$start.subject`, the id that participants key their rows by.
    Subject,
    /// `$start.owner`
    Owner,
    /// `$start.money`
    Money,
    /// `$cause`: why the saga turned back. Only in what undoes.
    Cause,
    /// `$reply.reason`: a field of the reply at hand. Only where a reply is read.
    Reply(String),
    /// `$HOTEL_BOOK.bookingRef`: what was kept of a step's reply.
    Kept { step: String, field: String },
}

/// A text that is no slot.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASlot(String);

impl fmt::Display for NotASlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no slot. A slot is `$input.<field>`, `$start.subject`, `$start.owner`, `$start.money`, `$cause`, `$reply.<field>` or `$<STEP>.<kept field>`, with `?` at the end where the value may be missing",
            self.0
        )
    }
}

impl std::error::Error for NotASlot {}

impl FromStr for Slot {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Self, NotASlot> {
        let error = || NotASlot(text.chars().take(80).collect());
        let name = text.strip_prefix('$').ok_or_else(error)?;
        let (name, is_optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
        let field = |field: &str| is_field(field).then(|| field.to_owned()).ok_or_else(error);
        let source = match name.split_once('.') {
            None if name == "cause" => Source::Cause,
            Some(("start", "subject")) => Source::Subject,
            Some(("start", "owner")) => Source::Owner,
            Some(("start", "money")) => Source::Money,
            Some(("input", name)) => Source::Input(field(name)?),
            Some(("reply", name)) => Source::Reply(field(name)?),
            Some((step, name)) if is_step(step) => Source::Kept { step: step.to_owned(), field: field(name)? },
            _ => return Err(error()),
        };
        Ok(Self { source, is_optional })
    }
}

fn is_field(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_step(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<Slot>().unwrap().source
    }

    #[test]
    fn each_source_is_read() {
        assert_eq!(source("$input.userId"), Source::Input("userId".into()));
        assert_eq!(source("$start.money"), Source::Money);
        assert_eq!(source("$cause"), Source::Cause);
        let kept = Source::Kept { step: "HOTEL_BOOK".into(), field: "bookingRef".into() };
        assert_eq!(source("$HOTEL_BOOK.bookingRef"), kept);
        assert!("$HOTEL_BOOK.bookingRef?".parse::<Slot>().unwrap().is_optional);
    }

    #[test]
    fn there_are_no_others_and_no_expressions() {
        for text in [
            "$",
            "$input",
            "$input.",
            "$input.a.b",
            "$start.money.amount",
            "$env.HOME",
            "$input.a + 1",
            "$Input.a",
            "$cause.x",
            "$$cause",
            "input.a",
            "$input.a??",
        ] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
    }
}
