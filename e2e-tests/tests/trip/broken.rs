//! Trips while something is broken: participants that are killed, everything twice, wrong replies, a platform that ends
//! in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, KafkaClient, Seen, eventually, id};
use serde_json::{Value, json};
use service_runtime::CancellationToken;
use uuid::Uuid;

use crate::participants::TOPICS;
use crate::platform::{END_LIMIT, Platform, begin, inputs, start, trip_to};

/// Each fourth trip finds no seat.
fn city(number: usize) -> &'static str {
    if number % 4 == 3 { "NOS" } else { "LIS" }
}

async fn begin_all(client: &Client, count: usize) -> Result<Vec<Uuid>> {
    let mut sagas = Vec::new();
    for number in 0..count {
        sagas.push(begin(client, &trip_to(city(number))).await?);
    }
    Ok(sagas)
}

/// All of these ended as their cities have it, and each participant has one row about each that says so.
async fn ended_well(platform: &Platform, sagas: &[Uuid]) -> Result<()> {
    let ended = platform.ends(sagas).await?;
    for (number, saga) in ended.iter().enumerate() {
        let is_full = city(number) == "NOS";
        let end = if is_full { ("FAILED", "NO_SEAT") } else { ("COMPLETED", "COMPLETED") };
        assert_eq!((&saga["status"], &saga["step"]), (&json!(end.0), &json!(end.1)), "{saga}");
        let (hotel, car) = if is_full { ("CANCELLED", "RETURNED") } else { ("BOOKED", "RENTED") };
        let trip_id = trip_of(saga)?;
        for (participant, status) in [("hotel", Some(hotel)), ("car", Some(car)), ("flight", None)] {
            let rows = platform.participants.rows_of(participant, &trip_id).await?;
            ensure!(rows.len() == 1, "{participant} has {rows:?}");
            match status {
                Some(status) => assert_eq!(rows[0]["status"], status, "{rows:?}"),
                None => assert_eq!(rows[0]["ticket_number"].is_null(), is_full, "{rows:?}"),
            }
        }
    }
    Ok(())
}

/// The subject of a saga, under the name that its flow gives it or the general one.
fn trip_of(saga: &Value) -> Result<String> {
    let id = saga["tripId"].as_str().or(saga["orderId"].as_str());
    Ok(id.with_context(|| format!("no subject in {saga}"))?.to_owned())
}

/// The replies to these sagas' commands, by command. Each command has one reply, byte for byte, however often it came;
/// but an action whose command comes once more after its undo is refused from then on.
async fn replies(kafka: &KafkaClient, sagas: &[Uuid]) -> Result<BTreeMap<String, Vec<Seen>>> {
    let sagas: BTreeSet<String> = sagas.iter().map(Uuid::to_string).collect();
    let all = kafka.records("trip.replies").await?;
    let of = |reply: &Seen| reply.headers.get("ce_type").cloned().unwrap_or_default();
    let undone_by = |refusal: &str| match refusal {
        "trip.hotel.full" => Some("trip.hotel.cancelled"),
        "trip.car.none" => Some("trip.car.returned"),
        _ => None,
    };
    let events: BTreeSet<(String, String)> = all.iter().map(|reply| (reply.key.clone(), of(reply))).collect();
    let same = |one: &Seen, other: &Seen| (&one.body, &one.headers) == (&other.body, &other.headers);
    let mut by_command: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for reply in all.into_iter().filter(|reply| sagas.contains(&reply.key)) {
        let command = reply.json()["causationId"].as_str().context("a cause")?.to_owned();
        let known = by_command.entry(command).or_default();
        let is_refusal = |reply: &Seen| undone_by(&of(reply)).is_some();
        let undone = undone_by(&of(&reply)).is_some_and(|undo| events.contains(&(reply.key.clone(), undo.to_owned())));
        let is_refused_now = undone && !known.iter().any(is_refusal);
        let is_known = known.is_empty() || known.iter().any(|one| same(one, &reply));
        ensure!(is_known || is_refused_now, "{known:?}, then {reply:?}");
        known.push(reply);
    }
    Ok(by_command)
}

