//! Signals by the topic `saga.signals`, as any program with a Kafka client sends them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Broker, Client, Layout, Samples, Service, Services, Standalone, eventually};
use messages::SIGNALS;
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::signals::{LIMIT, PERMIT, begin, platform, reply, sent, until_at};

/// The topics of the flow of permits.
const PERMITS: [&str; 6] = [
    "permit.file.command",
    "permit.withdraw.command",
    "permit.check.command",
    "permit.issue.command",
    "permit.replies",
    "permit.replies.dlq",
];

fn approved(number: &str, id: &str, by: &str) -> Value {
    json!({"kind": "permit.approved", "match": number, "id": id, "payload": {"by": by}})
}

/// Publishes a signal under what it names; answers its partition and offset.
async fn publish(client: &Client, signal: &Value) -> Result<(i32, i64)> {
    let key = signal["match"].as_str().unwrap_or_default();
    client.kafka.publish(SIGNALS, key, signal.to_string().as_bytes()).await
}

/// The signal, once it is stored.
async fn stored(client: &Client, kind: &str, id: &str) -> Result<Value> {
    eventually(&format!("the signal {kind} {id} is stored"), LIMIT, async || {
        let answer = client.get(Service::Orchestrator, &format!("/signals/{kind}/{id}")).await?;
        Ok(if answer.status == 200 { Some(answer.json()?) } else { None })
    })
    .await
}

async fn count(client: &Client) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM signals").fetch_one(&client.databases.orchestrator).await?)
}

async fn until_count(client: &Client, expected: i64) -> Result<()> {
    eventually(&format!("{expected} signals are stored"), 2 * LIMIT, async || {
        Ok((count(client).await? == expected).then_some(()))
    })
    .await
}

/// Why a record was set aside.
async fn letter(client: &Client, place: (i32, i64)) -> Result<String> {
    let letter = client.kafka.dead_letter(SIGNALS, place).await?;
    Ok(letter.headers.get("dlq_error").context("a letter says why")?.clone())
}

#[tokio::test]
async fn a_signal_by_the_topic_moves_its_saga_early_or_late_and_is_one_signal_however_often_it_comes() -> Result<()> {
    let (_standalone, client) = platform(PERMIT).await?;
    let late = begin(&client, "ann").await?;
    reply(&client, late, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, late, "WAITING", "APPROVAL").await?;
    let stamp = approved("P-1", "stamp-1", "eve");
    publish(&client, &stamp).await?;
    let moved = until_at(&client, late, "RUNNING", "CHECK").await?;
    assert_eq!(moved["kept"]["APPROVAL"], json!({"by": "eve"}));

    // It comes again: read twice, sent twice, by HTTP, and with a field that nobody knows.
    for again in [&stamp, &stamp] {
        publish(&client, again).await?;
    }
    let mut more = stamp.clone();
    more["sentAt"] = json!("2027-01-01T00:00:00Z");
    let no_key = client.kafka.publish_everywhere(SIGNALS, more.to_string().as_bytes()).await?;
    ensure!(!no_key.is_empty());
    let same = json!({"match": "P-1", "id": "stamp-1", "payload": {"by": "eve"}});
    let taken = sent(&client, "permit.approved", &same, 200).await?;
    ensure!(taken["sagaId"] == json!(late) && taken["step"] == "APPROVAL", "{taken}");

    // Before its saga waits. What one partition has is done in any order: that all is done is what the count shows.
    publish(&client, &approved("P-2", "stamp-2", "bob")).await?;
    ensure!(stored(&client, "permit.approved", "stamp-2").await?.get("sagaId").is_none());
    let early = begin(&client, "tom").await?;
    reply(&client, early, "FILE", "permit.filed", json!({"number": "P-2"})).await?;
    let moved = until_at(&client, early, "RUNNING", "CHECK").await?;
    assert_eq!(moved["kept"]["APPROVAL"], json!({"by": "bob"}));
    let records = 4 + no_key.len();
    eventually("all records are done", LIMIT, async || {
        let samples = Samples::of(&client, Service::Orchestrator).await?;
        let done = samples.value(&format!("kafka_records_total{{outcome=\"done\",topic=\"{SIGNALS}\"}}"))?;
        Ok((done >= records as f64).then_some(()))
    })
    .await?;
    assert_eq!(count(&client).await?, 2);
    assert_eq!(client.kafka.records("saga.signals.dlq").await?, []);
    Ok(())
}

