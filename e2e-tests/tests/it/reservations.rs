//! Orders of counted goods: nothing is sold twice, and every piece is accounted for.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::Service::{Inventory, Orchestrator};
use e2e_tests::{Answer, Client, Command, Instance, Layout, Outsider, Services, Standalone, eventually, shared};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

pub const RESERVE: &str = "inventory.reserve.command";
pub const RELEASE: &str = "inventory.release.command";

/// What is under way is there by then, on a machine with much else to do.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A new product with so many pieces.
pub async fn product(client: &Client, pieces: i64) -> Result<String> {
    let sku = format!("t-{}", Uuid::now_v7());
    let put = client.request(Inventory, Method::PUT, &format!("/products/{sku}")).json(&json!({"name": "Blue mug"}));
    ensure!(put.send().await?.status() == 201);
    let receipt = client.request(Inventory, Method::POST, &format!("/products/{sku}/receipts"));
    let body = json!({"quantity": pieces, "by": "ann", "reason": "a test"});
    ensure!(receipt.header("Idempotency-Key", "the-first-delivery").json(&body).send().await?.status() == 201);
    Ok(sku)
}

fn reserve(outsider: &Outsider, lines: &[(&str, i64)]) -> Command {
    let items: Vec<Value> = lines.iter().map(|(sku, qty)| json!({"sku": sku, "qty": qty})).collect();
    outsider.command(&json!({"items": items}))
}

/// Publishes commands one behind the other, without waiting for each.
pub async fn publish(client: &Client, topic: &str, commands: impl Iterator<Item: Borrow<Command>>) -> Result<()> {
    let record = |command: &Command| {
        let key = command.body["sagaId"].as_str().context("a command has a saga")?.to_owned();
        Ok((key, serde_json::to_vec(&command.body)?))
    };
    let records: Vec<(String, Vec<u8>)> = commands.map(|command| record(command.borrow())).collect::<Result<_>>()?;
    client.kafka.publish_all(topic, &records).await
}

/// Pieces of a product: available and reserved.
pub async fn pieces(client: &Client, sku: &str) -> Result<(i64, i64)> {
    let select = "SELECT available::bigint, reserved::bigint FROM products WHERE sku = $1";
    Ok(sqlx::query_as(select).bind(sku).fetch_one(client.databases.of(Inventory)).await?)
}

/// Products whose pieces don't add up, by the audit: their rows, their movements and the reservations that hold them.
pub async fn disagreements(client: &Client) -> Result<Vec<String>> {
    let stock = sagactl::audit::stock(client.databases.of(Inventory)).await?;
    Ok(stock.wrong.into_iter().map(|(sku, what)| format!("{sku}: {what}")).collect())
}

/// How many of these orders' reservations have each status, once each order has one that is not among `passing`.
pub async fn statuses(client: &Client, orders: &[Outsider], passing: &[&str]) -> Result<BTreeMap<String, usize>> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.order_id).collect();
    eventually("all orders are decided", LIMIT, async || {
        let select = "SELECT status::text FROM reservations WHERE order_id = ANY($1)";
        let rows: Vec<String> = sqlx::query_scalar(select).bind(&ids).fetch_all(client.databases.of(Inventory)).await?;
        let mut counts = BTreeMap::new();
        for status in rows {
            *counts.entry(status).or_default() += 1;
        }
        let decided =
            counts.values().sum::<usize>() == orders.len() && passing.iter().all(|s| !counts.contains_key(*s));
        Ok(decided.then_some(counts))
    })
    .await
}

pub fn counts<const N: usize>(of: [(&str, usize); N]) -> BTreeMap<String, usize> {
    of.into_iter().map(|(status, count)| (status.to_owned(), count)).collect()
}

/// By three instances.
#[tokio::test]
async fn of_many_orders_at_once_none_gets_too_much_and_none_holds_up_another() -> Result<()> {
    let mut services = Services::lay_out(Layout { instances: 3, partitions: 6 }, &[]).await?;
    services.start_all().await?;
    let client = services.client()?;
    as_many_get_a_piece_as_there_are(&client).await?;
    orders_of_the_same_products_in_any_order_end(&client).await
}

