//! The operator's hand: cancel, retry, resolve, pause. Who did it and why is stored with what was done.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, Standalone, eventually, id, shared};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use uuid::Uuid;

use crate::flows::{self, TRIP};

const SOON: Duration = Duration::from_secs(15);

fn act() -> Value {
    json!({"by": "ann", "reason": "the customer called"})
}

async fn step_in(client: &Client, saga_id: Uuid, what: &str, body: &Value) -> Result<Answer> {
    client.post(Service::Orchestrator, &format!("/sagas/{saga_id}/{what}"), body).await
}

/// Starts a checkout and waits until its saga stands at this step.
async fn checkout_at(client: &Client, body: &Value, step: &str) -> Result<Uuid> {
    let saga_id = id(&client.checkout_async(body).await?.json()?, "sagaId")?;
    is_at(client, saga_id, step).await?;
    Ok(saga_id)
}

async fn is_at(client: &Client, saga_id: Uuid, step: &str) -> Result<()> {
    let at = async || Ok((client.saga(saga_id).await?["step"] == json!(step)).then_some(()));
    eventually(&format!("the saga is at {step}"), SOON, at).await
}

/// The history's entries that a person made, as (input, by, reason).
async fn acts(client: &Client, saga_id: Uuid) -> Result<Vec<(Value, Value, Value)>> {
    let history = client.saga(saga_id).await?["history"].as_array().cloned().context("a history")?;
    let by_hand = history.into_iter().filter(|entry| entry["by"].is_string());
    Ok(by_hand.map(|entry| (entry["input"].clone(), entry["by"].clone(), entry["reason"].clone())).collect())
}

#[tokio::test]
async fn a_cancelled_checkout_is_undone_and_a_cancel_of_what_goes_back_leaves_the_first_cause() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    services.kill(Service::Payment)?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let saga_id = checkout_at(&client, &body, "PAYMENT_CHARGE").await?;

    let cancelled = step_in(&client, saga_id, "cancel", &act()).await?;
    assert_eq!((cancelled.status, cancelled.field("step")?.as_str()), (202, "PAYMENT_REFUND"));
    let other = json!({"by": "bob", "reason": "once more"});
    assert_eq!(step_in(&client, saga_id, "cancel", &other).await?.status, 202);
    services.start_again(Service::Payment).await?;

    let ended = client.end_of(&format!("/sagas/{saga_id}"), SOON).await?;
    assert_eq!((&ended["status"], &ended["step"]), (&json!("FAILED"), &json!("CANCELLED")));
    assert_eq!(ended["reason"], json!("cancelled by an operator"), "the operator's own words are not for the customer");
    let input = json!("operator.cancelled");
    assert_eq!(
        acts(&client, saga_id).await?,
        [(input.clone(), json!("ann"), json!("the customer called")), (input, json!("bob"), json!("once more"))]
    );
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_saga_from_its_pivot_on_is_not_cancelled_and_the_answer_names_its_state() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    // Reserving takes a moment, in which the order service goes away: it stands at the confirmation then.
    let mut lock = client.databases.inventory.begin().await?;
    sqlx::query("LOCK TABLE reservations IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    let saga_id = checkout_at(&client, &body, "INVENTORY_RESERVE").await?;
    services.kill(Service::Order)?;
    lock.rollback().await?;
    is_at(&client, saga_id, "ORDER_CONFIRM").await?;

    step_in(&client, saga_id, "cancel", &act()).await?.is_problem(409, &["RUNNING/ORDER_CONFIRM"])?;
    services.start_again(Service::Order).await?;

    let ended = client.end_of(&format!("/sagas/{saga_id}"), SOON).await?;
    assert_eq!(ended["status"], json!("COMPLETED"));
    step_in(&client, saga_id, "cancel", &act()).await?.is_problem(409, &["COMPLETED"])?;
    step_in(&client, saga_id, "retry", &act()).await?.is_problem(409, &["COMPLETED"])?;
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_retry_repeats_the_pending_effect_now() -> Result<()> {
    // A call that is given up would be repeated by nobody.
    let settings = [("RESEND_FIRST_MS", "600000"), ("RESEND_MAX_MS", "600000"), ("ORDER_SERVICE_TIMEOUT_MS", "20000")];
    let mut services = Services::start(&settings).await?;
    let client = services.client()?;
    services.kill(Service::Order)?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    // In the order service's place: someone who takes the call and hangs up, so that its outcome is not known.
    let silent = TcpListener::bind(services.address(Service::Order.into())?).await?;
    let saga_id = checkout_at(&client, &body, "ORDER_CREATE").await?;
    drop(timeout(SOON, silent.accept()).await??);
    drop(silent);
    services.start_again(Service::Order).await?;

    // A repetition does not join a call that is just being given up: the operator tries until it moves.
    let moved = async || {
        if client.saga(saga_id).await?["step"] != json!("ORDER_CREATE") {
            return Ok(Some(()));
        }
        step_in(&client, saga_id, "retry", &act()).await.map(|_| None)
    };
    eventually("the saga moves", SOON, moved).await?;
    let ended = client.end_of(&format!("/sagas/{saga_id}"), SOON).await?;
    assert_eq!(ended["status"], json!("COMPLETED"));

    assert_eq!(acts(&client, saga_id).await?[0].0, json!("operator.retried"));
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_refund_that_is_refused_for_good_holds_the_saga_until_a_person_resolves_it() -> Result<()> {
    let settings = [
        ("PAYMENT_REFUND_REFUSAL_RATE", "1"),
        ("ATTENTION_AFTER", "2"),
        ("RESEND_FIRST_MS", "200"),
        ("RESEND_MAX_MS", "500"),
    ];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500, "forceInventoryFail": true});
    let saga_id = checkout_at(&client, &body, "PAYMENT_REFUND").await?;
    let settlement =
        json!({"by": "ann", "reason": "card closed", "step": "PAYMENT_REFUND", "evidence": "bank transfer 4711"});

    let told = eventually("the saga needs attention", SOON, async || {
        Ok(client.saga(saga_id).await?["needsAttention"]["reason"].as_str().map(str::to_owned))
    });
    assert!(told.await?.contains("PAYMENT_REFUND was repeated"));
    let order_id = id(&client.saga(saga_id).await?, "orderId")?;
    let payment = &client.databases.payments(order_id).await?[0];
    assert_eq!(payment["status"], json!("REFUNDING"));
    assert_eq!(payment["reason"], json!("the gateway refuses the refund: the card is closed"));
    eventually("the intake's page counts it", SOON, async || {
        let intake = client.get(Service::Orchestrator, "/intake").await?.json()?;
        Ok((intake["needingAttention"] == json!(1)).then_some(()))
    })
    .await?;

    let incomplete = step_in(&client, saga_id, "resolve", &act()).await?;
    incomplete.is_problem(422, &["step"])?;
    let mut other = settlement.clone();
    other["step"] = json!("INVENTORY_RELEASE");
    step_in(&client, saga_id, "resolve", &other).await?.is_problem(409, &["COMPENSATING/PAYMENT_REFUND"])?;
    assert_eq!(step_in(&client, saga_id, "resolve", &settlement).await?.status, 202);

    let ended = client.end_of(&format!("/sagas/{saga_id}"), SOON).await?;
    assert_eq!((&ended["status"], &ended["step"]), (&json!("FAILED"), &json!("INVENTORY_FAILED")));
    assert_eq!(ended["resolvedByHand"], json!(true));
    let entries = ended["history"].as_array().cloned().unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["input"] == json!("operator.resolved")).context("it is told")?;
    assert_eq!((&entry["by"], &entry["evidence"]), (&json!("ann"), &json!("bank transfer 4711")));
    assert_eq!(client.databases.orders(order_id).await?[0]["status"], json!("CANCELLED"));
    Ok(())
}

