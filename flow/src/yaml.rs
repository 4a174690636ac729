//! A flow file's text as a tree in which each value knows its place. Strict: what hides from a reader what a value is,
//! or lets two readers see two values (anchors, aliases, tags, merge keys, a key twice), is a finding.
//!
//! No scalar is typed here. `no` is a text where the format wants a text, so a YAML version's idea of booleans and
//! numbers changes nothing.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use crate::finding::{Findings, Position};
use crate::rule::Rule;

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 64 * 1024;

/// How deep values may stand in each other. The format needs 10.
const MAX_DEPTH: usize = 16;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing stands there.
    Empty,
    Scalar {
        text: String,
        /// In quotes, or as a block: it is a text, whatever it looks like.
        is_quoted: bool,
    },
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Position,
    pub name: String,
}

impl Node {
    /// The value under a key; `None` where the key is not, or this is no mapping.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.entries().find_map(|(key, value)| (key.name == name).then_some(value))
    }

    /// A mapping's entries in the order of the file; nothing for another value.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Self)> {
        let entries: &[(Key, Self)] = if let Value::Map(entries) = &self.value { entries } else { &[] };
        entries.iter().map(|(key, value)| (key, value))
    }

    /// A list's items; nothing for another value.
    pub fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// A scalar's text; nothing for another value.
    pub fn text(&self) -> &str {
        if let Value::Scalar { text, .. } = &self.value { text } else { "" }
    }
}

/// Reads a file. Without a tree there is a finding; with one there may be findings.
pub fn read(text: &str, findings: &mut Findings) -> Option<Node> {
    let start = Position { line: 1, column: 1 };
    if text.len() > MAX_FILE {
        findings.report(start, Rule::Size, format!("the file has {} bytes; at most {MAX_FILE} are read", text.len()));
        return None;
    }
    let mut reader = Reader { events: Parser::new_from_str(text), findings, is_broken: false };
    let (Event::StreamStart, _) = reader.next()? else { return None };
    let (Event::DocumentStart(_), _) = reader.next()? else {
        reader.findings.report(start, Rule::Yaml, "the file is empty");
        return None;
    };
    let (event, span) = reader.next()?;
    let root = reader.node(event, span, 1)?;
    let (Event::DocumentEnd, _) = reader.next()? else { return None };
    if let (Event::DocumentStart(_), span) = reader.next()? {
        reader.findings.report(position(span.start), Rule::Yaml, "a second document begins here: one file is one flow");
        return None;
    }
    Some(root)
}

