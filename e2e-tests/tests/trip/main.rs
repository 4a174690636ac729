//! `examples/trip`: a user's flow with participants in Python, Go and Rust. Python and Go have to be there, so these
//! tests have a cargo feature of their own; `.ci/run` runs them.

mod broken;
mod check;
mod participants;
mod platform;
mod read_model;
mod sagas;
mod versions;
