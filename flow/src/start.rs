//! How a saga starts: its request, read by the flow's input.

use messages::{Currency, Money, UserId};

use crate::flow::Flow;
use crate::read::{Misfit, Reading, read};
use crate::slot::{Slot, Source};
use crate::value::{Record, Value};

/// What a saga begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// The fields of the request, with their defaults.
    pub input: Record,
    pub owner: UserId,
    /// `None` where the flow is about none.
    pub money: Option<Money>,
}

impl Flow {
    /// Reads the request that starts a saga.
    ///
    /// # Errors
    /// The field that is unknown or missing, or breaks a rule.
    pub fn read_start(&self, json: &str) -> Result<Started, Misfit> {
        let mut input = read(&self.start.input, json, Reading::Request)?;
        let wrong = |field: &str, why: String| Misfit { field: field.to_owned(), why };
        let owner = field(&self.start.owner);
        let text = input.text(owner).unwrap_or_default().to_owned();
        let owner = UserId::new(text).map_err(|error| wrong(owner, error.to_string()))?;
        let mut money = None;
        if let Some((amount, currency)) = &self.start.money {
            let (amount, currency) = (field(amount), field(currency));
            let code = input.text(currency).unwrap_or_default().parse::<Currency>();
            let code = code.map_err(|error| wrong(currency, error.to_string()))?;
            if let Some((_, Value::Amount(given))) = input.0.iter_mut().find(|(name, _)| name == amount) {
                let exact = Money::new(*given, code).map_err(|error| wrong(amount, error.to_string()))?;
                // Without zeros that the currency does not have.
                *given = exact.amount();
                money = Some(exact);
            }
        }
        Ok(Started { input, owner, money })
    }
}

/// The field of the input that a slot of `start` refers to.
fn field(slot: &Slot) -> &str {
    if let Source::Input(name) = &slot.source { name } else { "" }
}
