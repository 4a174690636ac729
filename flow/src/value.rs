//! Values as they were read by a shape: exact, and written the same way each time.

use std::borrow::Cow;
use std::io::Write as _;

use messages::Money;
use rust_decimal::Decimal;
use serde_json::value::RawValue;

/// A value that fits its shape.
#[derive(Debug, Clone)]
pub enum Value {
    /// Texts of all kinds: names, addresses of mail, codes of currencies, dates.
    Text(String),
    Flag(bool),
    Count(u64),
    /// An exact number, with the digits that it was written with.
    Amount(Decimal),
    Money(Money),
    /// As it came, byte for byte.
    Json(Box<RawValue>),
    Record(Record),
    List(Vec<Record>),
}

/// Fields by name, in the order of the shape that they were read by. What was missing is not among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record(pub Vec<(Cow<'static, str>, Value)>);

impl Record {
    /// The value of a field; `None` where it is missing.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.iter().find_map(|(name, value)| (name == field).then_some(value))
    }

    /// The text of a field; `None` where it is missing, or no text.
    pub fn text(&self, field: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.get(field) { Some(text) } else { None }
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.size()).sum()
    }

    /// Whether a field is `true`.
    pub fn is_set(&self, field: &str) -> bool {
        matches!(self.get(field), Some(Value::Flag(true)))
    }

    /// Writes it as a JSON object.
    pub fn write(&self, out: &mut Vec<u8>) {
        object(out, self.0.iter().map(|(name, value)| (&**name, value)), |value, out| value.write(out));
    }

    /// The JSON object as a text: what is stored.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        // Only texts were written.
        String::from_utf8(out).unwrap_or_default()
    }
}

impl Value {
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let content = match self {
            Self::Text(text) => text.len(),
            Self::Json(json) => json.get().len(),
            Self::Record(record) => record.size(),
            Self::List(items) => items.iter().map(Record::size).sum(),
            Self::Flag(_) | Self::Count(_) | Self::Amount(_) | Self::Money(_) => 0,
        };
        size_of::<Self>() + content
    }

    /// Writes it as JSON: numbers with their exact digits, no blanks.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => write_string(text, out),
            Self::Flag(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            // A vector takes whatever is written.
            Self::Count(count) => drop(write!(out, "{count}")),
            Self::Amount(amount) => drop(write!(out, "{amount}")),
            Self::Money(money) => drop(serde_json::to_writer(out, money)),
            Self::Json(json) => out.extend_from_slice(json.get().as_bytes()),
            Self::Record(record) => record.write(out),
            Self::List(items) => list(out, items, Record::write),
        }
    }
}

/// Two values are equal when they are written alike; amounts and money when they are worth the same.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Flag(one), Self::Flag(other)) => one == other,
            (Self::Count(one), Self::Count(other)) => one == other,
            (Self::Amount(one), Self::Amount(other)) => one == other,
            (Self::Money(one), Self::Money(other)) => one == other,
            (Self::Json(one), Self::Json(other)) => one.get() == other.get(),
            (Self::Record(one), Self::Record(other)) => one == other,
            (Self::List(one), Self::List(other)) => one == other,
            _ => false,
        }
    }
}

/// Writes a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    // Neither a text nor a vector can fail.
    drop(serde_json::to_writer(out, text));
}

pub(crate) fn object<'a, T: 'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a str, T)>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    out.push(b'{');
    for (place, (name, value)) in fields.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

pub(crate) fn list<'a, T>(out: &mut Vec<u8>, items: &'a [T], mut write: impl FnMut(&'a T, &mut Vec<u8>)) {
    out.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}
