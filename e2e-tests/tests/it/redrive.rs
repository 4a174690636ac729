//! `sagactl dlq`: what was set aside is listed, shown, and sent back once what made it fail is mended; but no command
//! that its saga does not wait for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Outsider, Ran, Seen, Service, Services, eventually, shared};
use messages::EventId;
use serde_json::{Value, json};
use uuid::Uuid;

const TOPIC: &str = "payment.charge.command";

/// How many records fail, and how many do not.
const EACH: usize = 1000;

/// Each of a thousand refusals is five statements of its own, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(90);

/// A saga that waits for its charge, as if its checkout had just come that far; but nobody repeats the command.
struct Waiting {
    saga_id: Uuid,
    order_id: Uuid,
    user_id: String,
}

impl Waiting {
    fn new(user_id: String) -> Self {
        Self { saga_id: Uuid::now_v7(), order_id: Uuid::now_v7(), user_id }
    }

    /// The charge command with the id that its saga gives it, and its key.
    fn command(&self) -> (String, Vec<u8>) {
        let Self { saga_id, order_id, user_id } = self;
        let body = json!({
            "eventId": EventId::derived(*saga_id, TOPIC), "sagaId": saga_id, "orderId": order_id, "timestamp": "2026-01-01T00:00:00Z",
            "payload": {"userId": user_id, "money": {"amount": 5, "currency": "USD"}},
        });
        (saga_id.to_string(), body.to_string().into_bytes())
    }
}

/// Stores the sagas and their orders.
async fn store(client: &Client, sagas: &[Waiting]) -> Result<()> {
    let saga_ids: Vec<Uuid> = sagas.iter().map(|saga| saga.saga_id).collect();
    let order_ids: Vec<Uuid> = sagas.iter().map(|saga| saga.order_id).collect();
    let user_ids: Vec<&str> = sagas.iter().map(|saga| saga.user_id.as_str()).collect();
    sqlx::query(
        "INSERT INTO orders (order_id, saga_id, user_id, total_amount, currency, status, created_at, updated_at)
         SELECT *, 5, 'USD', 'PENDING', now(), now() FROM UNNEST($1::uuid[], $2::uuid[], $3::text[])",
    )
    .bind(&order_ids)
    .bind(&saga_ids)
    .bind(&user_ids)
    .execute(&client.databases.order)
    .await?;
    sqlx::query(
        "WITH stored AS (
             INSERT INTO sagas (saga_id, order_id, user_id, total_amount, currency, status, step, force_payment_fail,
                                force_inventory_fail, definition, definition_version, version, next_attempt_at,
                                deadline_at, expires_at, created_at, updated_at)
             SELECT new.*, 5, 'USD', 'RUNNING', 'PAYMENT_CHARGE', false, false, 'pay-first', 1, 2, later, later, later,
                    now(), now()
             FROM UNNEST($1::uuid[], $2::uuid[], $3::text[]) AS new,
                  (VALUES (now() + interval '1 day')) AS later (later)
             RETURNING saga_id
         )
         INSERT INTO saga_events (saga_id, seq, input, status, step, at)
         SELECT saga_id, seq, input, 'RUNNING', step, now()
         FROM stored, (VALUES (1, 'started', 'ORDER_CREATE'), (2, 'order.created', 'PAYMENT_CHARGE'))
              AS moves (seq, input, step)",
    )
    .bind(&saga_ids)
    .bind(&order_ids)
    .bind(&user_ids)
    .execute(&client.databases.orchestrator)
    .await?;
    Ok(())
}

async fn until_completed(client: &Client, count: usize) -> Result<()> {
    eventually(&format!("{count} sagas are COMPLETED"), LIMIT, async || {
        let sql = "SELECT count(*) FROM sagas WHERE status = 'COMPLETED'";
        let completed: i64 = sqlx::query_scalar(sql).fetch_one(&client.databases.orchestrator).await?;
        ensure!(completed <= count as i64, "{completed}");
        Ok((completed == count as i64).then_some(()))
    })
    .await
}

