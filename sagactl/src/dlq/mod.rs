//! The dead-letter topics: what was set aside there ([`look`]), and sending it back ([`redrive`]).

pub mod look;
mod mailbox;
pub mod redrive;

pub use mailbox::Mailbox;