#[tokio::test]
async fn a_participant_that_is_killed_between_command_and_reply_loses_no_trip() -> Result<()> {
    const TRIPS: usize = 24;
    let platform = Platform::start().await?;
    let (client, participants) = (platform.client()?, &platform.participants);

    for (name, step, topic) in
        [("hotel", "HOTEL_BOOK", TOPICS[0]), ("car", "CAR_RENT", TOPICS[2]), ("flight", "FLIGHT_TICKET", TOPICS[4])]
    {
        participants.pause(name)?;
        let sagas = begin_all(&client, TRIPS).await?;
        for saga in &sagas {
            platform.stands_at(*saga, step).await?;
        }
        let of_these = |command: &Value| id(command, "sagaId").is_ok_and(|saga| sagas.contains(&saga));
        client.kafka.wait_for(topic, TRIPS, of_these).await?;
        let known = participants.log(name).len();
        let decided = || participants.log(name)[known..].matches("trip ").count();

        participants.go_on(name)?;
        eventually(&format!("{name} works"), END_LIMIT, async || Ok((decided() > 0).then_some(()))).await?;
        participants.pause(name)?;
        // In the middle: some commands were carried out and some were not.
        let decided = decided();
        participants.kill(name).await?;

        ensure!(decided < TRIPS, "{name} was too quick: it has decided about all {TRIPS}");
        ended_well(&platform, &sagas).await?;
        ensure!(participants.restarts(name) == 1, "{name}: {}", participants.log(name));
        // With undos: two more for a trip without a seat.
        assert_eq!(replies(&client.kafka, &sagas).await?.len(), TRIPS * 3 + TRIPS / 4 * 2);
    }
    platform.audit_is_clean().await
}

#[tokio::test]
async fn everything_twice_changes_nothing() -> Result<()> {
    const TRIPS: usize = 8;
    let platform = Platform::start().await?;
    let client = platform.client()?;
    let stop = CancellationToken::new();
    let doubler = tokio::spawn(publish_twice(client.kafka.clone(), stop.clone()));

    let sagas = begin_all(&client, TRIPS).await?;

    ended_well(&platform, &sagas).await?;
    // The first reply and the one to the second command, each of them twice.
    eventually("each reply came four times", END_LIMIT, async || {
        let replies = replies(&client.kafka, &sagas).await?;
        let all = replies.len() == TRIPS * 3 + TRIPS / 4 * 2 && replies.values().all(|same| same.len() >= 4);
        Ok(all.then_some(()))
    })
    .await?;
    stop.cancel();
    ensure!(doubler.await?? >= TRIPS * 6, "not everything was doubled");
    ended_well(&platform, &sagas).await?;
    for saga in platform.ends(&sagas).await? {
        ensure!(saga["ignored"].as_array().is_some_and(|ignored| !ignored.is_empty()), "{saga}");
        let moves = inputs(&saga);
        assert_eq!(moves.iter().collect::<BTreeSet<_>>().len(), moves.len(), "{moves:?}");
    }
    assert!(client.kafka.records("trip.replies.dlq").await?.is_empty());
    platform.audit_is_clean().await
}

/// Publishes each record of the trip's topics once more, until it is stopped. How many they were.
async fn publish_twice(kafka: KafkaClient, stop: CancellationToken) -> Result<usize> {
    let follower = kafka.follow(&TOPICS).await?;
    let (mut own, mut doubled) = (BTreeSet::new(), 0);
    while !stop.is_cancelled() {
        let Some(record) = follower.next(Duration::from_millis(100)).await else { continue };
        let topic = record.topic.clone();
        let seen = Seen::from(record);
        if !own.remove(&(topic.clone(), seen.partition, seen.offset)) {
            let (partition, offset) = kafka.publish_again(&topic, &seen).await?;
            own.insert((topic, partition, offset));
            doubled += 1;
        }
    }
    Ok(doubled)
}

