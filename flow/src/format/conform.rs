//! Whether a tree has the form that the tables give. Every deviation is a finding; nothing stops at the first.

use std::time::Duration;

use messages::duration;
use regex_lite::Regex;

use super::kind::{Kind, Record, Sort};
use crate::finding::{Findings, Position};
use crate::rule::Rule;
use crate::slot::Slot;
use crate::yaml::{Node, Value};

/// The longest duration of a flow file.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reports each deviation of `node` from a record.
pub fn conforms(node: &Node, record: &Record, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else {
        return wrong_type(node, &format!("{} is a mapping", record.what), findings);
    };
    for (key, value) in entries {
        match record.keys.iter().find(|known| known.name == key.name) {
            Some(known) => value_conforms(value, &known.kind, &key.name, findings),
            None => {
                let known: Vec<_> = record.keys.iter().map(|key| key.name).collect();
                let message = format!("`{}` is no key of {}: {}", key.name, record.what, known.join(", "));
                findings.report(key.at, Rule::UnknownKey, message);
            }
        }
    }
    for key in record.keys.iter().filter(|key| key.is_required && node.get(key.name).is_none()) {
        let message = format!("{} needs `{}`, as `{}: {}`", record.what, key.name, key.name, key.example);
        findings.report(node.at, Rule::MissingKey, message);
    }
}

fn value_conforms(node: &Node, kind: &Kind, name: &str, findings: &mut Findings) {
    let wrong = |what: &str, findings: &mut Findings| wrong_type(node, &format!("`{name}` is {what}"), findings);
    match (kind, &node.value) {
        (Kind::Record(record), Value::Map(_)) => conforms(node, record, findings),
        (Kind::Record(record), _) => wrong(&format!("{}: a mapping", record.what), findings),

        (Kind::Map(sort, kind), Value::Map(entries)) => {
            for (key, value) in entries {
                name_conforms(&key.name, key.at, sort, findings);
                value_conforms(value, kind, &key.name, findings);
            }
        }
        (Kind::Map(sort, _), _) => wrong(&format!("a mapping; each key names {}", sort.what), findings),

        (Kind::List(kind, most), Value::List(items)) => {
            if items.len() > *most {
                let message = format!("`{name}` has {} items; {most} are the most", items.len());
                findings.report(node.at, Rule::Bounds, message);
            }
            items.iter().for_each(|item| value_conforms(item, kind, name, findings));
        }
        (Kind::List(..), _) => wrong("a list", findings),

        (Kind::Either(kinds), value) => match kinds.iter().find(|kind| takes(kind, value)) {
            Some(kind) => value_conforms(node, kind, name, findings),
            None => wrong(&kinds.iter().map(described).collect::<Vec<_>>().join(", or "), findings),
        },

        (Kind::Payload, Value::Empty) => wrong("a payload: constants and slots", findings),
        (Kind::Payload, _) => payload_conforms(node, findings),

        (_, Value::Scalar { text, is_quoted }) => scalar_conforms(node, text, *is_quoted, kind, name, findings),
        _ => wrong(&described(kind), findings),
    }
}

fn scalar_conforms(node: &Node, text: &str, is_quoted: bool, kind: &Kind, name: &str, findings: &mut Findings) {
    let wrong = |findings: &mut Findings| wrong_type(node, &format!("`{name}` is {}", described(kind)), findings);
    match kind {
        Kind::Name(sort) => name_conforms(text, node.at, sort, findings),
        Kind::Text(most) if text.chars().count() > *most => {
            findings.report(node.at, Rule::Bounds, format!("`{name}` has at most {most} characters"));
        }
        Kind::Text(_) | Kind::Constant => {}
        Kind::Integer { least, most } => match integer(text).filter(|_| !is_quoted) {
            None => wrong(findings),
            Some(number) if !(*least..=*most).contains(&number) && least == most => {
                findings.report(node.at, Rule::Bounds, format!("`{name}` is {number}; this release knows {least}"));
            }
            Some(number) if !(*least..=*most).contains(&number) => {
                findings.report(node.at, Rule::Bounds, format!("`{name}` is {number}; it has to be {least} to {most}"));
            }
            Some(_) => {}
        },
        Kind::Flag if is_quoted || !["true", "false"].contains(&text) => wrong(findings),
        Kind::Flag => {}
        Kind::Duration => match duration(text) {
            None => wrong(findings),
            Some(duration) if duration.is_zero() || duration > MAX_DURATION => {
                findings.report(node.at, Rule::Bounds, format!("`{name}` has to be 1ms to 366d"));
            }
            Some(_) => {}
        },
        Kind::Bytes if bytes(text).is_none_or(|bytes| !(1..=crate::MAX_FILE).contains(&bytes)) => wrong(findings),
        Kind::Bytes => {}
        Kind::Word(words) if !words.contains(&text) => wrong(findings),
        Kind::Word(_) => {}
        Kind::Slot => slot_conforms(text, node.at, findings),
        Kind::Payload | Kind::Record(_) | Kind::List(..) | Kind::Map(..) | Kind::Either(_) => wrong(findings),
    }
}