#[tokio::test]
async fn only_a_compensation_that_needs_attention_is_resolved() -> Result<()> {
    let client = shared().await?;
    let checkout = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let settlement = json!({"by": "ann", "reason": "why not", "step": "PAYMENT_REFUND", "evidence": "none"});
    let answer = step_in(&client, id(&checkout, "sagaId")?, "resolve", &settlement).await?;
    answer.is_problem(409, &["COMPLETED", "needs attention"])
}

#[tokio::test]
async fn an_act_without_who_or_why_or_of_an_unknown_saga_is_refused_by_name() -> Result<()> {
    let client = shared().await?;
    let checkout = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let saga_id = id(&checkout, "sagaId")?;
    step_in(&client, saga_id, "cancel", &json!({"by": "ann"})).await?.is_problem(422, &["reason"])?;
    step_in(&client, saga_id, "cancel", &json!({"by": " ", "reason": "x"})).await?.is_problem(422, &["by", "blank"])?;
    for (by, reason, words) in [
        ("an\u{200d}n", "x", ["by", "U+200D"]),
        ("ann", "the bank \u{202e}is back", ["reason", "U+202E"]),
        ("ann", "one\ntwo", ["reason", "U+000A"]),
    ] {
        let act = json!({"by": by, "reason": reason});
        step_in(&client, saga_id, "cancel", &act).await?.is_problem(422, &words)?;
    }
    step_in(&client, Uuid::now_v7(), "retry", &act()).await?.is_problem(404, &["no saga"])?;
    let no_id = client.post(Service::Orchestrator, "/sagas/7/cancel", &act()).await?;
    no_id.is_problem(400, &["saga id"])
}