#[tokio::test]
async fn what_is_no_signal_is_set_aside_with_the_reason_and_goes_back_once_a_flow_waits_for_it() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let too_soon = publish(&client, &approved("P-1", "stamp-1", "eve")).await?;
    let why = letter(&client, too_soon).await?;
    ensure!(why.contains("\"permit.approved\"") && why.contains("no flow waits for any"), "{why}");
    let published = client.publish_flow(PERMIT).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);

    sent(&client, "permit.approved", &json!({"match": "P-9", "id": "taken", "payload": {"by": "eve"}}), 201).await?;
    let large = json!({"by": "eve", "more": "x".repeat(17 * 1024)});
    for (body, words) in [
        (json!("carrier.scanned"), "expected a JSON object"),
        (json!({"match": "P-1", "id": "1"}), "missing field `kind`"),
        (json!({"kind": "permit.approved", "id": "1"}), "missing field `match`"),
        (json!({"kind": "permit.approved", "match": "P-1", "payload": {"by": "eve"}}), "missing field `id`"),
        (approved(" ", "1", "eve"), "`match` must not be blank"),
        (approved("P-1", "a\u{0}", "eve"), "`id` must not contain control characters"),
        (json!({"kind": "permit.approved", "match": "P-1", "id": "1", "payload": []}), "`payload` must be"),
        (json!({"kind": "permit.approved", "match": "P-1", "id": "1", "payload": {}}), "`payload.by`"),
        (json!({"kind": "permit.approved", "match": "P-1", "id": "1", "payload": large}), "`payload` has 1"),
        (approved("P-9", "taken", "mallory"), "another permit.approved has the id \"taken\""),
        (json!({"kind": "permit.aproved", "match": "P-1", "id": "1"}), "permit.approved, permit.collected"),
    ] {
        let place = publish(&client, &body).await?;
        let why = letter(&client, place).await?;
        ensure!(why.contains(words), "{body}: {why}");
    }
    let eight_days_ago = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    let eight_days_ago = eight_days_ago.duration_since(std::time::UNIX_EPOCH)?.as_millis().try_into()?;
    let old = approved("P-1", "old", "eve").to_string();
    let old = client.kafka.publish_at(eight_days_ago, SIGNALS, "P-1", old.as_bytes()).await?;
    let why = letter(&client, old).await?;
    ensure!(why.contains("longer than seven days ago"), "{why}");
    assert_eq!(count(&client).await?, 1);

    let saga_id = begin(&client, "ann").await?;
    reply(&client, saga_id, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, saga_id, "WAITING", "APPROVAL").await?;
    let listed = client.sagactl(&["dlq", "list", "--topic", SIGNALS, "--json"]).await?;
    ensure!(listed.code == 0 && listed.stdout.lines().count() == 13, "{listed:?}");
    let redrive = ["dlq", "redrive", "--topic", SIGNALS, "--error", "no flow waits for any", "--execute"];
    let redrive = [&redrive[..], &["--by", "ann", "--reason", "the flow is published"]].concat();
    let back = client.sagactl(&redrive).await?;
    ensure!(back.code == 0 && back.stderr.contains("1 sent, 0 skipped, 0 refused, 0 failed"), "{back:?}");
    until_at(&client, saga_id, "RUNNING", "CHECK").await?;
    // Once more, on purpose: it is the same signal.
    let again = client.sagactl(&[&redrive[..], &["--again"]].concat()).await?;
    ensure!(again.code == 0 && again.stderr.contains("1 sent"), "{again:?}");
    publish(&client, &approved("P-7", "behind-it", "eve")).await?;
    stored(&client, "permit.approved", "behind-it").await?;
    assert_eq!(count(&client).await?, 3);
    Ok(())
}

