//! Flow files: the steps of a kind of saga, as a person writes them. [`check`] reads a file and reports all that is
//! wrong with it, with line, column and rule; a file without findings becomes a [`Flow`].
//!
//! - [`State`]: every legal move, in one `match`;
//! - [`Flow::answered_by`], [`Meaning`]: what an event means to a flow, and what is read of it;
//! - [`Flow::read_start`], [`read()`]: JSON, read by shapes into exact values;
//! - [`RawEvent`], [`StartEvent`]: a reply, and an event that starts a saga, whatever its flow;
//! - [`Kept`]: what a saga keeps of its replies;
//! - [`payload::Payload::fill`]: the bytes of a message;
//! - [`sample::Samples`]: values that fit a flow, to try it with;
//! - [`Flow::request_schema`], [`Flow::payload_schema`]: the same rules as a JSON Schema.
//!
//! Pure: no I/O, no clock, no async. Of this workspace it imports `messages`, whose rules of money and names stand once.

mod check;
mod event;
pub mod file;
mod fill;
mod finding;
mod flow;
pub mod format;
mod kept;
mod meaning;
mod name;
pub mod payload;
mod read;
mod rule;
pub mod sample;
mod schema;
pub mod shape;
mod slot;
mod start;
mod state;
mod value;
mod walk;
mod yaml;

pub use check::{Origin, check};
pub use event::{RawEvent, StartEvent};
pub use file::{Late, Repeat};
pub use finding::{Finding, Position};
pub use flow::*;
pub use kept::Kept;
pub use meaning::{Meaning, Question};
pub use name::Name;
pub use read::{Misfit, Reading, read};
pub use rule::Rule;
pub use schema::Carrier;
pub use slot::{NotASlot, Slot, Source};
pub use start::Request;
pub use state::{Happened, State, UnknownState, WAITING};
pub use value::{Record, Value, write_string};
pub use yaml::MAX_FILE;
