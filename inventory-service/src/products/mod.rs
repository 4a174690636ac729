//! What the shop sells, and how much of it is there.

mod bodies;
pub mod routes;
mod store;

pub use routes::router;
