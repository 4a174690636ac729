//! What a JSON schema says of the words that all services share: as strict as the code that reads them, no stricter. For
//! the descriptions of the interfaces (OpenAPI, AsyncAPI).

use std::borrow::Cow;

use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::text::{INVISIBLE, PARTS_OF_WORDS};
use crate::user::MAX_USER_ID;
use crate::{AmountText, Currency, EventId, OrderId, SagaId, TimestampText, UserId};

/// 10^12: [`crate::MAX_AMOUNT`].
const MAX_AMOUNT: i64 = 1_000_000_000_000;

/// Digits with a point in or around them, and an exponent of ten.
const DECIMAL: &str = r"^\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$";

/// Not blank, and no control characters (Unicode's category Cc). `\p{Cc}` is not known to every reader of schemas.
pub const PLAIN_TEXT: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";

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
schema!(UserId, plain_text(128).description(Some("A user's id, as the client's own system gave it.")).examples(["u1"]));
schema!(
    Currency,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(currencies()))
        .description(Some("An ISO 4217 currency that has a defined number of decimals."))
        .examples(["USD"])
);
schema!(Amount, amount().description(Some("In units of the currency, with its exact digits.")).examples([500]));
schema!(
    AmountText,
    AnyOfBuilder::new()
        .item(amount())
        .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some(DECIMAL)))
schema!(
    CurrencyInUse,
    one_of(currencies(|code| Currency::in_use(code).ok()))
        .description(Some("An ISO 4217 currency that is in use and has a defined number of decimals."))
        .examples(["USD"])
);
schema!(
    TimestampText,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some("A point in time: RFC 3339, UTC, with six digits of a second."))
        .examples(["2026-11-21T07:22:45.089557Z"])
);
        .description(Some(
            "A JSON number or a decimal string: more than 0, at most 10^12, with no more decimals than its currency has."
        ))
        .examples([serde_json::json!(500), serde_json::json!("19.90")])
);

/// An amount in an answer.
pub struct Amount;

/// Text that is not blank, without control characters.
pub fn plain_text(most_characters: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(most_characters))
        .pattern(Some(PLAIN_TEXT))
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

/// Every code that [`Currency`] takes.
fn currencies() -> Vec<&'static str> {
    let letters = || b'A'..=b'Z';
    let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
    codes.filter_map(|code| Some(std::str::from_utf8(&code).ok()?.parse::<Currency>().ok()?.code())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_currencies_of_the_schema_are_those_that_are_taken() {
        let currencies = currencies();
        assert!(["EUR", "JPY", "KWD", "USD"].iter().all(|code| currencies.contains(code)), "{currencies:?}");
        assert!(!currencies.contains(&"XXX") && currencies.len() > 150, "{}", currencies.len());
    }

    #[test]
    fn the_most_that_the_schema_lets_pass_is_the_most_that_is_taken() {
        assert_eq!(crate::MAX_AMOUNT, MAX_AMOUNT.into());
    }
}
