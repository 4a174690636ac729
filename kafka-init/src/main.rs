//! Creates the topics, prints what it did and what is not as it should be, and exits.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kafka_init::{BROKERS_DEFAULT, Plan, Report};
use service_runtime::Fatal;
use service_runtime::kafka::KafkaSettings;
use service_runtime::program::exit_code;

/// Creates the topics that the services need. Those that exist are left as they are, and compared with what is wanted:
/// the exit code is 1 if they differ
#[derive(Debug, Parser)]
#[command(name = "kafka-init", version)]
struct Arguments {
    /// A broker, host:port, or several, separated by commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "localhost:9092")]
    bootstrap_servers: String,
    /// Put before each topic's name
    #[arg(long, env = "KAFKA_TOPIC_PREFIX", default_value = "")]
    topic_prefix: String,
    /// A topic of a user's flow, to be created, grown and compared with the platform's: its commands, and its replies with
    /// their dead-letter topic. May be given several times
    #[arg(long = "topic", value_name = "NAME")]
    topics: Vec<String>,
    /// Partitions of each topic: the most instances of a service that can share the work. Unless given, as many as the
    /// topics that are there have, else 8
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Add partitions to topics that have fewer than --partitions. Keys move by that: close the intake first, and wait
    /// until nothing is under way (docs/scaling.md)
    #[arg(long, requires = "partitions")]
    grow: bool,
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
        topics: arguments.topics,
        partitions: arguments.partitions,
        grow: arguments.grow,
        replication_factor: arguments.replication_factor.unwrap_or(BROKERS_DEFAULT),
        timeout: Duration::from_secs(arguments.timeout),
    };
    let Report { created, existing, grown, partitions, differences, unchecked, passed_over } = plan.carry_out().await?;
    created.iter().for_each(|name| println!("created  {name} ({partitions} partitions)"));
    existing.iter().for_each(|name| {
        let grew = if grown.contains(name) { ", more than before" } else { "" };
        println!("existing {name} ({partitions} partitions{grew})");
    });
    println!("{} created, {} there already", created.len(), existing.len());
    if !unchecked.is_empty() {
        println!("not checked, since their settings may not be read (DescribeConfigs): {}", unchecked.join(", "));
    }
    if !passed_over.is_empty() {
        println!(
            "left as they are: {}. If users' flows are answered there, name them and the flows' commands by --topic",
            passed_over.join(", ")
        );
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Fatal::new(format!(
        "{}. `kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name TOPIC --add-config KEY=VALUE` changes a setting",
        differences.join("; ")
    )))
}
