//! Clients by the hundred, which remember all that they were told; and the check that it was the truth.

pub mod checks;
mod driver;
mod request;

pub use driver::{Driver, Got, Sent, Try};
pub use request::{Request, Reuse, Scenario, sku};
