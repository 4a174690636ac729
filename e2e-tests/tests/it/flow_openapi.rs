//! The description of the HTTP interface has the flows that are active, and says of their requests what the server does.

#[path = "../../../flow/tests/json_schema/mod.rs"]
mod json_schema;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Service, Standalone};
use serde_json::{Value, json};

use self::json_schema::misfit;
use crate::flows::{TRIP, next_version, request};

async fn document(client: &Client) -> Result<Value> {
    let answer = client.get(Service::Orchestrator, "/openapi.json").await?;
    ensure!(answer.status == 200 && answer.header("content-type") == "application/json", "{}", answer.text);
    answer.json()
}

/// Requests with one thing that is other than in the test of the file, and whether they fit.
fn requests() -> Vec<(Value, bool)> {
    let mut requests = vec![(request(), true), (json!([]), false), (json!({}), false)];
    let mut with = |field: &str, value: Value, fits| {
        let mut other = request();
        other[field] = value;
        requests.push((other, fits));
    };
    with("budget", json!(900), true);
    with("budget", json!(1e-7), false);
    with("budget", json!(0), false);
    with("budget", json!("a lot"), false);
    with("budget", json!([900]), false);
    with("currency", json!("USD"), true);
    with("currency", json!(null), true);
    with("currency", json!("DEM"), false);
    with("traveller", json!("a".repeat(128)), true);
    with("traveller", json!("a".repeat(129)), false);
    with("traveller", json!("a\u{200d}b"), false);
    with("traveller", json!(" "), false);
    with("traveller", json!(null), false);
    with("from", json!("BERL"), false);
    with("from", json!("ber"), false);
    with("out", json!("1.5.2027"), false);
    with("seats", json!(2), false);
    for field in ["traveller", "budget", "from", "back"] {
        let mut other = request();
        other.as_object_mut().map(|request| request.remove(field));
        requests.push((other, false));
    }
    requests
}

#[tokio::test]
async fn what_the_description_of_a_flow_lets_pass_the_server_takes_and_nothing_else() -> Result<()> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "0")]).await?;
    let client = standalone.client()?;
    ensure!(document(&client).await?["paths"]["/flows/trip"].is_null());
    ensure!(client.publish_flow(TRIP).await?.status == 201, "published");

    let described = document(&client).await?;

    let start = &described["paths"]["/flows/trip"]["post"];
    let body = &start["requestBody"]["content"]["application/json"];
    assert_eq!(body["example"], request(), "that of the file's first test");
    let answer = &start["responses"]["202"]["content"]["application/json"]["schema"];
    for (request, fits) in requests() {
        let misfit_of_schema = misfit(&described, &body["schema"], &request);
        let answered = client.post(Service::Orchestrator, "/flows/trip", &request).await?;
        // A number with more decimals than its currency has is what no schema can refuse.
        let is_exact = request["budget"] != json!(1e-7);
        assert_eq!(misfit_of_schema.is_none(), fits || !is_exact, "{request}: {misfit_of_schema:?}");
        let expected = if fits { 202 } else { 422 };
        ensure!(answered.status == expected, "{request}: {} {}", answered.status, answered.text);
        ensure!(start["responses"][expected.to_string()].is_object(), "{expected} is not described");
        if fits {
            let wrong = misfit(&described, answer, &answered.json()?);
            ensure!(wrong.is_none(), "{wrong:?}: {}", answered.text);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_flow_is_described_by_its_active_version_from_the_publication_on_and_until_it_is_retired() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let fields = async || {
        let document = document(&client).await?;
        let fields = document["components"]["schemas"]["trip.request"]["properties"].as_object();
        Ok::<_, anyhow::Error>(fields.map(|fields| fields.contains_key("note")))
    };
    let page = async || {
        let page = client.get(Service::Orchestrator, "/docs").await?;
        Ok::<_, anyhow::Error>(page.text.contains("/flows/trip<") && page.text.contains("[A-Z]{3}"))
    };
    let act = json!({"by": "ann", "reason": "a test"});
    let act = async |path: &str| client.post(Service::Orchestrator, path, &act).await;
    assert_eq!((fields().await?, page().await?), (None, false));

    ensure!(client.publish_flow(TRIP).await?.status == 201, "published");
    assert_eq!((fields().await?, page().await?), (Some(false), true));
    ensure!(client.publish_flow(&next_version()).await?.status == 201, "published");
    assert_eq!(fields().await?, Some(true), "version 2 is active");
    ensure!(act("/flows/trip/1/activate").await?.status == 200);
    assert_eq!(fields().await?, Some(false));
    ensure!(act("/flows/trip/1/retire").await?.status == 200);
    assert_eq!((fields().await?, page().await?), (None, false), "none is active");
    Ok(())
}

#[tokio::test]
async fn the_schemas_of_a_flow_are_printed_from_its_file_and_from_what_is_published() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    ensure!(client.publish_flow(TRIP).await?.status == 201, "published");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/trip/trip.v1.yaml");
    for topic in [&[][..], &["--topic", "trip.hotel.book.command"], &["--topic", "trip.replies"]] {
        let schema = |flow| [&["flow", "schema", flow][..], topic].concat();
        let of_file = client.sagactl(&schema(file)).await?;
        let published = client.sagactl(&schema("trip")).await?;
        ensure!(of_file.code == 0 && of_file.stdout == published.stdout, "{of_file:?}, {published:?}");
        let title = of_file.json()?["title"].as_str().context("a title")?.to_owned();
        ensure!(title.starts_with("trip v1: "), "{title}");
    }
    let document = client.get(Service::Orchestrator, "/flows/trip/asyncapi.json").await?;
    ensure!(document.status == 200, "{} {}", document.status, document.text);
    for flow in [file, "trip"] {
        assert_eq!(client.sagactl(&["flow", "asyncapi", flow]).await?.json()?, document.json()?);
    }
    let of_nobody = client.get(Service::Orchestrator, "/flows/cruise/asyncapi.json").await?;
    of_nobody.is_problem(404, &["\"cruise\"", "active: trip v1"])?;
    let none = client.sagactl(&["flow", "schema", "trip", "--topic", "trip.hotel"]).await?;
    none.says(2, &["trip v1 has no topic, event or signal \"trip.hotel\"", "trip.hotel.booked"])
}
