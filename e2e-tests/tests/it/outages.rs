//! A service is away for longer than a client waits: the checkouts wait for it, and none fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Service, Services};
use serde_json::json;

#[tokio::test]
async fn checkouts_during_a_participants_outage_are_answered_202_and_complete_when_it_is_back() -> Result<()> {
    let mut services = Services::start(&[("CHECKOUT_WAIT_MS", "5000")]).await?;
    let client = services.client()?;
    let stopped = services.stop(Service::Payment).await?;
    ensure!(stopped.status.success(), "{stopped:?}");
    // The outage's length is what this test is about.
    let outage = tokio::spawn(tokio::time::sleep(Duration::from_secs(20)));

    let mut locations = Vec::new();
    for answer in client.checkouts(20).join_all().await {
        let answer = answer?;
        ensure!(answer.status == 202, "{} {}", answer.status, answer.text);
        assert_eq!((answer.field("status")?.as_str(), answer.field("step")?.as_str()), ("RUNNING", "PAYMENT_CHARGE"));
        assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{:?}", answer.headers);
        locations.push(answer.header("location").to_owned());
    }
    outage.await?;
    services.start_again(Service::Payment).await?;

    for location in &locations {
        let saga = client.end_of(location, Duration::from_secs(20)).await?;
        assert_eq!(saga["status"], json!("COMPLETED"), "{saga}");
    }
    let rows = client.all_end_in_agreement(Duration::ZERO).await?;
    assert_eq!(rows.count("COMPLETED"), 20);
    Ok(())
}

#[tokio::test]
async fn checkouts_while_the_order_service_is_killed_complete_when_it_is_back() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    services.kill(Service::Order)?;
    let checkouts = client.checkouts(10);
    client.in_flight(10).await?;

    services.start_again(Service::Order).await?;

    for answer in checkouts.join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }
    let rows = client.all_end_in_agreement(Duration::ZERO).await?;
    assert_eq!(rows.count("COMPLETED"), 10);
    Ok(())
}
