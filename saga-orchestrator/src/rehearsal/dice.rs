//! The one source of chance. The generator is named, so a seed means the same run with any release of `rand`.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

/// A generator of numbers that a seed decides.
#[derive(Debug)]
pub struct Dice(Xoshiro256PlusPlus);

/// How often something happens, in 1/65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// It never happens.
    pub const NEVER: Self = Self(0);

    /// So many in 100.
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 65536 / 100)
    }

    /// So many in 1000.
    pub const fn per_mille(per_mille: u32) -> Self {
        Self(per_mille * 65536 / 1000)
    }
}

impl Dice {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Whether something of this rate happens.
    pub fn chance(&mut self, rate: Rate) -> bool {
        rate.0 > 0 && (self.0.next_u32() >> 16) < rate.0
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let choices = high.saturating_sub(low) + 1;
        // The remainder's bias is far below anything that matters here.
        low + self.bits() % choices
    }

    /// One of these, which are not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() as u64 - 1) as usize]
    }
}

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    Works,
    /// Nothing was done.
    Fails,
    /// It was committed, but the answer was lost.
    WorksAndSeemsToFail,
}

impl Statement {
    /// What becomes of one, when this rate of them goes wrong.
    pub fn of(dice: &mut Dice, wrong: Rate) -> Self {
        if !dice.chance(wrong) {
            Self::Works
        } else if dice.chance(Rate::percent(50)) {
            Self::Fails
        } else {
            Self::WorksAndSeemsToFail
        }
    }
}
