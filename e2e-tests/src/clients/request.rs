//! What a client wants.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// One checkout, as a client means it; it may take many tries.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// From 0. The user is named by it, and the amount is one more.
    pub index: usize,
    pub user_id: String,
    pub scenario: Scenario,
    /// Its `Idempotency-Key`. A request without one is never sent again.
    pub key: Option<String>,
    pub reuse: Reuse,
    /// Counted goods, as (SKU, pieces); none: they are not counted.
    pub items: Vec<(String, u32)>,
    /// Decides to which instance each try goes.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Plain,
    PaymentFails,
    InventoryFails,
    /// `Prefer: respond-async`.
    Async,
}

/// How a key is used once more on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    No,
    /// The same request twice at the same time.
    AtOnce,
    /// The same request again after its answer.
    AfterAnswer,
    /// Another request with this key after the answer, which has to be refused.
    OtherBody,
    /// The same request again when all is over.
    AtTheEnd,
}

impl Request {
    /// One of all kinds, as the dice decide. `who` begins its user's name.
    pub fn drawn(who: &str, index: usize, seed: u64, dice: &mut StdRng) -> Self {
        let scenario = match dice.random_range(0..100) {
            0..70 => Scenario::Plain,
            70..80 => Scenario::PaymentFails,
            80..90 => Scenario::InventoryFails,
            _ => Scenario::Async,
        };
        // Two users share the text of each key: a key is its user's own.
        let key = dice.random_bool(0.8).then(|| format!("checkout-{}", index / 2));
        let reuse = match dice.random_range(0..100) {
            _ if key.is_none() => Reuse::No,
            0..4 => Reuse::AtOnce,
            4..8 => Reuse::AfterAnswer,
            8..12 => Reuse::OtherBody,
            12..20 => Reuse::AtTheEnd,
            _ => Reuse::No,
        };
        Self {
            index,
            user_id: format!("{who}-{seed}-{index}"),
            scenario,
            key,
            reuse,
            items: Vec::new(),
            seed: dice.random(),
        }
    }

    /// The same of counted goods, one to three lines of so many products. The dice of all else stay as they are.
    #[must_use]
    pub fn with_items(self, products: usize) -> Self {
        let mut dice = StdRng::seed_from_u64(self.seed.rotate_left(32));
        let lines = dice.random_range(1..=3);
        let line = |_| (sku(dice.random_range(0..products)), dice.random_range(1..=3));
        Self { items: (0..lines).map(line).collect(), ..self }
    }

    /// In the currency's units.
    pub fn amount(&self) -> usize {
        self.index + 1
    }
}

/// What a product is called, by its number.
pub fn sku(number: usize) -> String {
    format!("product-{number}")
}
