//! Reads JSON by shapes, into exact values. Requests are read strictly, replies tolerantly: a participant may add fields.

use std::borrow::Cow;
use std::fmt;

use messages::text::check_prose;
use messages::{AmountText, Currency, MAX_AMOUNT, Money, MoneyError, Sku, UserId};
use rust_decimal::Decimal;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::shape::{Shape, ShapeKind};
use crate::value::{Record, Value};

/// Characters of a text that has no `max`, and bytes of JSON.
pub(crate) const MAX_TEXT: usize = 255;
pub(crate) const MAX_JSON: usize = 2 * 1024;
/// The greatest count, where there is no `most`.
pub(crate) const MAX_COUNT: u64 = 1_000_000_000;
/// Characters of an address of mail.
pub(crate) const MAX_EMAIL: usize = 254;

/// Whose JSON is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A client's: an unknown field is refused, and so is what only earlier releases took.
    Request,
    /// An event's that starts a saga: by the rules of a request, but an unknown field is ignored.
    Event,
    /// A participant's: an unknown field is ignored.
    Reply,
}

/// What does not fit its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Where it stands: `items[2].sku`. Empty for the whole.
    pub field: String,
    /// What is wrong with it: `must be true or false`.
    pub why: String,
}

/// "`items[2].sku` must not be blank"
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.why),
            field => write!(f, "`{field}` {}", self.why),
        }
    }
}

impl std::error::Error for Misfit {}

impl Misfit {
    fn new(why: impl fmt::Display) -> Self {
        Self { field: String::new(), why: why.to_string() }
    }

    /// The same, seen from outside of the field that it stands in.
    fn within(self, outer: impl fmt::Display) -> Self {
        let field = match self.field.chars().next() {
            None => outer.to_string(),
            Some('[') => format!("{outer}{}", self.field),
            Some(_) => format!("{outer}.{}", self.field),
        };
        Self { field, ..self }
    }
}

/// Reads a JSON object by the shapes of its fields. Fields that are missing or null take their default.
///
/// # Errors
/// The first field, in the order of the shapes, that is missing or does not fit.
pub fn read(fields: &[(String, Shape)], json: &str, reading: Reading) -> Result<Record, Misfit> {
    let Members(members) = serde_json::from_str(json).map_err(Misfit::new)?;
    if reading == Reading::Request
        && let Some((name, _)) = members.iter().find(|(name, _)| !fields.iter().any(|(field, _)| field == name))
    {
        let known: Vec<_> = fields.iter().map(|(field, _)| format!("`{field}`")).collect();
        let why = format!("is no field of this request: {}", known.join(", "));
        return Err(Misfit { field: name.chars().take(80).collect(), why });
    }
    let mut record = Record::default();
    for (field, shape) in fields {
        let given = members.iter().find_map(|(name, json)| (name == field).then_some(json.get()));
        let value = match given.filter(|json| *json != "null") {
            Some(json) => Some(shape.read(json, reading).map_err(|misfit| misfit.within(field))?),
            None => shape.default_value(reading).map_err(|misfit| misfit.within(field))?,
        };
        match value {
            Some(value) => record.0.push((Cow::Owned(field.clone()), value)),
            None if shape.is_optional => {}
            None => return Err(Misfit::new("is missing").within(field)),
        }
    }
    Ok(record)
}

