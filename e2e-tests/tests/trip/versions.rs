//! A new version while trips run by the old one, and a flow that is retired. With participants that were there before
//! the flow was published.

use anyhow::{Context as _, Result};
use e2e_tests::{Scratch, id};
use serde_json::json;

use crate::participants::examples;
use crate::platform::{Platform, begin, start, trip_to};

#[tokio::test]
async fn running_trips_end_by_the_version_that_they_began_with() -> Result<()> {
    let mut platform = Platform::start_before_publishing().await?;
    platform.publish().await?;
    let client = platform.client()?;
    platform.participants.until_ready(&client.kafka).await?;
    let scratch = Scratch::new()?;
    let file = scratch.path().join("trip.v2.yaml");
    let text = std::fs::read_to_string(examples().join("trip.v1.yaml"))?;
    let changed = text.replace("version: 1\n", "version: 2\n").replace("done: 201", "done: 200");
    std::fs::write(
        &file,
        changed.replace("body: { hotel: $HOTEL_BOOK.bookingRef, car: $CAR_RENT.bookingRef, ticket", "body: { ticket"),
    )?;
    let file = file.to_str().context("a path in UTF-8")?;
    platform.participants.pause("hotel")?;
    let old = begin(&client, &trip_to("LIS")).await?;
    platform.stands_at(old, "HOTEL_BOOK").await?;

    let diff = platform.sagactl(&["flow", "diff", file]).await?;
    diff.says(
        1,
        &["done: 201 -> 200", "body.hotel: $HOTEL_BOOK.bookingRef", "1 saga still runs by v1, and ends by it."],
    )?;
    let act = ["--by", "ann", "--reason", "a smaller answer"];
    let publish = [&["flow", "publish", file, "--no-activate"][..], &act].concat();
    platform.sagactl(&publish).await?.says(0, &["trip v2  INACTIVE", "published"])?;
    let still_old = begin(&client, &trip_to("LIS")).await?;
    let activate = [&["flow", "activate", "trip", "2"][..], &act].concat();
    platform.sagactl(&activate).await?.says(0, &["trip v2  ACTIVE"])?;
    platform.sagactl(&["flow", "show", "trip/1"]).await?.says(0, &["trip v1  INACTIVE  2 unfinished"])?;
    platform.participants.go_on("hotel")?;

    let new = start(&client, "trip", &trip_to("LIS"), &[]).await?;
    assert_eq!(new.status, 200, "{new:?}");
    let result = &new.json()?["result"];
    assert_eq!(result.as_object().map(|result| result.keys().collect::<Vec<_>>()), Some(vec![&"ticket".to_owned()]));
    platform.ends(&[old, still_old]).await?;
    for (saga, version) in [(old, 1), (still_old, 1), (id(&new.json()?, "sagaId")?, 2)] {
        let rows = client.databases.sagas(saga).await?;
        assert_eq!((&rows[0]["definition_version"], &rows[0]["status"]), (&json!(version), &json!("COMPLETED")));
    }
    platform.audit_is_clean().await
}

#[tokio::test]
async fn a_retired_flow_starts_no_trip_and_ends_those_that_run() -> Result<()> {
    let platform = Platform::start().await?;
    let client = platform.client()?;
    platform.participants.pause("flight")?;
    let running = begin(&client, &trip_to("LIS")).await?;
    platform.stands_at(running, "FLIGHT_TICKET").await?;
    let act = ["--by", "ann", "--reason", "the season is over"];

    let retired = platform.sagactl(&[&["flow", "retire", "trip", "1"][..], &act].concat()).await?;

    retired.says(0, &["trip v1  RETIRED  1 unfinished"])?;
    start(&client, "trip", &trip_to("LIS"), &[]).await?.is_problem(404, &["trip"])?;
    let shown = platform.sagactl(&["flow", "show", "trip"]).await?;
    shown.says(0, &["published by ann", "v1 RETIRED by ann: the season is over", "HOTEL_BOOK"])?;
    platform.participants.go_on("flight")?;
    assert_eq!(platform.ends(&[running]).await?[0]["status"], "COMPLETED");

    let activated = platform.sagactl(&[&["flow", "activate", "trip", "1"][..], &act].concat()).await?;
    activated.says(0, &["trip v1  ACTIVE  0 unfinished"])?;
    assert_eq!(start(&client, "trip", &trip_to("LIS"), &[]).await?.status, 201);
    platform.audit_is_clean().await
}
