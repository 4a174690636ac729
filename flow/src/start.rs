//! How a saga starts: its request, read by the flow's input.

use messages::{Currency, Money, UserId};

use crate::flow::Flow;
use crate::read::{Misfit, Reading, read};
use crate::slot::{Slot, Source};
use crate::value::{Record, Value};

/// The request that a saga was started by.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
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
    pub fn read_start(&self, json: &str) -> Result<Request, Misfit> {
        self.request(json, Reading::Request)
    }

    /// Reads the payload of an event that starts a saga. Its sender may add fields.
    ///
    /// # Errors
    /// The field that is missing or breaks a rule.
    pub fn read_event(&self, payload: &str) -> Result<Request, Misfit> {
        self.request(payload, Reading::Event)
    }

    /// Reads a request as it was stored: by the rules of all releases.
    ///
    /// # Errors
    /// The field that is missing or does not fit.
    pub fn read_stored_start(&self, json: &str) -> Result<Request, Misfit> {
        self.request(json, Reading::Reply)
    }

    fn request(&self, json: &str, reading: Reading) -> Result<Request, Misfit> {
        let mut input = read(&self.start.input, json, reading)?;
        let wrong = |field: &str, why: String| Misfit { field: field.to_owned(), why };
        let owner = field(&self.start.owner);
        let text = input.text(owner).unwrap_or_default().to_owned();
        let user_id = if reading == Reading::Reply { UserId::try_from(text) } else { UserId::new(text) };
        let owner = user_id.map_err(|error| wrong(owner, error.to_string()))?;
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
        Ok(Request { input, owner, money })
    }
}

/// The field of the input that a slot of `start` refers to.
fn field(slot: &Slot) -> &str {
    if let Source::Input(name) = &slot.source { name } else { "" }
}
