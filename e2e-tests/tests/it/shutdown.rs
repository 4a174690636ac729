//! Being told to stop: quick, with exit code 0, nothing left running, nothing lost.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Ended, Service, Services, Standalone, eventually};
use serde_json::{Value, json};

/// Much else may run beside it. Whether a stop has waited in vain, the log tells.
const AT_MOST: Duration = Duration::from_secs(20);

/// A stop waits for so long before it cuts something short and says so.
const PATIENT: (&str, &str) = ("SHUTDOWN_TIMEOUT_MS", "15000");

/// A checkout goes through in it, on a machine with much else to do.
const LONG_DRAIN: Duration = Duration::from_secs(6);

/// It ended with code 0, in time, and what was in hand was finished.
fn is_clean(ended: &Ended, client: &Client) -> Result<()> {
    is_clean_within(AT_MOST, ended, client)
}

fn is_clean_within(limit: Duration, ended: &Ended, client: &Client) -> Result<()> {
    has_ended_within(limit, ended)?;
    let log = client.log();
    ensure!(!log.contains("not finished in time") && !log.contains("not everything was finished"), "{log}");
    Ok(())
}

fn has_ended_within(limit: Duration, ended: &Ended) -> Result<()> {
    ensure!(ended.status.success(), "ended with {}", ended.status);
    ensure!(ended.after <= limit, "took {:?}", ended.after);
    Ok(())
}

/// Everything that a platform knows of these sagas, by HTTP.
async fn told(client: &Client, locations: &[String]) -> Result<Vec<Value>> {
    let mut sagas = Vec::new();
    for location in locations {
        sagas.push(client.get(Service::Orchestrator, location).await?.json()?);
    }
    Ok(sagas)
}

#[tokio::test]
async fn an_interrupted_standalone_ends_with_all_its_servers_and_the_next_start_has_all_rows() -> Result<()> {
    let mut standalone = Standalone::first_start(&[PATIENT]).await?;
    let client = standalone.client()?;
    let mut locations = Vec::new();
    for body in [
        json!({"userId": "u1", "totalAmount": 500}),
        json!({"userId": "u2", "totalAmount": 500, "forcePaymentFail": true}),
        json!({"userId": "u3", "totalAmount": 500, "forceInventoryFail": true}),
    ] {
        locations.push(client.checkout(&body).await?.header("location").to_owned());
    }
    let before = told(&client, &locations).await?;
    let running = standalone.processes().len();
    ensure!(running > 4, "expected to see the servers, saw {running} processes");

    let ended = standalone.interrupt().await?;

    is_clean(&ended, &client)?;
    assert_eq!(standalone.processes(), Vec::<String>::new());
    standalone.start_again().await?;
    let client = standalone.client()?;
    assert_eq!(told(&client, &locations).await?, before);
    assert_eq!(client.all_end_in_agreement(Duration::ZERO).await?.sagas.len(), 3);
    Ok(())
}

#[tokio::test]
async fn an_interrupt_with_checkouts_in_flight_answers_them_202_and_the_next_start_completes_them() -> Result<()> {
    let mut standalone = Standalone::start(&[("PAYMENT_PROCESSING_MS", "15000")]).await?;
    let client = standalone.client()?;
    let checkouts = client.checkouts(20);
    client.in_flight(20).await?;
    eventually("a charge is in the gateway", Duration::from_secs(10), async || {
        let charging = "SELECT count(*) FROM payments WHERE status = 'CHARGING'";
        let charging: i64 = sqlx::query_scalar(charging).fetch_one(&client.databases.payment).await?;
        Ok((charging > 0).then_some(()))
    })
    .await?;

    let ended = standalone.interrupt().await?;

    has_ended_within(AT_MOST, &ended)?;
    ensure!(client.log().contains("not finished in time"), "it has waited for the charges: {}", client.log());
    for answer in checkouts.join_all().await {
        let answer = answer?;
        ensure!(answer.status == 202 && !answer.header("location").is_empty(), "{} {}", answer.status, answer.text);
    }
    standalone.start_again().await?;
    let rows = standalone.client()?.all_end_in_agreement(Duration::from_secs(60)).await?;
    assert_eq!(rows.count("COMPLETED"), 20);
    Ok(())
}

