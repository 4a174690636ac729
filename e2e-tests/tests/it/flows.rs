//! Flows that users publish: what is refused, what is stored, and how a saga of one runs. Its participants are this test.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Instance, Layout, Service, Services, Standalone, eventually, real_kafka};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgExecutor;
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
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let before = client.post(Service::Orchestrator, "/flows/trip", &request()).await?;
    before.is_problem(404, &["\"trip\"", "none is"])?;

    let broken =
        TRIP.replacen("  - step: CAR_RENT", "  - step: HOTEL_BOOK", 1).replacen("version: 1", "version: one", 1);
    let refused = client.publish_flow(&broken).await?;
    refused.is_problem(422, &["nothing was stored"])?;
    let findings = refused.json()?["findings"].clone();
    ensure!(findings[0]["line"] == 4 && findings[0]["rule"] == "type", "{findings}");
    let (not_yet, _) = TRIP.split_once("\ntests:").context("tests")?;
    let not_yet = not_yet.replace("  - step: CAR_RENT\n", "  - step: CAR_RENT\n    order: RESERVED\n");
    let refused = client.publish_flow(&not_yet).await?;
    refused.is_problem(422, &["breaks 1 rules"])?;
    let finding = refused.json()?["findings"][0].clone();
    ensure!(
        finding["rule"] == "not-yet" && finding["message"].to_string().contains("a status that travels"),
        "{finding}"
    );
    let reserved = client.publish_flow(include_str!("../../../flows/pay-first.v1.yaml")).await?;
    ensure!(reserved.status == 422 && reserved.text.contains("reserved"), "{}", reserved.text);
    let json = client.post(Service::Orchestrator, "/flows?by=ann&reason=x", &json!({})).await?;
    json.is_problem(415, &["application/yaml"])?;
    let of_nobody =
        client.request(Service::Orchestrator, Method::POST, "/flows?by=ann").header("Content-Type", "text/yaml");
    Answer::read(of_nobody.body(TRIP).send().await?).await?.is_problem(400, &["`reason`"])?;
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM flows").fetch_one(&client.databases.orchestrator).await?;
    assert_eq!(stored, 2, "the built-in ones");

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
    assert_eq!(names, ["pay-first", "reserve-first", "trip"]);
    let act = json!({"by": "ann", "reason": "nobody travels"});
    client.post(Service::Orchestrator, "/flows/trip/2/retire", &act).await?.is_problem(404, &["v2"])?;
    client
        .post(Service::Orchestrator, "/flows/pay-first/1/retire", &act)
        .await?
        .is_problem(409, &["POST /checkout"])?;
    let retired = client.post(Service::Orchestrator, "/flows/trip/1/retire", &act).await?.json()?;
    ensure!(retired["state"] == "RETIRED", "{retired}");
    client.post(Service::Orchestrator, "/flows/trip", &request()).await?.is_problem(404, &["\"trip\""])?;
    let again = client.publish_flow(TRIP).await?;
    ensure!(
        again.status == 200 && again.json()?["state"] == "RETIRED",
        "a nightly job activates nothing: {}",
        again.text
    );
    let activated = client.post(Service::Orchestrator, "/flows/trip/1/activate", &act).await?.json()?;
    ensure!(activated["state"] == "ACTIVE", "{activated}");
    let flow = client.get(Service::Orchestrator, "/flows/trip").await?.json()?;
    let changes: Vec<_> = flow["changes"].as_array().into_iter().flatten().map(|one| one["change"].clone()).collect();
    assert_eq!(changes, ["PUBLISHED", "ACTIVATED", "RETIRED", "ACTIVATED"]);
    Ok(())
}

