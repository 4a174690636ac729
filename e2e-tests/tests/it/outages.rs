//! A service is away for longer than a client waits: the checkouts wait for it, and none fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Service, Services, eventually};
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
async fn checkouts_while_the_other_services_databases_are_away_complete_when_they_are_back() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let away = [Service::Order, Service::Payment, Service::Inventory];
    for service in away {
        services.database(service)?.stop().await;
    }
    let checkouts = client.checkouts(10);
    client.in_flight(10).await?;

    for service in away {
        services.database(service)?.start().await?;
    }

    for answer in checkouts.join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }
    let rows = client.all_end_in_agreement(Duration::ZERO).await?;
    assert_eq!(rows.count("COMPLETED"), 10);
    Ok(())
}

#[tokio::test]
async fn a_checkout_while_the_orchestrators_database_is_away_is_answered_503_and_the_next_one_completes() -> Result<()>
{
    let services = Services::start(&[("CHECKOUT_WAIT_MS", "4000")]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    assert_eq!(client.checkout(&body).await?.status, 200);
    services.database(Service::Orchestrator)?.stop().await;

    for answer in client.checkouts(5).join_all().await {
        let answer = answer?;
        answer.is_problem(503, &[])?;
        // Either it is known that nothing was stored, and another try is safe; or its saga will tell.
        let (safe, will_tell) = (!answer.header("retry-after").is_empty(), !answer.header("location").is_empty());
        ensure!(safe != will_tell, "{answer:?}");
        ensure!(will_tell == answer.text.contains("outcome unknown"), "{}", answer.text);
    }

    services.database(Service::Orchestrator)?.start().await?;
    let back = async || Ok((client.checkout(&body).await?.status == 200).then_some(()));
    eventually("a checkout completes", Duration::from_secs(15), back).await?;
    client.all_end_in_agreement(Duration::from_secs(15)).await?;
    Ok(())
}

#[tokio::test]
async fn a_standby_under_the_databases_name_is_taken_for_no_database() -> Result<()> {
    let mut services = Services::start(&[("CHECKOUT_WAIT_MS", "4000")]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let before = client.checkout(&body).await?;
    assert_eq!(before.status, 200);
    // As after a failover: the old primary, under the name that the services know.
    let standby = services.data_dir().join(Service::Orchestrator.database()).join("standby.signal");
    services.database(Service::Orchestrator)?.stop().await;
    std::fs::write(&standby, "")?;
    services.database(Service::Orchestrator)?.start().await?;

    // It would answer what is asked of it, from a past that others have left behind.
    let unready = async || {
        let ready = client.get(Service::Orchestrator, "/health/ready").await?;
        Ok((ready.status == 503 && ready.text.contains("it is a standby")).then_some(()))
    };
    eventually("it says what it is connected to", Duration::from_secs(15), unready).await?;
    client.get(Service::Orchestrator, before.header("location")).await?.is_problem(503, &[])?;
    client.checkout(&body).await?.is_problem(503, &[])?;
    services.kill(Service::Orchestrator)?;
    services.set("STARTUP_TIMEOUT_MS", "1000");
    services.launch(Service::Orchestrator)?;
    ensure!(!services.end_of(Service::Orchestrator).await?.status.success());
    ensure!(
        client.log().contains("can't be used: encountered unexpected or invalid data: it is a standby"),
        "{}",
        client.log()
    );

    services.database(Service::Orchestrator)?.stop().await;
    std::fs::remove_file(&standby)?;
    services.database(Service::Orchestrator)?.start().await?;
    services.set("STARTUP_TIMEOUT_MS", "10000");
    services.start_again(Service::Orchestrator).await?;
    let back = async || Ok((client.checkout(&body).await?.status == 200).then_some(()));
    eventually("a checkout completes", Duration::from_secs(15), back).await?;
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
