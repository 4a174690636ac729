//! The dead-letter topics: what was set aside there ([`Letter`]), reading it ([`mailbox`]), and the rules by which it may
//! go back to where it came from ([`redrive`]). For `sagactl` and the orchestrator's dashboard, which have the same rules
//! because they are these.

mod letter;
pub mod mailbox;
pub mod redrive;

pub use letter::{Belongs, Letter, Marker, Place};
