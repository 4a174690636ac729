//! What people see of sagas of users' flows: lists, pages, `sagactl`, metrics. All of it is made from the flow's file.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Samples, Service, Standalone, eventually, id};
use serde_json::{Value, json};

use crate::flows::{TRIP, answer, command, request, start};

const LIMIT: Duration = Duration::from_secs(30);

async fn get(client: &Client, path: &str) -> Result<Answer> {
    client.get(Service::Orchestrator, path).await
}

/// Waits until a page shows these texts.
async fn until_shows(client: &Client, path: &str, texts: &[&str]) -> Result<Answer> {
    eventually(&format!("{path} shows {texts:?}"), LIMIT, async || {
        let page = get(client, path).await?;
        ensure!(page.status == 200, "{} {}", page.status, page.text);
        Ok(texts.iter().all(|text| page.text.contains(text)).then_some(page))
    })
    .await
}

/// The ids of the listed sagas.
fn listed(page: &Value) -> Vec<&str> {
    page["sagas"].as_array().into_iter().flatten().filter_map(|saga| saga["sagaId"].as_str()).collect()
}

#[tokio::test]
async fn a_published_flow_has_its_pages_its_lists_and_its_metrics() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let checkout = client.checkout(&json!({"userId": "ann", "totalAmount": 5})).await?.json()?;
    let before = get(&client, "/").await?;
    ensure!(!before.text.contains("any flow"), "without users' flows a list says nothing of flows");
    let published = client.publish_flow(TRIP).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);

    // The pages of the flow, before there is a saga.
    let flows = get(&client, "/dashboard/flows").await?;
    ensure!(flows.text.contains("/dashboard/flows/trip/1") && flows.text.contains("a test"), "{}", flows.text);
    let picture = get(&client, "/dashboard/flows/trip").await?;
    for text in ["trip v1", "ACTIVE", "HOTEL_CANCEL", "trip.car.rent.command", "pivot", "the client is answered: 201"] {
        ensure!(picture.text.contains(text), "no {text} in {}", picture.text);
    }
    ensure!(picture.text.contains("data-post=\"/flows/trip/1/retire\""), "{}", picture.text);
    let form = get(&client, "/dashboard/start/trip").await?;
    ensure!(form.text.contains("data-start=\"/flows/trip\"") && form.text.contains("type=\"date\""), "{}", form.text);
    for (path, status) in [
        ("/dashboard/publish", 200),
        ("/dashboard/flows/cruise", 404),
        ("/dashboard/flows/trip/2", 404),
        ("/dashboard/flows/trip/x", 400),
    ] {
        let page = get(&client, path).await?;
        assert_eq!((page.status, page.header("content-type")), (status, "text/html; charset=utf-8"), "{path}");
        ensure!(
            !page.text.contains(" style=") && !page.text.contains("onclick"),
            "the policy forbids what stands in it"
        );
    }

    // One saga turns back at the car, one waits there.
    let mut of_refused = request();
    of_refused["traveller"] = json!("<b>bob</b>");
    let refused = start(&client, "trip-of-bob", &of_refused);
    let book = command(&client, "trip.hotel.book.command", &Value::Null).await?;
    let price = json!({"amount": 90, "currency": "EUR"});
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": "H1", "price": price})).await?;
    let rent = command(&client, "trip.car.rent.command", &Value::Null).await?;
    answer(&client, &rent, "trip.car.none", json!({"reason": "all are out"})).await?;
    let cancel = command(&client, "trip.hotel.cancel.command", &Value::Null).await?;
    answer(&client, &cancel, "trip.hotel.cancelled", json!({})).await?;
    ensure!(refused.await??.status == 409);
    let (refused, _waiting) = (id(&book, "sagaId")?.to_string(), start(&client, "trip-of-ann", &request()));
    let book = command(&client, "trip.hotel.book.command", &book["sagaId"]).await?;
    let waiting = id(&book, "sagaId")?.to_string();
    answer(&client, &book, "trip.hotel.booked", json!({"bookingRef": "H2", "price": price})).await?;

    // Its page: in the flow's words, and without services that it does not ask.
    let page = until_shows(&client, &format!("/dashboard/sagas/{waiting}"), &["waits for CAR_RENT"]).await?;
    for text in ["tripId", "Hotel booked (H2)", "place ahead here", "&quot;traveller&quot;", "H2", "Cancel the saga"] {
        ensure!(page.text.contains(text), "no {text} in {}", page.text);
    }
    for text in ["payment-service", "inventory-service", "order-service", "goods", "checkout is"] {
        ensure!(!page.text.contains(text), "{text} in {}", page.text);
    }
    let rows = get(&client, &format!("/sagas/{waiting}/rows")).await?.json()?;
    assert_eq!((&rows["order"], &rows["payment"], &rows["reservation"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(get(&client, &format!("/sagas/{waiting}")).await?.json()?["subject"], "tripId");
    let page = get(&client, &format!("/dashboard/sagas/{refused}")).await?;
    ensure!(page.text.contains("&lt;b&gt;bob") && !page.text.contains("<b>bob"), "{}", page.text);
    let shown = client.sagactl(&["show", &waiting]).await?;
    ensure!(shown.code == 0 && !shown.stdout.contains("payment: no row"), "{shown:?}");

    // Lists.
    let of_checkout = id(&checkout, "sagaId")?.to_string();
    for (query, expected) in [
        ("flow=trip", vec![&waiting, &refused]),
        ("flow=pay-first", vec![&of_checkout]),
        ("step=NO_CAR", vec![&refused]),
        ("step=car_rent&flow=trip", vec![&waiting]),
        ("flow=trip&status=FAILED", vec![&refused]),
        ("flow=trip&status=COMPLETED", vec![]),
    ] {
        let page = get(&client, &format!("/sagas?{query}")).await?.json()?;
        assert_eq!(listed(&page), expected, "{query}");
    }
    let page = get(&client, "/sagas?flow=trip").await?.json()?;
    assert_eq!(page["sagas"][0]["definition"], "trip v1");
    get(&client, "/sagas?flow=cruise").await?.is_problem(400, &["pay-first, reserve-first, trip"])?;
    get(&client, "/sagas?flow=trip&step=PAYMENT_CHARGE").await?.is_problem(400, &["HOTEL_BOOK"])?;
    let list = get(&client, "/?flow=trip&step=NO_CAR").await?;
    let link = format!("/dashboard/sagas/{refused}");
    for text in [link.as_str(), "trip v1", "any flow"] {
        ensure!(list.text.contains(text), "no {text} in {}", list.text);
    }
    let listed = client.sagactl(&["list", "--flow", "trip"]).await?;
    ensure!(
        listed.code == 0 && listed.stdout.contains("trip v1") && !listed.stdout.contains("pay-first"),
        "{listed:?}"
    );

    // The figures at each step, and the metrics.
    let flow = "/dashboard/flows/trip/1";
    until_shows(&client, flow, &["1 here · 0 passed · 1 failed", "2 passed", "1 passed", "p50 "]).await?;
    eventually("the metrics have both", LIMIT, async || {
        let samples = Samples::of(&client, Service::Orchestrator).await?;
        for (sample, value) in [
            (r#"flow_sagas_started_total{flow="trip"}"#, 2.0),
            (r#"flow_sagas_ended_total{flow="trip",outcome="no_car"}"#, 1.0),
            (r#"flow_saga_compensations_total{cause="no_car",flow="trip"}"#, 1.0),
            (r#"flow_saga_step_duration_seconds_count{flow="trip",step="hotel_book"}"#, 2.0),
            (r#"flow_sagas_unfinished{flow="trip",status="running",step="car_rent"}"#, 1.0),
            (r#"flow_sagas_refused_total{flow="trip",reason="paused"}"#, 0.0),
            ("sagas_started_total", 1.0),
            (r#"checkouts_total{outcome="completed"}"#, 1.0),
        ] {
            let shown = samples.value(sample)?;
            ensure!(shown == value, "{sample} is {shown}");
        }
        ensure!(samples.sum("checkouts_total{") == 1.0, "a trip was counted as a checkout");
        Ok(Some(()))
    })
    .await?;

    // The index by flow is for them, and serves the list.
    let mut read = client.databases.orchestrator.begin().await?;
    sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *read).await?;
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT saga_id FROM sagas WHERE definition = 'trip' ORDER BY saga_id DESC LIMIT 50",
    )
    .fetch_all(&mut *read)
    .await?;
    plan.iter().find(|line| line.contains("sagas_by_flow")).with_context(|| format!("{plan:?}"))?;
    Ok(())
}

#[tokio::test]
async fn a_refused_request_for_a_saga_is_counted_under_its_flow() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    client.publish_flow(TRIP).await?;
    let act = json!({"by": "ann", "reason": "maintenance"});
    assert_eq!(client.post(Service::Orchestrator, "/intake/pause", &act).await?.status, 200);
    assert_eq!(start(&client, "trip-number-1", &request()).await??.status, 503);

    let samples = Samples::of(&client, Service::Orchestrator).await?;
    assert_eq!(samples.value(r#"flow_sagas_refused_total{flow="trip",reason="paused"}"#)?, 1.0);
    assert_eq!(samples.value(r#"checkouts_refused_total{reason="paused"}"#)?, 0.0);
    Ok(())
}