async fn letters(client: &Client) -> Result<Vec<Seen>> {
    client.kafka.records(&format!("{TOPIC}.dlq")).await
}

fn objects(ran: &Ran) -> Result<Vec<Value>> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[tokio::test]
async fn a_thousand_poison_records_among_a_thousand_good_ones_come_home_after_the_mend() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let sagas: Vec<Waiting> = (0..2 * EACH)
        .map(|n| Waiting::new(if n % 2 == 0 { format!("good-{n}") } else { format!("poison-{n}") }))
        .collect();
    store(&client, &sagas).await?;
    let payment = &client.databases.payment;
    let sql = "ALTER TABLE payments ADD CONSTRAINT mistaken CHECK (user_id NOT LIKE 'poison-%')";
    sqlx::query(sql).execute(payment).await?;

    client.kafka.publish_all(TOPIC, &sagas.iter().map(Waiting::command).collect::<Vec<_>>()).await?;

    until_completed(&client, EACH).await?;
    let set_aside = eventually("a thousand records are set aside", LIMIT, async || {
        Ok(Some(letters(&client).await?).filter(|letters| letters.len() >= EACH))
    });
    let set_aside = set_aside.await?;
    let ids = |sagas: Vec<&str>| sagas.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
    let poison: Vec<String> = sagas.iter().skip(1).step_by(2).map(|saga| saga.saga_id.to_string()).collect();
    assert_eq!(set_aside.len(), EACH);
    assert_eq!(
        ids(set_aside.iter().map(|letter| letter.key.as_str()).collect()),
        ids(poison.iter().map(String::as_str).collect())
    );

    let of_topic = ["--topic", TOPIC];
    let list = client.sagactl(&[&["dlq", "list", "--json"], &of_topic[..]].concat()).await?;
    let listed = objects(&list)?;
    ensure!(list.code == 0 && listed.len() == EACH, "{} of {}", listed.len(), list.stderr);
    ensure!(listed.iter().all(|letter| letter["redriven"].is_null()), "{list:?}");
    ensure!(listed.iter().all(|letter| letter["error"].as_str().is_some_and(|why| why.contains("mistaken"))));

    // The mend; and a dry run, which sends nothing.
    sqlx::query("ALTER TABLE payments DROP CONSTRAINT mistaken").execute(payment).await?;
    let redrive = [&["dlq", "redrive", "--error", "mistaken"], &of_topic[..]].concat();
    let dry = client.sagactl(&redrive).await?;
    ensure!(dry.code == 0 && dry.stderr.contains("1000 would be sent"), "{}", dry.stderr);
    ensure!(poison.iter().all(|saga_id| dry.stdout.contains(saga_id)), "{}", dry.stdout);
    assert_eq!(letters(&client).await?.len(), EACH);

    // A refund of a saga that is to be charged: not what it waits for, so it is not sent, whoever asks for it.
    let (key, charge) = sagas[1].command();
    let refund = "payment.refund.command";
    client.kafka.publish_all(refund, &[(key.clone(), charge)]).await?;
    eventually("a refund without its reason is set aside", LIMIT, async || {
        let letters = client.kafka.records(&format!("{refund}.dlq")).await?;
        Ok(letters.iter().any(|letter| letter.key == key).then_some(()))
    })
    .await?;
    let stray = ["dlq", "redrive", "--topic", refund, "--execute", "--by", "ada", "--reason", "try"];
    let refused = client.sagactl(&stray).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("0 sent, 0 skipped, 1 refused"), "{refused:?}");
    let why = format!("saga {key} is at RUNNING/PAYMENT_CHARGE: payment.refund.command is not what it waits for");
    ensure!(refused.stdout.contains(&why), "{}", refused.stdout);

    let execute = [&redrive[..], &["--execute", "--by", "ada", "--reason", "the constraint was mistaken"]].concat();
    let sent = client.sagactl(&execute).await?;
    ensure!(sent.code == 0 && sent.stderr.contains("1000 sent, 0 skipped, 0 refused, 0 failed"), "{}", sent.stderr);
    until_completed(&client, 2 * EACH).await?;
    client.all_end_in_agreement(Duration::ZERO).await?;
    // As many markers as letters, and no new letter.
    assert_eq!(letters(&client).await?.len(), 2 * EACH);
    let listed = objects(&client.sagactl(&[&["dlq", "list", "--json"], &of_topic[..]].concat()).await?)?;
    assert_eq!(listed.len(), EACH);
    ensure!(listed.iter().all(|letter| letter["redriven"]["by"] == "ada"), "{:?}", listed.first());

    // Once is enough; and what has ended must not be charged once more, whoever asks for it.
    let second = client.sagactl(&execute).await?;
    ensure!(second.code == 0 && second.stderr.contains("0 sent, 1000 skipped, 0 refused"), "{}", second.stderr);
    let ended = &poison[0];
    let again = client.sagactl(&[&execute[..], &["--again", "--saga", ended]].concat()).await?;
    ensure!(again.code == 1 && again.stderr.contains("0 sent, 0 skipped, 1 refused"), "{again:?}");
    ensure!(again.stdout.contains(&format!("saga {ended} has ended: COMPLETED")), "{}", again.stdout);
    assert_eq!(letters(&client).await?.len(), 2 * EACH);
    Ok(())
}

