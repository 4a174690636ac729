//! Dead letters of users' flows: replies that were set aside are listed, and sent back, beside those of the platform.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Standalone, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::flows::{TRIP, answer, command, request, start};

const TOPIC: &str = "trip.replies";

async fn letters(client: &Client, query: &str) -> Result<Vec<Value>> {
    let answer = client.get(Service::Orchestrator, &format!("/dead-letters{query}")).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    Ok(answer.json()?["letters"].as_array().cloned().unwrap_or_default())
}

/// The letters on the flow's topic, once there are so many.
async fn until(client: &Client, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} letters"), Duration::from_secs(60), async || {
        let found = letters(client, &format!("?topic={TOPIC}")).await?;
        Ok((found.len() == count).then_some(found))
    })
    .await
}

#[tokio::test]
async fn a_reply_of_a_users_flow_that_was_set_aside_is_listed_and_goes_back_once_its_cause_is_mended() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let before = client.get(Service::Orchestrator, &format!("/dead-letters?topic={TOPIC}")).await?;
    before.is_problem(400, &["payment.charge.command"])?;
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    // A flow whose topics are nowhere, such as one whose Kafka was emptied, is no reason to list nothing.
    sqlx::query(
        "INSERT INTO flows (name, version, digest, source, built_in, published_by, reason)
         SELECT 'tour', version, digest, replace(source, 'trip', 'tour'), false, published_by, reason
         FROM flows WHERE name = 'trip'",
    )
    .execute(&client.databases.orchestrator)
    .await?;

    // One reply breaks its shape, and will do so again. Another one can't be stored, for a reason that passes.
    let saga = start(&client, "letters-of-a-trip", &request());
    let book = command(&client, "trip.hotel.book.command", &Value::Null).await?;
    let saga_id = book["sagaId"].as_str().context("a saga id")?;
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": 7})).await?;
    until(&client, 1).await?;
    let orchestrator = &client.databases.orchestrator;
    let mistaken = "ALTER TABLE sagas ADD CONSTRAINT mistaken CHECK (kept::text NOT LIKE '%H-1%')";
    sqlx::query(mistaken).execute(orchestrator).await?;
    let price = json!({"amount": 90, "currency": "EUR"});
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": "H-1", "price": price})).await?;

    let found = until(&client, 2).await?;
    let misshapen = found.iter().find(|letter| letter["error"].to_string().contains("`bookingRef` must be a text"));
    let misshapen = misshapen.with_context(|| format!("{found:?}"))?;
    ensure!(found.iter().any(|letter| letter["error"].to_string().contains("mistaken")), "{found:?}");
    ensure!(found.iter().all(|letter| letter["topic"] == TOPIC && letter["sagaId"] == saga_id), "{found:?}");
    assert_eq!(letters(&client, "").await?.len(), 2, "beside those of the platform, of which there are none");
    let page = client.get(Service::Orchestrator, "/dashboard/dead-letters").await?.text;
    ensure!(page.contains("mistaken") && page.contains(&format!("/dead-letters/{TOPIC}/")), "{page}");
    let listed = client.sagactl(&["dlq", "list", "--json"]).await?;
    ensure!(listed.code == 0 && listed.stdout.matches(r#""topic":"trip.replies""#).count() == 2, "{listed:?}");
    let unknown = client.sagactl(&["dlq", "list", "--topic", "nobodys.replies"]).await?;
    ensure!(unknown.code == 2 && unknown.stderr.contains("trip.replies"), "{unknown:?}");
    // Without the orchestrator's database the others are listed.
    let nowhere = ["dlq", "list", "--orchestrator-database-url", "postgres://nobody@127.0.0.1:1/none"];
    let listed = client.sagactl(&nowhere).await?;
    ensure!(listed.code == 0 && listed.stderr.contains("published flows are left out"), "{listed:?}");

    // The same bytes break the same shape.
    let act = json!({"by": "ann", "reason": "to see it again"});
    let place = misshapen["letter"].as_str().context("a place")?;
    let redrive = format!("/dead-letters/{TOPIC}/{place}/redrive");
    let sent = client.post(Service::Orchestrator, &redrive, &act).await?;
    ensure!(sent.status == 200 && sent.json()?["topic"] == TOPIC, "{} {}", sent.status, sent.text);
    let found = until(&client, 3).await?;
    let again = found.iter().filter(|letter| letter["error"] == misshapen["error"]).count();
    assert_eq!(again, 2, "{found:?}");
    assert_eq!(found.iter().filter(|letter| letter["redriven"]["by"] == "ann").count(), 1, "{found:?}");
    client.post(Service::Orchestrator, &redrive, &act).await?.is_problem(409, &["redriven by ann"])?;

    // Once the cause is mended, the other one moves the saga.
    sqlx::query("ALTER TABLE sagas DROP CONSTRAINT mistaken").execute(orchestrator).await?;
    let redrive = ["dlq", "redrive", "--topic", TOPIC, "--error", "mistaken"];
    let sent =
        client.sagactl(&[&redrive[..], &["--execute", "--by", "ann", "--reason", "it is mended"]].concat()).await?;
    ensure!(sent.code == 0 && sent.stderr.contains("1 sent, 0 skipped, 0 refused, 0 failed"), "{sent:?}");
    let rent = command(&client, "trip.car.rent.command", &Value::Null).await?;
    answer(&client, &rent, "trip.car.rented", json!({"bookingRef": "C-1"})).await?;
    let ticket = command(&client, "trip.flight.ticket.command", &Value::Null).await?;
    answer(&client, &ticket, "trip.flight.ticketed", json!({"ticketNumber": "T-1"})).await?;
    let first = saga.await??;
    client.end_of(first.header("location"), Duration::from_secs(60)).await?;
    // The first answer may have been 202: the same request again has the end.
    let outcome = start(&client, "letters-of-a-trip", &request()).await??.json()?;
    ensure!(outcome["status"] == "COMPLETED" && outcome["result"]["hotel"] == "H-1", "{outcome}");
    assert_eq!(until(&client, 3).await?.len(), 3);
    Ok(())
}

/// A flow that asks the platform's own participants, and one of its own.
const SHOP: &str = include_str!("../../../flow/tests/flows/shop.v1.yaml");

#[tokio::test]
async fn a_users_flow_asks_the_platforms_participants_and_by_their_messages_only() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let other_payload = SHOP.replacen("money: $start.money, forceFail", "price: $start.money, forceFail", 1);
    let refused = client.publish_flow(&other_payload).await?;
    refused.is_problem(422, &["breaks 1 rules"])?;
    let finding = refused.json()?["findings"][0].clone();
    ensure!(
        finding["rule"] == "platform" && finding["message"].to_string().contains("missing field `money`"),
        "{finding}"
    );
    let asks = SHOP.lines().position(|line| line.contains("payment.charge.command")).context("a charge")?;
    assert_eq!(finding["line"], asks + 1);

    let published = client.publish_flow(SHOP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let buy = |decline: bool| {
        let body = json!({"userId": "ann", "total": "12.50", "decline": decline});
        let request = client.request(Service::Orchestrator, Method::POST, "/flows/shop").json(&body);
        tokio::spawn(async move { Answer::read(request.send().await?).await })
    };
    let declined = buy(true).await??;
    ensure!(declined.status == 409 && declined.json()?["status"] == "FAILED", "{} {}", declined.status, declined.text);
    let bought = buy(false);
    let wrap = command(&client, "shop.wrap.command", &Value::Null).await?;
    let (key, order) = (wrap["sagaId"].as_str().context("a saga id")?, &wrap["orderId"]);
    let reply = json!({
        "eventId": uuid::Uuid::now_v7(), "causationId": wrap["eventId"], "sagaId": key, "orderId": order,
        "timestamp": "2027-01-01T00:00:00Z", "payload": {},
    });
    client.kafka.publish_event("shop.replies", "shop.wrapped", key, reply.to_string().as_bytes()).await?;
    let bought = bought.await??;
    ensure!(bought.status == 201 && bought.json()?["orderId"] == *order, "{} {}", bought.status, bought.text);
    let paid = "SELECT count(*) FROM payments WHERE status = 'CHARGED' AND order_id::text = $1";
    let paid: i64 = sqlx::query_scalar(paid).bind(order.as_str()).fetch_one(&client.databases.payment).await?;
    assert_eq!((paid, letters(&client, "").await?.len()), (1, 0));
    Ok(())
}
