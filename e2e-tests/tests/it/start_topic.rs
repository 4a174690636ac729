//! Events that start sagas of users' flows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Service, Services, Standalone, eventually};
use serde_json::{Value, json};
use service_runtime::retention::first_id_at;
use uuid::Uuid;

const PARCEL: &str = include_str!("../../../examples/parcel/parcel.v1.yaml");
const TOPIC: &str = "parcel.ordered";
/// The topics of the flow of parcels, and of its next version.
const PARCELS: [&str; 6] =
    [TOPIC, "parcel.ordered.dlq", "parcel.placed", "parcel.placed.dlq", "parcel.replies", "parcel.replies.dlq"];

const LIMIT: Duration = Duration::from_secs(60);

fn ordered(order_id: Uuid, price: &str) -> Value {
    json!({"orderId": order_id, "shop": "north", "payload": {"customer": "ann", "price": price, "gift": true}})
}

async fn publish(client: &Client, event: &Value) -> Result<(i32, i64)> {
    let key = event["orderId"].as_str().unwrap_or_default();
    client.kafka.publish(TOPIC, key, event.to_string().as_bytes()).await
}

async fn publish_flow(client: &Client, flow: &str) -> Result<()> {
    let published = client.publish_flow(flow).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    Ok(())
}

/// What an operator does with a version of the flow.
async fn act(client: &Client, what: &str) -> Result<()> {
    let act = json!({"by": "ann", "reason": "a test"});
    let done = client.post(Service::Orchestrator, what, &act).await?;
    ensure!(done.status == 200, "{} {}", done.status, done.text);
    Ok(())
}

/// The sagas about this, by their status.
async fn statuses(client: &Client, order_id: Uuid) -> Result<Vec<String>> {
    let sagas = sqlx::query_scalar("SELECT status::text FROM sagas WHERE order_id = $1").bind(order_id);
    Ok(sagas.fetch_all(&client.databases.orchestrator).await?)
}

async fn until(client: &Client, order_id: Uuid, status: &str) -> Result<()> {
    eventually(&format!("the saga about {order_id} is {status}"), LIMIT, async || {
        Ok((statuses(client, order_id).await? == [status]).then_some(()))
    })
    .await
}

/// How many sagas there are.
async fn count(client: &Client) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM sagas").fetch_one(&client.databases.orchestrator).await?)
}

async fn until_count(client: &Client, expected: i64) -> Result<()> {
    eventually(&format!("{expected} sagas have begun"), LIMIT, async || {
        Ok((count(client).await? == expected).then_some(()))
    })
    .await
}

/// How often an order was charged.
async fn charges(client: &Client, order_id: Uuid) -> Result<i64> {
    let charges = "SELECT count(*) FROM gateway_ledger WHERE order_id = $1 AND kind = 'CHARGE'";
    Ok(sqlx::query_scalar(charges).bind(order_id).fetch_one(&client.databases.payment).await?)
}

/// Why an event was set aside.
async fn letter(client: &Client, place: (i32, i64)) -> Result<String> {
    let letter = client.kafka.dead_letter(TOPIC, place).await?;
    Ok(letter.headers.get("dlq_error").context("a letter says why")?.clone())
}

async fn no_letters(client: &Client) -> Result<()> {
    assert_eq!(client.kafka.records("parcel.ordered.dlq").await?, []);
    Ok(())
}

#[tokio::test]
async fn an_event_starts_one_saga_however_often_it_comes() -> Result<()> {
    let mut standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    publish_flow(&client, PARCEL).await?;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let records: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (n.to_string(), ordered(first, "12.50").to_string().into_bytes())).collect();
    client.kafka.publish_all(TOPIC, &records).await?;
    until(&client, first, "COMPLETED").await?;
    let saga = client.get(Service::Orchestrator, &format!("/sagas?orderId={first}")).await?.json()?;
    let saga = &saga["sagas"][0];
    assert_eq!((&saga["definition"], &saga["userId"]), (&json!("parcel v1"), &json!("ann")), "{saga}");

    // After a crash, the same digits written otherwise; and a declined one.
    standalone.kill();
    standalone.start_again().await?;
    let client = standalone.client()?;
    eventually("the topic is there", LIMIT, async || Ok(client.kafka.partitions(TOPIC).await.ok())).await?;
    publish(&client, &ordered(first, "12.5")).await?;
    let mut declined = ordered(second, "7");
    declined["payload"]["decline"] = json!(true);
    publish(&client, &declined).await?;
    until(&client, second, "FAILED").await?;
    let by_request = json!({"customer": "bob", "price": 3});
    let answer = client.post(Service::Orchestrator, "/flows/parcel", &by_request).await?;
    ensure!(answer.status == 201, "{} {}", answer.status, answer.text);
    assert_eq!((charges(&client, first).await?, charges(&client, second).await?), (1, 0));
    assert_eq!(count(&client).await?, 3);
    no_letters(&client).await
}

