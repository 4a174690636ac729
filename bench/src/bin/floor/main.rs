//! The yardstick: the least that a checkout over these services can cost. Four processes with the round trips and the
//! durable commits of one successful checkout, and nothing else: no saga, no retry, no recovery, no check of anything.
//!
//! | | ours and the floor alike |
//! |---|---|
//! | orchestrator | 5 commits: the saga and its first history entry, then 4 conditional updates, each with an entry |
//! | orders | 2 commits (insert, update), asked for over HTTP on a kept-alive connection, by one request for all that wait |
//! | payment | 3 commits: CHARGING; the gateway's request and ledger entry; CHARGED |
//! | inventory | 1 commit |
//! | Kafka | 4 records: a command and its reply for payment and for inventory, JSON with headers |
//!
//! Everything shares what it can: each loop takes all that has come, runs one statement for it on a connection of its
//! own, and hands all of it on; the next batch forms meanwhile, and nothing waits on a timer. Each process is one
//! thread with the work, one that polls Kafka, and librdkafka's. It imports nothing of ours.
//!
//! How it was checked against the platform: at one checkout at a time nothing is shared, so the flushes of the log
//! per checkout are its durable commits. `dev/bench` counts them for both, prints them under its table, and fails if
//! the floor has fewer than 11. After each run it counts the floor's rows: every answered checkout has all of them.

mod batch;
mod database;
mod inventory;
mod kafka;
mod message;
mod orchestrator;
mod orders;
mod payment;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The floor of a checkout: the same round trips and commits, and nothing else
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    Orchestrator {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(long)]
        database: String,
        #[arg(long)]
        port: u16,
        /// Where the orders are
        #[arg(long)]
        orders: String,
    },
    Orders {
        #[arg(long)]
        database: String,
        #[arg(long)]
        port: u16,
    },
    Payment {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(long)]
        database: String,
    },
    Inventory {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(long)]
        database: String,
    },
}

#[derive(Debug, Args)]
struct Kafka {
    #[arg(long)]
    kafka: String,
    /// What topics and groups begin with
    #[arg(long)]
    prefix: String,
}

/// As the platform has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Orchestrator { kafka, database, port, orders } => {
            orchestrator::run(&kafka, &database, port, &orders).await
        }
        Role::Orders { database, port } => orders::run(&database, port).await,
        Role::Payment { kafka, database } => payment::run(&kafka, &database).await,
        Role::Inventory { kafka, database } => inventory::run(&kafka, &database).await,
    }
}