#[tokio::test]
async fn the_orchestrator_shows_a_letter_and_sends_it_back_once() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let saga = Waiting::new("poison-1".to_owned());
    store(&client, std::slice::from_ref(&saga)).await?;
    let payment = &client.databases.payment;
    sqlx::query("ALTER TABLE payments ADD CONSTRAINT mistaken CHECK (user_id <> 'poison-1')").execute(payment).await?;
    client.kafka.publish_all(TOPIC, &[saga.command()]).await?;
    let letters = format!("/dead-letters?sagaId={}", saga.saga_id);

    let told = eventually("the command is set aside", LIMIT, async || {
        let told = client.get(Service::Orchestrator, &letters).await?.json()?;
        Ok(told["letters"].get(0).cloned())
    })
    .await?;
    assert_eq!((&told["topic"], &told["sagaId"]), (&json!(TOPIC), &json!(saga.saga_id)));
    ensure!(told["error"].as_str().is_some_and(|why| why.contains("mistaken")) && told["redriven"].is_null(), "{told}");
    ensure!(told["body"].as_str().is_some_and(|body| body.contains("poison-1")), "{told}");
    let page = client.get(Service::Orchestrator, "/dashboard/dead-letters").await?.text;
    let place = told["letter"].as_str().context("a place")?;
    let redrive = format!("/dead-letters/{TOPIC}/{place}/redrive");
    for shown in ["mistaken", &saga.saga_id.to_string(), &format!("data-post=\"{redrive}\"")] {
        ensure!(page.contains(shown), "no {shown} in {page}");
    }

    sqlx::query("ALTER TABLE payments DROP CONSTRAINT mistaken").execute(payment).await?;
    let act = json!({"by": "ada", "reason": "the constraint was mistaken"});
    for (path, body, status) in [
        (redrive.clone(), json!({"by": " ", "reason": "x"}), 422),
        (format!("/dead-letters/{TOPIC}/0:4711/redrive"), act.clone(), 404),
        (format!("/dead-letters/{TOPIC}/first/redrive"), act.clone(), 400),
        (format!("/dead-letters/payment.charges/{place}/redrive"), act.clone(), 404),
        (redrive.clone(), act.clone(), 200),
        (redrive, act, 409),
    ] {
        let answer = client.post(Service::Orchestrator, &path, &body).await?;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    until_completed(&client, 1).await?;
    client.all_end_in_agreement(Duration::ZERO).await?;
    let told = client.get(Service::Orchestrator, &letters).await?.json()?;
    assert_eq!(told["letters"][0]["redriven"]["by"], "ada");
    let page = client.get(Service::Orchestrator, "/dashboard/dead-letters").await?.text;
    ensure!(page.contains("sent back by ada"), "{page}");
    assert_eq!(client.get(Service::Orchestrator, "/dead-letters?topic=payment.charges").await?.status, 400);
    Ok(())
}

