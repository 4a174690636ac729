//! Flow files: the steps of a kind of saga, as a person writes them. [`check`] reads a file and reports all that is
//! wrong with it, with line, column and rule; a file without findings becomes a [`Flow`].
//!
//! Pure: no I/O, no clock, no async. Imports nothing of this workspace.

mod check;
pub mod file;
mod finding;
mod flow;
pub mod format;
pub mod payload;
mod rule;
pub mod shape;
mod slot;
mod state;
mod walk;
mod yaml;

pub use check::{Origin, check};
pub use finding::{Finding, Position};
pub use flow::*;
pub use rule::Rule;
pub use slot::{NotASlot, Slot, Source};
pub use state::{Happened, State};
pub use yaml::MAX_FILE;
