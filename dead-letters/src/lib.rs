//! The dead-letter topics ([`Topics`]): what was set aside there ([`Letter`]), reading it ([`mailbox`]), and the rules by which it may
//! go back to where it came from ([`redrive`]). For `sagactl` and the orchestrator's dashboard, which have the same rules
//! because they are these.

mod letter;
pub mod mailbox;
pub mod redrive;
mod topics;

pub use letter::{Belongs, Letter, Marker, Place};
pub use topics::Topics;
