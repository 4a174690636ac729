//! A pattern as JSON Schema has it: in the syntax of ECMA-262, where some of Rust's classes and flags are other ones, or
//! not there.

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{
    Assertion, AssertionKind, Ast, ClassAscii, ClassAsciiKind, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem, Group,
    GroupKind, Repetition, RepetitionKind, RepetitionRange,
};

/// A pattern that means in ECMA-262 what the flow's pattern means here.
pub struct Ecma {
    pub pattern: String,
    /// All characters of a matching text are visible ASCII: no other rule about characters refuses one.
    pub is_visible: bool,
}

impl Ecma {
    /// The pattern of a whole text. `None` where it uses what ECMA-262 does not have, as flags.
    pub fn of(pattern: &str) -> Option<Self> {
        let ast = Parser::new().parse(pattern).ok()?;
        let mut writer = Writer { out: String::new(), is_visible: true };
        writer.write(&ast)?;
        let Writer { out, is_visible } = writer;
        let pattern = if let Ast::Alternation(_) = ast { format!("^(?:{out})$") } else { format!("^{out}$") };
        Some(Self { pattern, is_visible })
    }
}

struct Writer {
    out: String,
    is_visible: bool,
}

impl Writer {
    fn write(&mut self, ast: &Ast) -> Option<()> {
        match ast {
            Ast::Empty(_) => {}
            Ast::Literal(literal) => self.char(literal.c, r"^$\.*+?()[]{}|/"),
            Ast::Dot(_) => self.anything("."),
            Ast::Assertion(assertion) => self.out += anchor(assertion)?,
            Ast::ClassPerl(class) => {
                self.out.push('[');
                self.perl(class)?;
                self.out.push(']');
            }
            Ast::ClassBracketed(class) => {
                self.out += if class.negated { "[^" } else { "[" };
                let ClassSet::Item(item) = &class.kind else { return None };
                self.item(item)?;
                self.out.push(']');
                self.is_visible &= !class.negated;
            }
            Ast::Repetition(repetition) => self.repetition(repetition)?,
            Ast::Group(group) => self.group(group)?,
            Ast::Alternation(ways) => {
                for (place, way) in ways.asts.iter().enumerate() {
                    if place > 0 {
                        self.out.push('|');
                    }
                    self.write(way)?;
                }
            }
            Ast::Concat(parts) => parts.asts.iter().try_for_each(|part| self.write(part))?,
            Ast::Flags(_) | Ast::ClassUnicode(_) => return None,
        }
        Some(())
    }

    /// What matches characters of all scripts.
    fn anything(&mut self, written: &str) {
        self.is_visible = false;
        self.out += written;
    }

    fn char(&mut self, c: char, special: &str) {
        self.is_visible &= c.is_ascii_graphic();
        match c {
            c if special.contains(c) => self.out.extend(['\\', c]),
            c if c.is_control() => self.out += &format!("\\u{:04x}", u32::from(c)),
            c => self.out.push(c),
        }
    }

    /// Something inside of a class.
    fn item(&mut self, item: &ClassSetItem) -> Option<()> {
        const SPECIAL: &str = r"\[]^-";
        match item {
            ClassSetItem::Empty(_) => {}
            ClassSetItem::Literal(literal) => self.char(literal.c, SPECIAL),
            ClassSetItem::Range(range) => {
                self.char(range.start.c, SPECIAL);
                self.out.push('-');
                self.char(range.end.c, SPECIAL);
            }
            ClassSetItem::Ascii(class) => self.ascii(class)?,
            ClassSetItem::Perl(class) => self.perl(class)?,
            ClassSetItem::Union(union) => union.items.iter().try_for_each(|item| self.item(item))?,
            ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => return None,
        }
        Some(())
    }

    /// Here they are classes of ASCII.
    fn perl(&mut self, class: &ClassPerl) -> Option<()> {
        match (&class.kind, class.negated) {
            (ClassPerlKind::Digit, false) => self.out += "0-9",
            (ClassPerlKind::Word, false) => self.out += "0-9A-Za-z_",
            (ClassPerlKind::Space, false) => self.anything(r"\u0009-\u000d "),
            (ClassPerlKind::Digit, true) => self.anything(r"\D"),
            (ClassPerlKind::Word, true) => self.anything(r"\W"),
            // There it is all that is no blank of any script.
            (ClassPerlKind::Space, true) => return None,
        }
        Some(())
    }

