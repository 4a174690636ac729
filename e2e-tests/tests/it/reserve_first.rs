//! Checkouts with items: counted goods are set aside first, then paid, then handed over.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::Service::{Orchestrator, Order};
use e2e_tests::{Answer, Client, Layout, Services, eventually, id, shared};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::holds::committed;
use crate::reservations::{disagreements, pieces, product};

fn of(sku: &str, quantity: i64) -> Value {
    json!({"userId": "ann", "totalAmount": "25.00", "items": [{"sku": sku, "qty": quantity}]})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// The statuses of the order, the payment and the reservation.
async fn statuses(client: &Client, order_id: Uuid) -> Result<[Option<String>; 3]> {
    let status = |rows: Vec<Value>| rows.first().and_then(|row| row["status"].as_str()).map(str::to_owned);
    let databases = &client.databases;
    Ok([
        status(databases.orders(order_id).await?),
        status(databases.payments(order_id).await?),
        status(databases.reservations(order_id).await?),
    ])
}

fn are(words: [&str; 3]) -> [Option<String>; 3] {
    words.map(|word| (!word.is_empty()).then(|| word.to_owned()))
}

/// The saga's steps and what became of each, by the view `saga_steps`.
async fn states_of(client: &Client, saga_id: Uuid) -> Result<Vec<(String, String)>> {
    let select = "SELECT step, state FROM saga_steps WHERE saga_id = $1 ORDER BY number";
    Ok(sqlx::query_as(select).bind(saga_id).fetch_all(client.databases.of(Orchestrator)).await?)
}

async fn path(client: &Client, saga_id: Uuid) -> Result<Vec<String>> {
    let saga = client.saga(saga_id).await?;
    let moves = saga["history"].as_array().cloned().unwrap_or_default();
    Ok(moves.iter().map(|entry| entry["step"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The answer of a checkout that has ended. So many at once may be too many for the machine or its database: what is
/// not ended yet, or was not stored, is sent again under its key.
async fn checked_out(client: &Client, key: &str, body: &Value) -> Result<Answer> {
    loop {
        let request = client.request(Orchestrator, Method::POST, "/checkout").json(body);
        let request = request.header("Idempotency-Key", key).timeout(Duration::from_secs(180));
        let answer = Answer::read(request.send().await?).await?;
        if !matches!(answer.status, 202 | 429 | 503) {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A checkout that ended so: its body, its saga and its order.
async fn ended(answer: Answer, status: u16, step: &str) -> Result<(Value, Uuid, Uuid)> {
    ensure!(answer.status == status, "{} {}", answer.status, answer.text);
    let body = answer.json()?;
    ensure!(body["step"] == step, "{body}");
    let (saga_id, order_id) = (id(&body, "sagaId")?, id(&body, "orderId")?);
    Ok((body, saga_id, order_id))
}

#[tokio::test]
async fn goods_are_reserved_paid_and_handed_over() -> Result<()> {
    let client = shared().await?;
    let (mug, cup) = (product(&client, 10).await?, product(&client, 10).await?);
    let items = json!([{"sku": mug, "qty": 2}, {"sku": cup, "qty": 1}, {"sku": mug, "qty": 1}]);
    let request = json!({"userId": "ann", "totalAmount": "25.00", "currency": "EUR", "items": items});

    let (body, saga_id, order_id) = ended(client.checkout(&request).await?, 200, "COMPLETED").await?;

    assert_eq!((&body["userId"], &body["currency"]), (&json!("ann"), &json!("EUR")));
    assert_eq!(body["totalAmount"].to_string(), "25.00");
    assert_eq!(statuses(&client, order_id).await?, are(["CONFIRMED", "CHARGED", "COMMITTED"]));
    let steps =
        ["ORDER_CREATE", "INVENTORY_RESERVE", "PAYMENT_CHARGE", "INVENTORY_COMMIT", "ORDER_CONFIRM", "COMPLETED"];
    assert_eq!(path(&client, saga_id).await?, steps);
    let order = client.get(Order, &format!("/orders/{order_id}")).await?.json()?;
    assert_eq!(order["items"], items, "as they were ordered");
    assert_eq!((pieces(&client, &mug).await?, committed(&client, &mug).await?), ((7, 0), 3));
    let saga = client.saga(saga_id).await?;
    assert_eq!((&saga["definition"], &saga["input"]["items"]), (&json!("reserve-first v1"), &items));
    let story = saga["summary"].to_string();
    ensure!(story.contains("The goods were handed over") && story.contains("25.00 EUR was charged"), "{story}");
    assert_eq!(disagreements(&client).await?, [""; 0]);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn whatever_fails_nobody_pays_for_goods_that_are_not_there_and_no_goods_are_lost() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client, 3).await?;

    let (body, sold_out, order_id) = ended(client.checkout(&of(&sku, 4)).await?, 409, "OUT_OF_STOCK").await?;
    assert_eq!(body["reason"], format!("out of stock: {sku} (4 wanted, 3 available)"));
    assert_eq!(statuses(&client, order_id).await?, are(["CANCELLED", "", "FAILED"]));
    let (body, unknown, _) = ended(client.checkout(&of("no-such-thing", 1)).await?, 409, "OUT_OF_STOCK").await?;
    assert_eq!(body["reason"], "out of stock: no-such-thing (there is no such product)");

    let declined = with(of(&sku, 3), "forcePaymentFail", json!(true));
    let (_, declined, order_id) = ended(client.checkout(&declined).await?, 402, "PAYMENT_FAILED").await?;
    assert_eq!(statuses(&client, order_id).await?, are(["CANCELLED", "FAILED", "RELEASED"]));
    let steps =
        ["ORDER_CREATE", "INVENTORY_RESERVE", "PAYMENT_CHARGE", "INVENTORY_RELEASE", "ORDER_CANCEL", "PAYMENT_FAILED"];
    assert_eq!(path(&client, declined).await?, steps);
    let states = ["DONE", "DONE", "REFUSED", "UNDONE", "UNDONE"];
    let wanted: Vec<(String, String)> =
        steps.iter().zip(states).map(|(step, state)| (step.to_string(), state.into())).collect();
    assert_eq!(states_of(&client, declined).await?, wanted);

    let forced = with(of(&sku, 3), "forceInventoryFail", json!(true));
    let (_, forced, _) = ended(client.checkout(&forced).await?, 409, "OUT_OF_STOCK").await?;
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((3, 0), 0));
    assert_eq!(disagreements(&client).await?, [""; 0]);
    client.agree_about(&[sold_out, unknown, declined, forced]).await
}

#[tokio::test]
async fn each_step_of_a_saga_is_a_row_for_psql() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "600000"), ("CHECKOUT_WAIT_MS", "0")]).await?;
    let client = services.client()?;
    let sku = product(&client, 1).await?;
    let saga_id = id(&client.checkout(&of(&sku, 1)).await?.json()?, "sagaId")?;
    let are = async |wanted: &[(&str, &str)]| {
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(step, state)| (step.to_string(), state.to_string())).collect();
        eventually("the steps are these", Duration::from_secs(30), async || {
            Ok((states_of(&client, saga_id).await? == wanted).then_some(()))
        })
        .await
    };
    are(&[("ORDER_CREATE", "DONE"), ("INVENTORY_RESERVE", "DONE"), ("PAYMENT_CHARGE", "PENDING")]).await?;
    let act = json!({"by": "ann", "reason": "a test"});
    client.post(Orchestrator, &format!("/sagas/{saga_id}/retry"), &act).await?;
    client.post(Orchestrator, &format!("/sagas/{saga_id}/cancel"), &act).await?;

    // The gateway has not answered yet, and a refund waits for what the charge comes to.
    are(&[
        ("ORDER_CREATE", "DONE"),
        ("INVENTORY_RESERVE", "DONE"),
        ("PAYMENT_CHARGE", "UNANSWERED"),
        ("PAYMENT_REFUND", "UNDOING"),
    ])
    .await
}

#[tokio::test]
async fn a_hold_that_ends_while_the_payment_is_under_way_has_the_money_refunded_and_says_why() -> Result<()> {
    let settings = [("RESERVATION_TTL_MS", "1000"), ("PAYMENT_PROCESSING_MS", "4000")];
    let services = Services::start(&settings).await?;
    let client = services.client()?;
    let sku = product(&client, 1).await?;

    let (body, saga_id, order_id) = ended(client.checkout(&of(&sku, 1)).await?, 409, "OUT_OF_STOCK").await?;

    let reason = body["reason"].as_str().context("it has a reason")?;
    ensure!(reason.starts_with("the goods were set aside until 20"), "{reason}");
    assert_eq!(statuses(&client, order_id).await?, are(["CANCELLED", "REFUNDED", "RELEASED"]));
    assert_eq!(pieces(&client, &sku).await?, (1, 0));
    let steps = [
        "ORDER_CREATE",
        "INVENTORY_RESERVE",
        "PAYMENT_CHARGE",
        "INVENTORY_COMMIT",
        "PAYMENT_REFUND",
        "INVENTORY_RELEASE",
        "ORDER_CANCEL",
        "OUT_OF_STOCK",
    ];
    assert_eq!(path(&client, saga_id).await?, steps);
    assert_eq!(disagreements(&client).await?, [""; 0]);
    client.agree_about(&[saga_id]).await
}

/// By three instances of each service.
#[tokio::test]
async fn of_a_thousand_customers_who_want_one_of_five_pieces_five_get_one() -> Result<()> {
    let settings = [("CHECKOUT_WAIT_MS", "120000"), ("SAGA_TIMEOUT_MS", "600000")];
    let mut services = Services::lay_out(Layout { instances: 3, partitions: 6 }, &settings).await?;
    services.start_all().await?;
    let client = services.client()?;
    let sku = product(&client, 5).await?;

    let mut checkouts = JoinSet::new();
    for n in 0..1_000 {
        let (client, body) = (client.clone(), of(&sku, 1));
        checkouts.spawn(async move { checked_out(&client, &format!("one-of-a-thousand-{n}"), &body).await });
    }
    let mut ends: BTreeMap<(u16, String), usize> = BTreeMap::new();
    for answer in checkouts.join_all().await {
        let answer = answer?;
        let step = answer.json()?["step"].as_str().unwrap_or_default().to_owned();
        *ends.entry((answer.status, step)).or_default() += 1;
    }

    let expected = [((200, "COMPLETED".to_owned()), 5), ((409, "OUT_OF_STOCK".to_owned()), 995)];
    assert_eq!(ends, BTreeMap::from(expected));
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((0, 0), 5));
    assert_eq!(disagreements(&client).await?, [""; 0]);
    client.all_end_in_agreement(Duration::from_secs(60)).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_items_is_named_by_its_place() -> Result<()> {
    let client = shared().await?;
    let line = json!({"sku": "mug", "qty": 1});
    let lines = |wrong: Value| json!([line, line, line, wrong]);
    for (items, field, words) in [
        (json!([]), "items", "must have at least one line"),
        (json!(vec![line.clone(); 101]), "items", "has 101 lines, and may have 100"),
        (lines(json!({"sku": "mug", "qty": 0})), "items[3].qty", "a whole number from 1 to 1000000"),
        (lines(json!({"sku": "mug", "qty": -1})), "items[3].qty", "a whole number from 1 to 1000000"),
        (lines(json!({"sku": "mug", "qty": 1.5})), "items[3].qty", "a whole number from 1 to 1000000"),
        (lines(json!({"sku": "mug", "qty": 1_000_000_000})), "items[3].qty", "a whole number from 1 to 1000000"),
        (lines(json!({"sku": "m".repeat(200), "qty": 1})), "items[3].sku", "1 to 64 of letters"),
        (lines(json!({"sku": "a\u{7}b", "qty": 1})), "items[3].sku", "1 to 64 of letters"),
        (lines(json!({"sku": "mug"})), "items[3]", "missing field `qty`"),
        (json!("mug"), "items", "is not valid"),
    ] {
        let answer = client.checkout(&json!({"userId": "ann", "totalAmount": 5, "items": items})).await?;
        answer.is_problem(422, &[words]).with_context(|| items.to_string())?;
        assert_eq!(answer.json()?["field"], field, "{}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn a_checkout_may_name_its_flow_and_gets_no_other() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client, 10).await?;
    let plain = json!({"userId": "ann", "totalAmount": 5});
    for (body, field, words) in [
        (with(of(&sku, 1), "flow", json!("pay-first")), "items", "are not taken by pay-first"),
        (with(plain.clone(), "flow", json!("reserve-first")), "items", "must be given"),
        (with(plain.clone(), "flow", json!("trip")), "flow", "must be pay-first or reserve-first"),
    ] {
        let answer = client.checkout(&body).await?;
        answer.is_problem(422, &[words])?;
        assert_eq!(answer.json()?["field"], field);
    }
    let (_, named, _) =
        ended(client.checkout(&with(of(&sku, 1), "flow", json!("reserve-first"))).await?, 200, "COMPLETED").await?;
    let (_, plain, _) =
        ended(client.checkout(&with(plain, "flow", json!("pay-first"))).await?, 200, "COMPLETED").await?;
    let definition = async |saga_id| Ok::<_, anyhow::Error>(client.saga(saga_id).await?["definition"].clone());
    assert_eq!(
        (definition(named).await?, definition(plain).await?),
        (json!("reserve-first v1"), json!("pay-first v1"))
    );
    let by_name = client.post(Orchestrator, "/flows/reserve-first", &of(&sku, 1)).await?;
    by_name.is_problem(404, &["POST /checkout"])
}

#[tokio::test]
async fn a_checkout_that_is_sent_again_takes_its_goods_once() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client, 10).await?;
    let key = format!("cart-{}", Uuid::now_v7());

    let (first, ..) = ended(client.checkout_with_key(&key, &of(&sku, 2)).await?, 200, "COMPLETED").await?;
    let again = client.checkout_with_key(&key, &of(&sku, 2)).await?;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(ended(again, 200, "COMPLETED").await?.0, first);
    client.checkout_with_key(&key, &of(&sku, 3)).await?.is_problem(422, &["another checkout"])?;
    let without = json!({"userId": "ann", "totalAmount": "25.00"});
    client.checkout_with_key(&key, &without).await?.is_problem(422, &["another checkout"])?;

    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((8, 0), 2));
    Ok(())
}

