//! What the shop sells, and how much of it is there.

mod bodies;
pub mod routes;
pub mod samples;
mod store;

pub use routes::router;
