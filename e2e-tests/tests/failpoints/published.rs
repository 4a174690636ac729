//! Events are not lost, and not sent before their change is stored, whichever process dies and however long Kafka is down.

use std::time::Duration;

use anyhow::Result;
use e2e_tests::Service::Order;
use e2e_tests::{Broker, Client, Instance, Layout, Services, eventually};
use messages::{ORDER_EVENTS, OrderEvent};
use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;

const SETTINGS: [(&str, &str); 1] = [("PUBLISH_ORDER_EVENTS", "true")];

/// Beyond the time for which librdkafka keeps a record that it can't send.
const LIMIT: Duration = Duration::from_secs(60);

/// An order that is created and then confirmed by hand: its id.
async fn confirmed(client: &Client) -> Result<String> {
    let order = client.post(Order, "/orders", &json!({"userId": "ann", "totalAmount": 5})).await?;
    let order_id = order.field("orderId")?;
    let status = client.patch(Order, &format!("/orders/{order_id}/status"), &json!({"status": "CONFIRMED"})).await?;
    assert_eq!(status.status, 200);
    Ok(order_id)
}

/// The events of an order, in the order in which they stand in Kafka.
async fn events(client: &Client, order_id: &str) -> Result<Vec<OrderEvent>> {
    let records = client.kafka.records(ORDER_EVENTS).await?;
    let of_order = records.iter().filter(|record| record.key == order_id);
    Ok(of_order.map(|record| serde_json::from_slice(&record.body)).collect::<Result<_, _>>()?)
}

fn sequences(events: &[OrderEvent]) -> Vec<u32> {
    events.iter().map(|event| event.payload.sequence).collect()
}

#[tokio::test]
async fn what_is_not_sent_is_not_forgotten() -> Result<()> {
    let mut services = Services::on(Broker::without_signals().await?, Layout::ONE_OF_EACH, &SETTINGS).await?;
    services.start_again(Order).await?;
    let client = services.client()?;
    let mut orders = Vec::new();
    for _ in 0..10 {
        orders.push(confirmed(&client).await?);
    }
    // Its topic is not there: long enough for it to have failed to send them.
    tokio::time::sleep(Duration::from_secs(12)).await;
    services.kill(Order)?;
    services.broker().upgrade().await?;
    services.start_again(Order).await?;

    for order_id in orders {
        let what = format!("the events of {order_id} are published");
        let seen = eventually(&what, LIMIT, async || {
            let seen = events(&client, &order_id).await?;
            Ok((seen.len() >= 2).then_some(seen))
        });
        assert_eq!(sequences(&seen.await?), [1, 2]);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_sent_and_not_removed_is_sent_again_with_the_same_id() -> Result<()> {
    let mut services = Services::launch_none(&SETTINGS).await?;
    services.set_failpoints(Order, "outbox.sent:ENTRIES=return");
    services.start_again(Order).await?;
    let client = services.client()?;
    let order_id = Uuid::now_v7().to_string();
    // It may die before it answers.
    let _ = client.post(Order, "/orders", &json!({"orderId": order_id, "userId": "ann", "totalAmount": 5})).await;
    services.end_of(Order).await?;
    services.set_failpoints(Order, "");
    services.start_again(Order).await?;

    let seen = eventually("the event is there twice", LIMIT, async || {
        let seen = events(&client, &order_id).await?;
        Ok((seen.len() >= 2).then_some(seen))
    })
    .await?;
    assert_eq!(seen[0], seen[1]);
    Ok(())
}

#[tokio::test]
async fn another_instance_goes_on_when_the_one_that_sends_is_held_up() -> Result<()> {
    let layout = Layout { instances: 2, ..Layout::ONE_OF_EACH };
    let mut services = Services::lay_out(layout, &SETTINGS).await?;
    let instances: Vec<Instance> = services.instances().into_iter().filter(|one| one.service == Order).collect();
    for instance in &instances {
        services.start_again(*instance).await?;
    }
    let client = services.client()?;
    // Whichever sends: one of the two times it is held up.
    for (held, other) in [(instances[0], instances[1]), (instances[1], instances[0])] {
        services.signal(held, Signal::STOP)?;
        let url = format!("http://{}/orders", services.address(other)?);
        let order = client.post_url(&url, &json!({"userId": "ann", "totalAmount": 5})).await?;
        let order_id = order.field("orderId")?;
        let seen = eventually("its event is published", LIMIT, async || {
            let seen = events(&client, &order_id).await?;
            Ok((!seen.is_empty()).then_some(seen))
        });
        assert_eq!(sequences(&seen.await?), [1]);
        services.signal(held, Signal::CONT)?;
    }
    Ok(())
}