/// Their orders are created by calls that share a request, which takes a mebibyte.
#[tokio::test]
async fn orders_of_a_hundred_lines_that_come_at_once_are_all_created() -> Result<()> {
    let client = shared().await?;
    let lines: Vec<Value> = (0..100).map(|n| json!({"sku": format!("{n:03}-{}", "x".repeat(60)), "qty": 1})).collect();
    let body = json!({"userId": "ann", "totalAmount": 5, "items": lines});
    let mut checkouts = JoinSet::new();
    for n in 0..200 {
        let (client, body) = (client.clone(), body.clone());
        checkouts.spawn(async move { checked_out(&client, &format!("a-hundred-lines-{n}"), &body).await });
    }
    for answer in checkouts.join_all().await {
        let (body, ..) = ended(answer?, 409, "OUT_OF_STOCK").await?;
        ensure!(body["reason"].as_str().is_some_and(|reason| reason.ends_with("and 95 more")), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn once_its_flow_is_retired_no_checkout_with_items_begins_and_those_that_did_are_found() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let sku = product(&client, 10).await?;
    let (first, ..) = ended(client.checkout_with_key("cart-4711", &of(&sku, 2)).await?, 200, "COMPLETED").await?;
    let act = json!({"by": "ann", "reason": "the warehouse moves"});
    let retired = client.post(Orchestrator, "/flows/reserve-first/1/retire", &act).await?;
    ensure!(retired.status == 200, "{} {}", retired.status, retired.text);

    let new = client.checkout(&of(&sku, 1)).await?;
    new.is_problem(503, &["no version of reserve-first is active", "nothing was stored"])?;
    let again = client.checkout_with_key("cart-4711", &of(&sku, 2)).await?;
    assert_eq!(ended(again, 200, "COMPLETED").await?.0, first);
    let plain = json!({"userId": "ann", "totalAmount": 5});
    ended(client.checkout(&plain).await?, 200, "COMPLETED").await?;
    assert_eq!((pieces(&client, &sku).await?, committed(&client, &sku).await?), ((8, 0), 2));
    Ok(())
}

#[tokio::test]
async fn an_installation_may_have_one_flow_for_all_its_checkouts() -> Result<()> {
    let services = Services::start(&[("CHECKOUT_FLOW", "reserve-first")]).await?;
    let client = services.client()?;
    let sku = product(&client, 1).await?;
    ended(client.checkout(&of(&sku, 1)).await?, 200, "COMPLETED").await?;
    let without = client.checkout(&json!({"userId": "ann", "totalAmount": 5})).await?;
    without.is_problem(422, &["`items` must be given: reserve-first reserves them"])
}
