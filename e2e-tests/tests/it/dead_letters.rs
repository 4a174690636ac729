//! Records that can't be handled: they are set aside with the reason, and the loop goes on with the next one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Seen, eventually, id, shared};
use serde_json::{Value, json};
use uuid::Uuid;

use e2e_tests::{Command, Outsider};

const NOT_JSON: &[u8] = b"this is not JSON";

/// Publishes a bad record to each partition and checks that its copy on the dead-letter topic says all.
async fn is_set_aside(client: &Client, topic: &str, body: &[u8], error: &str) -> Result<()> {
    for (partition, offset) in client.kafka.publish_everywhere(topic, body).await? {
        let letter = client.kafka.dead_letter(topic, (partition, offset)).await?;
        ensure!(letter.body == body, "the copy differs: {:?}", letter.json());
        says_why(&letter, topic, error)?;
        let place = [format!("topic=\"{topic}\""), format!("partition={partition}"), format!("offset={offset}")];
        // The line is written after Kafka has acknowledged the copy, which may be read before.
        eventually("the log tells of it", Duration::from_secs(15), async || {
            let logged = client.log();
            let lines: Vec<&str> = logged.lines().filter(|line| line.contains("dead-lettered")).collect();
            let told = lines.iter().any(|line| place.iter().all(|part| line.contains(part)));
            ensure!(told, "no log line with {place:?}:\n{}", lines.join("\n"));
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

fn says_why(letter: &Seen, topic: &str, error: &str) -> Result<()> {
    let header = |name| letter.headers.get(name).with_context(|| format!("no header {name}: {:?}", letter.headers));
    ensure!(header("dlq_topic")? == topic, "{:?}", letter.headers);
    ensure!(header("dlq_error")?.contains(error), "{:?}", letter.headers);
    header("dlq_partition")?;
    header("dlq_offset")?;
    Ok(())
}

/// Runs checkouts until each partition has carried one, and checks that all of them complete.
async fn every_partition_goes_on(client: &Client) -> Result<()> {
    let partitions = u32::try_from(client.kafka.partitions("payment.charge.command").await?)?;
    let (began, mut carried) = (Instant::now(), BTreeSet::new());
    while carried.len() < partitions as usize {
        ensure!(began.elapsed() < Duration::from_secs(60), "of {partitions} partitions only {carried:?} carried one");
        for answer in client.checkouts(8).join_all().await {
            let answer = answer?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
            carried.insert(messages::partition_for_key(answer.field("sagaId")?.as_bytes(), partitions));
        }
        // Those that begin in the same second mostly share a partition.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_not_json_is_set_aside_and_the_loop_goes_on() -> Result<()> {
    let client = shared().await?;
    for topic in ["payment.charge.command", "inventory.release.command", "payment.charged", "inventory.reserved"] {
        is_set_aside(&client, topic, NOT_JSON, "not a valid message").await?;
    }
    every_partition_goes_on(&client).await
}

#[tokio::test]
async fn a_record_that_lacks_an_id_is_set_aside_and_the_loop_goes_on() -> Result<()> {
    let client = shared().await?;
    let money = json!({"amount": 500, "currency": "USD"});
    for (topic, payload) in [
        ("payment.refund.command", json!({"money": money, "reason": "TIMED_OUT"})),
        ("inventory.reserve.command", json!({})),
        ("inventory.released", json!({})),
    ] {
        let whole = Outsider::new(&client.kafka).command(&payload).body;
        for id in ["eventId", "sagaId", "orderId"] {
            let mut body = whole.clone();
            body.as_object_mut().context("an envelope is an object")?.remove(id);
            is_set_aside(&client, topic, &serde_json::to_vec(&body)?, &format!("missing field `{id}`")).await?;
        }
    }
    every_partition_goes_on(&client).await
}

#[tokio::test]
async fn an_event_of_an_unknown_saga_is_told_in_one_log_line_and_is_not_set_aside() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);
    let event = outsider.command(&json!({}));

    let place = event.publish("inventory.reserved").await?;

    let saga_id = outsider.saga_id.to_string();
    let lines = || client.log().lines().filter(|line| line.contains(&saga_id)).map(str::to_owned).collect::<Vec<_>>();
    let told = async || Ok(Some(lines()).filter(|lines| !lines.is_empty()));
    eventually("the event is told in the log", Duration::from_secs(10), told).await?;
    every_partition_goes_on(&client).await?;
    assert_eq!(lines().len(), 1, "{:?}", lines());
    let from_there = |letter: &Seen| {
        let header = |name| letter.headers.get(name).cloned().unwrap_or_default();
        (header("dlq_partition"), header("dlq_offset")) == (place.0.to_string(), place.1.to_string())
    };
    let letters = client.kafka.records("inventory.reserved.dlq").await?;
    assert!(!letters.iter().any(from_there), "{letters:?}");
    Ok(())
}

/// Publishes a command that contradicts its order's row, and checks that it is set aside without a reply.
async fn contradicts(client: &Client, command: &Command, topic: &str, replies: [&str; 2], why: &str) -> Result<()> {
    let place = command.publish(topic).await?;
    says_why(&client.kafka.dead_letter(topic, place).await?, topic, why)?;
    for reply in replies {
        let replies = command.replies_now(reply).await?;
        ensure!(replies.is_empty(), "{topic} was answered by {replies:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_payment_command_with_another_saga_amount_or_currency_is_set_aside_without_a_reply() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);
    let charge = outsider.charge();
    charge.publish("payment.charge.command").await?;
    charge.replies("payment.charged", 1).await?;
    let before = client.databases.payments(outsider.order_id).await?;

    for (path, value, why) in [
        ("/sagaId", json!(Uuid::now_v7()), "belongs to saga"),
        ("/payload/money/amount", json!(501), "501 USD"),
        ("/payload/money/currency", json!("EUR"), "500 EUR"),
    ] {
        let contradicting = |mut command: Command| -> Result<Command> {
            *command.body.pointer_mut(path).context("a command has this field")? = value.clone();
            Ok(command)
        };
        let charge = contradicting(outsider.charge())?;
        let replies = ["payment.charged", "payment.failed"];
        contradicts(&client, &charge, "payment.charge.command", replies, why).await?;
        let refund = contradicting(outsider.refund())?;
        let replies = ["payment.refunded", "payment.failed"];
        contradicts(&client, &refund, "payment.refund.command", replies, why).await?;
    }

    assert_eq!(client.databases.payments(outsider.order_id).await?, before);
    assert_eq!(client.databases.ledger(outsider.order_id).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_inventory_command_with_another_saga_is_set_aside_without_a_reply() -> Result<()> {
    let client = shared().await?;
    let outsider = Outsider::new(&client.kafka);
    let reserve = outsider.reserve();
    reserve.publish("inventory.reserve.command").await?;
    reserve.replies("inventory.reserved", 1).await?;
    let before: Vec<Value> = client.databases.reservations(outsider.order_id).await?;

    let mut stranger = Outsider::new(&client.kafka);
    stranger.order_id = outsider.order_id;
    let replies = ["inventory.reserved", "inventory.failed"];
    contradicts(&client, &stranger.reserve(), "inventory.reserve.command", replies, "belongs to saga").await?;
    let replies = ["inventory.released", "inventory.failed"];
    contradicts(&client, &stranger.release(), "inventory.release.command", replies, "belongs to saga").await?;

    assert_eq!(client.databases.reservations(outsider.order_id).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_reply_of_another_amount_or_order_than_its_saga_asked_for_is_set_aside_and_moves_nothing() -> Result<()> {
    let client = shared().await?;
    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let saga_id = id(&answer, "sagaId")?;
    let mut participant = Outsider::new(&client.kafka);
    (participant.saga_id, participant.order_id) = (saga_id, id(&answer, "orderId")?);
    let before = client.saga(saga_id).await?;

    let less = participant.command(&json!({"money": {"amount": 5, "currency": "USD"}, "moneyReturned": true}));
    for topic in ["payment.charged", "payment.refunded"] {
        let place = less.publish(topic).await?;
        let why = "it is about 5 USD, its saga about 500 USD";
        says_why(&client.kafka.dead_letter(topic, place).await?, topic, why)?;
    }
    participant.order_id = Uuid::now_v7();
    let place = participant.command(&json!({})).publish("inventory.reserved").await?;
    let why = format!("it is about order {}, its saga about order", participant.order_id);
    says_why(&client.kafka.dead_letter("inventory.reserved", place).await?, "inventory.reserved", &why)?;
    // All is as it was asked for, but nobody has asked this participant.
    participant.order_id = id(&answer, "orderId")?;
    let mut reply = participant.command(&json!({}));
    for (command, why) in [(json!(null), "it has no causationId"), (json!(Uuid::now_v7()), "its saga sends ")] {
        reply.body["causationId"] = command;
        let place = reply.publish("inventory.reserved").await?;
        says_why(&client.kafka.dead_letter("inventory.reserved", place).await?, "inventory.reserved", why)?;
    }

    assert_eq!(client.saga(saga_id).await?, before);
    Ok(())
}
