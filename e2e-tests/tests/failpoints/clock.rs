//! The orchestrator's clock is a minute and a half off its database's: deadlines are by the database's clock, and the
//! difference is reported.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Samples, Service, Services, eventually};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);

/// The platform with an orchestrator whose clock is off by so much.
async fn with_skew(skew_ms: &str, settings: &[(&str, &str)], others: &[Service]) -> Result<(Services, Client)> {
    let mut services = Services::launch_none(settings).await?;
    for service in others {
        services.start_again(*service).await?;
    }
    services.set("CLOCK_SKEW_MS", skew_ms);
    services.launch(Service::Orchestrator)?;
    let client = services.client()?;
    eventually("it is ready, and says that its clock is off", LIMIT, async || {
        let ready = client.get(Service::Orchestrator, "/health/ready").await?;
        let body = ready.json()?;
        let reported = body["checks"]["clock"].as_str().is_some_and(|check| check.starts_with("degraded: "));
        let works = ["database", "kafka"].iter().all(|check| body["checks"][*check] == "ok");
        Ok((ready.status == 200 && body["status"] == "degraded" && reported && works).then_some(()))
    })
    .await?;
    Ok((services, client))
}

#[tokio::test]
async fn checkouts_complete_although_the_orchestrators_clock_is_far_behind() -> Result<()> {
    let others = [Service::Order, Service::Payment, Service::Inventory];
    let (_services, client) = with_skew("-90000", &[], &others).await?;

    for answer in client.checkouts(12).join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }

    let rows = client.all_end_in_agreement(LIMIT).await?;
    assert_eq!(rows.count("COMPLETED"), 12);
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    ensure!(ready.text.contains("s behind its database's"), "{}", ready.text);
    let skew = Samples::of(&client, Service::Orchestrator).await?.value("database_clock_skew_seconds")?;
    ensure!((-95.0..=-85.0).contains(&skew), "{skew} s");
    assert_eq!(client.log().matches("s behind its database's: set it (NTP)").count(), 1, "it is logged once");
    Ok(())
}

#[tokio::test]
async fn a_step_times_out_by_the_databases_clock_although_the_orchestrators_is_far_ahead() -> Result<()> {
    let others = [Service::Order, Service::Inventory];
    let (_services, client) = with_skew("90000", &[("SAGA_TIMEOUT_MS", "5000")], &others).await?;
    let location =
        client.checkout_async(&json!({"userId": "u1", "totalAmount": 5})).await?.header("location").to_owned();

    eventually("the charge times out", LIMIT, async || {
        let saga = client.get(Service::Orchestrator, &location).await?.json()?;
        Ok((saga["step"] == "PAYMENT_REFUND").then_some(()))
    })
    .await
}