/// A text that begins with `$` is a slot; everything else is a constant.
fn payload_conforms(node: &Node, findings: &mut Findings) {
    match &node.value {
        Value::Empty => wrong_type(node, "a value is missing; `\"\"` is the empty text", findings),
        Value::Scalar { text, .. } if text.starts_with('$') => slot_conforms(text, node.at, findings),
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter().for_each(|item| payload_conforms(item, findings)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| payload_conforms(value, findings)),
    }
}

fn slot_conforms(text: &str, at: Position, findings: &mut Findings) {
    if let Err(error) = text.parse::<Slot>() {
        findings.report(at, Rule::Slot, error.to_string());
    }
}

fn name_conforms(name: &str, at: Position, sort: &Sort, findings: &mut Findings) {
    let fits = Regex::new(sort.pattern).is_ok_and(|pattern| pattern.is_match(name)) && name.len() <= 100;
    if !fits {
        let message = format!("`{name}` can't name {}: it is written with {}", sort.what, sort.written);
        findings.report(at, Rule::Name, message);
    }
}

/// Whether a value of this kind is written so: by a word, a list or a mapping.
fn takes(kind: &Kind, value: &Value) -> bool {
    match kind {
        Kind::Record(_) | Kind::Map(..) => matches!(value, Value::Map(_)),
        Kind::List(..) => matches!(value, Value::List(_)),
        _ => matches!(value, Value::Scalar { .. }),
    }
}

pub(super) fn described(kind: &Kind) -> String {
    match kind {
        Kind::Name(sort) => format!("the name of {}", sort.what),
        Kind::Text(_) => "a text".to_owned(),
        Kind::Integer { least, most } => format!("a whole number from {least} to {most}"),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Duration => "a duration, such as `500ms`, `90s`, `20m`, `24h` or `14d`".to_owned(),
        Kind::Bytes => "a number of bytes, such as `255` or `2KiB`, up to 64KiB".to_owned(),
        Kind::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Slot => "a slot, such as `$input.userId`".to_owned(),
        Kind::Payload => "a payload: constants and slots".to_owned(),
        Kind::Constant => "a text, a number or a flag".to_owned(),
        Kind::Record(record) => format!("{}, a mapping", record.what),
        Kind::List(..) => "a list".to_owned(),
        Kind::Map(sort, _) => format!("a mapping from {}", sort.what),
        Kind::Either(kinds) => kinds.iter().map(described).collect::<Vec<_>>().join(", or "),
    }
}

fn wrong_type(node: &Node, expected: &str, findings: &mut Findings) {
    let there = match &node.value {
        Value::Empty => "nothing".to_owned(),
        Value::Scalar { text, .. } => format!("`{}`", text.chars().take(60).collect::<String>()),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    };
    findings.report(node.at, Rule::Type, format!("{expected}; here stands {there}"));
}

/// A whole number in decimal digits, without leading zeros.
pub fn integer(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// `255`, `2KiB`.
pub fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = text.strip_suffix("KiB").map_or((text, 1), |number| (number, 1024));
    usize::try_from(integer(number)?).ok()?.checked_mul(unit)
}
