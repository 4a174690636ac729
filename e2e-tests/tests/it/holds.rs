//! Holds of counted goods: committed, kept, or at their end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::Service::Inventory;
use e2e_tests::{Client, Command, Instance, Outsider, Services, eventually, shared};
use serde_json::{Value, json};

use crate::reservations::{LIMIT, RELEASE, RESERVE, counts, disagreements, pieces, product, publish, statuses};

const COMMIT: &str = "inventory.commit.command";
const KEEP: &str = "inventory.keep.command";

fn reserve_for(order: &Outsider, sku: &str, quantity: i64, hold_for: &str) -> Command {
    order.command(&json!({"items": [{"sku": sku, "qty": quantity}], "holdFor": hold_for}))
}

/// Publishes a command and returns the payload of its reply.
async fn answered(command: &Command, topic: &str, reply: &str) -> Result<Value> {
    command.publish(topic).await?;
    Ok(command.replies(reply, 1).await?[0].json()["payload"].take())
}

pub async fn committed(client: &Client, sku: &str) -> Result<i64> {
    let select = "SELECT committed::bigint FROM products WHERE sku = $1";
    Ok(sqlx::query_scalar(select).bind(sku).fetch_one(client.databases.of(Inventory)).await?)
}

async fn movements(client: &Client, sku: &str) -> Result<Vec<(String, i64)>> {
    let select = "SELECT kind::text, quantity FROM stock_movements WHERE sku = $1 ORDER BY movement_id";
    Ok(sqlx::query_as(select).bind(sku).fetch_all(client.databases.of(Inventory)).await?)
}

