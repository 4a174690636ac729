//! A refund that meets its charge inside the gateway: the charge's outcome is learnt first, then reversed. The net is
//! zero, also when the payment service dies in between.

use std::time::Duration;

use anyhow::Result;
use e2e_tests::{Client, Service, Services, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use e2e_tests::Outsider;

/// A payment service alone, with a gateway that takes so long for each call.
async fn payments(processing_ms: &str) -> Result<Services> {
    let mut services = Services::launch_none(&[("PAYMENT_PROCESSING_MS", processing_ms)]).await?;
    services.start_again(Service::Payment).await?;
    Ok(services)
}

/// Starts it again, with a gateway that takes so long now.
async fn start_again(services: &mut Services, processing_ms: &str) -> Result<()> {
    services.set("PAYMENT_PROCESSING_MS", processing_ms);
    services.start_again(Service::Payment).await?;
    Ok(())
}

async fn status(client: &Client, order_id: Uuid) -> Result<Value> {
    Ok(client.databases.payments(order_id).await?.first().map_or(Value::Null, |row| row["status"].clone()))
}

/// Waits until the payment has this status.
async fn becomes(client: &Client, order_id: Uuid, wanted: &str) -> Result<()> {
    eventually(&format!("the payment is {wanted}"), Duration::from_secs(30), async || {
        Ok((status(client, order_id).await? == json!(wanted)).then_some(()))
    })
    .await
}

/// The kinds and amounts of what moved money.
async fn ledger(client: &Client, order_id: Uuid) -> Result<Vec<(Value, Value)>> {
    let rows = client.databases.ledger(order_id).await?;
    Ok(rows.iter().map(|row| (row["kind"].clone(), row["amount"].clone())).collect())
}

fn nothing_in_sum() -> Vec<(Value, Value)> {
    vec![(json!("CHARGE"), json!(500)), (json!("REFUND"), json!(500))]
}

#[tokio::test]
async fn a_refund_that_comes_while_its_charge_is_in_the_gateway_reverses_it() -> Result<()> {
    let services = payments("6000").await?;
    let client = services.client()?;
    let outsider = Outsider::new(&client.kafka);
    outsider.charge().publish("payment.charge.command").await?;
    becomes(&client, outsider.order_id, "CHARGING").await?;

    let refund = outsider.refund();
    refund.publish("payment.refund.command").await?;
    assert_eq!(status(&client, outsider.order_id).await?, json!("CHARGING"), "they did not meet");

    becomes(&client, outsider.order_id, "REFUNDED").await?;
    let refunded = refund.replies("payment.refunded", 1).await?[0].json();
    assert_eq!(refunded["payload"]["moneyReturned"], json!(true));
    assert_eq!(status(&client, outsider.order_id).await?, json!("REFUNDED"));
    assert_eq!(ledger(&client, outsider.order_id).await?, nothing_in_sum());
    Ok(())
}

#[tokio::test]
async fn a_refund_whose_charge_was_in_the_gateway_when_the_service_was_killed_reverses_it() -> Result<()> {
    let mut services = payments("20000").await?;
    let client = services.client()?;
    let outsider = Outsider::new(&client.kafka);
    let (charge, refund) = (outsider.charge(), outsider.refund());
    charge.publish("payment.charge.command").await?;
    becomes(&client, outsider.order_id, "CHARGING").await?;
    refund.publish("payment.refund.command").await?;

    services.kill(Service::Payment)?;
    assert_eq!(status(&client, outsider.order_id).await?, json!("CHARGING"));
    start_again(&mut services, "500").await?;

    refund.replies("payment.refunded", 1).await?;
    assert_eq!(status(&client, outsider.order_id).await?, json!("REFUNDED"));
    assert_eq!(ledger(&client, outsider.order_id).await?, nothing_in_sum());
    Ok(())
}

#[tokio::test]
async fn a_killed_refund_is_paid_back_once() -> Result<()> {
    let mut services = payments("500").await?;
    let client = services.client()?;
    let outsider = Outsider::new(&client.kafka);
    let (charge, refund) = (outsider.charge(), outsider.refund());
    charge.publish("payment.charge.command").await?;
    charge.replies("payment.charged", 1).await?;
    services.stop(Service::Payment).await?;
    start_again(&mut services, "20000").await?;
    refund.publish("payment.refund.command").await?;
    becomes(&client, outsider.order_id, "REFUNDING").await?;

    services.kill(Service::Payment)?;
    assert_eq!(status(&client, outsider.order_id).await?, json!("REFUNDING"));
    start_again(&mut services, "500").await?;

    refund.replies("payment.refunded", 1).await?;
    assert_eq!(status(&client, outsider.order_id).await?, json!("REFUNDED"));
    assert_eq!(ledger(&client, outsider.order_id).await?, nothing_in_sum());
    Ok(())
}