struct Reader<'a, 'f> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    findings: &'f mut Findings,
    /// A syntax error was reported: nothing can be read behind it.
    is_broken: bool,
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        if self.is_broken {
            return None;
        }
        match self.events.next_event()? {
            Ok(event) => Some(event),
            Err(error) => {
                self.is_broken = true;
                self.findings.report(position(*error.marker()), Rule::Yaml, error.info());
                None
            }
        }
    }

    /// The value that begins with `event`. `None` only behind a syntax error, or too deep.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Option<Node> {
        let at = position(span.start);
        if depth > MAX_DEPTH {
            self.is_broken = true;
            self.findings.report(at, Rule::Size, format!("values stand in each other more than {MAX_DEPTH} deep"));
            return None;
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_hidden(at, anchor, tag.is_some());
                let is_quoted = style != ScalarStyle::Plain;
                if text.is_empty() && !is_quoted {
                    Value::Empty
                } else {
                    Value::Scalar { text: text.into(), is_quoted }
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_hidden(at, anchor, tag.is_some());
                self.list(depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_hidden(at, anchor, tag.is_some());
                self.map(depth)?
            }
            Event::Alias(_) => {
                self.findings.report(at, Rule::Anchor, "an alias: write the value out here");
                Value::Empty
            }
            _ => return None,
        };
        Some(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<Value> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Some(Value::Map(entries));
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Value::Scalar { text: name, .. } = key.value else {
                self.findings.report(key.at, Rule::Type, "a key has to be a plain word");
                continue;
            };
            if name == "<<" {
                self.findings.report(key.at, Rule::Anchor, "a merge key: write the keys out here");
            } else if let Some((first, _)) = entries.iter().find(|(known, _)| known.name == name) {
                let message = format!("`{name}` stands here a second time; first in line {}", first.at.line);
                self.findings.report(key.at, Rule::DuplicateKey, message);
            } else {
                entries.push((Key { at: key.at, name }, value));
            }
        }
    }

    fn refuse_hidden(&mut self, at: Position, anchor: usize, is_tagged: bool) {
        if anchor != 0 {
            self.findings.report(at, Rule::Anchor, "an anchor: nothing may refer to another place of the file");
        }
        if is_tagged {
            self.findings.report(at, Rule::Tag, "a tag: the format gives this value its type");
        }
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        read(text, &mut findings);
        findings.sorted().iter().map(ToString::to_string).collect()
    }

    fn found(text: &str) -> (String, String) {
        let all = findings(text);
        assert_eq!(all.len(), 1, "{all:?}");
        let (place, rest) = all[0].split_once(": ").unwrap();
        (place.to_owned(), rest.split_once(": ").unwrap().0.to_owned())
    }

    #[test]
    fn a_value_knows_its_line_and_column() {
        let mut findings = Findings::default();

        let root = read("flow: trip\nsteps:\n  - step: A\n", &mut findings).unwrap();

        let Value::Map(entries) = root.value else { panic!("a mapping") };
        assert_eq!(entries[0].1.at, Position { line: 1, column: 7 });
        let Value::List(steps) = &entries[1].1.value else { panic!("a list") };
        assert_eq!(steps[0].at, Position { line: 3, column: 5 });
        assert!(findings.is_empty());
    }

    #[test]
    fn nothing_is_typed_by_its_looks() {
        let mut findings = Findings::default();

        let root = read("[no, 1.50, \"2\", ~, ]", &mut findings).unwrap();

        let Value::List(items) = root.value else { panic!("a list") };
        let texts: Vec<_> = items
            .iter()
            .map(|item| match &item.value {
                Value::Scalar { text, is_quoted } => (text.as_str(), *is_quoted),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, [("no", false), ("1.50", false), ("2", true), ("~", false)]);
    }

    #[test]
    fn what_hides_a_value_is_found_where_it_stands() {
        let place = |text| found(text);
        assert_eq!(place("a: &x 1"), ("1:4".into(), "anchor".into()));
        assert_eq!(place("a: 1\nb: *x"), ("2:4".into(), "yaml".into()));
        assert_eq!(place("a: !!str 1"), ("1:4".into(), "tag".into()));
        assert_eq!(place("a:\n  <<: {b: 1}"), ("2:3".into(), "anchor".into()));
        assert_eq!(place("a: 1\nb: 2\na: 3"), ("3:1".into(), "duplicate-key".into()));
        assert_eq!(place("{[a]: 1}"), ("1:2".into(), "type".into()));
        assert_eq!(place("a: 1\n---\nb: 2"), ("2:1".into(), "yaml".into()));
        assert_eq!(place(""), ("1:1".into(), "yaml".into()));
    }

    #[test]
    fn all_findings_are_reported_at_once() {
        assert_eq!(findings("a: !x 1\nb: &y 2\nb: 3\n").len(), 3);
    }

    #[test]
    fn an_alias_of_an_anchor_is_a_finding_of_its_own() {
        assert_eq!(findings("a: &x 1\nb: *x").len(), 2);
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert_eq!(found(&"#".repeat(MAX_FILE + 1)), ("1:1".into(), "size".into()));
        assert_eq!(found(&"[".repeat(MAX_DEPTH + 1)).1, "size");
        // Deeper than the parser itself goes.
        assert_eq!(findings(&"[".repeat(MAX_FILE)).len(), 1);
    }
}