#[tokio::test]
async fn a_saga_of_a_published_flow_runs_to_its_end_and_over_a_restart() -> Result<()> {
    let mut standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
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

/// Asks an instance for a trip. `None`: it waits for the outcome.
async fn status_within_a_second(client: &Client, instance: SocketAddr) -> Result<Option<u16>> {
    let (url, body) = (format!("http://{instance}/flows/trip"), request());
    match tokio::time::timeout(Duration::from_secs(1), client.post_url(&url, &body)).await {
        Ok(answer) => Ok(Some(answer?.status)),
        Err(_) => Ok(None),
    }
}

#[tokio::test]
async fn what_one_instance_publishes_the_other_runs_and_what_it_retires_the_other_refuses() -> Result<()> {
    if real_kafka().is_none() {
        println!("left out: it needs a real Kafka, where a service may create topics");
        return Ok(());
    }
    let mut services = Services::lay_out(Layout { instances: 2, partitions: 2 }, &[]).await?;
    services.start_all().await?;
    let client = services.client()?;
    let number = |number| Instance { service: Service::Orchestrator, number };
    let [one, other] = [services.address(number(1))?, services.address(number(2))?];
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);

    for address in [one, other] {
        // It is known there within a second.
        let started = async || Ok((status_within_a_second(&client, address).await? != Some(404)).then_some(()));
        eventually("it is started there", Duration::from_secs(10), started).await?;
    }
    let sagas: Vec<String> =
        sqlx::query_scalar("SELECT saga_id::text FROM sagas WHERE definition = 'trip' AND status = 'RUNNING'")
            .fetch_all(&client.databases.orchestrator)
            .await?;
    ensure!(sagas.len() == 2, "{sagas:?}");
    for saga in sagas {
        let of_saga = |command: &Value| command["sagaId"] == saga;
        let commands = client.kafka.wait_for("trip.hotel.book.command", 1, of_saga).await?;
        answer(&client, &commands[0].json(), "trip.hotel.full", json!({"reason": "no room"})).await?;
        let ended = client.end_of(&format!("/sagas/{saga}"), Duration::from_secs(30)).await?;
        ensure!(ended["step"] == "HOTEL_FULL", "{ended}");
    }

    let act = json!({"by": "ann", "reason": "nobody travels"});
    let retired = client.post_url(&format!("http://{other}/flows/trip/1/retire"), &act).await?;
    ensure!(retired.status == 200, "{} {}", retired.status, retired.text);
    for address in [other, one] {
        let refused = async || Ok((status_within_a_second(&client, address).await? == Some(404)).then_some(()));
        eventually("it is refused there", Duration::from_secs(10), refused).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_flow_of_a_newer_release_is_left_alone_and_a_known_one_goes_on_beside_it() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let (newer, _) = TRIP.split_once("\ntests:").context("tests")?;
    let newer = newer.replace("version: 1", "version: 2");
    let newer = newer.replacen("  - step: HOTEL_BOOK\n", "  - step: HOTEL_BOOK\n    order: CREATED\n", 1);
    store_active(&client.databases.orchestrator, &newer).await?;

    let refused = async || {
        // One that comes before this is known here starts a trip, and waits for its outcome.
        let body = request();
        let answer = client.post(Service::Orchestrator, "/flows/trip", &body);
        let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
        Ok(answer.ok().and_then(Result::ok).filter(|answer| answer.status == 503))
    };
    let refused = eventually("the active version can't be run here", Duration::from_secs(10), refused).await?;
    refused.is_problem(503, &["trip v2 is active", "can't run it"])?;
    let listed = client.get(Service::Orchestrator, "/flows/trip").await?.json()?;
    ensure!(listed["flows"][0]["version"] == 2 && listed["flows"][0]["state"] == "ACTIVE", "{listed}");
    let act = json!({"by": "ann", "reason": "rolled back"});
    client
        .post(Service::Orchestrator, "/flows/trip/2/activate", &act)
        .await?
        .is_problem(409, &["can't run trip v2"])?;
    let back = client.post(Service::Orchestrator, "/flows/trip/1/activate", &act).await?;
    ensure!(back.status == 200, "{} {}", back.status, back.text);
    let earlier: Vec<String> =
        sqlx::query_scalar("SELECT saga_id::text FROM sagas").fetch_all(&client.databases.orchestrator).await?;
    let started = start(&client, "trip-number-3", &request());
    let is_new = |command: &Value| earlier.iter().all(|saga| command["sagaId"] != *saga);
    let book = client.kafka.wait_for("trip.hotel.book.command", 1, is_new).await?;
    answer(&client, &book[0].json(), "trip.hotel.full", json!({"reason": "no room"})).await?;
    let ended = started.await??;
    ensure!(ended.status == 409 && ended.json()?["step"] == "HOTEL_FULL", "{} {}", ended.status, ended.text);
    Ok(())
}

/// Stores version 2 of the trip as another instance does, active.
async fn store_active(database: impl PgExecutor<'_>, source: &str) -> Result<()> {
    sqlx::query(
        "WITH stored AS (
             INSERT INTO flows (name, version, digest, source, built_in, published_by, reason)
             VALUES ('trip', 2, 'of another instance', $1, false, 'ann', 'a test') RETURNING name, version
         )
         INSERT INTO flow_changes (name, version, change, actor, reason)
         SELECT name, version, 'ACTIVATED', 'ann', 'a test' FROM stored",
    )
    .bind(source)
    .execute(database)
    .await?;
    Ok(())
}

/// The trip as its next version, with one field more that has a default.
pub fn next_version() -> String {
    let next = TRIP.replace("version: 1", "version: 2");
    next.replacen("    from:      {", "    note:      { type: text, default: none }\n    from:      {", 1)
}