#[tokio::test]
async fn a_wrong_reply_is_set_aside_with_the_reason_and_does_not_move_the_trip() -> Result<()> {
    let platform = Platform::start().await?;
    let client = platform.client()?;
    platform.participants.pause("hotel")?;
    let saga_id = begin(&client, &trip_to("LIS")).await?;
    let of_saga = |command: &Value| command["sagaId"] == json!(saga_id);
    let command = client.kafka.wait_for(TOPICS[0], 1, of_saga).await?.remove(0).json();
    let reply = |change: &dyn Fn(&mut Value)| {
        let mut reply = json!({
            "eventId": Uuid::now_v7(), "causationId": command["eventId"], "sagaId": saga_id,
            "tripId": command["tripId"], "timestamp": "2026-01-01T00:00:00.000000Z",
            "payload": {"bookingRef": "H-1", "price": {"amount": "89.00", "currency": "EUR"}},
        });
        change(&mut reply);
        reply.to_string().into_bytes()
    };

    for (body, event, word) in [
        (
            reply(&|reply| drop(reply["payload"].as_object_mut().map(|payload| payload.remove("bookingRef")))),
            "booked",
            "bookingRef",
        ),
        (reply(&|reply| reply["payload"]["bookingRef"] = json!("H".repeat(41))), "booked", "bookingRef"),
        (reply(&|reply| reply["payload"]["price"]["currency"] = json!("XXX")), "booked", "price"),
        (reply(&|reply| reply["tripId"] = json!(Uuid::now_v7())), "booked", "its saga about"),
        (reply(&|reply| reply["causationId"] = json!(Uuid::now_v7())), "booked", "it answers command"),
        (reply(&|_| ()), "exploded", "trip.hotel.exploded"),
        (b"{".to_vec(), "booked", "not a valid message"),
    ] {
        let (event, key) = (format!("trip.hotel.{event}"), saga_id.to_string());
        let place = client.kafka.publish_event("trip.replies", &event, &key, &body).await?;
        let letter = client.kafka.dead_letter("trip.replies", place).await?;

        assert_eq!(letter.body, body);
        let why = letter.headers.get("dlq_error").context("a reason")?;
        ensure!(why.contains(word), "no {word:?} in {why:?}");
        platform.stands_at(saga_id, "HOTEL_BOOK").await?;
    }

    platform.participants.go_on("hotel")?;
    let saga = &platform.ends(&[saga_id]).await?[0];
    assert_eq!(saga["status"], "COMPLETED", "{saga}");
    platform.audit_is_clean().await
}

#[tokio::test]
async fn a_platform_that_ends_in_the_middle_of_trips_finishes_them_after_its_start() -> Result<()> {
    let mut platform = Platform::start().await?;
    let client = platform.client()?;
    platform.participants.pause("car")?;
    let sagas = begin_all(&client, 4).await?;
    for saga in &sagas {
        platform.stands_at(*saga, "CAR_RENT").await?;
    }

    platform.standalone.kill();
    platform.standalone.start_again().await?;

    // The embedded broker has forgotten everything and is at another port: `run` follows it.
    let client_of_next = platform.client()?;
    ensure!(client_of_next.kafka.address() != client.kafka.address(), "the same port again: nothing is shown");
    platform.participants.until_ready(&client_of_next.kafka).await?;
    ended_well(&platform, &sagas).await?;
    let listed = platform.sagactl(&["flow", "list", "--json"]).await?;
    ensure!(listed.stdout.lines().any(|line| line.contains("\"trip\"") && line.contains("ACTIVE")), "{listed:?}");
    assert_eq!(start(&client_of_next, "trip", &trip_to("LIS"), &[]).await?.status, 201);
    platform.audit_is_clean().await
}
