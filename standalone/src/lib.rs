//! The building blocks of the one-command platform: the data directory, the four embedded Postgres
//! servers in it, and the embedded Kafka broker. The end-to-end tests use the same blocks, so what they
//! take down is what a person runs.

pub mod broker;
pub mod data_dir;
pub mod default_place;
pub mod platform;
pub mod postgres;