/// Publishes a record that can't be read, without a key, and answers the place of its letter.
async fn set_aside(client: &Client, topic: &str, body: &[u8]) -> Result<String> {
    let place = client.kafka.publish_everywhere(topic, body).await?[0];
    let letter = client.kafka.dead_letter(topic, place).await?;
    Ok(format!("{}:{}", letter.partition, letter.offset))
}

#[tokio::test]
async fn a_letter_without_a_saga_is_shown_as_it_is_and_only_an_event_may_go_back() -> Result<()> {
    let client = shared().await?;
    let body = format!("no JSON, {}", Uuid::now_v7());
    for (topic, allowed) in [("payment.refund.command", false), ("inventory.released", true)] {
        let letter = set_aside(&client, topic, body.as_bytes()).await?;
        let only = ["--topic", topic, "--letter", &letter];

        let show = client.sagactl(&[&["dlq", "show"], &only[..]].concat()).await?;
        ensure!(show.code == 0 && show.stdout.contains(&body), "{show:?}");
        ensure!(show.stdout.contains("dlq_error: not a valid message"), "{}", show.stdout);
        let list = client.sagactl(&[&["dlq", "list"], &only[..]].concat()).await?;
        ensure!(list.stdout.lines().count() == 2 && list.stdout.contains(&letter), "{list:?}");

        let redrive = [&["dlq", "redrive"], &only[..]].concat();
        let refused = client.sagactl(&redrive).await?;
        ensure!(refused.code == 1 && refused.stdout.contains("do not name one saga"), "{refused:?}");
        let asked = client.sagactl(&[&redrive[..], &["--even-without-saga"]].concat()).await?;
        assert_eq!(asked.code == 0, allowed, "{asked:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_command_of_an_unknown_saga_is_refused_by_name() -> Result<()> {
    let client = shared().await?;
    let (outsider, mut stranger) = (Outsider::new(&client.kafka), Outsider::new(&client.kafka));
    outsider.reserve().publish("inventory.reserve.command").await?;
    // On another partition the second command might be taken first.
    eventually("the first command is carried out", Duration::from_secs(30), async || {
        let stored = sqlx::query_scalar("SELECT EXISTS (SELECT FROM reservations WHERE order_id = $1)");
        let stored: bool = stored.bind(outsider.order_id).fetch_one(&client.databases.inventory).await?;
        Ok(stored.then_some(()))
    })
    .await?;
    stranger.order_id = outsider.order_id;
    let contradiction = stranger.reserve().publish("inventory.reserve.command").await?;
    client.kafka.dead_letter("inventory.reserve.command", contradiction).await?;
    let saga_id = stranger.saga_id.to_string();

    let arguments = ["dlq", "redrive", "--saga", &saga_id, "--execute", "--by", "ada", "--reason", "try"];
    let refused = client.sagactl(&arguments).await?;

    ensure!(refused.code == 1 && refused.stdout.contains(&format!("saga {saga_id} is unknown")), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_kafka_that_is_away_is_named_in_one_line() -> Result<()> {
    let client = shared().await?;

    let port = e2e_tests::free_port()?;
    let nowhere = format!("127.0.0.1:{port}");
    let Ran { code, stderr, .. } = client.sagactl(&["dlq", "list", "--kafka", &nowhere]).await?;

    ensure!(code == 2 && stderr.lines().count() == 1 && stderr.contains(&nowhere), "{code} {stderr}");
    Ok(())
}
