//! `Idempotency-Key`: a request that is sent again is the same checkout, and is answered alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Answer, Client, Service, Standalone, eventually, id, shared};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

fn new_key() -> String {
    Uuid::now_v7().to_string()
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == "true"
}

/// How many sagas and orders a user has, and how many charges these orders have in the gateway's ledger.
async fn counts(client: &Client, user_id: &str) -> Result<(i64, i64, i64)> {
    let count = "SELECT count(*) FROM sagas WHERE user_id = $1";
    let sagas = sqlx::query_scalar(count).bind(user_id).fetch_one(&client.databases.orchestrator).await?;
    let orders: Vec<Uuid> = sqlx::query_scalar("SELECT order_id FROM orders WHERE user_id = $1")
        .bind(user_id)
        .fetch_all(&client.databases.order)
        .await?;
    let charges = sqlx::query_scalar("SELECT count(*) FROM gateway_ledger WHERE order_id = ANY($1)")
        .bind(&orders)
        .fetch_one(&client.databases.payment)
        .await?;
    Ok((sagas, orders.len() as i64, charges))
}

#[tokio::test]
async fn a_thousand_requests_at_once_with_one_key_make_one_order_and_one_charge_and_get_equal_bodies() -> Result<()> {
    let client = shared().await?;
    let (key, body) = (new_key(), json!({"userId": "thousand", "totalAmount": 500}));
    let mut requests = JoinSet::new();
    for _ in 0..1000 {
        let (client, key, body) = (client.clone(), key.clone(), body.clone());
        requests.spawn(async move { client.checkout_with_key(&key, &body).await });
    }

    let answers: Vec<Answer> = requests.join_all().await.into_iter().collect::<Result<_>>()?;

    let first = &answers[0];
    for answer in &answers {
        ensure!((answer.status, &answer.text) == (200, &first.text), "{} {}", answer.status, answer.text);
    }
    assert_eq!(answers.iter().filter(|answer| !is_replay(answer)).count(), 1, "one of them started it");
    assert_eq!(counts(&client, "thousand").await?, (1, 1, 1));
    client.agree_about(&[id(&first.json()?, "sagaId")?]).await
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_status_and_body_whatever_the_outcome_was() -> Result<()> {
    let client = shared().await?;
    for (status, flag) in [(200, "none"), (402, "forcePaymentFail"), (409, "forceInventoryFail")] {
        let (key, mut body) = (new_key(), json!({"userId": format!("again-{flag}"), "totalAmount": "500.00"}));
        if status != 200 {
            body[flag] = json!(true);
        }
        let first = client.checkout_with_key(&key, &body).await?;
        ensure!(first.status == status && !is_replay(&first), "{first:?}");

        // Compared as values: 500 is 500.00. The body shows the stored one.
        body["totalAmount"] = json!(500);
        for key in [&key, &format!("\"{key}\"")] {
            let again = client.checkout_with_key(key, &body).await?;
            assert_eq!((again.status, &again.text), (status, &first.text));
            ensure!(is_replay(&again), "{again:?}");
            assert_eq!(again.header("location"), first.header("location"));
        }
        assert_eq!(counts(&client, &format!("again-{flag}")).await?.0, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_repetition_gets_the_final_answer_and_never_an_earlier_202() -> Result<()> {
    let client = shared().await?;
    let (key, body) = (new_key(), json!({"userId": "async", "totalAmount": 500}));
    let request = client.request(Service::Orchestrator, reqwest::Method::POST, "/checkout").json(&body);
    let first = Answer::read(request.header("Prefer", "respond-async").header("Idempotency-Key", &key).send().await?);
    assert_eq!(first.await?.status, 202);

    let again = client.checkout_with_key(&key, &body).await?;

    assert_eq!((again.status, again.field("status")?.as_str()), (200, "COMPLETED"));
    assert_eq!(counts(&client, "async").await?, (1, 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_key_with_another_body_is_answered_422_and_changes_nothing() -> Result<()> {
    let client = shared().await?;
    let (key, body) = (new_key(), json!({"userId": "other", "totalAmount": 500}));
    let first = client.checkout_with_key(&key, &body).await?;
    for (field, value) in [
        ("totalAmount", json!(501)),
        ("currency", json!("EUR")),
        ("forcePaymentFail", json!(true)),
        ("forceInventoryFail", json!(true)),
    ] {
        let mut other = body.clone();
        other[field] = value;
        client.checkout_with_key(&key, &other).await?.is_problem(422, &["Idempotency-Key", "another checkout"])?;
    }
    assert_eq!(client.checkout_with_key(&key, &body).await?.text, first.text);
    assert_eq!(counts(&client, "other").await?, (1, 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_key_belongs_to_its_user() -> Result<()> {
    let client = shared().await?;
    let key = new_key();
    let of = async |user| client.checkout_with_key(&key, &json!({"userId": user, "totalAmount": 500})).await;
    let (one, two) = (of("keeper-1").await?, of("keeper-2").await?);
    assert_eq!((one.status, two.status), (200, 200));
    ensure!(!is_replay(&one) && !is_replay(&two));
    ensure!(one.header("location") != two.header("location"));
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_empty_too_short_or_too_long_is_answered_400() -> Result<()> {
    let client = shared().await?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let (none, quotes, short) = (String::new(), "\"\"".to_owned(), "k".repeat(7));
    for (key, why) in [(none, "empty"), (quotes, "empty"), (short, "at least 8"), ("k".repeat(256), "255")] {
        client.checkout_with_key(&key, &body).await?.is_problem(400, &["Idempotency-Key", why])?;
    }
    for length in [8, 255] {
        assert_eq!(client.checkout_with_key(&"k".repeat(length), &body).await?.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_release_took_is_found_again_and_not_taken_anew() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    // As that release has stored them.
    for (number, (set, user, currency, key, why)) in [
        ("idempotency_key = 'k'", "short-key", "EUR", "k", "at least 8"),
        ("user_id = E'hidden\\u200b'", "hidden\u{200b}", "EUR", "a-longer-key", "U+200B"),
        ("currency = 'HRK'", "kuna", "HRK", "another-key", "EUR has replaced HRK"),
    ]
    .into_iter()
    .enumerate()
    {
        let given = user.trim_end_matches('\u{200b}');
        let first = json!({"userId": given, "totalAmount": 5, "currency": "EUR"});
        let first_key = if number == 0 { new_key() } else { key.to_owned() };
        let saga_id = client.checkout_with_key(&first_key, &first).await?.field("sagaId")?;
        sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE sagas SET {set} WHERE saga_id = '{saga_id}'")))
            .execute(&client.databases.orchestrator)
            .await?;

        let same = json!({"userId": user, "totalAmount": 5, "currency": currency});
        let again = client.checkout_with_key(key, &same).await?;
        ensure!(is_replay(&again) && again.field("sagaId")? == saga_id, "{why}: {again:?}");
        let of_another = json!({"userId": format!("{user}-2"), "totalAmount": 5, "currency": currency});
        let status = if number == 0 { 400 } else { 422 };
        client.checkout_with_key(key, &of_another).await?.is_problem(status, &[why])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_key_on_a_route_that_does_not_use_it_is_answered_400() -> Result<()> {
    let client = shared().await?;
    let act = json!({"by": "ann", "reason": "to try it"});
    let order_id = Uuid::now_v7();
    for (service, method, path, body) in [
        (Service::Order, Method::POST, "/batch".to_owned(), json!([])),
        (Service::Order, Method::PATCH, format!("/orders/{order_id}/status"), json!({"status": "CONFIRMED"})),
        (Service::Orchestrator, Method::POST, "/intake/pause".to_owned(), act.clone()),
        (Service::Orchestrator, Method::POST, format!("/sagas/{order_id}/cancel"), act.clone()),
        (Service::Payment, Method::DELETE, format!("/payments?before={order_id}"), json!({})),
    ] {
        let request = client.request(service, method, &path).header("Idempotency-Key", new_key()).json(&body);
        Answer::read(request.send().await?).await?.is_problem(400, &["Idempotency-Key"])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_key_is_forgotten_a_while_after_its_sagas_end_and_never_before() -> Result<()> {
    let settings = [("IDEMPOTENCY_RETENTION", "1s"), ("CHECKOUT_WAIT_MS", "0")];
    let mut standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let (ended, pending) =
        (json!({"userId": "ended", "totalAmount": 5}), json!({"userId": "pending", "totalAmount": 5}));
    let first = client.checkout_with_key("the-same-key", &ended).await?;
    client.end_of(first.header("location"), Duration::from_secs(10)).await?;
    // A saga that does not end: its charges are answered by nobody's gateway.
    sqlx::query("ALTER TABLE gateway_requests RENAME TO gateway_requests_away")
        .execute(&client.databases.payment)
        .await?;
    let unended = client.checkout_with_key("the-same-key", &pending).await?;

    let key_of = async |user: &str| -> Result<Option<String>> {
        let key = sqlx::query_scalar("SELECT idempotency_key FROM sagas WHERE user_id = $1");
        Ok(key.bind(user.to_owned()).fetch_one(&client.databases.orchestrator).await?)
    };
    eventually("the ended saga's key is forgotten", Duration::from_secs(10), async || {
        Ok(key_of("ended").await?.is_none().then_some(()))
    })
    .await?;
    assert_eq!(key_of("pending").await?.as_deref(), Some("the-same-key"));
    let joined = client.checkout_with_key("the-same-key", &pending).await?;
    assert_eq!(joined.header("location"), unended.header("location"));

    let anew = client.checkout_with_key("the-same-key", &ended).await?;
    ensure!(anew.header("location") != first.header("location") && !is_replay(&anew), "{anew:?}");
    let body: Value = anew.json()?;
    assert_eq!(body["userId"], json!("ended"));
    standalone.kill();
    Ok(())
}