    fn ascii(&mut self, class: &ClassAscii) -> Option<()> {
        if class.negated {
            return None;
        }
        match class.kind {
            ClassAsciiKind::Alnum => self.out += "0-9A-Za-z",
            ClassAsciiKind::Alpha => self.out += "A-Za-z",
            ClassAsciiKind::Digit => self.out += "0-9",
            ClassAsciiKind::Graph => self.out += "!-~",
            ClassAsciiKind::Lower => self.out += "a-z",
            ClassAsciiKind::Punct => self.out += r"!-/:-@\[-`{-~",
            ClassAsciiKind::Upper => self.out += "A-Z",
            ClassAsciiKind::Word => self.out += "0-9A-Za-z_",
            ClassAsciiKind::Xdigit => self.out += "0-9A-Fa-f",
            ClassAsciiKind::Print => self.anything(" -~"),
            ClassAsciiKind::Ascii => self.anything(r"\u0000-\u007f"),
            ClassAsciiKind::Blank => self.anything(r"\u0009 "),
            ClassAsciiKind::Cntrl => self.anything(r"\u0000-\u001f\u007f"),
            ClassAsciiKind::Space => self.anything(r"\u0009-\u000d "),
        }
        Some(())
    }

    fn repetition(&mut self, Repetition { op, ast, .. }: &Repetition) -> Option<()> {
        // Neither an anchor nor a repetition is repeated there.
        let is_one = !matches!(**ast, Ast::Repetition(_) | Ast::Assertion(_) | Ast::Empty(_));
        self.out += if is_one { "" } else { "(?:" };
        self.write(ast)?;
        self.out += if is_one { "" } else { ")" };
        self.out += &match &op.kind {
            RepetitionKind::ZeroOrOne => "?".to_owned(),
            RepetitionKind::ZeroOrMore => "*".to_owned(),
            RepetitionKind::OneOrMore => "+".to_owned(),
            RepetitionKind::Range(RepetitionRange::Exactly(times)) => format!("{{{times}}}"),
            RepetitionKind::Range(RepetitionRange::AtLeast(least)) => format!("{{{least},}}"),
            RepetitionKind::Range(RepetitionRange::Bounded(least, most)) => format!("{{{least},{most}}}"),
        };
        Some(())
    }

    fn group(&mut self, Group { kind, ast, .. }: &Group) -> Option<()> {
        if let GroupKind::NonCapturing(flags) = kind
            && !flags.items.is_empty()
        {
            return None;
        }
        self.out += "(?:";
        self.write(ast)?;
        self.out.push(')');
        Some(())
    }
}

fn anchor(assertion: &Assertion) -> Option<&'static str> {
    match assertion.kind {
        AssertionKind::StartLine | AssertionKind::StartText => Some("^"),
        AssertionKind::EndLine | AssertionKind::EndText => Some("$"),
        AssertionKind::WordBoundary => Some(r"\b"),
        AssertionKind::NotWordBoundary => Some(r"\B"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ecma(pattern: &str) -> (String, bool) {
        let Ecma { pattern, is_visible } = Ecma::of(pattern).unwrap();
        (pattern, is_visible)
    }

    #[test]
    fn a_pattern_is_written_as_ecma_262_has_it() {
        for (pattern, written, is_visible) in [
            ("[A-Z]{3}", "^[A-Z]{3}$", true),
            (r"\d{4}-\d{2,}", "^[0-9]{4}-[0-9]{2,}$", true),
            (r"(?:HOTEL|CAR)\-[[:xdigit:]]+", "^(?:HOTEL|CAR)-[0-9A-Fa-f]+$", true),
            (r"(?P<kind>a|b)?c*", "^(?:a|b)?c*$", true),
            (r"a|b\/", r"^(?:a|b\/)$", true),
            (r"[\w.\-\]]{1,9}", r"^[0-9A-Za-z_.\-\]]{1,9}$", true),
            (r"\Aa{2}{3}\z", "^^(?:a{2}){3}$$", true),
            ("[^,]*", "^[^,]*$", false),
            (".+", "^.+$", false),
            (r"\x41\u00e4 \s\D", r"^Aä [\u0009-\u000d ][\D]$", false),
            ("", "^$", true),
        ] {
            assert_eq!(ecma(pattern), (written.to_owned(), is_visible), "{pattern}");
        }
    }

    #[test]
    fn what_ecma_262_does_not_have_is_left_out() {
        for pattern in ["(?i)abc", "(?i:a)b", r"\S+", "[[:^alpha:]]", r"\b{start}a"] {
            assert!(Ecma::of(pattern).is_none(), "{pattern}");
        }
    }
}