#[tokio::test]
async fn a_paused_intake_refuses_new_checkouts_finishes_old_ones_and_stays_paused_over_a_restart() -> Result<()> {
    let mut standalone = Standalone::start(&[("PAYMENT_PROCESSING_MS", "5000")]).await?;
    let client = standalone.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let keyed = client.checkout_with_key("before the pause", &body).await?;
    let running = checkout_at(&client, &body, "PAYMENT_CHARGE").await?;

    let paused = client.post(Service::Orchestrator, "/intake/pause", &act()).await?;
    assert_eq!((paused.status, paused.json()?["open"].clone()), (200, json!(false)));
    assert_eq!(client.saga(running).await?["status"], json!("RUNNING"), "it ended before the pause");

    let refused = client.checkout(&body).await?;
    refused.is_problem(503, &["paused", "the customer called", "nothing was stored"])?;
    ensure!(!refused.header("retry-after").is_empty());
    let replayed = client.checkout_with_key("before the pause", &body).await?;
    assert_eq!((replayed.status, replayed.text), (200, keyed.text), "a repetition is no new checkout");
    client.checkout_with_key("a new key", &body).await?.is_problem(503, &["paused"])?;
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    ensure!(ready.status == 503 && ready.text.contains("paused by ann"), "{ready:?}");
    assert_eq!(client.end_of(&format!("/sagas/{running}"), SOON).await?["status"], json!("COMPLETED"));

    standalone.kill();
    standalone.start_again().await?;
    let client = standalone.client()?;
    client.checkout(&body).await?.is_problem(503, &["paused"])?;
    assert_eq!(client.post(Service::Orchestrator, "/intake/resume", &act()).await?.status, 200);
    assert_eq!(client.checkout(&body).await?.status, 200);
    let changes: Vec<(bool, String)> = sqlx::query_as("SELECT open, actor FROM intake_changes ORDER BY change_id")
        .fetch_all(&client.databases.orchestrator)
        .await?;
    assert_eq!(changes, [(false, "ann".to_owned()), (true, "ann".to_owned())]);
    Ok(())
}

#[tokio::test]
async fn too_many_unfinished_checkouts_are_refused_until_some_have_ended() -> Result<()> {
    let settings = [("CHECKOUT_MAX_UNFINISHED", "5"), ("PAYMENT_PROCESSING_MS", "3000")];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    for _ in 0..5 {
        assert_eq!(client.checkout_async(&body).await?.status, 202);
    }

    let refused = async || Ok(Some(client.checkout_async(&body).await?).filter(|answer| answer.status == 503));
    let refused = eventually("a checkout is refused", SOON, refused).await?;
    refused.is_problem(503, &["unfinished", "nothing was stored"])?;
    let taken = async || Ok((client.checkout_async(&body).await?.status == 202).then_some(()));
    eventually("checkouts are taken again", SOON, taken).await
}

#[tokio::test]
async fn a_gateway_that_often_gives_no_answer_delays_checkouts_and_charges_each_once() -> Result<()> {
    let settings = [("PAYMENT_UNAVAILABLE_RATE", "0.5"), ("RESEND_FIRST_MS", "200"), ("RESEND_MAX_MS", "400")];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    for answer in client.checkouts(30).join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }
    let rows = client.all_end_in_agreement(Duration::ZERO).await?;
    assert_eq!(rows.count("COMPLETED"), 30);
    Ok(())
}

#[tokio::test]
async fn an_owner_cancels_where_the_flow_says_so_and_strangers_learn_nothing() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let waiting = flows::start(&client, "a-trip-of-ann", &flows::request());
    let command = flows::command(&client, "trip.hotel.book.command", &Value::Null).await?;
    let saga_id = id(&command, "sagaId")?;

    let by = |owner: &str| json!({"by": owner, "reason": "I found another one", "as": "owner"});
    step_in(&client, saga_id, "cancel", &by("eve")).await?.is_problem(404, &["there is no saga"])?;
    let wrong = json!({"by": "ann", "reason": "x", "as": "customer"});
    step_in(&client, saga_id, "cancel", &wrong).await?.is_problem(422, &["operator", "owner"])?;
    let retried = json!({"by": "ann", "reason": "x", "as": "owner"});
    step_in(&client, saga_id, "retry", &retried).await?.is_problem(422, &["as"])?;

    // What was sent twice is undone once, and both are answered alike.
    for _ in 0..2 {
        let cancelled = step_in(&client, saga_id, "cancel", &by("ann")).await?;
        assert_eq!((cancelled.status, cancelled.field("step")?.as_str()), (202, "HOTEL_CANCEL"));
    }
    let undo = flows::command(&client, "trip.hotel.cancel.command", &Value::Null).await?;
    assert_eq!(undo["payload"]["reason"], json!("CANCELLED"));
    flows::answer(&client, &undo, "trip.hotel.cancelled", json!({})).await?;
    let answer = waiting.await??;
    ensure!(answer.status == 409 && answer.field("reason")? == "cancelled by its owner", "{}", answer.text);
    let done = [(json!("owner.cancelled"), json!("ann"), json!("I found another one"))];
    assert_eq!(acts(&client, saga_id).await?, done);
    let page = client.get(Service::Orchestrator, &format!("/sagas/{saga_id}")).await?;
    ensure!(page.text.contains("ann cancelled it at"), "{}", page.text);
    step_in(&client, saga_id, "cancel", &by("ann")).await?.is_problem(409, &["FAILED"])?;

    // A checkout is cancelled by operators only.
    let body = json!({"userId": "ann", "totalAmount": 500});
    let checkout = id(&client.checkout(&body).await?.json()?, "sagaId")?;
    step_in(&client, checkout, "cancel", &by("ann")).await?.is_problem(409, &["pay-first", "by their owners"])
}