#[tokio::test]
async fn what_is_committed_has_left_the_house_once_and_does_not_come_back() -> Result<()> {
    let client = shared().await?;
    let (sku, order) = (product(&client, 10).await?, Outsider::new(&client.kafka));
    let reserved = answered(&reserve_for(&order, &sku, 3, "0s"), RESERVE, "inventory.reserved").await?;
    assert_eq!(reserved, json!({}));

    let commit = order.command(&json!({}));
    commit.publish(COMMIT).await?;
    commit.publish(COMMIT).await?;
    let replies = commit.replies("inventory.committed", 2).await?;
    ensure!(replies[0].body == replies[1].body, "{replies:?}");
    assert_eq!(answered(&order.command(&json!({})), KEEP, "inventory.kept").await?, json!({}));

    let release = order.release().publish(RELEASE).await?;
    let letter = client.kafka.dead_letter(RELEASE, release).await?;
    let why = letter.headers.get("dlq_error").context("it says why")?;
    ensure!(why.contains("have left the house"), "{why}");
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((7, 0), 3));
    let of = |kind: &str, quantity| (kind.to_owned(), quantity);
    assert_eq!(movements(&client, &sku).await?, [of("RECEIVE", 10), of("RESERVE", 3), of("COMMIT", 3)]);
    assert_eq!(disagreements(&client).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_whoever_wants_the_goods_then_is_refused() -> Result<()> {
    let client = shared().await?;
    let (sku, order) = (product(&client, 10).await?, Outsider::new(&client.kafka));
    let reserve = reserve_for(&order, &sku, 4, "1s");
    let reserved = answered(&reserve, RESERVE, "inventory.reserved").await?;
    ensure!(reserved["expiresAt"].is_string(), "{reserved}");
    let shown = client.get(Inventory, &format!("/reservations/{}", order.order_id)).await?.json()?;
    assert_eq!(shown["expiresAt"], reserved["expiresAt"]);

    let ended = statuses(&client, std::slice::from_ref(&order), &["RESERVED"]).await?;
    assert_eq!((ended, pieces(&client, &sku).await?), (counts([("EXPIRED", 1)]), (10, 0)));
    let is_it = |event: &Value| event["orderId"] == json!(order.order_id);
    let announced = client.kafka.wait_for("inventory.expired", 1, is_it).await?[0].json();
    assert_eq!((&announced["payload"], &announced["causationId"]), (&reserved, &Value::Null));
    for topic in [COMMIT, KEEP] {
        let refused = answered(&order.command(&json!({})), topic, "inventory.failed").await?;
        let reason = refused["reason"].as_str().context("it has a reason")?;
        ensure!(reason.starts_with("the goods were set aside until 20"), "{topic}: {reason}");
    }

    // A reserve that was answered once is answered the same until its saga releases.
    reserve.publish(RESERVE).await?;
    let replies = reserve.replies("inventory.reserved", 2).await?;
    ensure!(replies[0].body == replies[1].body, "{replies:?}");
    answered(&order.release(), RELEASE, "inventory.released").await?;
    answered(&reserve, RESERVE, "inventory.failed").await?;
    let of = |kind: &str, quantity| (kind.to_owned(), quantity);
    assert_eq!(movements(&client, &sku).await?, [of("RECEIVE", 10), of("RESERVE", 4), of("EXPIRE", 4)]);
    assert_eq!(disagreements(&client).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn what_is_kept_stays_set_aside() -> Result<()> {
    let client = shared().await?;
    let (sku, kept, ends) = (product(&client, 10).await?, Outsider::new(&client.kafka), Outsider::new(&client.kafka));
    answered(&reserve_for(&kept, &sku, 1, "3s"), RESERVE, "inventory.reserved").await?;
    answered(&kept.command(&json!({})), KEEP, "inventory.kept").await?;
    answered(&reserve_for(&ends, &sku, 1, "4s"), RESERVE, "inventory.reserved").await?;

    // It began later and was to last longer.
    statuses(&client, std::slice::from_ref(&ends), &["RESERVED"]).await?;

    assert_eq!(statuses(&client, std::slice::from_ref(&kept), &[]).await?, counts([("RESERVED", 1)]));
    assert_eq!(pieces(&client, &sku).await?, (9, 1));
    answered(&kept.command(&json!({})), COMMIT, "inventory.committed").await?;
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((9, 0), 1));
    Ok(())
}

#[tokio::test]
async fn nothing_is_kept_or_committed_before_it_is_reserved_nor_reserved_after_that() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client, 10).await?;
    for topic in [COMMIT, KEEP] {
        let order = Outsider::new(&client.kafka);
        let refused = answered(&order.command(&json!({})), topic, "inventory.failed").await?;
        assert_eq!(refused["reason"], "nothing was set aside for it");
        answered(&reserve_for(&order, &sku, 1, "0s"), RESERVE, "inventory.failed").await?;
        answered(&order.release(), RELEASE, "inventory.released").await?;
    }
    assert_eq!(pieces(&client, &sku).await?, (10, 0));
    Ok(())
}

