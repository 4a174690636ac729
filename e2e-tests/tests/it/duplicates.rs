//! Everything may come twice, and in the wrong order: there is one row, and the same reply each time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Seen, eventually, id, shared};
use serde_json::{Value, json};
use uuid::Uuid;

use e2e_tests::{Command, Outsider};

/// Publishes a command twice and checks that both replies are the same, byte for byte.
async fn is_answered_twice_alike(command: &Command, topic: &str, reply: &str) -> Result<Value> {
    command.publish(topic).await?;
    command.publish(topic).await?;

    let replies = command.replies(reply, 2).await.with_context(|| format!("replies to {topic}"))?;

    ensure!(replies.len() == 2, "{} replies to 2 commands", replies.len());
    ensure!(replies[0].body == replies[1].body, "{} then {}", replies[0].json(), replies[1].json());
    let ids = |seen: &Seen| (seen.key.clone(), seen.headers.get("ce_id").cloned());
    ensure!(ids(&replies[0]) == ids(&replies[1]), "{replies:?}");
    Ok(replies[0].json())
}

fn only_status(rows: &[Value]) -> Value {
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0]["status"].clone()
}

#[tokio::test]
async fn a_payment_command_that_comes_twice_makes_one_row_and_gets_the_same_reply_twice() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);

    let charged = is_answered_twice_alike(&outsider.charge(), "payment.charge.command", "payment.charged").await?;
    assert_eq!(only_status(&client.databases.payments(outsider.order_id).await?), "CHARGED");
    let refunded = is_answered_twice_alike(&outsider.refund(), "payment.refund.command", "payment.refunded").await?;

    assert_eq!(charged["orderId"], json!(outsider.order_id));
    assert_eq!(refunded["payload"]["moneyReturned"], json!(true));
    assert_eq!(only_status(&client.databases.payments(outsider.order_id).await?), "REFUNDED");
    let ledger = client.databases.ledger(outsider.order_id).await?;
    assert_eq!(ledger.iter().map(|row| row["kind"].clone()).collect::<Vec<_>>(), ["CHARGE", "REFUND"]);
    Ok(())
}

#[tokio::test]
async fn a_declined_charge_that_comes_twice_is_declined_twice() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);
    let money = json!({"amount": 500, "currency": "USD"});
    let charge = outsider.command(&json!({"userId": "outsider", "money": money, "forceFail": true}));

    is_answered_twice_alike(&charge, "payment.charge.command", "payment.failed").await?;

    assert_eq!(only_status(&client.databases.payments(outsider.order_id).await?), "FAILED");
    assert!(client.databases.ledger(outsider.order_id).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_inventory_command_that_comes_twice_makes_one_row_and_gets_the_same_reply_twice() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);

    is_answered_twice_alike(&outsider.reserve(), "inventory.reserve.command", "inventory.reserved").await?;
    assert_eq!(only_status(&client.databases.reservations(outsider.order_id).await?), "RESERVED");
    is_answered_twice_alike(&outsider.release(), "inventory.release.command", "inventory.released").await?;

    assert_eq!(only_status(&client.databases.reservations(outsider.order_id).await?), "RELEASED");
    Ok(())
}

#[tokio::test]
async fn a_refund_before_its_charge_leaves_a_voided_row_and_the_late_charge_is_answered_failed() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);

    let refund = outsider.refund();
    let refunded = is_answered_twice_alike(&refund, "payment.refund.command", "payment.refunded").await?;
    assert_eq!(refunded["payload"]["moneyReturned"], json!(false));
    assert_eq!(only_status(&client.databases.payments(outsider.order_id).await?), "VOIDED");
    is_answered_twice_alike(&outsider.charge(), "payment.charge.command", "payment.failed").await?;

    assert_eq!(only_status(&client.databases.payments(outsider.order_id).await?), "VOIDED");
    assert!(client.databases.ledger(outsider.order_id).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_release_before_its_reserve_leaves_a_voided_row_and_the_late_reserve_is_answered_failed() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);

    is_answered_twice_alike(&outsider.release(), "inventory.release.command", "inventory.released").await?;
    assert_eq!(only_status(&client.databases.reservations(outsider.order_id).await?), "VOIDED");
    is_answered_twice_alike(&outsider.reserve(), "inventory.reserve.command", "inventory.failed").await?;

    assert_eq!(only_status(&client.databases.reservations(outsider.order_id).await?), "VOIDED");
    Ok(())
}

#[tokio::test]
async fn a_checkouts_own_commands_sent_again_get_the_same_replies_and_change_nothing() -> Result<()> {
    let client = shared().await?;
    let checkout = client.checkout(&json!({"userId": "again", "totalAmount": 500})).await?.json()?;
    let (saga_id, order_id) = (id(&checkout, "sagaId")?, id(&checkout, "orderId")?);
    let of_saga = |message: &Value| message["sagaId"] == json!(saga_id);

    for (command, reply) in
        [("payment.charge.command", "payment.charged"), ("inventory.reserve.command", "inventory.reserved")]
    {
        let sent = client.kafka.wait_for(command, 1, of_saga).await?;
        client.kafka.publish(command, &sent[0].key, &sent[0].body).await?;
        client.kafka.publish(command, &sent[0].key, &sent[0].body).await?;
        // More than three where the orchestrator, on a busy machine, has sent it twice by itself.
        let replies = client.kafka.wait_for(reply, 3, of_saga).await?;
        for seen in &replies {
            ensure!(seen.body == replies[0].body, "{} then {}", replies[0].json(), seen.json());
        }
    }

    for reply in ["payment.charged", "inventory.reserved"] {
        all_but_one_are_ignored(&client, saga_id, reply).await?;
    }
    assert_eq!(only_status(&client.databases.payments(order_id).await?), "CHARGED");
    assert_eq!(only_status(&client.databases.reservations(order_id).await?), "RESERVED");
    client.agree_about(&[saga_id]).await
}

/// Waits until the saga tells that a reply came at least twice too often: each time but one.
async fn all_but_one_are_ignored(client: &Client, saga_id: Uuid, reply: &str) -> Result<()> {
    eventually("the late replies are noted", Duration::from_secs(10), async || {
        let mut replies = client.kafka.records(reply).await?;
        replies.retain(|seen| seen.json()["sagaId"] == json!(saga_id));
        let saga = client.saga(saga_id).await?;
        let entries = saga["ignored"].as_array().into_iter().flatten();
        let counts = entries.filter(|entry| entry["input"] == reply).filter_map(|entry| entry["count"].as_u64());
        let (came, ignored) = (replies.len() as u64, counts.sum::<u64>());
        ensure!(ignored >= 2 && came == ignored + 1, "{came} came, {ignored} were ignored: {saga}");
        Ok(Some(()))
    })
    .await
}
