//! A dead-letter topic that takes no records: the partition whose record waits for it is paused; all others go on.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Command, Outsider, Service, Services, eventually};

const CHARGES: &str = "payment.charge.command";
const LETTERS: &str = "payment.charge.command.dlq";
const NOT_JSON: &[u8] = b"this is not JSON";

/// A charge on this partition, of two.
fn charge_on(client: &Client, partition: u32) -> Command {
    loop {
        let outsider = Outsider::new(&client.kafka);
        if messages::partition_for_key(outsider.saga_id.to_string().as_bytes(), 2) == partition {
            return outsider.charge();
        }
    }
}

#[tokio::test]
async fn while_dead_letters_are_not_taken_only_their_partition_waits() -> Result<()> {
    // Fewer records in hand than dead letters that wait: these must not use up the places of the others.
    let mut services = Services::launch_none(&[("KAFKA_MAX_IN_FLIGHT", "4")]).await?;
    services.start_again(Service::Payment).await?;
    let client = services.client()?;
    services.broker().set_taking(LETTERS, false).await?;

    let bad: Vec<_> = (0..3).map(|_| charge_on(&client, 0)).collect();
    let mut places = Vec::new();
    for charge in &bad {
        let key = charge.body["sagaId"].as_str().unwrap_or_default();
        places.push(client.kafka.publish(CHARGES, key, NOT_JSON).await?);
    }
    eventually("the partition waits", Duration::from_secs(30), async || {
        Ok(client.log().contains("a dead letter is not taken: its partition waits").then_some(()))
    })
    .await?;
    let waiting = charge_on(&client, 0);
    waiting.publish(CHARGES).await?;

    let others: Vec<_> = (0..10).map(|_| charge_on(&client, 1)).collect();
    for charge in &others {
        charge.publish(CHARGES).await?;
    }
    for charge in &others {
        charge.replies("payment.charged", 1).await?;
    }
    let early = waiting.replies_now("payment.charged").await?;
    ensure!(early.is_empty(), "its partition is paused, and yet: {early:?}");

    services.broker().set_taking(LETTERS, true).await?;

    for place in places {
        client.kafka.dead_letter(CHARGES, place).await?;
    }
    waiting.replies("payment.charged", 1).await?;
    Ok(())
}
