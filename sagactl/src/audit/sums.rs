//! Sums of money by currency, as the audit adds them up. Unlike the contract's `Money` they may be anything: what is
//! stored may be wrong, and has to be told all the same.

use std::collections::BTreeMap;
use std::fmt;

use rust_decimal::Decimal;
use serde::Serialize;

/// What the row of a saga has for a currency whose flow is about no money (ISO 4217: no currency).
pub const NO_CURRENCY: &str = "XXX";

/// An amount of one currency, as a row has it. 5 equals 5.00.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    pub value: Decimal,
    pub currency: String,
}

/// Sums by currency. A currency whose sum is 0 is not in it. In JSON an object of decimal strings: `{"USD":"5.00"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sums(BTreeMap<String, Decimal>);

impl Sums {
    pub fn of(amount: &Amount) -> Self {
        Self::default().plus(amount)
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn plus(mut self, amount: &Amount) -> Self {
        self.set(&amount.currency, |sum| sum.saturating_add(amount.value));
        self
    }

    #[must_use]
    pub fn minus(self, amount: &Amount) -> Self {
        self.plus(&Amount { value: -amount.value, currency: amount.currency.clone() })
    }

    /// How far the two are apart, whichever is more.
    #[must_use]
    pub fn apart(&self, other: &Self) -> Self {
        let mut apart = self.clone();
        for (currency, value) in &other.0 {
            apart.set(currency, |sum| sum.saturating_sub(*value));
        }
        apart.0.values_mut().for_each(|sum| *sum = sum.abs());
        apart
    }

    /// The greater one of each currency.
    #[must_use]
    pub fn most(mut self, other: &Self) -> Self {
        for (currency, value) in &other.0 {
            self.set(currency, |sum| sum.max(*value));
        }
        self
    }

    pub fn add(&mut self, other: &Self) {
        for (currency, value) in &other.0 {
            self.set(currency, |sum| sum.saturating_add(*value));
        }
    }

    /// What more went out of than came in, as a positive sum.
    #[must_use]
    pub fn owed(&self) -> Self {
        let owed = self.0.iter().filter(|(_, value)| value.is_sign_negative());
        Self(owed.map(|(currency, value)| (currency.clone(), -value)).collect())
    }

    fn set(&mut self, currency: &str, change: impl FnOnce(Decimal) -> Decimal) {
        let sum = change(self.0.get(currency).copied().unwrap_or_default());
        if sum.is_zero() {
            self.0.remove(currency);
        } else {
            self.0.insert(currency.to_owned(), sum);
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.value, self.currency)
    }
}

/// `5.00 USD + 300 JPY`; `no money` where there is none.
impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("no money");
        }
        for (n, (currency, value)) in self.0.iter().enumerate() {
            write!(f, "{}{value} {currency}", if n > 0 { " + " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(value: &str, currency: &str) -> Amount {
        Amount { value: value.parse().unwrap(), currency: currency.to_owned() }
    }

    #[test]
    fn currencies_are_added_up_apart_and_never_mixed() {
        let sums = Sums::of(&amount("5.00", "USD")).plus(&amount("300", "JPY")).plus(&amount("0.50", "USD"));
        assert_eq!(sums.to_string(), "300 JPY + 5.50 USD");
        assert_eq!(serde_json::to_string(&sums).unwrap(), r#"{"JPY":"300","USD":"5.50"}"#);
    }

    #[test]
    fn what_cancels_out_is_no_money() {
        let sums = Sums::of(&amount("5.00", "USD")).minus(&amount("5", "USD"));
        assert!(sums.is_zero());
        assert_eq!(sums.to_string(), "no money");
    }

    #[test]
    fn two_sums_are_apart_by_the_same_whichever_is_more() {
        let (five, seven) = (Sums::of(&amount("5", "USD")), Sums::of(&amount("7", "USD")));
        assert_eq!(five.apart(&seven), seven.apart(&five));
        assert_eq!(five.apart(&seven).to_string(), "2 USD");
        let euros = Sums::of(&amount("5", "EUR"));
        assert_eq!(five.apart(&euros).to_string(), "5 EUR + 5 USD");
        assert_eq!(five.most(&seven).most(&euros).to_string(), "5 EUR + 7 USD");
    }
}
