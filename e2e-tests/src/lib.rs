//! The harness of the end-to-end tests: it boots the real programs on free ports and looks at them as their users
//! do, over HTTP, SQL and Kafka. [`Standalone`] is what `cargo run` starts; [`Services`] are the same services as
//! separate processes. Kafka is the embedded broker, or, where `KAFKA_BOOTSTRAP_SERVERS` is set, the real one there.
//!
//! Nothing is mocked and nothing is left behind: see `scratch`.

mod aging;
pub mod agreement;
mod answer;
pub mod attackers;
mod broker;
mod client;
pub mod clients;
pub mod collector;
mod commands;
mod databases;
pub mod forwarder;
mod kafka;
mod ports;
mod postgres;
mod process;
mod programs;
mod raw_producer;
mod sagactl;
mod samples;
mod scratch;
mod services;
mod standalone;
mod topics;
mod wait;

pub use answer::Answer;
pub use broker::{Broker, dev_kafka, kafka_init, kafka_security, real_kafka};
pub use client::{Client, Service, id};
pub use commands::{Command, Outsider};
pub use databases::Databases;
pub use kafka::{KafkaClient, Seen};
pub use ports::{free_port, free_ports};
pub use process::{Ended, Process};
pub use programs::{copy_to_run, program, target_dir, use_programs_in};
pub use raw_producer::Batch;
pub use sagactl::Ran;
pub use samples::Samples;
pub use scratch::Scratch;
pub use services::{Instance, Layout, Services};
pub use standalone::{Standalone, shared};
pub use topics::KafkaTopics;
pub use wait::eventually;