async fn as_many_get_a_piece_as_there_are(client: &Client) -> Result<()> {
    let sku = product(client, 5).await?;
    let orders: Vec<Outsider> = (0..200).map(|_| Outsider::new(&client.kafka)).collect();
    publish(client, RESERVE, orders.iter().map(|order| reserve(order, &[(&sku, 1)]))).await?;

    assert_eq!(statuses(client, &orders, &[]).await?, counts([("FAILED", 195), ("RESERVED", 5)]));

    assert_eq!(pieces(client, &sku).await?, (0, 5));
    assert_eq!(disagreements(client).await?, [""; 0]);
    publish(client, RELEASE, orders.iter().map(Outsider::release)).await?;
    assert_eq!(statuses(client, &orders, &["RESERVED"]).await?, counts([("FAILED", 195), ("RELEASED", 5)]));
    assert_eq!(pieces(client, &sku).await?, (5, 0));
    assert_eq!(disagreements(client).await?, [""; 0]);
    Ok(())
}

/// Whose products overlap in any order would wait for each other for ever, if each locked them in its own order.
async fn orders_of_the_same_products_in_any_order_end(client: &Client) -> Result<()> {
    let mut skus = Vec::new();
    for pieces in [40, 80, 120, 160, 1_000] {
        skus.push(product(client, pieces).await?);
    }
    let orders: Vec<Outsider> = (0..300).map(|_| Outsider::new(&client.kafka)).collect();
    let of_three = |(n, order): (usize, &Outsider)| {
        let (a, b, c) = (&skus[n % 5], &skus[(n / 5) % 5], &skus[(n * 7 + 3) % 5]);
        reserve(order, &[(a, 2), (b, 1), (c, 1)])
    };
    publish(client, RESERVE, orders.iter().enumerate().map(of_three)).await?;
    publish(client, RELEASE, orders.iter().step_by(3).map(Outsider::release)).await?;

    let ended = statuses(client, &orders, &[]).await?;

    ensure!(ended.values().sum::<usize>() == 300 && ended.contains_key("FAILED"), "{ended:?}");
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(client.databases.of(Inventory)).await?;
    assert_eq!(deadlocks, 0);
    eventually("the last releases are done", LIMIT, async || {
        let open = "SELECT count(*) FROM reservations WHERE holds AND order_id = ANY($1)";
        let released: Vec<Uuid> = orders.iter().step_by(3).map(|order| order.order_id).collect();
        let open: i64 = sqlx::query_scalar(open).bind(released).fetch_one(client.databases.of(Inventory)).await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    assert_eq!(disagreements(client).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn an_order_gets_all_that_it_is_of_or_nothing_and_the_same_reply_each_time() -> Result<()> {
    let client = shared().await?;
    let (plenty, scarce) = (product(&client, 10).await?, product(&client, 1).await?);
    let (first, second) = (Outsider::new(&client.kafka), Outsider::new(&client.kafka));
    let all = reserve(&first, &[(&plenty, 2), (&scarce, 1), (&plenty, 1)]);
    all.publish(RESERVE).await?;
    all.publish(RESERVE).await?;
    let replies = all.replies("inventory.reserved", 2).await?;
    ensure!(replies[0].body == replies[1].body, "{replies:?}");
    assert_eq!((pieces(&client, &plenty).await?, pieces(&client, &scarce).await?), ((7, 3), (0, 1)));

    let too_much = reserve(&second, &[(&plenty, 1), (&scarce, 2), ("no-such", 1)]);
    too_much.publish(RESERVE).await?;
    let refused = too_much.replies("inventory.failed", 1).await?[0].json();
    let reason = format!("out of stock: no-such (there is no such product), {scarce} (2 wanted, 0 available)");
    assert_eq!(refused["payload"]["reason"], reason);
    let short = json!([{"sku": "no-such", "wanted": 1, "available": 0, "unknown": true}, {"sku": scarce, "wanted": 2, "available": 0}]);
    assert_eq!(refused["payload"]["short"], short);
    assert_eq!(pieces(&client, &plenty).await?, (7, 3));

    // A reply is what was said before, also once there are pieces.
    let released = first.release();
    released.publish(RELEASE).await?;
    released.replies("inventory.released", 1).await?;
    assert_eq!((pieces(&client, &plenty).await?, pieces(&client, &scarce).await?), ((10, 0), (1, 0)));
    too_much.publish(RESERVE).await?;
    let again = too_much.replies("inventory.failed", 2).await?;
    ensure!(again[0].body == again[1].body, "{again:?}");
    all.publish(RESERVE).await?;
    all.replies("inventory.failed", 1).await?;
    assert_eq!(pieces(&client, &scarce).await?, (1, 0));

    let shown = client.get(Inventory, &format!("/reservations/{}", second.order_id)).await?.json()?;
    assert_eq!((&shown["status"], &shown["short"]), (&json!("FAILED"), &short));
    Ok(())
}

#[tokio::test]
async fn a_reserve_of_other_goods_for_an_order_that_has_some_is_set_aside() -> Result<()> {
    let client = shared().await?;
    let (sku, order) = (product(&client, 10).await?, Outsider::new(&client.kafka));
    let first = reserve(&order, &[(&sku, 2)]);
    first.publish(RESERVE).await?;
    first.replies("inventory.reserved", 1).await?;
    let shown = client.get(Inventory, &format!("/reservations/{}", order.order_id)).await?.json()?;
    assert_eq!(shown["items"], json!([{"sku": sku, "qty": 2}]));

    for other in [reserve(&order, &[(&sku, 3)]), order.reserve()] {
        let place = other.publish(RESERVE).await?;
        let letter = client.kafka.dead_letter(RESERVE, place).await?;
        let why = letter.headers.get("dlq_error").context("it says why")?;
        ensure!(why.contains("is of other goods than the command"), "{why}");
    }

    for wrong in [json!([{"sku": sku, "qty": 0}]), json!([{"sku": "a b", "qty": 1}]), json!([[sku, 1]]), json!({})] {
        let order = Outsider::new(&client.kafka);
        let place = order.command(&json!({"items": wrong})).publish(RESERVE).await?;
        let letter = client.kafka.dead_letter(RESERVE, place).await?;
        ensure!(letter.headers.get("dlq_error").is_some_and(|why| why.contains("not a valid message")), "{wrong}");
    }
    assert_eq!(pieces(&client, &sku).await?, (8, 2));
    Ok(())
}

#[tokio::test]
async fn what_an_older_release_has_released_without_counting_is_given_back() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let (sku, order) = (product(&client, 3).await?, Outsider::new(&client.kafka));
    let command = reserve(&order, &[(&sku, 3)]);
    command.publish(RESERVE).await?;
    command.replies("inventory.reserved", 1).await?;
    let instance = Instance::from(Inventory);
    services.stop(instance).await?;
    // The statement of the release before.
    let older = "UPDATE reservations SET status = 'RELEASED', reason = 'released: TIMED_OUT' WHERE order_id = $1";
    sqlx::query(older).bind(order.order_id).execute(client.databases.of(Inventory)).await?;

    services.start_again(instance).await?;

    eventually("the pieces are available", LIMIT, async || Ok((pieces(&client, &sku).await? == (3, 0)).then_some(())))
        .await?;
    assert_eq!(disagreements(&client).await?, [""; 0]);
    Ok(())
}

/// A flow of counted goods, by the platform's own participants alone.
const KIOSK: &str = include_str!("../../../examples/kiosk/kiosk.v1.yaml");

#[tokio::test]
async fn the_last_piece_is_sold_once_by_a_flow_and_goes_back_where_it_is_not_paid() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(KIOSK).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let sku = product(&client, 1).await?;
    let buy = |decline: bool| {
        let body = json!({"userId": "ann", "items": [{"sku": sku, "qty": 1}], "total": "12.50", "decline": decline});
        let request = client.request(Orchestrator, Method::POST, "/flows/kiosk").json(&body);
        tokio::spawn(async move { Answer::read(request.send().await?).await })
    };

    let unpaid = buy(true).await??;
    ensure!(unpaid.status == 402, "{} {}", unpaid.status, unpaid.text);
    assert_eq!(pieces(&client, &sku).await?, (1, 0));

    let (one, other) = (buy(false), buy(false));
    let mut answers = [one.await??, other.await??];
    answers.sort_by_key(|answer| answer.status);
    let [sold, refused] = answers;
    ensure!(sold.status == 201 && refused.status == 409, "{} {} {}", sold.text, refused.status, refused.text);
    let reason = format!("out of stock: {sku} (1 wanted, 0 available)");
    assert_eq!((&refused.json()?["step"], &refused.json()?["reason"]), (&json!("SOLD_OUT"), &json!(reason)));
    assert_eq!(pieces(&client, &sku).await?, (0, 0), "it has left the house");
    assert_eq!(disagreements(&client).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_command_that_comes_again_takes_nothing_from_those_beside_it() -> Result<()> {
    let client = shared().await?;
    let (sku, first) = (product(&client, 11).await?, Outsider::new(&client.kafka));
    let again = || reserve(&first, &[(&sku, 1)]);
    publish(&client, RESERVE, [again()].into_iter()).await?;
    statuses(&client, std::slice::from_ref(&first), &[]).await?;
    let others: Vec<Outsider> = (0..10).map(|_| Outsider::new(&client.kafka)).collect();

    let between = others.iter().flat_map(|order| {
        let repetitions = (0..10).map(|_| again());
        repetitions.chain([reserve(order, &[(&sku, 1)])])
    });
    publish(&client, RESERVE, between).await?;

    assert_eq!(statuses(&client, &others, &[]).await?, counts([("RESERVED", 10)]));
    assert_eq!(pieces(&client, &sku).await?, (0, 11));
    Ok(())
}

#[tokio::test]
async fn a_product_that_somebody_holds_holds_up_its_own_orders_and_no_others() -> Result<()> {
    let client = shared().await?;
    let (held, other) = (product(&client, 10).await?, product(&client, 10).await?);
    let orders: Vec<Outsider> = (0..4).map(|_| Outsider::new(&client.kafka)).collect();
    let [reserved, waits, goes_on, uncounted] = &orders[..] else { unreachable!("there are four") };
    reserve(reserved, &[(&held, 1)]).publish(RESERVE).await?;
    statuses(&client, std::slice::from_ref(reserved), &[]).await?;
    let mut person = client.databases.of(Inventory).begin().await?;
    sqlx::query("SELECT FROM products WHERE sku = $1 FOR UPDATE").bind(&held).execute(&mut *person).await?;

    reserved.release().publish(RELEASE).await?;
    let commands = [reserve(waits, &[(&held, 1), (&other, 1)]), reserve(goes_on, &[(&other, 1)]), uncounted.reserve()];
    publish(&client, RESERVE, commands.into_iter()).await?;
    goes_on.release().publish(RELEASE).await?;

    statuses(&client, std::slice::from_ref(uncounted), &[]).await?;
    statuses(&client, std::slice::from_ref(goes_on), &["RESERVED"]).await?;
    assert!(client.databases.reservations(waits.order_id).await?.is_empty());
    assert_eq!(statuses(&client, std::slice::from_ref(reserved), &[]).await?, counts([("RESERVED", 1)]));
    person.rollback().await?;
    statuses(&client, std::slice::from_ref(waits), &[]).await?;
    statuses(&client, std::slice::from_ref(reserved), &["RESERVED"]).await?;
    assert_eq!((pieces(&client, &held).await?, pieces(&client, &other).await?), ((9, 1), (9, 1)));
    Ok(())
}
