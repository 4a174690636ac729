//! Exact money: a decimal amount with its currency. There is no way to hold an invalid one.

use std::fmt;
use std::str::FromStr;

use iso_currency::Currency as Iso;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::object;

/// The largest amount that is accepted, in units of the currency: 10^12.
pub const MAX_AMOUNT: Decimal = Decimal::from_parts(3_567_587_328, 232, 0, false, 0);

/// An ISO 4217 currency that has a defined number of decimals. A new amount has one that is in use
/// ([`Currency::in_use`]); earlier releases took some that were withdrawn, and what they took is still read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(Iso);

impl Currency {
    /// US dollars: the currency of a request that names none.
    pub const USD: Self = Self(Iso::USD);

    /// The currency that a new request names.
    ///
    /// # Errors
    /// When there is none of that code, or it was withdrawn.
    pub fn in_use(code: &str) -> Result<Self, MoneyError> {
        let currency: Self = code.parse()?;
        currency.check_new().map(|()| currency)
    }

    /// Whether a new request may name it: it is on ISO's list of current currencies.
    ///
    /// # Errors
    /// When it was withdrawn.
    pub fn check_new(self) -> Result<(), MoneyError> {
        match self.0.is_superseded() {
            // The bolívar soberano is on the list beside its successor.
            Some(successor) if self.0 != Iso::VES => {
                Err(MoneyError::Withdrawn { currency: self, successor: Self(successor) })
            }
            _ => Ok(()),
        }
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// How many decimals an amount may have: 2 for USD, 0 for JPY, 3 for KWD.
    pub fn decimals(self) -> u32 {
        // Construction guarantees that there is an exponent.
        self.0.exponent().map_or(0, u32::from)
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Iso::from_code(code)
            .filter(|iso| iso.exponent().is_some())
            .map(Self)
            .ok_or_else(|| MoneyError::UnknownCurrency(code.chars().take(16).collect()))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// An amount of money: more than 0, at most [`MAX_AMOUNT`], with no more decimals than its currency has (zeros behind
/// them are left out).
///
/// Two of them are equal when they are worth the same: 500 equals 500.00. In JSON
/// `{"amount":500.00,"currency":"USD"}`, the amount with its exact digits; a reader accepts a string as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(into = "Written")]
pub struct Money {
    #[schema(value_type = crate::schema::Amount)]
    amount: Decimal,
    currency: Currency,
}

/// Why an amount or a currency was refused. The text is meant for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("must be a decimal number")]
    NotANumber,
    #[error("must be greater than 0")]
    NotPositive,
    #[error("must be at most {MAX_AMOUNT}")]
    TooLarge,
    #[error("must have at most {} decimals, as {currency} has", .currency.decimals())]
    TooManyDecimals { currency: Currency },
    #[error("must be an ISO 4217 currency code, not {0:?}")]
    UnknownCurrency(String),
    #[error("must be a currency in use: {successor} has replaced {currency}")]
    Withdrawn { currency: Currency, successor: Currency },
}

impl Money {
    /// Checks the rules above.
    pub fn new(amount: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        if amount <= Decimal::ZERO {
            Err(MoneyError::NotPositive)
        } else if amount > MAX_AMOUNT {
            Err(MoneyError::TooLarge)
        } else {
            // To fewer decimals, never to more: the digits that were written stay.
            let shortened = amount.trunc_with_scale(currency.decimals().min(amount.scale()));
            match shortened == amount {
                true => Ok(Self { amount: shortened, currency }),
                false => Err(MoneyError::TooManyDecimals { currency }),
            }
        }
    }

    /// Reads an amount such as `500`, `19.90` or `1e3`.
    pub fn parse(amount: &str, currency: Currency) -> Result<Self, MoneyError> {
        if !is_number(amount) {
            return Err(MoneyError::NotANumber);
        }
        let parsed = exact(amount).or_else(|| exact(&without_last_zeros(amount)));
        Self::new(parsed.ok_or_else(|| beyond_decimal(amount, currency))?, currency)
    }

    pub const fn amount(&self) -> Decimal {
        self.amount
    }

    pub const fn currency(&self) -> Currency {
        self.currency
    }
}

/// rust_decimal would also take `1_000`; JSON has no such number.
fn is_number(amount: &str) -> bool {
    amount.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'))
}

/// The number, unless it is none or has more digits than a [`Decimal`] holds: it must not be rounded.
fn exact(amount: &str) -> Option<Decimal> {
    // `from_scientific` rounds its mantissa.
    let mantissa = amount.split(['e', 'E']).next().unwrap_or_default();
    let parsed = Decimal::from_str_exact(mantissa)
        .and_then(|_| Decimal::from_str_exact(amount).or_else(|_| Decimal::from_scientific(amount)));
    parsed.ok()
}

/// The same number without the zeros at the end of its fraction.
fn without_last_zeros(amount: &str) -> String {
    let (mantissa, exponent) = amount.split_at(amount.find(['e', 'E']).unwrap_or(amount.len()));
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    format!("{mantissa}{exponent}")
}

/// Which rule a number breaks that a [`Decimal`], of 28 digits, can't hold: 1e400, -1e400 and 5e-324 are numbers too.
/// `f64` is good enough to tell these apart.
fn beyond_decimal(amount: &str, currency: Currency) -> MoneyError {
    match amount.parse::<f64>() {
        Ok(value) if value.is_sign_negative() => MoneyError::NotPositive,
        Ok(value) if value > 1e27 => MoneyError::TooLarge,
        Ok(_) => MoneyError::TooManyDecimals { currency },
        Err(_) => MoneyError::NotANumber,
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

#[derive(Serialize)]
struct Written {
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    currency: Currency,
}

impl From<Money> for Written {
    fn from(Money { amount, currency }: Money) -> Self {
        Self { amount, currency }
    }
}

#[derive(Deserialize)]
struct Read {
    amount: AmountText,
    currency: String,
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { amount, currency } = object::deserialize(deserializer)?;
        let money = currency.parse().and_then(|currency| Self::parse(&amount.0, currency));
        money.map_err(de::Error::custom)
    }
}

/// An amount as a client wrote it, a JSON number or a string, not looked at yet: whether it is valid depends on
/// the currency beside it. [`Money::parse`] decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmountText(pub String);

impl AmountText {
    /// The exact number; `None` for what is no number, or has more digits than can be held exactly.
    pub fn decimal(&self) -> Option<Decimal> {
        is_number(&self.0).then(|| exact(&self.0).or_else(|| exact(&without_last_zeros(&self.0)))).flatten()
    }
}

/// From the very text: `serde_json`'s own number type takes an object of a private name in its place.
impl<'de> Deserialize<'de> for AmountText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw.get()).map(Self).map_err(de::Error::custom),
            Some(b'-' | b'0'..=b'9') => Ok(Self(String::from(Box::<str>::from(raw)))),
            _ => Err(de::Error::custom("must be a JSON number or a string that holds one")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(amount: &str) -> Result<Money, MoneyError> {
        Money::parse(amount, Currency::USD)
    }

    #[test]
    fn amounts_are_exact_and_keep_their_digits() {
        assert_eq!(usd("500.00").unwrap().to_string(), "500.00 USD");
        assert_eq!(usd("500").unwrap(), usd("500.00").unwrap());
        assert_eq!(usd("5e2").unwrap(), usd("500").unwrap());
        assert_eq!(usd("1000000000000").unwrap().amount(), MAX_AMOUNT);
    }

    #[test]
    fn what_is_no_amount_is_refused_by_the_rule_it_breaks() {
        for (text, error) in [
            ("0", MoneyError::NotPositive),
            ("0.00", MoneyError::NotPositive),
            ("-1", MoneyError::NotPositive),
            ("1000000000000.01", MoneyError::TooLarge),
            ("1e400", MoneyError::TooLarge),
            ("99999999999999999999999999999999", MoneyError::TooLarge),
            ("-1e400", MoneyError::NotPositive),
            ("-99999999999999999999999999999999", MoneyError::NotPositive),
            ("5e-324", MoneyError::TooManyDecimals { currency: Currency::USD }),
            ("0.00000000000000000000000000054e28", MoneyError::TooManyDecimals { currency: Currency::USD }),
            ("500.00000000000000000000000000000001", MoneyError::TooManyDecimals { currency: Currency::USD }),
            ("10.123", MoneyError::TooManyDecimals { currency: Currency::USD }),
            ("abc", MoneyError::NotANumber),
            ("NaN", MoneyError::NotANumber),
            ("", MoneyError::NotANumber),
            ("1_000", MoneyError::NotANumber),
            ("1e", MoneyError::NotANumber),
        ] {
            assert_eq!(usd(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_currency_tells_how_many_decimals_there_may_be() {
        let yen: Currency = "JPY".parse().unwrap();
        assert_eq!(Money::parse("10.5", yen), Err(MoneyError::TooManyDecimals { currency: yen }));
        assert!(Money::parse("10.555", "KWD".parse().unwrap()).is_ok());
        assert!("usd".parse::<Currency>().is_err());
        assert!("XXX".parse::<Currency>().is_err(), "no currency has no decimals");
    }

    #[test]
    fn zeros_behind_the_last_decimal_are_left_out() {
        let yen: Currency = "JPY".parse().unwrap();
        assert_eq!(Money::parse("500.0", yen).unwrap().to_string(), "500 JPY");
        assert_eq!(usd("19.9000").unwrap().to_string(), "19.90 USD");
        assert_eq!(usd("500").unwrap().to_string(), "500 USD");
        assert_eq!(usd("1000000000000.000").unwrap().amount(), MAX_AMOUNT);
        assert_eq!(usd(&format!("500.{}", "0".repeat(60))).unwrap(), usd("500").unwrap());
        assert_eq!(usd(&format!("0.{}", "0".repeat(60))), Err(MoneyError::NotPositive));
        assert_eq!(usd("19.9010"), Err(MoneyError::TooManyDecimals { currency: Currency::USD }));
    }

    /// Against ISO's list of current currencies (list one of 2026): of all that are known here, these are not on it.
    #[test]
    fn a_withdrawn_currency_is_read_and_nothing_new_is_taken_in_it() {
        let withdrawn: Vec<_> = crate::schema::currencies(|code| code.parse().ok())
            .into_iter()
            .filter(|code| Currency::in_use(code).is_err())
            .collect();
        assert_eq!(withdrawn, ["BGN", "CUC", "HRK", "SLL", "ZWL"]);
        assert!(serde_json::from_str::<Money>(r#"{"amount":5,"currency":"HRK"}"#).is_ok(), "a saga that runs goes on");
        let error = Currency::in_use("HRK").unwrap_err().to_string();
        assert_eq!(error, "must be a currency in use: EUR has replaced HRK");
        for code in ["EUR", "VES", "VED", "XCG", "ZWG", "SLE", "CHE"] {
            assert!(Currency::in_use(code).is_ok(), "{code}");
        }
    }

    #[test]
    fn only_a_number_or_a_string_is_an_amount() {
        for amount in [
            r#"{"$serde_json::private::Number":"5"}"#,
            r#"{"$serde_json::private::RawValue":"5"}"#,
            "[5]",
            "true",
            "null",
        ] {
            assert!(serde_json::from_str::<AmountText>(amount).is_err(), "{amount}");
            let money = format!(r#"{{"amount":{amount},"currency":"USD"}}"#);
            assert!(serde_json::from_str::<Money>(&money).is_err(), "{money}");
        }
        assert_eq!(serde_json::from_str::<AmountText>(" 1E400 ").unwrap().0, "1E400");
    }

    #[test]
    fn json_has_the_exact_digits_and_may_be_a_string() {
        let money = usd("19.90").unwrap();
        let json = serde_json::to_string(&money).unwrap();
        assert_eq!(json, r#"{"amount":19.90,"currency":"USD"}"#);
        assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        assert_eq!(serde_json::from_str::<Money>(r#"{"amount":"19.90","currency":"USD"}"#).unwrap(), money);
        assert!(serde_json::from_str::<Money>(r#"{"amount":-1,"currency":"USD"}"#).is_err());
    }
}
