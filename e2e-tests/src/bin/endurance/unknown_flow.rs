//! A newer release has started sagas of a definition that the older one does not know, and is rolled back while their
//! replies come, more than may be in hand at once: the older one passes them over and serves everybody else, and says so;
//! then the newer one comes back and finishes them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e_tests::clients::{Sent, checks};
use e2e_tests::{Client, Layout, Samples, Service, Services, eventually};
use serde_json::json;
use tokio::task::JoinSet;

use crate::load::{Load, Told};
use crate::several::normal_after;
use crate::{disagreement, until_normal};

/// How soon the older release has to serve as on a good day, and how soon all such replies have been passed over.
const BACK_LIMIT: Duration = Duration::from_secs(30);

const PARTITIONS: i32 = 8;

/// `KAFKA_MAX_IN_FLIGHT`, and how many sagas the newer release has started.
const MAX_IN_FLIGHT: u32 = 500;
const OF_THE_NEWER: u32 = 3 * MAX_IN_FLIGHT;

/// Their user.
const NEWER: &str = "newer-release";

/// Answers what is wrong.
pub async fn run(time: Duration, rate: u32) -> Result<Vec<String>> {
    let layout = Layout { instances: 1, partitions: PARTITIONS };
    let settings = [("KAFKA_MAX_IN_FLIGHT", &*MAX_IN_FLIGHT.to_string())];
    let mut services = Services::lay_out(layout, &settings).await?;
    println!("logs and databases, kept unless all is well: {}", services.keep_files(true)?.display());
    services.start_all().await?;
    let client = services.quiet_client()?;
    println!("ordinary checkouts complete: {:.1} s", until_normal(&client).await?.as_secs_f64());

    // Their charges wait for a payment service, so that all replies come at once.
    services.stop(Service::Payment).await?;
    begin(&client).await?;
    services.stop(Service::Orchestrator).await?;
    run_by_version(&client, 7).await?;
    services.start_again(Service::Orchestrator).await?;
    let mut load = Load::start("unknown-flow", &[services.address(Service::Orchestrator.into())?], rate)?;
    services.start_again(Service::Payment).await?;
    let began = Instant::now();
    let mut wrong = Vec::new();
    let all_passed_over = async || {
        let passed_over = value(&client, "saga_replies_passed_over_total").await?;
        Ok((passed_over >= f64::from(OF_THE_NEWER)).then_some(()))
    };
    match eventually("all replies of the newer release are passed over", BACK_LIMIT, all_passed_over).await {
        Ok(()) => println!("all {OF_THE_NEWER} replies passed over: {:.1} s", began.elapsed().as_secs_f64()),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    wrong.extend(what_is_not_reported(&client).await?);
    tokio::time::sleep(time.saturating_sub(began.elapsed())).await;
    let served = load.since(began);
    let normal = normal_after(&served, began);
    println!("the older release: normal after {:.1} s; {}", normal.as_secs_f64(), Told::of(&served));
    if normal > BACK_LIMIT {
        wrong.push(format!("the older release served as on a good day only after {normal:?}"));
    }

    services.stop(Service::Orchestrator).await?;
    run_by_version(&client, 1).await?;
    let began = services.start_again(Service::Orchestrator).await?;
    tokio::time::sleep(time).await;
    let served = load.since(began);
    println!(
        "the newer release is back: normal after {:.1} s; {}",
        normal_after(&served, began).as_secs_f64(),
        Told::of(&served)
    );
    let served = load.ended().await?;
    wrong.extend(disagreement(&client).await?);
    let (mut sagas, sent) = (checks::read(&client.databases).await?, served.iter().map(|one| one.sent.clone()));
    let finished = sagas.iter().filter(|saga| saga.user_id == NEWER && saga.status == "COMPLETED").count();
    println!("{finished} of the {OF_THE_NEWER} sagas of the newer release have completed");
    if finished != OF_THE_NEWER as usize {
        wrong.push(format!("only {finished} of {OF_THE_NEWER} sagas of the newer release have completed"));
    }
    sagas.retain(|saga| ![NEWER, "probe"].contains(&saga.user_id.as_str()));
    let findings = checks::check(&sent.collect::<Vec<Sent>>(), &sagas);
    println!("{} sent, {} answers checked, {} lost", served.len(), findings.answers, findings.lost.len());
    wrong.extend(findings.lost.into_iter().chain(findings.violations));
    services.keep_files(!wrong.is_empty())?;
    Ok(wrong)
}

/// Starts the newer release's sagas, and waits until all have asked for their charge.
async fn begin(client: &Client) -> Result<()> {
    let mut begun = JoinSet::new();
    for n in 1..=OF_THE_NEWER {
        let client = client.clone();
        begun.spawn(async move { client.checkout_async(&json!({"userId": NEWER, "totalAmount": n})).await });
        if n % 100 == 0 {
            while let Some(answer) = begun.join_next().await {
                let answer = answer??;
                ensure!(answer.status == 202, "{} {}", answer.status, answer.text);
            }
        }
    }
    eventually("all charges are asked for", Duration::from_secs(60), async || {
        let sql = "SELECT count(*) FROM sagas WHERE user_id = $1 AND step = 'PAYMENT_CHARGE'";
        let asked: i64 = sqlx::query_scalar(sql).bind(NEWER).fetch_one(&client.databases.orchestrator).await?;
        Ok((asked == i64::from(OF_THE_NEWER)).then_some(()))
    })
    .await
}

/// As a release stores them that knows another version of the flow. Their deadlines are put off: they stand still while
/// the older release runs, for longer than a step may take.
async fn run_by_version(client: &Client, version: i32) -> Result<()> {
    let update = sqlx::query(
        "UPDATE sagas SET definition_version = $1, deadline_at = deadline_at + interval '1 hour',
                          expires_at = expires_at + interval '1 hour'
         WHERE user_id = $2",
    );
    let update = update.bind(version).bind(NEWER);
    let updated = update.execute(&client.databases.orchestrator).await?.rows_affected();
    ensure!(updated == u64::from(OF_THE_NEWER), "{updated} sagas are the newer release's");
    Ok(())
}

async fn value(client: &Client, sample: &str) -> Result<f64> {
    Samples::of(client, Service::Orchestrator).await?.value(sample)
}

/// What health and metrics should say meanwhile, and don't.
async fn what_is_not_reported(client: &Client) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    if ready.status != 200 || !ready.text.contains("pay-first v7") {
        wrong.push(format!("readiness does not report it: {} {}", ready.status, ready.text));
    }
    let waiting = value(client, "sagas_of_unknown_definition").await?;
    if waiting != f64::from(OF_THE_NEWER) {
        wrong.push(format!("sagas_of_unknown_definition is {waiting}, and should be {OF_THE_NEWER}"));
    }
    Ok(wrong)
}
