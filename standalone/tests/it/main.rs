//! The building blocks against the real thing: real Postgres servers, a real Kafka client.

mod broker;
mod data_dir;
mod postgres;
mod strangers;
