//! What a JSON schema says of the words that all services share: as strict as the code that reads them, no stricter. For
//! the descriptions of the interfaces (OpenAPI, AsyncAPI).

use std::borrow::Cow;

use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::text::{INVISIBLE, PARTS_OF_WORDS};
use crate::user::MAX_USER_ID;
use crate::{AmountText, Currency, EventId, HoldFor, OrderId, SagaId, Sku, TimestampText, UserId, sku};

/// 10^12: [`crate::MAX_AMOUNT`].
const MAX_AMOUNT: i64 = 1_000_000_000_000;

/// Digits with a point in or around them, and an exponent of ten.
const DECIMAL: &str = r"^\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$";

/// Control characters (Unicode's category Cc). `\p{Cc}` is not known to every reader of schemas.
const CONTROLS: &str = r"\u0000-\u001f\u007f-\u009f";

macro_rules! schema {
    ($name:ident, $schema:expr) => {
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

schema!(SagaId, id("Identifies one saga, that is one checkout.", "01a1fcfc-71e1-7774-8bfb-889f9eb14880"));
schema!(OrderId, id("Identifies one order.", "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9"));
schema!(
    EventId,
    id("Identifies one message. One that is sent again keeps its id.", "968b5bb3-524a-56f0-bea6-ff12d7bd9c72")
);
schema!(
    HoldFor,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^(0|[1-9][0-9]*)(ms|s|m|h|d)$"))
        .description(Some("A length of time, at most 365 days; 0: without a limit."))
        .examples(["20m"])
);
schema!(
    UserId,
    text(MAX_USER_ID, CONTROLS).description(Some("A user's id, as the client's own system gave it.")).examples(["u1"])
);
schema!(
    NewUserId,
    name(MAX_USER_ID)
        .description(Some("A user's id, as the client's own system gives it: no control and no invisible characters."))
        .examples(["u1"])
);
schema!(
    Currency,
    one_of(currencies(|code| code.parse().ok()))
        .description(Some("An ISO 4217 currency that has a defined number of decimals."))
        .examples(["USD"])
);
schema!(
    CurrencyInUse,
    one_of(currencies(|code| Currency::in_use(code).ok()))
        .description(Some("An ISO 4217 currency that is in use and has a defined number of decimals."))
        .examples(["USD"])
);
schema!(Sku, skus());
schema!(
    TimestampText,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some("A point in time: RFC 3339, UTC, with six digits of a second."))
        .examples(["2026-11-21T07:22:45.089557Z"])
);
schema!(Amount, amount().description(Some("In units of the currency, with its exact digits.")).examples([500]));
schema!(
    AmountText,
    AnyOfBuilder::new()
        .item(amount())
        .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some(DECIMAL)))
        .description(Some(
            "A JSON number or a decimal string: more than 0, at most 10^12, with no more decimals than its currency has."
        ))
        .examples([serde_json::json!(500), serde_json::json!("19.90")])
);

/// An amount in an answer.
pub struct Amount;

/// The user's id of a new request. The one of an answer may have been accepted by other rules.
pub struct NewUserId;

/// The currency of a new request. The one of an answer may have been withdrawn since.
pub struct CurrencyInUse;

/// What [`check_name`](crate::text::check_name) takes.
pub fn name(most_characters: usize) -> ObjectBuilder {
    text(most_characters, &refused(&[]))
}

/// A new user's id that has at most so many characters.
pub fn user_id(most_characters: usize) -> ObjectBuilder {
    name(most_characters.min(MAX_USER_ID))
}

/// An address of mail: two parts around an `@`, without blanks and what [`prose`] refuses.
pub fn email(most_characters: usize) -> ObjectBuilder {
    let part = format!("[^\\s@{}]+", refused(&PARTS_OF_WORDS));
    ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(most_characters))
        .pattern(Some(format!("^{part}@{part}$")))
        .examples(["ann@example.com"])
}

