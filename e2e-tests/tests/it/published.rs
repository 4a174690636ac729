//! What is published for others to hear: how sagas end on `saga.outcomes`, what becomes of orders on `order.events`.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use e2e_tests::Service::{Orchestrator, Order};
use e2e_tests::{Client, Services, eventually, id, shared};
use messages::{ORDER_EVENTS, OrderEvent, SAGA_OUTCOMES};
use serde_json::{Value, json};

use crate::reservations::product;

const LIMIT: Duration = Duration::from_secs(15);

/// The entries that wait to be sent.
async fn waiting(client: &Client) -> Result<i64> {
    let mut waiting = 0;
    for service in [Orchestrator, Order] {
        let count = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(client.databases.of(service));
        waiting += count.await.map(|count: i64| count)?;
    }
    Ok(waiting)
}

/// The changes of an order that were published: sequence, status and saga.
async fn changes(client: &Client, order_id: &Value) -> Result<Vec<(u32, String, bool)>> {
    let records = client.kafka.records(ORDER_EVENTS).await?;
    let of_order = records.iter().filter(|record| Some(&*record.key) == order_id.as_str());
    let event = of_order.map(|record| serde_json::from_slice::<OrderEvent>(&record.body));
    let events = event.collect::<Result<Vec<_>, _>>()?;
    Ok(events.into_iter().map(|e| (e.payload.sequence, e.payload.status, e.payload.saga_id.is_some())).collect())
}

fn change(sequence: u32, status: &str, has_saga: bool) -> (u32, String, bool) {
    (sequence, status.to_owned(), has_saga)
}

#[tokio::test]
async fn the_end_of_each_saga_and_each_change_of_an_order_is_published() -> Result<()> {
    let services = Services::start(&[("PUBLISH_OUTCOMES", "true"), ("PUBLISH_ORDER_EVENTS", "true")]).await?;
    let client = &services.client()?;
    let paid = client.checkout(&json!({"userId": "ann", "totalAmount": 500})).await?.json()?;
    let declined = json!({"userId": "bob", "totalAmount": "7.50", "currency": "EUR", "forcePaymentFail": true});
    let declined = client.checkout(&declined).await?.json()?;
    let sku = product(client, 1).await?;
    let placed = json!({"userId": "cyd", "totalAmount": 3, "items": [{"sku": sku, "qty": 1}]});
    let placed = client.post(Order, "/orders", &placed).await?.json()?;
    let by_hand = client.post(Order, "/orders", &json!({"userId": "dan", "totalAmount": 1})).await?.json()?;

    let outcomes = client.kafka.wait_for(SAGA_OUTCOMES, 3, |_| true).await?;
    let of =
        |saga: &Value| outcomes.iter().find(|seen| seen.json()["sagaId"] == saga["sagaId"]).map(|seen| seen.json());
    let row = client.saga(id(&paid, "sagaId")?).await?;
    let outcome = of(&paid).unwrap_or_default();
    assert_eq!((&outcome["orderId"], &outcome["timestamp"]), (&paid["orderId"], &row["updatedAt"]));
    let payload = json!({"flow": "pay-first", "version": 1, "status": "COMPLETED", "owner": "ann", "resolvedByHand": false,
        "money": {"amount": 500, "currency": "USD"}, "startedAt": row["createdAt"]});
    assert_eq!(outcome["payload"], payload);
    let outcome = of(&declined).unwrap_or_default();
    let [status, cause] = ["status", "cause"].map(|field| outcome["payload"][field].clone());
    assert_eq!((status, cause), (json!("FAILED"), json!("PAYMENT_FAILED")));
    assert!(outcome["payload"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{outcome}");
    let flows: HashSet<String> = outcomes.iter().map(|seen| seen.json()["payload"]["flow"].to_string()).collect();
    let cancelled = client.get(Order, &format!("/orders/{}", declined["orderId"].as_str().unwrap_or_default())).await?;
    assert_eq!(cancelled.field("failureReason")?, "PAYMENT_FAILED");
    assert_eq!(flows.len(), 2, "the order that was placed directly has a saga too: {flows:?}");

    for (order, changed) in [
        (&paid, vec![change(1, "PENDING", true), change(2, "CONFIRMED", true)]),
        (&declined, vec![change(1, "PENDING", true), change(2, "CANCELLED", true)]),
        (&placed, vec![change(1, "PENDING", false), change(2, "CONFIRMED", true)]),
        (&by_hand, vec![change(1, "PENDING", false)]),
    ] {
        let order_id = &order["orderId"];
        let what = format!("the changes of order {order_id} are published");
        let seen = eventually(&what, LIMIT, async || {
            let seen = changes(client, order_id).await?;
            Ok((seen.len() >= changed.len()).then_some(seen))
        });
        assert_eq!(seen.await?, changed);
    }
    let sent = async || Ok((waiting(client).await? == 0).then_some(()));
    eventually("what was sent is removed", LIMIT, sent).await
}

#[tokio::test]
async fn where_nothing_is_published_nothing_is_stored_for_it() -> Result<()> {
    let client = &shared().await?;
    let paid = client.checkout(&json!({"userId": "ann", "totalAmount": 500})).await?;
    assert_eq!(paid.status, 200);
    for service in [Orchestrator, Order] {
        let is_used = sqlx::query_scalar("SELECT is_called FROM outbox_seq_seq");
        assert!(!is_used.fetch_one(client.databases.of(service)).await.map(|used: bool| used)?);
    }
    assert!(client.kafka.records(SAGA_OUTCOMES).await?.is_empty());
    assert!(client.kafka.records(ORDER_EVENTS).await?.is_empty());
    Ok(())
}
