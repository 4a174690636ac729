//! A storm: two instances of every service, real Kafka and real Postgres, faults of all kinds drawn from a seed, and
//! checkouts all the while. At the end every client has to have been told the truth, and the four databases have to
//! agree. `dev/chaos` builds and runs it; `docs/reliability-chaos.md` tells about it.
//!
//! Exit code 0: all is well; 1: something is wrong; 2: it could not run.

mod faults;
mod plan;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use clap::{Parser, ValueEnum};
use e2e_tests::clients::{Driver, Reuse, Sent, checks};
use e2e_tests::{Client, Layout, Service, Services, use_programs_in};
use e2e_tests::{agreement, forwarder};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::faults::Faults;
use crate::plan::{Fault, INSTANCES, Plan, Round};
use crate::summary::Summary;

/// More than instances, so that a partition can move alone.
const PARTITIONS: i32 = 4;

/// By when every saga has to have ended after the last fault.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// A line that tells how far it is, so often.
const PROGRESS: Duration = Duration::from_secs(5);

/// An unlucky but quick world, and clients that don't wait for ever.
const SETTINGS: [(&str, &str); 7] = [
    ("PAYMENT_FAILURE_RATE", "0.05"),
    ("PAYMENT_UNAVAILABLE_RATE", "0.02"),
    ("INVENTORY_FAILURE_RATE", "0.05"),
    ("PAYMENT_PROCESSING_MS", "20"),
    ("INVENTORY_PROCESSING_MS", "10"),
    ("CHECKOUT_WAIT_MS", "10000"),
    ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
];

/// Kills and freezes everything while checkouts are sent, then checks every answer and every row
#[derive(Debug, Parser)]
#[command(name = "dev/chaos")]
struct Arguments {
    /// How many checkouts are sent
    #[arg(long, default_value_t = 300)]
    sagas: usize,
    /// How many faults there are
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// The same seed gives the same faults and checkouts; their timing may differ
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder of the services' programs
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// A setting for all services, as NAME=VALUE; may be given several times
    #[arg(long, value_parser = setting)]
    set: Vec<(String, String)>,
    /// Half of the checkouts have items, of so many products, which have fewer pieces than are wanted. 0: none has
    #[arg(long, default_value_t = 0)]
    skus: usize,
    /// reserve-first: not half, but all of them
    #[arg(long, value_enum, default_value_t = Flows::Mixed)]
    flow: Flows,
    /// Keep the databases and logs, even if all is well
    #[arg(long)]
    keep: bool,
}

/// Which flows the checkouts of a storm with products run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Flows {
    Mixed,
    ReserveFirst,
}

/// Of the pieces that are wanted so many are there, in percent.
const IN_STOCK: u32 = 60;

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chaos: could not run: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
async fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(
        std::env::var("KAFKA_BOOTSTRAP_SERVERS").is_ok(),
        "there is no Kafka (KAFKA_BOOTSTRAP_SERVERS): run dev/chaos, which starts one"
    );
    use_programs_in(&arguments.programs)?;
    let began = Instant::now();
    let layout = Layout { instances: INSTANCES, partitions: PARTITIONS };
    let mut services = Services::lay_out(layout, &SETTINGS).await?;
    // Whatever goes wrong from here on can be looked at.
    let folder = services.keep_files(true)?;
    let of = |service| services.instances().into_iter().filter(move |instance| instance.service == service);
    let orders = of(Service::Order).map(|instance| services.address(instance)).collect::<Result<_>>()?;
    let orchestrators = of(Service::Orchestrator).map(|instance| services.address(instance)).collect::<Result<_>>()?;
    let forwarder = forwarder::start(orders).await?;
    services.set("ORDER_SERVICE_URL", &format!("http://{forwarder}"));
    for (name, value) in &arguments.set {
        services.set(name, value);
    }
    services.start_all().await?;
    println!(
        "chaos: seed {}; all is running after {:.1} s, in {}",
        arguments.seed,
        began.elapsed().as_secs_f64(),
        folder.display()
    );

    let client = services.quiet_client()?;
    let (driver, faults) = (Arc::new(Driver::new(orchestrators)?), Arc::new(Faults::new(services, &folder)?));
    let storm = Storm { driver, faults, client };
    let mut plan = Plan::new(arguments.sagas, arguments.kills as usize, arguments.seed);
    if arguments.skus > 0 {
        let all = arguments.flow == Flows::ReserveFirst;
        plan = plan.with_items(arguments.skus, |request| all || request.index % 2 == 0);
        stock(&storm.client, &plan).await?;
    }
    let outcome = tokio::select! {
        outcome = storm.run(plan) => outcome,
        outcome = storm.faults.supervise() => outcome.map(|()| false),
        _ = tokio::signal::ctrl_c() => {
            storm.faults.services().keep_files(arguments.keep)?;
            anyhow::bail!("interrupted");
        }
    };
    let keep = arguments.keep || !matches!(outcome, Ok(true));
    storm.faults.services().keep_files(keep)?;
    if keep {
        println!("chaos: the databases and logs are kept in {}", folder.display());
    }
    outcome
}

