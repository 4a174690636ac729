//! One checkout, from the form that sends it to its end.

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Service, Services};
use serde_json::json;
use uuid::Uuid;

use crate::browser::Browser;

/// Fills in the form, sends it, and waits for the page of its saga; answers the saga's id.
async fn send_checkout(browser: &Browser, what_is_to_happen: &str) -> Result<Uuid> {
    browser.open("/").await?;
    browser.click("nav a[href='/dashboard/new']").await?;
    browser
        .until(
            "the form shows what it sends",
            "document.querySelector('form[data-checkout] [data-request]')?.textContent",
        )
        .await?;
    browser.click(&format!("input[name=force][value='{what_is_to_happen}']")).await?;
    browser.click("form[data-checkout] button[type=submit]").await?;
    browser.until("the saga's page is loaded", "document.querySelector('#saga')").await?;
    let path = browser.js("return location.pathname").await?;
    let (_, id) = path.as_str().and_then(|path| path.rsplit_once('/')).context("the page has an address")?;
    Ok(id.parse()?)
}

#[tokio::test]
async fn a_checkout_that_fails_is_watched_to_its_end_without_loading_its_page_again() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    // The reservation waits, until the page has been seen on the way.
    let mut lock = client.databases.inventory.begin().await?;
    sqlx::query("LOCK TABLE reservations IN SHARE MODE").execute(&mut *lock).await?;

    let saga_id = send_checkout(&browser, "forceInventoryFail").await?;
    browser.mark().await?;
    browser.until_shows(".story", "500 USD were charged").await?;
    browser.until_shows("h1", "RUNNING").await?;
    lock.rollback().await?;

    browser.until_shows("h1", "FAILED").await?;
    browser.until_shows(".story", "The money went back at").await?;
    browser.until_shows(".services", "REFUNDED").await?;
    browser.is_the_marked_page().await?;
    let timeline = browser.js("return document.querySelector('svg.timeline').getAttribute('aria-label')").await?;
    ensure!(timeline.as_str().is_some_and(|told| told.contains("PAYMENT_REFUND")), "no refund in {timeline}");
    let drawn = "return document.querySelector('svg.timeline rect.back').getBoundingClientRect().width";
    ensure!(browser.js(drawn).await?.as_f64().is_some_and(|width| width >= 1.0), "the refund can't be seen");
    browser.picture("saga-failed", 1280).await?;

    browser.nothing_is_wrong().await?;
    browser.close().await?;
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_checkout_that_is_stuck_is_cancelled_by_its_button_which_shows_what_it_sends() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    services.stop(Service::Payment).await?;
    let saga_id = send_checkout(&browser, "").await?;
    browser.mark().await?;
    browser.watch_requests().await?;
    browser.until_shows("h1", "PAYMENT_CHARGE").await?;
    browser.until_shows(".services", "payment-service can't be asked").await?;

    browser.click("button[data-open=act-cancel]").await?;
    browser.until("the dialog is open", "document.querySelector('#act-cancel').open").await?;
    browser.fill("#act-cancel [name=by]", "ann").await?;
    browser.fill("#act-cancel [name=reason]", "the customer called").await?;
    let request = format!(
        "POST /sagas/{saga_id}/cancel\nContent-Type: application/json\n\n\
         {{\n  \"by\": \"ann\",\n  \"reason\": \"the customer called\"\n}}"
    );
    assert_eq!(browser.text("#act-cancel [data-request]").await?, request);
    browser.picture("saga-cancel", 1280).await?;
    browser.click("#act-cancel button[type=submit]").await?;

    browser.until_shows("h1", "PAYMENT_REFUND").await?;
    browser.until_shows(".story", "ann cancelled it at").await?;
    assert_eq!(browser.sent().await?, json!([request]), "what is shown is what is sent");
    services.start_again(Service::Payment).await?;
    browser.until_shows("h1", "FAILED").await?;
    browser.until_shows(".story", "no money and no goods are held").await?;
    browser.is_the_marked_page().await?;
    browser.picture("saga-cancelled", 1280).await?;

    browser.nothing_is_wrong().await?;
    browser.close().await?;
    client.agree_about(&[saga_id]).await
}
