//! Orders that are answered at once: `POST /orders` with items stores them, and a saga is started for each by an event.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::Service::{Orchestrator, Order};
use e2e_tests::{Answer, Client, Layout, Services, eventually, id, shared};
use messages::ORDER_CREATED;
use reqwest::Method;
use serde_json::{Value, json};
use service_runtime::retention::first_id_at;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::holds::committed;
use crate::reservations::{LIMIT, disagreements, pieces, product};

fn of(sku: &str, quantity: i64) -> Value {
    json!({"userId": "ann", "totalAmount": "25.00", "items": [{"sku": sku, "qty": quantity}]})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

async fn place(client: &Client, body: &Value) -> Result<Answer> {
    client.post(Order, "/orders", body).await
}

async fn place_with_key(client: &Client, key: &str, body: &Value) -> Result<Answer> {
    let request = client.request(Order, Method::POST, "/orders").header("Idempotency-Key", key).json(body);
    Answer::read(request.send().await?).await
}

/// The id of an order that was taken: answered at once, with where it is read.
fn taken(answer: &Answer) -> Result<Uuid> {
    ensure!(answer.status == 202, "{} {}", answer.status, answer.text);
    let body = answer.json()?;
    let order_id = id(&body, "orderId")?;
    assert_eq!(body["status"], "PENDING");
    assert!(body["message"].as_str().is_some_and(|message| message.contains(&order_id.to_string())), "{body}");
    assert_eq!(answer.header("location"), format!("/orders/{order_id}"));
    Ok(order_id)
}

/// An order as its page shows it, once it has ended.
async fn end(client: &Client, order_id: Uuid) -> Result<Value> {
    eventually(&format!("order {order_id} has ended"), LIMIT, async || {
        let order = client.get(Order, &format!("/orders/{order_id}")).await?.json()?;
        Ok((order["status"] != "PENDING").then_some(order))
    })
    .await
}

/// The sagas about an order: how each ended.
async fn sagas(client: &Client, order_id: Uuid) -> Result<Vec<(String, Option<String>)>> {
    let select = "SELECT status::text, cause FROM sagas WHERE order_id = $1";
    Ok(sqlx::query_as(select).bind(order_id).fetch_all(client.databases.of(Orchestrator)).await?)
}

async fn letter(client: &Client, key: &str, event: &Value) -> Result<String> {
    let place = client.kafka.publish(ORDER_CREATED, key, event.to_string().as_bytes()).await?;
    let letter = client.kafka.dead_letter(ORDER_CREATED, place).await?;
    Ok(letter.headers.get("dlq_error").context("a letter says why")?.clone())
}

#[tokio::test]
async fn an_order_is_taken_at_once_and_confirmed_once_its_goods_are_paid_and_handed_over() -> Result<()> {
    let client = &shared().await?;
    let sku = product(client, 5).await?;
    let order_id = taken(&place(client, &of(&sku, 2)).await?)?;

    let order = end(client, order_id).await?;
    assert_eq!((&order["status"], &order["items"]), (&json!("CONFIRMED"), &json!([{"sku": sku, "qty": 2}])));
    let saga = client.saga(id(&order, "sagaId")?).await?;
    assert_eq!((&saga["orderId"], &saga["status"]), (&json!(order_id), &json!("COMPLETED")));
    assert_eq!((pieces(client, &sku).await?, committed(client, &sku).await?), ((3, 0), 2));
    client.agree_about(&[id(&order, "sagaId")?]).await
}

#[tokio::test]
async fn what_is_sold_out_is_taken_and_then_cancelled() -> Result<()> {
    let client = &shared().await?;
    let sku = product(client, 1).await?;
    let order_id = taken(&place(client, &of(&sku, 2)).await?)?;
    let order = end(client, order_id).await?;
    assert_eq!((&order["status"], &order["failureReason"]), (&json!("CANCELLED"), &json!("OUT_OF_STOCK")));
    let detail = order["failureDetail"].as_str().unwrap_or_default();
    assert!(detail.contains(&sku), "{order}");
    assert_eq!(sagas(client, order_id).await?, [("FAILED".to_owned(), Some("OUT_OF_STOCK".to_owned()))]);
    assert_eq!(pieces(client, &sku).await?, (1, 0));
    Ok(())
}

#[tokio::test]
async fn an_order_that_is_sent_again_is_stored_once() -> Result<()> {
    let client = &shared().await?;
    let sku = product(client, 10).await?;
    let named = with(of(&sku, 1), "orderId", json!(Uuid::now_v7()));
    let order_id = taken(&place(client, &named).await?)?;
    assert_eq!(json!(order_id), named["orderId"]);
    let key = format!("cart-{}", Uuid::now_v7());
    let mut tries = JoinSet::new();
    for _ in 0..10 {
        let (client, key, body) = (client.clone(), key.clone(), of(&sku, 2));
        tries.spawn(async move { place_with_key(&client, &key, &body).await });
    }
    let mut keyed = Vec::new();
    for answer in tries.join_all().await {
        let answer = answer?;
        ensure!(matches!(answer.status, 200 | 202), "{} {}", answer.status, answer.text);
        keyed.push(id(&answer.json()?, "orderId")?);
    }
    keyed.dedup();
    assert_eq!(keyed.len(), 1);

    for order_id in [order_id, keyed[0]] {
        assert_eq!(end(client, order_id).await?["status"], "CONFIRMED");
        assert_eq!(sagas(client, order_id).await?.len(), 1);
    }
    let again = place(client, &named).await?;
    assert_eq!((again.status, again.json()?["status"].clone()), (200, json!("CONFIRMED")));
    let again = place_with_key(client, &key, &of(&sku, 2)).await?;
    assert_eq!((again.status, again.json()?["orderId"].clone()), (200, json!(keyed[0])));
    place(client, &with(named, "totalAmount", json!(1))).await?.is_problem(409, &["exists with other contents"])?;
    let other = place_with_key(client, &key, &of(&sku, 3)).await?;
    other.is_problem(422, &["the key was used for another order", &keyed[0].to_string()])?;
    // Another user's key is another key.
    let bob = with(of(&sku, 2), "userId", json!("bob"));
    assert_ne!(taken(&place_with_key(client, &key, &bob).await?)?, keyed[0]);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_named_and_nothing_is_stored() -> Result<()> {
    let client = &shared().await?;
    let order = of("blue-mug", 1);
    let line = json!({"sku": "mug", "qty": 1});
    let items = |items: Value| with(order.clone(), "items", items);
    for (body, words) in [
        (items(json!(vec![line.clone(); 101])), &["`items`", "101 lines"][..]),
        (items(json!([line, {"sku": "mug", "qty": 0}])), &["`items[1].qty`"]),
        (with(order.clone(), "orderId", json!(Uuid::new_v4())), &["`orderId`", "version 7"]),
        (with(order.clone(), "orderId", json!(first_id_at("2026-01-01T00:00:00Z".parse()?))), &["the last 12 hours"]),
        (with(order.clone(), "flow", json!("trip")), &["flow"]),
        (with(order.clone(), "totalAmount", json!(0)), &["`totalAmount`"]),
    ] {
        place(client, &body).await?.is_problem(422, words)?;
    }
    place_with_key(client, "short", &order).await?.is_problem(400, &["at least 8"])?;
    let of_saga = with(order, "sagaId", json!(Uuid::now_v7()));
    place_with_key(client, "a-key-of-a-saga", &of_saga).await?.is_problem(400, &["`sagaId`"])
}

#[tokio::test]
async fn of_a_thousand_orders_of_five_pieces_five_are_confirmed() -> Result<()> {
    let mut services =
        Services::lay_out(Layout { instances: 3, partitions: 6 }, &[("SAGA_TIMEOUT_MS", "600000")]).await?;
    services.start_all().await?;
    let client = services.client()?;
    let sku = product(&client, 5).await?;
    let mut orders = JoinSet::new();
    for n in 0..1_000 {
        let (client, body) = (client.clone(), of(&sku, 1));
        orders.spawn(async move {
            loop {
                let answer = place_with_key(&client, &format!("one-of-a-thousand-{n}"), &body).await?;
                if answer.status != 503 {
                    return taken(&answer);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let placed = orders.join_all().await.into_iter().collect::<Result<Vec<Uuid>>>()?;
    client.all_end(Duration::from_secs(300)).await?;

    let select = "SELECT status::text, count(*) FROM orders WHERE order_id = ANY($1) GROUP BY 1 ORDER BY 1";
    let ends: Vec<(String, i64)> = eventually("all orders have ended", Duration::from_secs(300), async || {
        let ends = sqlx::query_as(select).bind(&placed).fetch_all(client.databases.of(Order)).await?;
        Ok((!ends.iter().any(|(status, _): &(String, i64)| status == "PENDING")).then_some(ends))
    })
    .await?;
    assert_eq!(ends, [("CANCELLED".to_owned(), 995), ("CONFIRMED".to_owned(), 5)]);
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((0, 0), 5));
    assert_eq!(disagreements(&client).await?, [""; 0]);
    client.all_end_in_agreement(Duration::from_secs(60)).await?;
    Ok(())
}

#[tokio::test]
async fn orders_are_taken_while_the_orchestrator_or_kafka_is_away_and_each_gets_one_saga() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let sku = product(&client, 100).await?;
    services.kill(Orchestrator)?;
    let mut placed = Vec::new();
    for _ in 0..20 {
        placed.push(taken(&place(&client, &of(&sku, 1)).await?)?);
    }
    // The order service dies as well: what it has promised stands in its rows.
    services.kill(Order)?;
    services.broker().set_taking(ORDER_CREATED, false).await?;
    services.start_again(Order).await?;
    let client = services.client()?;
    placed.push(taken(&place(&client, &of(&sku, 1)).await?)?);
    services.broker().set_taking(ORDER_CREATED, true).await?;
    services.start_again(Orchestrator).await?;

    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for order_id in placed {
        let order = end(&client, order_id).await?;
        *ends.entry(order["status"].to_string()).or_default() += 1;
        assert_eq!(sagas(&client, order_id).await?.len(), 1);
    }
    assert_eq!(ends, BTreeMap::from([("\"CONFIRMED\"".to_owned(), 21)]));
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((79, 0), 21));
    client.all_end_in_agreement(LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn an_order_that_its_client_cancels_before_its_saga_begins_stays_cancelled() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let sku = product(&client, 1).await?;
    services.kill(Orchestrator)?;
    let order_id = taken(&place(&client, &of(&sku, 1)).await?)?;
    let status = format!("/orders/{order_id}/status");
    let confirm = client.patch(Order, &status, &json!({"status": "CONFIRMED"})).await?;
    confirm.is_problem(409, &["waits for its saga"])?;
    assert_eq!(client.patch(Order, &status, &json!({"status": "CANCELLED"})).await?.status, 200);
    services.start_again(Orchestrator).await?;

    eventually("its saga has failed", LIMIT, async || {
        Ok((sagas(&client, order_id).await? == [("FAILED".to_owned(), Some("ORDER_REFUSED".to_owned()))]).then_some(()))
    })
    .await?;
    assert_eq!(client.get(Order, &format!("/orders/{order_id}")).await?.json()?["status"], "CANCELLED");
    assert_eq!(pieces(&client, &sku).await?, (1, 0));
    Ok(())
}

#[tokio::test]
async fn an_event_of_an_order_that_can_not_be_right_is_set_aside() -> Result<()> {
    let client = &shared().await?;
    let order_id = Uuid::now_v7();
    let event = |order_id: Uuid, flow: &str, items: Value| {
        json!({"eventId": Uuid::now_v7(), "orderId": order_id, "timestamp": "2026-11-21T07:22:45.089Z", "payload": {
            "flow": flow, "userId": "ann", "money": {"amount": 25, "currency": "USD"}, "items": items}})
    };
    let (key, mug) = (order_id.to_string(), json!([{"sku": "mug", "qty": 1}]));
    for (event, words) in [
        (json!("no event"), "not a valid message"),
        (event(order_id, "trip", mug.clone()), "names no flow of orders with items: \"trip\""),
        (event(order_id, "pay-first", mug.clone()), "names no flow of orders with items"),
        (event(order_id, "reserve-first", json!([])), "`payload.items`"),
        (event(order_id, "reserve-first", json!([{"sku": "mug", "qty": 0}])), "not a valid message"),
        (event(first_id_at("2100-01-01T00:00:00Z".parse()?), "reserve-first", mug.clone()), "still to come"),
        (event(Uuid::new_v4(), "reserve-first", mug.clone()), "version 7"),
    ] {
        let why = letter(client, &key, &event).await?;
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(sagas(client, order_id).await?, []);

    // Its saga has begun, and by another event.
    let sku = product(client, 1).await?;
    let placed = taken(&place(client, &of(&sku, 1)).await?)?;
    end(client, placed).await?;
    let other = event(placed, "reserve-first", json!([{"sku": sku, "qty": 2}]));
    let why = letter(client, &placed.to_string(), &other).await?;
    assert!(why.contains("`orderId` is what another saga is about"), "{why}");
    assert_eq!(sagas(client, placed).await?.len(), 1);
    Ok(())
}