#[tokio::test]
async fn signals_wait_on_the_topic_while_they_can_not_be_stored_and_nothing_else_waits_for_them() -> Result<()> {
    let services = Services::start(&[("KAFKA_MAX_IN_FLIGHT", "10")]).await?;
    let client = services.client()?;
    services.broker().create(&PERMITS).await?;
    let published = client.publish_flow(PERMIT).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let waiting = begin(&client, "ann").await?;
    reply(&client, waiting, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, waiting, "WAITING", "APPROVAL").await?;

    // Somebody has the table for himself, and there are more signals than may be in hand.
    let mut holder = PgConnection::connect(&client.database_url(Service::Orchestrator)?).await?;
    let mut holding = holder.begin().await?;
    sqlx::query("LOCK TABLE signals IN EXCLUSIVE MODE").execute(&mut *holding).await?;
    for n in 0..50 {
        publish(&client, &approved(&format!("Q-{n}"), &format!("n-{n}"), "eve")).await?;
    }
    for answer in client.checkouts(20).join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }
    holding.rollback().await?;
    until_count(&client, 50).await?;

    services.database(Service::Orchestrator)?.stop().await;
    publish(&client, &approved("P-1", "stamp-1", "eve")).await?;
    // The outage's length is what is tried.
    tokio::time::sleep(Duration::from_secs(5)).await;
    services.database(Service::Orchestrator)?.start().await?;
    until_at(&client, waiting, "RUNNING", "CHECK").await?;
    assert_eq!(client.kafka.records("saga.signals.dlq").await?, []);
    Ok(())
}

#[tokio::test]
async fn ten_thousand_signals_are_stored_many_at_a_time() -> Result<()> {
    const MANY: i64 = 10_000;
    let (_standalone, client) = platform(PERMIT).await?;
    let waiting = begin(&client, "ann").await?;
    reply(&client, waiting, "FILE", "permit.filed", json!({"number": format!("N-{}", MANY / 2)})).await?;
    until_at(&client, waiting, "WAITING", "APPROVAL").await?;
    let records: Vec<(String, Vec<u8>)> = (0..MANY)
        .map(|n| {
            let number = format!("N-{n}");
            let body = approved(&number, &number, "eve").to_string().into_bytes();
            (number, body)
        })
        .collect();
    client.kafka.publish_all(SIGNALS, &records).await?;
    until_count(&client, MANY).await?;
    until_at(&client, waiting, "RUNNING", "CHECK").await?;
    let samples = Samples::of(&client, Service::Orchestrator).await?;
    let statements = samples.value("batch_size_count{batch=\"signals\",kind=\"write\"}")?;
    ensure!(statements < 2_000.0, "{statements} statements for {MANY} signals");
    Ok(())
}

#[tokio::test]
async fn a_kafka_without_the_topic_stops_neither_the_start_nor_a_checkout_and_the_topic_may_come_later() -> Result<()> {
    let broker = Broker::without_signals().await?;
    broker.create(&PERMITS).await?;
    let mut services = Services::on(broker, Layout::ONE_OF_EACH, &[]).await?;
    let client = services.client()?;
    for service in [Service::Order, Service::Payment, Service::Inventory] {
        services.start_again(service).await?;
    }
    services.launch(Service::Orchestrator)?;
    eventually("the orchestrator takes checkouts, and names what is missing", LIMIT, async || {
        let Ok(ready) = client.get(Service::Orchestrator, "/health/ready").await else { return Ok(None) };
        let is_named = ready.text.contains("saga.signals; `kafka-init` creates it");
        Ok((is_named && ready.status == 200 && ready.text.contains(r#""status":"degraded""#)).then_some(()))
    })
    .await?;
    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    let letters = client.get(Service::Orchestrator, "/dead-letters").await?;
    ensure!(letters.status == 200, "{} {}", letters.status, letters.text);
    let published = client.publish_flow(PERMIT).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let waiting = begin(&client, "ann").await?;
    reply(&client, waiting, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, waiting, "WAITING", "APPROVAL").await?;

    services.broker().upgrade().await?;
    publish(&client, &approved("P-1", "stamp-1", "eve")).await?;
    until_at(&client, waiting, "RUNNING", "CHECK").await?;
    eventually("nothing is missing", LIMIT, async || {
        let ready = client.get(Service::Orchestrator, "/health/ready").await?;
        Ok((ready.json()?["status"] == "ready").then_some(()))
    })
    .await
}
