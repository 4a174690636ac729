//! The order in which things are stored, committed and sent, at the places where a planted bug breaks it: see
//! dev/planted-bugs. And that a program with planted bugs does not run by mistake.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Outsider, Process, Scratch, Service, Services, eventually, id};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_reply_waits_for_its_row() -> Result<()> {
    let mut services = Services::launch_none(&[]).await?;
    services.set_failpoints(Service::Payment, "payment.storing:CHARGED=sleep(1500)");
    services.start_all().await?;
    let client = services.client()?;

    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;

    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    client.agree_about(&[id(&answer.json()?, "sagaId")?]).await
}

#[tokio::test]
async fn a_command_that_nobody_repeats_survives_a_crash_in_its_handler() -> Result<()> {
    let mut services = Services::launch_none(&[]).await?;
    // Longer in hand than an auto-commit interval.
    let failpoints = "consumer.received:payment.charge.command=sleep(1500);payment.storing:CHARGING=return";
    services.set_failpoints(Service::Payment, failpoints);
    services.start_again(Service::Payment).await?;
    let client = services.client()?;
    let charge = Outsider::new(&client.kafka).charge();
    charge.publish("payment.charge.command").await?;
    let ended = services.end_of(Service::Payment).await?;
    ensure!(ended.status.signal() == Some(6), "{ended:?}");

    services.set_failpoints(Service::Payment, "");
    services.start_again(Service::Payment).await?;

    charge.replies("payment.charged", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_move_that_was_decided_on_an_old_version_changes_nothing() -> Result<()> {
    let settings = [
        ("SAGA_TIMEOUT_MS", "8000"),
        ("RESEND_FIRST_MS", "60000"),
        ("RESEND_MAX_MS", "60000"),
        ("ORDER_SERVICE_TIMEOUT_MS", "20000"),
    ];
    let mut services = Services::launch_none(&settings).await?;
    // The reply's move is held up until the saga has timed out and failed.
    services.set_failpoints(Service::Orchestrator, "orchestrator.storing:INVENTORY_RESERVE=1*sleep(12000)");
    services.start_all().await?;
    let client = services.client()?;
    let checkouts = client.checkouts(1);
    let charged = client.kafka.wait_for("payment.charged", 1, |_| true).await?;
    let saga_id = id(&charged[0].json(), "sagaId")?;
    assert_eq!(client.saga(saga_id).await?["status"], json!("RUNNING"), "the reply came after the time-out");
    for answer in checkouts.join_all().await {
        let answer = answer?;
        ensure!(answer.status == 409, "{} {}", answer.status, answer.text);
    }

    let saga = eventually("the late reply is noted", LIMIT, async || {
        let saga = client.saga(saga_id).await?;
        let ignored =
            saga["ignored"].as_array().is_some_and(|all| all.iter().any(|one| one["input"] == "payment.charged"));
        Ok(ignored.then_some(saga))
    })
    .await?;

    assert_eq!((&saga["status"], &saga["step"]), (&json!("FAILED"), &json!("TIMED_OUT")));
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_program_with_planted_bugs_does_not_start_by_mistake() -> Result<()> {
    for choice in ["", "no-such-bug"] {
        for name in ["payment-service", "standalone"] {
            let scratch = Scratch::new()?;
            let environment = [("PLANTED_BUG".to_owned(), choice.to_owned())];
            let mut process = Process::start(&scratch, name, &[], &environment)?;
            let ended = process.ended(LIMIT).await?;
            ensure!(!ended.status.success(), "{name} started with {choice:?}");
            ensure!(process.output().contains("PLANTED_BUG must choose one of"), "{}", process.output());
        }
    }
    Ok(())
}
