//! The dead-letter topics: what was set aside there ([`look`]), and sending it back ([`redrive`]).

mod letter;
pub mod look;
mod mailbox;
pub mod redrive;

pub use letter::{Belongs, Headers, Letter, Marker, Place};
pub use mailbox::Mailbox;