#[tokio::test]
async fn an_event_that_starts_nothing_is_set_aside_with_the_field_that_is_wrong() -> Result<()> {
    let standalone = Standalone::start(&[("RETENTION_DAYS", "30")]).await?;
    let client = standalone.client()?;
    publish_flow(&client, PARCEL).await?;
    let taken = Uuid::now_v7();
    publish(&client, &ordered(taken, "12.50")).await?;
    until(&client, taken, "COMPLETED").await?;
    let checkout = client.checkout(&json!({"userId": "u1", "totalAmount": 5})).await?.json()?;
    let new = Uuid::now_v7();
    let of = |payload: Value| json!({"orderId": new, "payload": payload});
    let old = first_id_at(chrono::Utc::now() - chrono::TimeDelta::days(31));
    for (event, words) in [
        (json!("an order"), "invalid type: string"),
        (json!({"payload": {"customer": "ann", "price": 1}}), "`orderId` is missing"),
        (json!({"orderId": "A-17", "payload": {"customer": "ann", "price": 1}}), "`orderId` is no id"),
        (ordered(Uuid::new_v4(), "1"), "`orderId` must be a UUID of version 7"),
        (ordered(old, "1"), "older than what is kept (RETENTION_DAYS)"),
        (json!({"orderId": new, "customer": "ann", "price": 1}), "`payload` is missing"),
        (of(json!({"price": 1})), "`payload.customer` is missing"),
        (of(json!({"customer": "an\u{200b}n", "price": 1})), "`payload.customer` must not contain invisible"),
        (of(json!({"customer": "ann", "price": "0.001"})), "`payload.price`"),
        (ordered(taken, "12.51"), "`orderId` is what another saga is about"),
        (json!({"orderId": checkout["orderId"], "payload": {"customer": "u1", "price": 5}}), "of the flow pay-first"),
    ] {
        let place = publish(&client, &event).await?;
        let why = letter(&client, place).await?;
        ensure!(why.contains(words), "{event}: {why}");
    }
    assert_eq!(count(&client).await?, 2);
    let listed = client.get(Service::Orchestrator, &format!("/dead-letters?topic={TOPIC}")).await?.json()?;
    let letters = listed["letters"].as_array().context("letters")?;
    ensure!(letters.len() == 11 && letters.iter().all(|letter| letter.get("sagaId").is_none()), "{listed}");
    Ok(())
}

#[tokio::test]
async fn events_of_a_flow_that_is_retired_are_set_aside_and_go_back_once_a_version_is_active() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    services.broker().create(&PARCELS).await?;
    // What came before the flow waits for its activation.
    let early = Uuid::now_v7();
    publish(&client, &ordered(early, "1")).await?;
    let inactive =
        client.request(Service::Orchestrator, reqwest::Method::POST, "/flows?by=ann&reason=a&activate=false");
    let inactive = inactive.header("Content-Type", "application/yaml").body(PARCEL).send().await?;
    ensure!(inactive.status() == 201, "{}", inactive.status());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(count(&client).await?, 0);
    act(&client, "/flows/parcel/1/activate").await?;
    until(&client, early, "COMPLETED").await?;
    no_letters(&client).await?;

    act(&client, "/flows/parcel/1/retire").await?;
    let late = Uuid::now_v7();
    let place = publish(&client, &ordered(late, "2")).await?;
    let why = letter(&client, place).await?;
    ensure!(why.contains("no version of parcel is active"), "{why}");
    let next = PARCEL.replace("version: 1", "version: 2").replace("topic: parcel.ordered", "topic: parcel.placed");
    publish_flow(&client, &next).await?;
    let other = Uuid::now_v7();
    let place = publish(&client, &ordered(other, "3")).await?;
    let why = letter(&client, place).await?;
    ensure!(why.contains("it does not start parcel v2, which is active"), "{why}");
    client.kafka.publish("parcel.placed", "", ordered(other, "3").to_string().as_bytes()).await?;
    until(&client, other, "COMPLETED").await?;

    act(&client, "/flows/parcel/1/activate").await?;
    let redrive = ["dlq", "redrive", "--topic", TOPIC, "--execute", "--by", "ann", "--reason", "active again"];
    let back = client.sagactl(&redrive).await?;
    ensure!(back.code == 0 && back.stderr.contains("2 sent, 0 skipped, 0 refused, 0 failed"), "{back:?}");
    until(&client, late, "COMPLETED").await?;
    assert_eq!(count(&client).await?, 3);
    assert_eq!(client.kafka.records("parcel.placed.dlq").await?, []);
    Ok(())
}

#[tokio::test]
async fn events_wait_in_kafka_while_new_sagas_are_not_taken_or_the_database_is_away() -> Result<()> {
    const MANY: i64 = 60;
    let mut services = Services::start(&[("KAFKA_MAX_IN_FLIGHT", "10"), ("CHECKOUT_MAX_UNFINISHED", "20")]).await?;
    let client = services.client()?;
    services.broker().create(&PARCELS).await?;
    publish_flow(&client, PARCEL).await?;
    let orders: Vec<Uuid> = (0..MANY).map(|_| Uuid::now_v7()).collect();
    act(&client, "/intake/pause").await?;
    for order_id in &orders {
        publish(&client, &ordered(*order_id, "1")).await?;
    }
    // Longer than between two looks at the intake, and two tries.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(count(&client).await?, 0);

    services.stop(Service::Payment).await?;
    act(&client, "/intake/resume").await?;
    eventually("the first have begun", LIMIT, async || Ok((count(&client).await? >= 20).then_some(()))).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // A few more than may be unfinished, since that is looked at twice a second.
    let begun = count(&client).await?;
    ensure!((20..=30).contains(&begun), "{begun}");

    services.start_again(Service::Payment).await?;
    until_count(&client, MANY).await?;
    services.database(Service::Orchestrator)?.stop().await;
    let last = Uuid::now_v7();
    publish(&client, &ordered(last, "2")).await?;
    // The outage's length is what is tried.
    tokio::time::sleep(Duration::from_secs(5)).await;
    services.database(Service::Orchestrator)?.start().await?;
    until(&client, last, "COMPLETED").await?;
    client.all_end(LIMIT).await?;
    for order_id in &orders {
        assert_eq!(charges(&client, *order_id).await?, 1, "{order_id}");
    }
    assert_eq!(count(&client).await?, MANY + 1);
    no_letters(&client).await
}
