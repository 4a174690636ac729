//! A handler that panics, and a death between a dead letter and its offset.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Result, ensure};
use e2e_tests::{Outsider, Service, Services};

const CHARGES: &str = "payment.charge.command";

/// A payment service alone.
async fn payments(failpoints: &str) -> Result<Services> {
    let mut services = Services::launch_none(&[]).await?;
    services.set_failpoints(Service::Payment, failpoints);
    services.start_again(Service::Payment).await?;
    Ok(services)
}

#[tokio::test]
async fn a_record_whose_handler_panics_is_tried_again_alone() -> Result<()> {
    let services = payments("consumer.received:payment.charge.command=2*panic").await?;
    let client = services.client()?;
    let charges: Vec<_> = (0..5).map(|_| Outsider::new(&client.kafka).charge()).collect();
    for charge in &charges {
        charge.publish(CHARGES).await?;
    }

    for charge in &charges {
        let replies = charge.replies("payment.charged", 1).await?;
        ensure!(replies.len() == 1, "{replies:?}");
    }
    assert_eq!(client.kafka.records("payment.charge.command.dlq").await?, []);
    Ok(())
}

#[tokio::test]
async fn a_record_whose_handler_always_panics_is_set_aside_once_and_holds_nobody_up() -> Result<()> {
    let services = payments("consumer.received:payment.charge.command=5*panic").await?;
    let client = services.client()?;
    let outsider = Outsider::new(&client.kafka);
    let place = outsider.charge().publish(CHARGES).await?;

    // Of the same partition, and answered while the other one is tried.
    let refund = outsider.refund();
    refund.publish("payment.refund.command").await?;
    refund.replies("payment.refunded", 1).await?;

    let letter = client.kafka.dead_letter(CHARGES, place).await?;
    let why = letter.headers.get("dlq_error").cloned().unwrap_or_default();
    ensure!(why.contains("the handler panicked"), "{why}");
    let next = Outsider::new(&client.kafka).charge();
    next.publish(CHARGES).await?;
    next.replies("payment.charged", 1).await?;
    assert_eq!(client.kafka.records("payment.charge.command.dlq").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_whose_offset_was_not_committed_is_sent_again_and_the_loop_goes_on() -> Result<()> {
    let mut services = payments("consumer.dead-lettered:payment.charge.command=return").await?;
    let client = services.client()?;
    let place = client.kafka.publish(CHARGES, "a key", b"this is not JSON").await?;
    let ended = services.end_of(Service::Payment).await?;
    ensure!(ended.status.signal() == Some(6), "{ended:?}");
    client.kafka.dead_letter(CHARGES, place).await?;

    services.set_failpoints(Service::Payment, "");
    services.start_again(Service::Payment).await?;

    let letters = client.kafka.wait_for("payment.charge.command.dlq", 2, |_| true).await?;
    ensure!(letters[0].headers == letters[1].headers && letters[0].body == letters[1].body, "{letters:?}");
    let next = Outsider::new(&client.kafka).charge();
    next.publish(CHARGES).await?;
    next.replies("payment.charged", 1).await?;
    Ok(())
}
