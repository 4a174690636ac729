//! Long trials of the whole platform, whose length is what they are about: dependencies that are away for half a
//! minute, others on the same Kafka, far more load than there is capacity, attacks, instances that are restarted or die one after the other, and minutes
//! in which nothing happens. `dev/endurance` builds and runs it.
//!
//! Exit code 0: all is well; 1: something is wrong; 2: it could not run.

mod attack;
mod foreign;
mod killed;
mod load;
mod memory;
mod outages;
mod overload;
mod proxy;
mod rolling;
mod routing;
mod several;
mod steady;
mod unknown_flow;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use e2e_tests::agreement;
use e2e_tests::{Client, eventually, use_programs_in};
use serde_json::json;

/// How soon after a trouble's end the platform has to serve again.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// An answer within this is normal.
const NORMAL: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(name = "dev/endurance")]
struct Arguments {
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Subcommand)]
enum Trial {
    /// Kafka, then each database, is away for a while, under a steady load
    Outages {
        /// How long each is away, in seconds
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Checkouts a second
        #[arg(long, default_value_t = 50)]
        rate: u32,
    },
    /// The platform can do 200 checkouts a second; many times that are sent
    Overload {
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Checkouts a second
        #[arg(long, default_value_t = 4000)]
        rate: u32,
    },
    /// Clients hold connections, bodies, heads and streams beside honest ones
    Attack {
        /// How long each attack lasts, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Honest checkouts a second
        #[arg(long, default_value_t = 20)]
        rate: u32,
    },
    /// Every process is restarted in turn
    Rolling {
        /// Of each service
        #[arg(long, default_value_t = 3)]
        instances: usize,
        /// Checkouts a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// How long nothing happens before and after, in seconds
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// One instance of each service dies and stays dead for a while
    Killed {
        /// Of each service
        #[arg(long, default_value_t = 3)]
        instances: usize,
        /// Checkouts a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// How long each stays dead, in seconds
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Others write records with header names that are not UTF-8
    HeaderNames {
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Checkouts a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// Others compress by each codec, then the topics by zstd, for a while
    Codecs {
        /// How long each of the six parts takes
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Checkouts a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// Kafka comes back empty, and its topics are created again some time later
    Wiped {
        /// How much later, in seconds, one time after the other
        #[arg(long, value_delimiter = ',', default_values_t = [0, 2, 20, 45])]
        delays: Vec<u64>,
        /// Checkouts a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// A newer release's sagas, of a definition that the older one does not know, meet the older one
    UnknownFlow {
        /// How long each release is looked at, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Checkouts a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// Nothing happens, for long
    Steady {
        /// Of each service
        #[arg(long, default_value_t = 1)]
        instances: usize,
        /// Checkouts a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        #[arg(long, default_value_t = 10)]
        minutes: u32,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().trial).await {
        Ok(wrong) if wrong.is_empty() => {
            println!("all is well");
            ExitCode::SUCCESS
        }
        Ok(wrong) => {
            println!("WRONG:\n  {}", wrong.join("\n  "));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("endurance: could not run: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Answers what is wrong.
async fn run(trial: Trial) -> Result<Vec<String>> {
    ensure!(std::env::var("KAFKA_BOOTSTRAP_SERVERS").is_ok(), "there is no Kafka: run dev/endurance, which starts one");
    let exe = std::env::current_exe()?;
    use_programs_in(exe.parent().context("a program stands in a folder")?)?;
    match trial {
        Trial::Outages { seconds, rate } => outages::run(Duration::from_secs(seconds), rate).await,
        Trial::Overload { seconds, rate } => overload::run(Duration::from_secs(seconds), rate).await,
        Trial::Attack { seconds, rate } => attack::run(Duration::from_secs(seconds), rate).await,
        Trial::Rolling { instances, rate, seconds } => {
            rolling::run(instances, Duration::from_secs(seconds), rate).await
        }
        Trial::Killed { instances, rate, seconds } => killed::run(instances, Duration::from_secs(seconds), rate).await,
        Trial::HeaderNames { seconds, rate } => foreign::header_names(seconds, rate).await,
        Trial::Codecs { seconds, rate } => foreign::codecs(seconds, rate).await,
        Trial::Wiped { delays, rate } => foreign::wiped(&delays, rate).await,
        Trial::UnknownFlow { seconds, rate } => unknown_flow::run(Duration::from_secs(seconds), rate).await,
        Trial::Steady { instances, rate, minutes } => steady::run(instances, minutes, rate).await,
    }
}

/// Sends checkouts until one completes as quickly as on a good day; answers how long that took.
async fn until_normal(client: &Client) -> Result<Duration> {
    let began = Instant::now();
    eventually("a checkout completes within a second", Duration::from_secs(60), async || {
        let sent = Instant::now();
        let answer = client.checkout(&json!({"userId": "probe", "totalAmount": 1})).await?;
        Ok((answer.status == 200 && sent.elapsed() < NORMAL).then_some(()))
    })
    .await?;
    Ok(began.elapsed())
}

/// Waits until every saga has ended, and answers what the four databases disagree about.
async fn disagreement(client: &Client) -> Result<Option<String>> {
    let began = Instant::now();
    if let Err(error) = client.all_end(Duration::from_secs(120)).await {
        return Ok(Some(error.to_string()));
    }
    println!("every saga has ended {:.1} s later", began.elapsed().as_secs_f64());
    agreement::disagreement(&client.databases).await
}