/// Each hold is either committed or at its end, whichever comes first, and its reply says which.
#[tokio::test]
async fn commits_that_meet_the_end_of_their_holds_are_answered_truthfully() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client, 200).await?;
    let orders: Vec<Outsider> = (0..120).map(|_| Outsider::new(&client.kafka)).collect();
    publish(&client, RESERVE, orders.iter().map(|order| reserve_for(order, &sku, 1, "2s"))).await?;
    statuses(&client, &orders, &[]).await?;
    let commits: Vec<Command> = orders.iter().map(|order| order.command(&json!({}))).collect();
    // Some before, some while holds end, some after.
    for some in commits.chunks(20) {
        publish(&client, COMMIT, some.iter()).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    let ended = statuses(&client, &orders, &["RESERVED"]).await?;

    let mut answers = BTreeMap::new();
    for (topic, status) in [("inventory.committed", "COMMITTED"), ("inventory.failed", "EXPIRED")] {
        let of_these = |event: &Value| commits.iter().any(|commit| event["causationId"] == json!(commit.event_id));
        let count = ended.get(status).copied().unwrap_or_default();
        let replies = client.kafka.wait_for(topic, count, of_these).await?;
        answers.insert(status.to_owned(), replies.len());
    }
    answers.retain(|_, count| *count > 0);
    assert_eq!(answers, ended);
    assert_eq!(committed(&client, &sku).await?, ended.get("COMMITTED").copied().unwrap_or_default() as i64);
    assert_eq!(disagreements(&client).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_product_that_somebody_holds_keeps_its_own_holds_from_ending_and_no_others() -> Result<()> {
    let client = shared().await?;
    let (held, free) = (product(&client, 10).await?, product(&client, 10).await?);
    let [waits, ends] = [Outsider::new(&client.kafka), Outsider::new(&client.kafka)];
    answered(&reserve_for(&waits, &held, 1, "1s"), RESERVE, "inventory.reserved").await?;
    let mut person = client.databases.of(Inventory).begin().await?;
    sqlx::query("SELECT FROM products WHERE sku = $1 FOR UPDATE").bind(&held).execute(&mut *person).await?;
    answered(&reserve_for(&ends, &free, 1, "2s"), RESERVE, "inventory.reserved").await?;

    let ended = statuses(&client, std::slice::from_ref(&ends), &["RESERVED"]).await?;

    assert_eq!((ended, pieces(&client, &free).await?), (counts([("EXPIRED", 1)]), (10, 0)));
    assert_eq!(statuses(&client, std::slice::from_ref(&waits), &[]).await?, counts([("RESERVED", 1)]));
    person.rollback().await?;
    statuses(&client, std::slice::from_ref(&waits), &["RESERVED"]).await?;
    assert_eq!(pieces(&client, &held).await?, (10, 0));
    Ok(())
}

/// Released before Kafka has taken the announcement, by a process that died behind the end of the hold.
#[tokio::test]
async fn a_hold_that_has_ended_is_announced_also_once_it_is_released() -> Result<()> {
    let client = shared().await?;
    let (sku, order) = (product(&client, 1).await?, Outsider::new(&client.kafka));
    answered(&reserve_for(&order, &sku, 1, "1s"), RESERVE, "inventory.reserved").await?;
    let is_it = |event: &Value| event["orderId"] == json!(order.order_id);
    client.kafka.wait_for("inventory.expired", 1, is_it).await?;
    answered(&order.release(), RELEASE, "inventory.released").await?;
    let lost = "UPDATE reservations SET will_expire = TRUE, updated_at = now() - interval '2 min', expires_at = now() - interval '3 min'
                WHERE order_id = $1";
    sqlx::query(lost).bind(order.order_id).execute(client.databases.of(Inventory)).await?;

    let again = eventually("it is announced again", Duration::from_secs(90), async || {
        let mut announced = client.kafka.records("inventory.expired").await?;
        announced.retain(|record| is_it(&record.json()));
        Ok((announced.len() == 2).then_some(announced))
    })
    .await?;

    assert_eq!(again[0].json()["eventId"], again[1].json()["eventId"]);
    Ok(())
}

#[tokio::test]
async fn a_hold_without_a_time_of_its_own_has_that_of_the_setting_also_over_a_restart() -> Result<()> {
    let mut services = Services::start(&[("RESERVATION_TTL_MS", "2000")]).await?;
    let client = services.client()?;
    let sku = product(&client, 3).await?;
    let (counted, uncounted) = (Outsider::new(&client.kafka), Outsider::new(&client.kafka));
    let reserve = counted.command(&json!({"items": [{"sku": sku, "qty": 3}]}));
    let reserved = answered(&reserve, RESERVE, "inventory.reserved").await?;
    ensure!(reserved["expiresAt"].is_string(), "{reserved}");
    assert_eq!(answered(&uncounted.reserve(), RESERVE, "inventory.reserved").await?, json!({}));
    let instance = Instance::from(Inventory);
    services.kill(instance)?;
    tokio::time::sleep(Duration::from_secs(3)).await;

    services.start_again(instance).await?;

    eventually("the pieces are available", LIMIT, async || Ok((pieces(&client, &sku).await? == (3, 0)).then_some(())))
        .await?;
    let is_it = |event: &Value| event["orderId"] == json!(counted.order_id);
    client.kafka.wait_for("inventory.expired", 1, is_it).await?;
    assert_eq!(statuses(&client, std::slice::from_ref(&uncounted), &[]).await?, counts([("RESERVED", 1)]));
    Ok(())
}
