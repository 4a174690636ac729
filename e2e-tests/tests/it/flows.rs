//! Flows that users publish: what is refused, what is stored, and how a saga of one runs. Its participants are this test.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Standalone, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

pub fn request() -> Value {
    json!({"traveller": "ann", "budget": "900.00", "from": "BER", "to": "LIS", "out": "2027-05-01", "back": "2027-05-08"})
}

/// Starts a trip, without waiting for its answer.
pub fn start(client: &Client, key: &str, body: &Value) -> JoinHandle<Result<Answer>> {
    let request = client.request(Service::Orchestrator, Method::POST, "/flows/trip").json(body);
    let request = request.header("Idempotency-Key", key);
    tokio::spawn(async move { Answer::read(request.send().await?).await })
}

/// A command on this topic, of another saga than this one.
pub async fn command(client: &Client, topic: &str, other: &Value) -> Result<Value> {
    let is_wanted = |command: &Value| command["sagaId"] != *other;
    let commands = client.kafka.wait_for(topic, 1, is_wanted).await?;
    commands.first().map(|record| record.json()).with_context(|| format!("a command on {topic}"))
}

/// A reply to a command, as a participant writes it.
fn reply(command: &Value, payload: &Value) -> Value {
    json!({
        "eventId": uuid::Uuid::now_v7(), "causationId": command["eventId"], "sagaId": command["sagaId"],
        "tripId": command["tripId"], "timestamp": "2027-01-01T00:00:00Z", "payload": payload,
    })
}

pub async fn answer(client: &Client, command: &Value, event: &str, payload: Value) -> Result<(i32, i64)> {
    let key = command["sagaId"].as_str().unwrap_or_default();
    let body = reply(command, &payload).to_string();
    client.kafka.publish_event("trip.replies", event, key, body.as_bytes()).await
}

#[tokio::test]
async fn a_flow_is_published_once_and_what_is_wrong_with_a_file_is_named_with_its_line() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let before = client.post(Service::Orchestrator, "/flows/trip", &request()).await?;
    before.is_problem(404, &["\"trip\"", "none is"])?;

    let broken =
        TRIP.replacen("  - step: CAR_RENT", "  - step: HOTEL_BOOK", 1).replacen("version: 1", "version: one", 1);
    let refused = client.publish_flow(&broken).await?;
    refused.is_problem(422, &["nothing was stored"])?;
    let findings = refused.json()?["findings"].clone();
    ensure!(findings[0]["line"] == 4 && findings[0]["rule"] == "type", "{findings}");
    let (waits, _) = TRIP.split_once("\ntests:").context("tests")?;
    let waits = waits.replacen("    within: 60s\n", "    within: 60s\n    late: attention\n", 1);
    let refused = client.publish_flow(&waits).await?;
    refused.is_problem(422, &["breaks 1 rules"])?;
    let finding = refused.json()?["findings"][0].clone();
    ensure!(finding["rule"] == "not-yet" && finding["message"].to_string().contains("HOTEL_BOOK"), "{finding}");
    let reserved = client.publish_flow(include_str!("../../../flows/pay-first.v1.yaml")).await?;
    ensure!(reserved.status == 422 && reserved.text.contains("reserved"), "{}", reserved.text);
    let json = client.post(Service::Orchestrator, "/flows?by=ann&reason=x", &json!({})).await?;
    json.is_problem(415, &["application/yaml"])?;
    let of_nobody =
        client.request(Service::Orchestrator, Method::POST, "/flows?by=ann").header("Content-Type", "text/yaml");
    Answer::read(of_nobody.body(TRIP).send().await?).await?.is_problem(400, &["`reason`"])?;
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM flows").fetch_one(&client.databases.orchestrator).await?;
    assert_eq!(stored, 1, "the built-in one");

    let first = client.publish_flow(TRIP).await?;
    ensure!(first.status == 201 && first.header("location") == "/flows/trip/1", "{} {}", first.status, first.text);
    let published = first.json()?;
    ensure!(published["state"] == "ACTIVE" && published["publishedBy"] == "ann", "{published}");
    let again = client.publish_flow(TRIP).await?;
    ensure!(again.status == 200 && again.json()? == published, "{} {}", again.status, again.text);
    let other = client.publish_flow(&format!("{TRIP}# another\n")).await?;
    other.is_problem(409, &[published["digest"].as_str().unwrap_or_default(), "needs a new version"])?;

    let one = client.get(Service::Orchestrator, "/flows/trip/1").await?.json()?;
    ensure!(one["source"] == TRIP, "{one}");
    let all = client.get(Service::Orchestrator, "/flows").await?.json()?;
    let names: Vec<_> = all["flows"].as_array().into_iter().flatten().map(|flow| flow["name"].clone()).collect();
    assert_eq!(names, ["pay-first", "trip"]);
    let act = json!({"by": "ann", "reason": "nobody travels"});
    client.post(Service::Orchestrator, "/flows/trip/2/retire", &act).await?.is_problem(404, &["v2"])?;
    client
        .post(Service::Orchestrator, "/flows/pay-first/1/retire", &act)
        .await?
        .is_problem(409, &["POST /checkout"])?;
    let retired = client.post(Service::Orchestrator, "/flows/trip/1/retire", &act).await?.json()?;
    ensure!(retired["state"] == "RETIRED", "{retired}");
    client.post(Service::Orchestrator, "/flows/trip", &request()).await?.is_problem(404, &["\"trip\""])?;
    let activated = client.post(Service::Orchestrator, "/flows/trip/1/activate", &act).await?.json()?;
    ensure!(activated["state"] == "ACTIVE", "{activated}");
    let flow = client.get(Service::Orchestrator, "/flows/trip").await?.json()?;
    let changes: Vec<_> = flow["changes"].as_array().into_iter().flatten().map(|one| one["change"].clone()).collect();
    assert_eq!(changes, ["PUBLISHED", "ACTIVATED", "RETIRED", "ACTIVATED"]);
    Ok(())
}