#[tokio::test]
async fn a_stopped_orchestrator_answers_the_waiting_requests_202_at_once() -> Result<()> {
    let mut services = Services::start(&[PATIENT]).await?;
    let client = services.client()?;
    services.stop(Service::Payment).await?;
    let mut checkouts = client.checkouts(10);
    client.in_flight(10).await?;

    let told_at = Instant::now();
    services.tell_to_stop(Service::Orchestrator)?;

    while let Some(answer) = checkouts.join_next().await {
        let answer = answer??;
        ensure!(answer.status == 202, "{} {}", answer.status, answer.text);
        ensure!(answer.header("location").starts_with("/sagas/"), "{:?}", answer.headers);
    }
    let waited = told_at.elapsed();
    ensure!(waited < Duration::from_secs(10), "the answers took {waited:?}");
    is_clean(&services.end_of(Service::Orchestrator).await?, &client)?;
    services.start_again(Service::Payment).await?;
    services.start_again(Service::Orchestrator).await?;
    let rows = client.all_end_in_agreement(Duration::from_secs(20)).await?;
    assert_eq!(rows.count("COMPLETED"), 10);
    Ok(())
}

#[tokio::test]
async fn an_orchestrator_that_was_told_to_stop_sends_its_clients_elsewhere_before_it_refuses_them() -> Result<()> {
    let mut services = Services::start(&[("SHUTDOWN_DRAIN_MS", &LONG_DRAIN.as_millis().to_string()), PATIENT]).await?;
    let client = services.client()?;
    services.tell_to_stop(Service::Orchestrator)?;

    let not_ready = async || {
        let ready = client.get(Service::Orchestrator, "/health/ready").await?;
        Ok((ready.status == 503 && ready.json()?["status"] == "closed").then_some(()))
    };
    eventually("it says that it is closed", AT_MOST, not_ready).await?;
    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;

    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    assert_eq!(answer.header("connection"), "close");
    is_clean_within(LONG_DRAIN + AT_MOST, &services.end_of(Service::Orchestrator).await?, &client)?;
    let refused = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await;
    ensure!(refused.is_err(), "it has ended, and answered {refused:?}");
    services.start_again(Service::Orchestrator).await?;
    client.all_end_in_agreement(Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_for_a_record_in_hand_as_long_as_it_was_told_to() -> Result<()> {
    let mut services = Services::start(&[("PAYMENT_PROCESSING_MS", "12000"), ("SHUTDOWN_TIMEOUT_MS", "20000")]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let begun = client.checkout_async(&body).await?;
    eventually("the charge is in hand", AT_MOST, async || {
        let announced: i64 =
            sqlx::query_scalar("SELECT count(*) FROM payments").fetch_one(&client.databases.payment).await?;
        Ok((announced == 1).then_some(()))
    })
    .await?;

    let ended = services.stop(Service::Payment).await?;

    is_clean_within(Duration::from_secs(25), &ended, &client)?;
    ensure!(ended.after > Duration::from_secs(3), "it took the call {:?}, which takes 12 s", ended.after);
    // Without the payment service: its reply was sent.
    client.end_of(begun.header("location"), Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test]
async fn a_service_told_to_stop_while_it_starts_ends_with_code_0_and_cuts_nothing_short() -> Result<()> {
    let mut services = Services::launch_none(&[PATIENT]).await?;
    let client = services.client()?;
    for stage in ["database ready", "HTTP ready", "joined the consumer group", "HTTP ready", "database ready"] {
        for service in [Service::Payment, Service::Inventory, Service::Orchestrator] {
            services.start_until(service, stage).await?;
            let ended = services.stop(service).await.with_context(|| format!("{service:?} at {stage:?}"))?;
            is_clean(&ended, &client).with_context(|| format!("{service:?} at {stage:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_service_told_to_stop_ends_with_code_0_and_cuts_nothing_short() -> Result<()> {
    let mut services = Services::start(&[PATIENT]).await?;
    let client = services.client()?;
    for service in Service::ALL {
        let ended = services.stop(service).await?;
        is_clean(&ended, &client).with_context(|| service.program())?;
    }
    Ok(())
}
