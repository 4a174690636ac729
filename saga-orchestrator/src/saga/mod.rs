//! The saga core: pure functions of their arguments. No clock, no database, no Kafka; whoever calls them stores
//! the result and then carries out what the stored state asks for.
//!
//! - [`flows`]: the flows that come with this release, each a file;
//! - [`state`]: a saga, and what it knows; [`checkout`]: what a checkout is started by;
//! - [`input`]: what may happen to it;
//! - [`mod@advance`]: every legal move, in one `match`;
//! - [`flow_outcome`]: how far a saga is, as clients of users' flows see it;
//! - [`answers`]: what the other services' answers mean;
//! - [`effect`]: what a state asks for. First try and repetition alike are this function of the stored row.

pub mod advance;
pub mod answers;
pub mod checkout;
pub mod effect;
pub mod flow_outcome;
pub mod flows;
pub mod input;
pub mod state;

pub use advance::{HistoryEntry, Ignored, Marked, NoMove, Transition, advance, start};
pub use checkout::Checkout;
pub use effect::{Effect, OrderCall};
pub use flow::{Role, State};
pub use flow_outcome::FlowOutcome;
pub use input::{Input, MessageIds, Operator, OperatorAct, Reply, Settled, Signal};
pub use state::{Answered, Attention, Awaited, Saga};

#[cfg(test)]
pub mod tests;
