//! The payment service is down past the saga's deadline, so both a charge and a refund wait for it. Kafka keeps no
//! order between topics: whichever is read first, the net is zero, and the saga is not FAILED before it is.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Service, Services, eventually, id};
use serde_json::{Value, json};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(40);

/// A checkout whose charge and refund are both on Kafka, and a payment service that was never up.
async fn timed_out_without_a_payment_service() -> Result<(Services, Client, Uuid, Uuid)> {
    let mut services = Services::launch_none(&[("SAGA_TIMEOUT_MS", "8000"), ("RESEND_FIRST_MS", "500")]).await?;
    for service in [Service::Order, Service::Inventory, Service::Orchestrator] {
        services.start_again(service).await?;
    }
    let client = services.client()?;
    let begun = client.checkout_async(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let (saga_id, order_id) = (id(&begun, "sagaId")?, id(&begun, "orderId")?);
    eventually("the refund is repeated", LIMIT, async || {
        let row = saga(&client, saga_id).await?;
        Ok((row["step"] == "PAYMENT_REFUND" && row["attempts"].as_i64() >= Some(2)).then_some(()))
    })
    .await?;
    is_compensating(&client, saga_id).await?;
    Ok((services, client, saga_id, order_id))
}

async fn saga(client: &Client, saga_id: Uuid) -> Result<Value> {
    Ok(client.databases.sagas(saga_id).await?.remove(0))
}

/// Not FAILED while it may hold money.
async fn is_compensating(client: &Client, saga_id: Uuid) -> Result<()> {
    let row = saga(client, saga_id).await?;
    ensure!(row["status"] == "COMPENSATING" && row["cause"] == "TIMED_OUT", "{row}");
    Ok(())
}

async fn payment_is(client: &Client, order_id: Uuid, status: &str) -> Result<()> {
    eventually(&format!("the payment is {status}"), LIMIT, async || {
        let rows = client.databases.payments(order_id).await?;
        Ok(rows.iter().any(|row| row["status"] == status).then_some(()))
    })
    .await
}

async fn ledger(client: &Client, order_id: Uuid) -> Result<Vec<(Value, Value)>> {
    let rows = client.databases.ledger(order_id).await?;
    Ok(rows.iter().map(|row| (row["kind"].clone(), row["amount"].clone())).collect())
}

#[tokio::test]
async fn a_charge_that_is_read_before_its_refund_is_paid_back_before_the_saga_fails() -> Result<()> {
    let (mut services, client, saga_id, order_id) = timed_out_without_a_payment_service().await?;
    services.set_failpoints(Service::Payment, "consumer.received:payment.refund.command=sleep(10000)");
    services.start_again(Service::Payment).await?;

    payment_is(&client, order_id, "CHARGED").await?;
    is_compensating(&client, saga_id).await?;

    let end = client.end_of(&format!("/sagas/{saga_id}"), LIMIT).await?;
    assert_eq!((&end["status"], &end["step"]), (&json!("FAILED"), &json!("TIMED_OUT")));
    assert_eq!(client.databases.payments(order_id).await?[0]["status"], "REFUNDED");
    assert_eq!(ledger(&client, order_id).await?, [(json!("CHARGE"), json!(500)), (json!("REFUND"), json!(500))]);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_charge_that_is_read_after_its_refund_is_refused() -> Result<()> {
    let (mut services, client, saga_id, order_id) = timed_out_without_a_payment_service().await?;
    services.set_failpoints(Service::Payment, "consumer.received:payment.charge.command=sleep(10000)");
    services.start_again(Service::Payment).await?;

    payment_is(&client, order_id, "VOIDED").await?;
    let end = client.end_of(&format!("/sagas/{saga_id}"), LIMIT).await?;
    assert_eq!((&end["status"], &end["step"]), (&json!("FAILED"), &json!("TIMED_OUT")));

    client.kafka.wait_for("payment.failed", 1, |event| event["sagaId"] == json!(saga_id)).await?;
    assert_eq!(client.databases.payments(order_id).await?[0]["status"], "VOIDED");
    assert_eq!(ledger(&client, order_id).await?, []);
    client.agree_about(&[saga_id]).await
}