/// A shop's name of one of its products.
pub fn skus() -> ObjectBuilder {
    let pattern = format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", sku::MOST - 1);
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).examples(["SKU-1"])
}

/// What [`check_prose`](crate::text::check_prose) takes.
pub fn prose(most_characters: usize) -> ObjectBuilder {
    text(most_characters, &refused(&PARTS_OF_WORDS))
}

/// Text that is not blank, without certain characters.
fn text(most_characters: usize, refused: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(most_characters))
        .pattern(Some(format!("^[^{refused}]*[^\\s{refused}][^{refused}]*$")))
}

/// The inside of a character class: controls, and what is invisible but for some.
fn refused(allowed: &[char]) -> String {
    let mut class = CONTROLS.to_owned();
    for range in INVISIBLE {
        let mut refused = range.filter(|c| !allowed.contains(c)).peekable();
        while let Some(first) = refused.next() {
            let mut last = first;
            while let Some(next) = refused.next_if(|next| u32::from(*next) == u32::from(last) + 1) {
                last = next;
            }
            class += &escaped(first);
            if last > first {
                class.push('-');
                class += &escaped(last);
            }
        }
    }
    class
}

/// A character of a pattern (ECMA-262). One beyond the first plane stands for itself: its escape is not known to every
/// reader of schemas.
fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ ..=0xffff => format!("\\u{code:04x}"),
        _ => c.to_string(),
    }
}

/// A string that is one of these.
pub fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}

fn id(what: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
        .description(Some(what))
        .examples([example])
}

fn amount() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0)).maximum(Some(MAX_AMOUNT))
}

/// Every code that is taken.
pub(crate) fn currencies(taken: impl Fn(&str) -> Option<Currency>) -> Vec<&'static str> {
    let letters = || b'A'..=b'Z';
    let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
    codes.filter_map(|code| Some(taken(std::str::from_utf8(&code).ok()?)?.code())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_currencies_of_the_schema_are_those_that_are_taken() {
        let currencies = currencies(|code| Currency::in_use(code).ok());
        assert!(["EUR", "JPY", "KWD", "USD"].iter().all(|code| currencies.contains(code)), "{currencies:?}");
        assert!(!currencies.contains(&"XXX") && currencies.len() > 150, "{}", currencies.len());
    }

    #[test]
    fn a_pattern_lets_pass_what_the_check_takes() {
        use crate::text::{check_name, check_prose};
        // Written for ECMA-262, in which escapes have no braces.
        let in_rust = |pattern: String| {
            regex::Regex::new(&regex::Regex::new(r"\\u(\w{4})").unwrap().replace_all(&pattern, r"\x{$1}")).unwrap()
        };
        let pattern = |allowed: &[char]| in_rust(format!("^[^{0}]*[^\\s{0}][^{0}]*$", refused(allowed)));
        let (name, prose) = (pattern(&[]), pattern(&PARTS_OF_WORDS));
        // Where something begins or ends.
        let edges = INVISIBLE.into_iter().flat_map(|range| [*range.start(), *range.end()]).chain(PARTS_OF_WORDS);
        let near = edges.flat_map(|c| [u32::from(c) - 1, u32::from(c), u32::from(c) + 1]).chain(0..=0xff);
        for c in near.filter_map(char::from_u32) {
            let text = format!("a{c}");
            assert_eq!(name.is_match(&text), check_name(&text, 9).is_ok(), "U+{:04X}", u32::from(c));
            assert_eq!(prose.is_match(&text), check_prose(&text, 9).is_ok(), "U+{:04X}", u32::from(c));
        }
        assert!(!name.is_match(" ") && !prose.is_match("\u{a0}"));
    }

    #[test]
    fn the_most_that_the_schema_lets_pass_is_the_most_that_is_taken() {
        assert_eq!(crate::MAX_AMOUNT, MAX_AMOUNT.into());
    }
}