#[tokio::test]
async fn a_request_that_is_repeated_is_the_same_saga_whatever_was_activated_since() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    ensure!(client.publish_flow(TRIP).await?.status == 201, "published");
    let first = start(&client, "trip-number-4", &request());
    let book = command(&client, "trip.hotel.book.command", &Value::Null).await?;
    answer(&client, &book, "trip.hotel.full", json!({"reason": "no room"})).await?;
    let first = first.await??;
    let next = client.publish_flow(&next_version()).await?;
    ensure!(next.status == 201 && next.json()?["version"] == 2, "{} {}", next.status, next.text);

    let again = start(&client, "trip-number-4", &request()).await??;

    ensure!((again.status, &again.text) == (409, &first.text), "{} {}", again.status, again.text);
    let mut other = request();
    other["note"] = json!("late");
    start(&client, "trip-number-4", &other).await??.is_problem(422, &["`Idempotency-Key`"])?;
    let of_v2 = start(&client, "trip-number-5", &other);
    let book = command(&client, "trip.hotel.book.command", &first.json()?["sagaId"]).await?;
    answer(&client, &book, "trip.hotel.full", json!({"reason": "no room"})).await?;
    let of_v2 = of_v2.await??.json()?;
    ensure!(of_v2["version"] == 2, "{of_v2}");
    Ok(())
}

#[tokio::test]
async fn a_flow_whose_publication_commits_late_is_known_all_the_same() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let mut late = client.databases.orchestrator.begin().await?;
    store_active(&mut *late, &next_version()).await?;
    // Its changes have greater numbers, and are seen first.
    ensure!(client.publish_flow(TRIP).await?.status == 201, "published");
    tokio::time::sleep(Duration::from_secs(2)).await;

    late.commit().await?;

    // An older number is no newer decision: version 1 stays the active one. But version 2 is known.
    let act = json!({"by": "ann", "reason": "as meant"});
    let known = async || {
        let activated = client.post(Service::Orchestrator, "/flows/trip/2/activate", &act).await?;
        Ok((activated.status == 200).then_some(()))
    };
    eventually("version 2 can be activated", Duration::from_secs(10), known).await
}

/// A flow that is about no money: a trip without its price.
const FREE: &str = "format: 1
flow: visit
version: 1
start:
  subject: visitId
  owner: $input.guest
  input: { guest: { type: user_id }, room: { type: text, max: 20 } }
pivot: OPEN
answer: { after: OPEN, done: 200, failed: { otherwise: 409 }, body: { code: $OPEN.code } }
steps:
  - step: HOLD
    within: 60s
    ask: { topic: visit.hold.command, send: { room: $input.room } }
    done: visit.held
    undo: { step: FREE, ask: { topic: visit.free.command, send: { why: $cause } }, done: visit.freed }
  - step: OPEN
    ask: { topic: visit.open.command }
    done: { visit.opened: { reply: { code: { type: text, max: 10 } }, keep: [code] } }
";

#[tokio::test]
async fn a_flow_need_not_be_about_money() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "85000")]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(FREE).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let request = client.request(Service::Orchestrator, Method::POST, "/flows/visit");
    let request = request.json(&json!({"guest": "ann", "room": "12"}));
    let waiting = tokio::spawn(async move { Answer::read(request.send().await?).await });
    for (topic, event, payload) in [
        ("visit.hold.command", "visit.held", json!({})),
        ("visit.open.command", "visit.opened", json!({"code": "4711"})),
    ] {
        let command = command(&client, topic, &Value::Null).await?;
        let reply = json!({
            "eventId": uuid::Uuid::now_v7(), "causationId": command["eventId"], "sagaId": command["sagaId"],
            "visitId": command["visitId"], "timestamp": "2027-01-01T00:00:00Z", "payload": payload,
        });
        let key = command["sagaId"].as_str().context("a saga's id")?;
        client.kafka.publish_event("visit.replies", event, key, reply.to_string().as_bytes()).await?;
    }
    let answer = waiting.await??;
    ensure!(answer.status == 200 && answer.json()?["result"] == json!({"code": "4711"}), "{}", answer.text);

    // Nowhere it is said to be about nothing of some currency.
    let saga_id = answer.field("sagaId")?;
    let saga = client.get(Service::Orchestrator, &format!("/sagas/{saga_id}")).await?;
    let list = client.get(Service::Orchestrator, "/sagas?flow=visit").await?;
    let page = client.get(Service::Orchestrator, &format!("/dashboard/sagas/{saga_id}")).await?;
    let pages = client.get(Service::Orchestrator, "/?flow=visit").await?;
    for shown in [&saga, &list, &page, &pages] {
        ensure!(shown.status == 200 && shown.text.contains("visit v1"), "{}", shown.text);
        ensure!(!shown.text.contains("XXX"), "{}", shown.text);
    }
    ensure!(!saga.text.contains("totalAmount") && !list.text.contains("totalAmount"), "{} {}", saga.text, list.text);
    let sql = "SELECT trim_scale(total_amount)::text || ' ' || currency FROM sagas WHERE definition = 'visit'";
    let stored: String = sqlx::query_scalar(sql).fetch_one(&client.databases.orchestrator).await?;
    assert_eq!(stored, "0 XXX");
    Ok(())
}