impl Shape {
    /// Reads one value.
    ///
    /// # Errors
    /// What of it does not fit.
    pub fn read(&self, json: &str, reading: Reading) -> Result<Value, Misfit> {
        let is_new = reading != Reading::Reply;
        Ok(match self.kind {
            ShapeKind::Text => {
                let text = text(json)?;
                check_prose(&text, self.max.unwrap_or(MAX_TEXT)).map_err(Misfit::new)?;
                if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.matches(&text)) {
                    return Err(Misfit::new(format!("must match {}", pattern.as_str())));
                }
                Value::Text(text)
            }
            ShapeKind::UserId => {
                let text = text(json)?;
                let user_id = if is_new { UserId::new(text) } else { UserId::try_from(text) };
                Value::Text(user_id.map_err(Misfit::new)?.into())
            }
            ShapeKind::Currency => {
                let code = text(json)?;
                let currency = if is_new { Currency::in_use(&code) } else { code.parse() };
                Value::Text(currency.map_err(Misfit::new)?.code().to_owned())
            }
            ShapeKind::Email => Value::Text(checked(text(json)?, is_email, "must be an address of mail")?),
            ShapeKind::Sku => Value::Text(Sku::try_from(text(json)?).map_err(Misfit::new)?.into()),
            ShapeKind::Date => {
                Value::Text(checked(text(json)?, is_date, "must be a day of the calendar, as 2027-05-01")?)
            }
            ShapeKind::Boolean => {
                Value::Flag(serde_json::from_str(json).map_err(|_| Misfit::new("must be true or false"))?)
            }
            ShapeKind::Count => Value::Count(count(json, self.most)?),
            ShapeKind::Amount => Value::Amount(amount(json)?),
            ShapeKind::Money => Value::Money(serde_json::from_str::<Money>(json).map_err(Misfit::new)?),
            ShapeKind::Json => {
                let (bytes, most) = (json.len(), self.max.unwrap_or(MAX_JSON));
                if bytes > most {
                    return Err(Misfit::new(format!("has {bytes} bytes; at most {most} are taken")));
                }
                Value::Json(RawValue::from_string(json.to_owned()).map_err(Misfit::new)?)
            }
            ShapeKind::Record => Value::Record(read(&self.of, json, reading)?),
            ShapeKind::Address => Value::Record(read(&address(), json, reading)?),
            ShapeKind::List => {
                let items: Vec<&RawValue> =
                    serde_json::from_str(json).map_err(|_| Misfit::new("must be a JSON array"))?;
                let most = self.most.and_then(|most| most.try_into().ok()).unwrap_or(usize::MAX);
                if items.len() > most {
                    return Err(Misfit::new(format!("has {} items; at most {most} are taken", items.len())));
                }
                let item = |(place, item): (usize, &&RawValue)| {
                    read(&self.of, item.get(), reading).map_err(|misfit| misfit.within(format_args!("[{place}]")))
                };
                Value::List(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
            }
        })
    }

    fn default_value(&self, reading: Reading) -> Result<Option<Value>, Misfit> {
        self.default.as_ref().map(|default| self.read(&default.to_string(), reading)).transpose()
    }
}

/// An object's members in their order. A name that stands twice is refused: readers would disagree about which one counts.
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some(Key(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                // Sorted, and not compared each with each: a body may have thousands.
                let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
                names.sort_unstable();
                match names.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(pair) => Err(A::Error::custom(format_args!("duplicate field `{}`", pair[0]))),
                    None => Ok(Members(members)),
                }
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A name that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn text(json: &str) -> Result<String, Misfit> {
    serde_json::from_str(json).map_err(|_| Misfit::new("must be a text"))
}

fn checked(text: String, fits: fn(&str) -> bool, rule: &str) -> Result<String, Misfit> {
    if fits(&text) { Ok(text) } else { Err(Misfit::new(rule)) }
}

fn count(json: &str, most: Option<u64>) -> Result<u64, Misfit> {
    let most = most.unwrap_or(MAX_COUNT);
    let count = json.parse().ok().filter(|count| *count <= most);
    count.ok_or_else(|| Misfit::new(format!("must be a whole number from 0 to {most}")))
}

/// An exact number above 0. How many decimals it may have is decided where its currency is known.
fn amount(json: &str) -> Result<Decimal, Misfit> {
    let AmountText(text) = serde_json::from_str(json).map_err(Misfit::new)?;
    let amount = AmountText(text).decimal().ok_or_else(|| Misfit::new(MoneyError::NotANumber))?;
    match amount {
        amount if amount <= Decimal::ZERO => Err(Misfit::new(MoneyError::NotPositive)),
        amount if amount > MAX_AMOUNT => Err(Misfit::new(MoneyError::TooLarge)),
        amount => Ok(amount),
    }
}

fn is_email(text: &str) -> bool {
    let is_plain = check_prose(text, MAX_EMAIL).is_ok() && !text.contains(char::is_whitespace);
    let parts = text.split_once('@').filter(|(name, host)| !name.is_empty() && !host.is_empty());
    is_plain && parts.is_some_and(|(_, host)| !host.contains('@'))
}

/// `2027-05-01`, and a day that there is.
fn is_date(text: &str) -> bool {
    let digits = |part: &str, width: usize| {
        let is_number = part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u32>().ok()).flatten()
    };
    let mut parts = text.split('-');
    let mut next = |width| parts.next().and_then(|part| digits(part, width));
    let (Some(year), Some(month), Some(day)) = (next(4), next(2), next(2)) else { return false };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day) && parts.next().is_none()
}

/// What an address is made of.
pub(crate) fn address() -> Vec<(String, Shape)> {
    let text = |name: &str, max, is_optional| {
        (name.to_owned(), Shape { max: Some(max), is_optional, ..Shape::of_kind(ShapeKind::Text) })
    };
    vec![
        text("name", 128, true),
        text("line1", 255, false),
        text("line2", 255, true),
        text("postalCode", 20, true),
        text("city", 128, false),
        text("region", 128, true),
        text("country", 2, false),
    ]
}
