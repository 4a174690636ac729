//! Trips from the request to the answer, and what they leave in the tables.

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{eventually, id};
use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;

use crate::platform::{END_LIMIT, Platform, begin, inputs, shared, start, trip_to};

/// The one row that a participant has about a trip.
async fn row(platform: &Platform, participant: &str, trip_id: &str) -> Result<Value> {
    let mut rows = platform.participants.rows_of(participant, trip_id).await?;
    ensure!(rows.len() == 1, "{participant}: {rows:?}");
    rows.pop().context("one row")
}

/// `status/step` of each entry of a saga's history, as psql shows it.
async fn stored_history(client: &e2e_tests::Client, saga_id: Uuid) -> Result<Vec<String>> {
    let sql = "SELECT input || ' ' || status || '/' || step FROM saga_events WHERE saga_id = $1 ORDER BY seq";
    let rows = sqlx::query(sql).bind(saga_id).fetch_all(&client.databases.orchestrator).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn a_trip_is_answered_with_its_three_references_which_are_those_in_the_tables() -> Result<()> {
    let (platform, client) = shared().await?;

    let answer = start(&client, "trip", &trip_to("LIS"), &[]).await?;

    assert_eq!(answer.status, 201, "{answer:?}");
    let trip = answer.json()?;
    let (saga_id, trip_id) = (id(&trip, "sagaId")?, id(&trip, "tripId")?.to_string());
    assert_eq!(answer.header("location"), format!("/sagas/{saga_id}"));
    let expected = json!({
        "sagaId": saga_id, "flow": "trip", "version": 1, "tripId": trip_id, "status": "COMPLETED", "step": "COMPLETED",
        "reason": null, "owner": "ann", "result": trip["result"], "createdAt": trip["createdAt"],
        "updatedAt": trip["updatedAt"],
    });
    assert_eq!(trip, expected);

    let (hotel, car) = (row(platform, "hotel", &trip_id).await?, row(platform, "car", &trip_id).await?);
    let flight = row(platform, "flight", &trip_id).await?;
    assert_eq!((&hotel["status"], &hotel["booking_ref"]), (&json!("BOOKED"), &trip["result"]["hotel"]));
    assert_eq!((&car["status"], &car["booking_ref"]), (&json!("RENTED"), &trip["result"]["car"]));
    assert_eq!((&flight["reason"], &flight["ticket_number"]), (&Value::Null, &trip["result"]["ticket"]));
    for row in [&hotel, &car, &flight] {
        assert_eq!(row["saga_id"], json!(saga_id));
    }

    let sagas = client.databases.sagas(saga_id).await?;
    assert_eq!(sagas.len(), 1);
    let columns =
        ["status", "step", "definition", "definition_version", "order_id", "user_id"].map(|name| &sagas[0][name]);
    let wanted = [json!("COMPLETED"), json!("COMPLETED"), json!("trip"), json!(1), json!(trip_id), json!("ann")];
    assert_eq!(columns, wanted.each_ref());
    let history = [
        "started RUNNING/HOTEL_BOOK",
        "trip.hotel.booked RUNNING/CAR_RENT",
        "trip.car.rented RUNNING/FLIGHT_TICKET",
        "trip.flight.ticketed COMPLETED/COMPLETED",
    ];
    assert_eq!(stored_history(&client, saga_id).await?, history);

    let shown = platform.sagactl(&["show", &saga_id.to_string()]).await?;
    assert_eq!(shown.code, 0, "{shown:?}");
    let (about, booked) =
        (format!("trip v1 {trip_id}"), format!("Hotel booked ({})", hotel["booking_ref"].as_str().unwrap_or_default()));
    for word in ["COMPLETED", &about, &booked, "trip.hotel.book.command", "trip.flight.ticketed"] {
        ensure!(shown.stdout.contains(word), "no {word} in {shown:?}");
    }
    ensure!(!shown.stdout.contains("no row"), "{shown:?}");
    platform.audit_is_clean().await
}

#[tokio::test]
async fn without_a_seat_the_car_goes_back_and_then_the_hotel() -> Result<()> {
    let (platform, client) = shared().await?;

    let answer = start(&client, "trip", &trip_to("NOS"), &[]).await?;

    assert_eq!(answer.status, 409, "{answer:?}");
    let trip = answer.json()?;
    assert_eq!((&trip["status"], &trip["step"], &trip["result"]), (&json!("FAILED"), &json!("NO_SEAT"), &Value::Null));
    assert_eq!(trip["reason"], "no seat is left");
    let (saga_id, trip_id) = (id(&trip, "sagaId")?, id(&trip, "tripId")?.to_string());
    let history = [
        "started RUNNING/HOTEL_BOOK",
        "trip.hotel.booked RUNNING/CAR_RENT",
        "trip.car.rented RUNNING/FLIGHT_TICKET",
        "trip.flight.refused COMPENSATING/CAR_RETURN",
        "trip.car.returned COMPENSATING/HOTEL_CANCEL",
        "trip.hotel.cancelled FAILED/NO_SEAT",
    ];
    assert_eq!(stored_history(&client, saga_id).await?, history);
    assert_eq!(row(platform, "hotel", &trip_id).await?["status"], "CANCELLED");
    assert_eq!(row(platform, "car", &trip_id).await?["status"], "RETURNED");
    assert_eq!(row(platform, "flight", &trip_id).await?["ticket_number"], Value::Null);
    platform.audit_is_clean().await
}

#[tokio::test]
async fn what_was_refused_or_never_asked_is_not_undone() -> Result<()> {
    let (platform, client) = shared().await?;
    let booked_and_cancelled = ["started", "trip.hotel.booked", "trip.car.none", "trip.hotel.cancelled"];
    for (city, cause, happened, rows) in [
        ("NOH", "HOTEL_FULL", &["started", "trip.hotel.full"][..], [1, 0, 0]),
        ("NOC", "NO_CAR", &booked_and_cancelled[..], [1, 1, 0]),
    ] {
        let answer = start(&client, "trip", &trip_to(city), &[]).await?;

        assert_eq!((answer.status, answer.field("step")?), (409, cause.to_owned()), "{answer:?}");
        let saga = client.saga(id(&answer.json()?, "sagaId")?).await?;
        assert_eq!(inputs(&saga), happened);
        for (participant, count) in ["hotel", "car", "flight"].into_iter().zip(rows) {
            let found = platform.participants.rows_of(participant, &answer.field("tripId")?).await?;
            assert_eq!(found.len(), count, "{city}: {participant}: {found:?}");
        }
    }
    platform.audit_is_clean().await
}

#[tokio::test]
async fn the_same_key_again_is_the_same_trip_and_the_same_bytes() -> Result<()> {
    let (platform, client) = shared().await?;
    let key = format!("trip-{}", Uuid::now_v7());
    let keyed = [("Idempotency-Key", key.as_str())];

    for city in ["LIS", "NOS"] {
        let key = format!("{key}-{city}");
        let keyed = [("Idempotency-Key", key.as_str())];
        let first = start(&client, "trip", &trip_to(city), &keyed).await?;
        let second = start(&client, "trip", &trip_to(city), &keyed).await?;

        assert_eq!((second.status, &second.text), (first.status, &first.text));
        assert_eq!((first.header("idempotent-replayed"), second.header("idempotent-replayed")), ("", "true"));
        assert_eq!(platform.participants.rows_of("hotel", &first.field("tripId")?).await?.len(), 1);
    }

    // While it runs, too: both find the one saga.
    let to = trip_to("OPO");
    let (one, other) = tokio::try_join!(start(&client, "trip", &to, &keyed), start(&client, "trip", &to, &keyed))?;
    assert_eq!((one.status, &one.text), (other.status, &other.text));
    start(&client, "trip", &trip_to("FAO"), &keyed).await?.is_problem(422, &["Idempotency-Key"])?;
    Ok(())
}

#[tokio::test]
async fn an_unknown_flow_or_a_wrong_request_starts_nothing() -> Result<()> {
    let (_, client) = shared().await?;
    let traveller = format!("traveller-{}", Uuid::now_v7());
    let with = |field: &str, value: Value| {
        let mut request = trip_to("LIS");
        (request["traveller"], request[field]) = (json!(traveller), value);
        request
    };
    let mut without = with("to", json!("LIS"));
    without.as_object_mut().context("an object")?.remove("back");

    start(&client, "journey", &trip_to("LIS"), &[]).await?.is_problem(404, &["journey", "trip"])?;
    for (field, request) in [
        ("to", with("to", json!("Lisbon"))),
        ("out", with("out", json!("2027-02-30"))),
        ("budget", with("budget", json!(-1))),
        ("currency", with("currency", json!("XXX"))),
        ("seats", with("seats", json!(2))),
        ("back", without),
    ] {
        let refused = start(&client, "trip", &request, &[]).await?;
        refused.is_problem(422, &[field]).with_context(|| field.to_owned())?;
        assert_eq!(refused.json()?["field"], field, "{refused:?}");
    }

    let listed = client.sagactl(&["list", "--user", &traveller, "--json"]).await?;
    assert_eq!((listed.code, listed.stdout.as_str()), (0, ""), "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_wait_finds_the_outcome_at_the_location() -> Result<()> {
    let (platform, client) = shared().await?;

    let saga_id = begin(&client, &trip_to("LIS")).await?;

    let saga = &platform.ends(&[saga_id]).await?[0];
    assert_eq!(saga["status"], "COMPLETED", "{saga}");
    eventually("sagactl lists it", END_LIMIT, async || {
        let listed = client.sagactl(&["list", "--user", "ann", "--json"]).await?;
        Ok(listed.stdout.contains(&saga_id.to_string()).then_some(()))
    })
    .await
}
