//! A built-in flow is its file. These programs are built with one flow more, `flows/hold-first.v1.yaml` of this crate, and
//! with no other change: it runs, and people and programs see it, as if it had always been there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Service, Standalone};
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/flows/hold-first.v1.yaml");

const NAME: &str = "hold-first";

fn request() -> Value {
    json!({"buyer": "ann", "price": "19.90", "note": "a gift"})
}

async fn text(client: &Client, path: &str) -> Result<String> {
    let answer = client.get(Service::Orchestrator, path).await?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
    Ok(answer.text)
}

async fn shows(client: &Client, path: &str, texts: &[&str]) -> Result<()> {
    let page = text(client, path).await?;
    for text in texts {
        ensure!(page.contains(text), "no {text:?} in {path}: {page}");
    }
    Ok(())
}

/// The inputs of a saga's history.
fn history(saga: &Value) -> Vec<&str> {
    saga["history"].as_array().into_iter().flatten().filter_map(|entry| entry["input"].as_str()).collect()
}

#[tokio::test]
async fn it_is_active_from_the_start_and_has_its_page_its_series_and_its_route() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;

    let flows = client.get(Service::Orchestrator, "/flows").await?.json()?;
    let fields =
        |flow: &Value| json!([flow["name"], flow["version"], flow["state"], flow["builtIn"], flow["publishedBy"]]);
    let states: Vec<_> = flows["flows"].as_array().into_iter().flatten().map(fields).collect();
    let state = |name| json!([name, 1, "ACTIVE", true, "release"]);
    assert_eq!(states, [state(NAME), state("pay-first"), state("reserve-first")]);
    shows(&client, "/dashboard/flows", &["/dashboard/flows/hold-first/1"]).await?;
    let picture = ["hold-first v1", "inventory.reserve.command", "PAY_BACK", "the client is answered: 201"];
    shows(&client, "/dashboard/flows/hold-first/1", &picture).await?;
    shows(&client, "/dashboard/start/hold-first", &["data-start=\"/flows/hold-first\"", "note"]).await?;
    shows(&client, "/docs", &["/flows/hold-first"]).await?;
    let series = ["flow_sagas_started_total{flow=\"hold-first\"} 0", "flow=\"hold-first\",step=\"hold\""];
    shows(&client, "/metrics", &series).await?;
    let described: Value = serde_json::from_str(&text(&client, "/openapi.json").await?)?;
    let start = &described["paths"]["/flows/hold-first"]["post"];
    assert_eq!(start["requestBody"]["content"]["application/json"]["example"], request());
    ensure!(start["responses"]["201"].is_object() && start["responses"]["402"].is_object(), "{start}");
    // The part of the checkouts is what it was.
    let steps = described["components"]["schemas"]["Outcome"]["properties"]["step"].to_string();
    ensure!(steps.contains("PAYMENT_CHARGE") && !steps.contains("PAY_BACK"), "{steps}");
    Ok(())
}

#[tokio::test]
async fn its_sagas_run_to_their_ends_and_are_told_in_its_own_words() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let start = async |body: Value| client.post(Service::Orchestrator, "/flows/hold-first", &body).await;

    let completed = start(request()).await?;
    ensure!(completed.status == 201, "{} {}", completed.status, completed.text);
    let outcome = completed.json()?;
    assert_eq!(outcome["result"], json!({"order": outcome["orderId"], "note": "a gift"}));
    let mut declined = request();
    declined["decline"] = json!(true);
    let declined = start(declined).await?;
    ensure!(declined.status == 402 && declined.json()?["step"] == "DECLINED", "{} {}", declined.status, declined.text);
    let mut unknown = request();
    unknown["gift"] = json!(true);
    start(unknown).await?.is_problem(422, &["`gift` is no field"])?;
    let checkout = client.checkout(&json!({"userId": "ann", "totalAmount": 5})).await?;
    ensure!(checkout.status == 200, "{} {}", checkout.status, checkout.text);

    let saga = client.get(Service::Orchestrator, completed.header("location")).await?.json()?;
    let events = ["started", "order.created", "inventory.reserved", "payment.charged", "order.confirmed"];
    assert_eq!(history(&saga), events);
    assert_eq!(saga["input"]["note"], "a gift");
    let page = format!("/dashboard{}", completed.header("location"));
    shows(&client, &page, &["/dashboard/flows/hold-first/1", "Held for the buyer", "19.90 EUR paid"]).await?;
    let turned_back = client.get(Service::Orchestrator, declined.header("location")).await?.json()?;
    let events =
        ["started", "order.created", "inventory.reserved", "payment.failed", "inventory.released", "order.cancelled"];
    assert_eq!(history(&turned_back), events);
    let page = format!("/dashboard{}", declined.header("location"));
    shows(&client, &page, &["Not paid: declined", "No longer held"]).await?;
    let listed = client.get(Service::Orchestrator, "/sagas?flow=hold-first").await?.json()?;
    assert_eq!(listed["sagas"].as_array().map(Vec::len), Some(2));
    shows(&client, "/", &["any flow", "hold-first"]).await?;
    let series = [
        "flow_sagas_ended_total{flow=\"hold-first\",outcome=\"completed\"} 1",
        "checkouts_total{outcome=\"completed\"} 1",
    ];
    shows(&client, "/metrics", &series).await?;
    // The audit: the four databases agree about all of them.
    client.all_end_in_agreement(std::time::Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test]
async fn its_name_is_taken_and_its_file_is_checked_shown_and_simulated_like_any_other() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;

    let trip = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/trip/trip.v1.yaml"))?;
    let of_a_user = trip.replace("flow: trip", "flow: hold-first").replace("trip.", "hold-first.");
    let refused = client.publish_flow(&of_a_user).await?;
    refused.is_problem(422, &["breaks 1 rules"])?;
    let finding = refused.json()?["findings"][0].clone();
    ensure!(finding["rule"] == "reserved" && finding["line"] == 3, "{finding}");

    client
        .sagactl(&["flow", "check", "--built-in", FILE])
        .await?
        .says(0, &["hold-first v1, 4 steps, 2 tests passed"])?;
    client
        .sagactl(&["flow", "show", NAME])
        .await?
        .says(0, &["comes with the platform", "inventory.reserve.command"])?;
    client.sagactl(&["flow", "diff", FILE]).await?.says(0, &["the same file"])?;
    client.sagactl(&["flow", "simulate", FILE, "--seeds", "300"]).await?.says(0, &["300"])
}

/// The files of the product: all but those of this crate, what is built, and what is hidden.
fn product(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() && !path.is_symlink() {
            true if name.starts_with('.') || ["target", "data", "e2e-tests"].contains(&&*name) => {}
            true => files.extend(product(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}

#[test]
fn no_other_file_of_the_product_knows_it() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let files = product(root)?;
    ensure!(files.len() > 300, "only {} files were found", files.len());
    for file in files {
        let bytes = std::fs::read(&file)?;
        let knows = String::from_utf8_lossy(&bytes).contains(NAME);
        ensure!(!knows, "{} knows {NAME}", file.display());
    }
    Ok(())
}
