//! Creates the topics, says what it did, and exits.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kafka_init::{BROKERS_DEFAULT, Plan, Report};
use service_runtime::Fatal;
use service_runtime::kafka::KafkaSettings;
use service_runtime::program::exit_code;

/// Creates the topics that the services need; those that exist are left as they are
#[derive(Debug, Parser)]
#[command(name = "kafka-init", version)]
struct Arguments {
    /// A broker, host:port, or several, separated by commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "localhost:9092")]
    bootstrap_servers: String,
    /// Put before each topic's name
    #[arg(long, env = "KAFKA_TOPIC_PREFIX", default_value = "")]
    topic_prefix: String,
    /// Partitions of each topic: the most instances of a service that can share the work. Unless given, as many as the
    /// topics that are there have, else 8
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Brokers that hold a copy of each partition; unless given, as many as the cluster's default.replication.factor says
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// How long to wait for Kafka, in seconds
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code("kafka-init", run(Arguments::parse()).await)
}

async fn run(arguments: Arguments) -> Result<(), Fatal> {
    println!("waiting for Kafka at {}", arguments.bootstrap_servers);
    let plan = Plan {
        kafka: KafkaSettings::at(&arguments.bootstrap_servers, &arguments.topic_prefix)?,
        partitions: arguments.partitions,
        replication_factor: arguments.replication_factor.unwrap_or(BROKERS_DEFAULT),
        timeout: Duration::from_secs(arguments.timeout),
    };
    let Report { created, existing, partitions } = plan.carry_out().await?;
    created.iter().for_each(|name| println!("created  {name} ({partitions} partitions)"));
    existing.iter().for_each(|name| println!("existing {name} ({partitions} partitions)"));
    println!("{} created, {} there already", created.len(), existing.len());
    Ok(())
}
