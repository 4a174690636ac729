//! A flow in the browser: published with its findings at their lines, drawn, and started by its form.

use anyhow::{Result, ensure};
use e2e_tests::Standalone;

use crate::browser::Browser;

const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

#[tokio::test]
async fn a_flow_is_published_and_a_saga_of_it_is_started_by_hand() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    browser.open("/dashboard/publish").await?;
    let write = async |text: &str| {
        let script = format!("document.querySelector('[name=file]').value = {}", serde_json::to_string(text)?);
        browser.js(&script).await.map(|_| ())
    };
    browser.fill("form[data-publish] [name=by]", "ann").await?;
    browser.fill("form[data-publish] [name=reason]", "a first try").await?;
    write(&TRIP.replacen("version: 1", "version: one", 1)).await?;
    browser.click("form[data-publish] button[type=submit]").await?;
    browser.until_shows("form[data-publish] > .error", "422").await?;
    browser.until_shows(".findings .wrong", "version: one").await?;
    browser.until_shows(".findings .wrong", "(type)").await?;
    browser.picture("flow-findings", 1280).await?;

    write(TRIP).await?;
    browser.click("form[data-publish] button[type=submit]").await?;
    browser.until_shows("h1", "trip v1").await?;
    browser.until_shows("svg.flow", "HOTEL_CANCEL").await?;
    browser.picture("flow", 1280).await?;

    browser.click("a[href='/dashboard/start/trip']").await?;
    browser.until_shows("h1", "Start a saga of").await?;
    for (name, value) in [("traveller", "ann"), ("budget", "900.00"), ("from", "BER"), ("to", "LIS")] {
        browser.fill(&format!("form[data-start] [name={name}]"), value).await?;
    }
    for (name, value) in [("out", "2027-05-01"), ("back", "2027-05-08")] {
        browser.js(&format!("document.querySelector('form[data-start] [name={name}]').value = '{value}'")).await?;
    }
    browser.click("form[data-start] button[type=submit]").await?;
    browser.until_shows("h1", "HOTEL_BOOK").await?;
    browser.until_shows("svg.flow .here", "HOTEL_BOOK").await?;
    browser.picture("saga-of-a-flow", 1280).await?;
    let wide = browser.js("return document.documentElement.scrollWidth").await?;
    ensure!(wide.as_i64().is_some_and(|wide| wide <= 1280), "{wide}");
    browser.close().await
}
