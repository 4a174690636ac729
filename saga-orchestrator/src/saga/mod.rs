//! The saga core: pure functions of their arguments. No clock, no database, no Kafka; whoever calls them stores
//! the result and then carries out what the stored state asks for.
//!
//! - [`definition`]: the steps of a saga, as data;
//! - [`state`]: where a saga can stand;
//! - [`mod@advance`]: every legal move, in one `match`;
//! - [`answers`]: what the other services' answers mean;
//! - [`effect`]: what a state asks for. First try and repetition alike are this function of the stored row.

pub mod advance;
pub mod answers;
pub mod definition;
pub mod effect;
pub mod state;

pub use advance::{
    About, HistoryEntry, Ignored, Input, InputKind, NoMove, Operator, Settled, Transition, advance, start,
};
pub use definition::Definition;
pub use effect::{Effect, OrderCall};
pub use state::{Attention, Cause, Checkout, Saga, State};

#[cfg(test)]
mod tests;