/// Stores the products that a plan is about, with fewer pieces than it wants.
async fn stock(client: &Client, plan: &Plan) -> Result<()> {
    for (sku, wanted) in plan.wanted() {
        let put = client.request(Service::Inventory, Method::PUT, &format!("/products/{sku}"));
        let put = put.json(&json!({"name": sku})).send().await?;
        ensure!(put.status() == 201, "{sku} is answered {}", put.status());
        let receipt = client.request(Service::Inventory, Method::POST, &format!("/products/{sku}/receipts"));
        let pieces = json!({"quantity": (wanted * IN_STOCK / 100).max(1), "by": "chaos", "reason": "the storm"});
        let receipt = receipt.header("Idempotency-Key", "before-the-storm").json(&pieces).send().await?;
        ensure!(receipt.status() == 201, "pieces of {sku} are answered {}", receipt.status());
    }
    Ok(())
}

/// Everything that takes part.
struct Storm {
    driver: Arc<Driver>,
    faults: Arc<Faults>,
    client: Client,
}

impl Storm {
    /// From the first fault to the summary; answers whether all is well.
    async fn run(&self, plan: Plan) -> Result<bool> {
        let began = Instant::now();
        let faults: Vec<Fault> = plan.faults().collect();
        let clients = self.rage(plan).await?;
        let over = Utc::now();
        let took = began.elapsed();
        println!("chaos: the last fault is over after {:.1} s", took.as_secs_f64());

        let deadline = Instant::now() + RECOVERY_LIMIT;
        let mut sent = self.answers(clients, deadline).await?;
        // What has not ended is found below, by name.
        if let Err(error) = self.client.all_end(RECOVERY_LIMIT).await {
            println!("chaos: {error:#}");
        }
        for one in sent.iter_mut().filter(|one| one.request.reuse == Reuse::AtTheEnd && !one.undecided) {
            self.driver.send_at_the_end(one).await;
        }

        let sagas = checks::read(&self.client.databases).await?;
        let findings = checks::check(&sent, &sagas);
        let disagreement = agreement::disagreement(&self.client.databases).await?;
        let ended_by_themselves = self.faults.ended_by_themselves();
        let recovery = self.last_end().await?.map_or(Duration::ZERO, |end| (end - over).to_std().unwrap_or_default());
        let summary = Summary {
            faults: &faults,
            sent: &sent,
            sagas: &sagas,
            findings: &findings,
            disagreement,
            ended_by_themselves: &ended_by_themselves,
            recovery,
            took,
        };
        print!("{}", summary.text());
        Ok(summary.is_well())
    }

    /// Round after round; returns when the last fault is over, with the clients that may still be at work.
    async fn rage(&self, plan: Plan) -> Result<JoinSet<Sent>> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let (mut clients, mut suffered) = (JoinSet::new(), JoinSet::new());
        let count = plan.rounds.len();
        for (number, Round { fault, lasts, requests }) in (1..).zip(plan.rounds) {
            let faults = self.faults.clone();
            suffered.spawn(async move { faults.carry_out(fault).await });
            let pause = lasts.div_f64(requests.len().max(1) as f64);
            if requests.is_empty() {
                tokio::time::sleep(lasts).await;
            }
            for request in requests {
                let driver = self.driver.clone();
                let place = driver.at_work.clone().acquire_owned().await?;
                clients.spawn(async move {
                    let _place = place;
                    driver.send(request).await
                });
                tokio::time::sleep(pause).await;
            }
            while let Some(outcome) = suffered.try_join_next() {
                outcome??;
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let decided = self.driver.decided.load(Ordering::Relaxed);
                println!(
                    "chaos: {:>4.0} s: fault {number} of {count}, {} checkouts sent, {decided} answered",
                    began.elapsed().as_secs_f64(),
                    clients.len()
                );
            }
        }
        while let Some(outcome) = suffered.join_next().await {
            outcome??;
        }
        Ok(clients)
    }

    /// What all clients were told. Those without an answer at the deadline give up.
    async fn answers(&self, mut clients: JoinSet<Sent>, deadline: Instant) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        loop {
            tokio::select! {
                one = clients.join_next() => match one {
                    Some(one) => sent.push(one?),
                    None => break,
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    self.driver.give_up();
                    sent.extend(std::mem::take(&mut clients).join_all().await);
                }
            }
        }
        sent.sort_by_key(|one| one.request.index);
        Ok(sent)
    }

    async fn last_end(&self) -> Result<Option<DateTime<Utc>>> {
        let last =
            sqlx::query_scalar("SELECT max(updated_at) FROM sagas").fetch_one(&self.client.databases.orchestrator);
        last.await.context("the last saga")
    }
}
