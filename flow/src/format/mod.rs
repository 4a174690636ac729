//! The format as tables, and what is derived from them.

mod conform;
mod kind;
mod reference;
mod schema;
pub mod tables;

pub use conform::{bytes, conforms, integer};
pub use kind::{Key, Kind, Record, Sort};
pub use reference::reference;
pub use schema::json_schema;