#[tokio::test]
async fn a_saga_of_a_published_flow_runs_to_its_end_and_over_a_restart() -> Result<()> {
    let mut standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let wrong = client.post(Service::Orchestrator, "/flows/trip", &json!({"traveller": "ann", "budget": 5})).await?;
    wrong.is_problem(422, &["`from` is missing"])?;
    ensure!(wrong.json()?["field"] == "from", "{}", wrong.text);

    // It succeeds; replies that are wrong are set aside, and move nothing.
    let first = start(&client, "trip-number-1", &request());
    let book = command(&client, "trip.hotel.book.command", &Value::Null).await?;
    assert_eq!(book["payload"], json!({"guest": "ann", "city": "LIS", "arrive": "2027-05-01", "leave": "2027-05-08"}));
    let misshapen = answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": 7})).await?;
    let letter = client.kafka.dead_letter("trip.replies", misshapen).await?;
    ensure!(letter.headers["dlq_error"].contains("`bookingRef` must be a text"), "{:?}", letter.headers);
    let unnamed = client.kafka.publish("trip.replies", "x", reply(&book, &json!({})).to_string().as_bytes()).await?;
    let letter = client.kafka.dead_letter("trip.replies", unnamed).await?;
    ensure!(letter.headers["dlq_error"].contains("`ce_type`"), "{:?}", letter.headers);
    let price = json!({"amount": 90, "currency": "EUR"});
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": "H1", "price": price, "more": 1})).await?;
    let rent = command(&client, "trip.car.rent.command", &Value::Null).await?;
    answer(&client, &rent, "trip.car.rented", json!({"bookingRef": "C1"})).await?;
    answer(&client, &rent, "trip.car.rented", json!({"bookingRef": "C1"})).await?;
    let ticket = command(&client, "trip.flight.ticket.command", &Value::Null).await?;
    assert_eq!(ticket["payload"]["most"].to_string(), r#"{"amount":900.00,"currency":"EUR"}"#);
    answer(&client, &ticket, "trip.flight.ticketed", json!({"ticketNumber": "T1"})).await?;
    let first = first.await??;
    ensure!(first.status == 201, "{} {}", first.status, first.text);
    let outcome = first.json()?;
    assert_eq!(outcome["result"], json!({"hotel": "H1", "car": "C1", "ticket": "T1"}));
    assert_eq!((&outcome["tripId"], &outcome["status"]), (&book["tripId"], &json!("COMPLETED")));
    let again = start(&client, "trip-number-1", &request()).await??;
    ensure!((again.status, &again.text) == (201, &first.text), "{} {}", again.status, again.text);
    let mut other = request();
    other["to"] = json!("OPO");
    start(&client, "trip-number-1", &other).await??.is_problem(422, &["`Idempotency-Key`"])?;

    // No seat: the car goes back, then the hotel, by what was kept; the platform dies in between.
    let second = start(&client, "trip-number-2", &request());
    let book = command(&client, "trip.hotel.book.command", &outcome["sagaId"]).await?;
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": "H2", "price": price})).await?;
    let rent = command(&client, "trip.car.rent.command", &outcome["sagaId"]).await?;
    standalone.kill();
    ensure!(second.await?.is_err(), "it was killed");
    standalone.start_again().await?;
    let client = standalone.client()?;
    let place = format!("/sagas/{}", rent["sagaId"].as_str().context("a saga id")?);
    // The command that is pending at a step, once the saga is there.
    let pending = async |step: &str| {
        eventually(step, Duration::from_secs(30), async || {
            let saga = client.get(Service::Orchestrator, &place).await?.json()?;
            Ok((saga["step"] == step).then(|| saga["pending"]["message"].clone()))
        })
        .await
    };
    assert_eq!(pending("CAR_RENT").await?, rent, "a repetition is the same message");
    answer(&client, &rent, "trip.car.rented", json!({"bookingRef": "C2"})).await?;
    answer(&client, &pending("FLIGHT_TICKET").await?, "trip.flight.refused", json!({"reason": "no seat"})).await?;
    answer(&client, &pending("CAR_RETURN").await?, "trip.car.returned", json!({})).await?;
    let cancel = pending("HOTEL_CANCEL").await?;
    assert_eq!(cancel["payload"], json!({"bookingRef": "H2", "reason": "NO_SEAT"}));
    answer(&client, &cancel, "trip.hotel.cancelled", json!({})).await?;
    pending("NO_SEAT").await?;
    let second = start(&client, "trip-number-2", &request()).await??;
    ensure!(second.status == 409 && second.json()?["reason"] == "no seat", "{} {}", second.status, second.text);
    ensure!(second.json()?["result"].is_null(), "{}", second.text);

    // A checkout is one beside it.
    let checkout = client.checkout(&json!({"userId": "ann", "totalAmount": 5})).await?;
    ensure!(checkout.status == 200, "{} {}", checkout.status, checkout.text);
    Ok(())
}
