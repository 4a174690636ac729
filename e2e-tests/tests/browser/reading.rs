//! Pages that stay fresh, and do not take from their reader what he or she is at.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Service, Services, eventually, id};
use reqwest::Method;
use serde_json::json;

use crate::browser::Browser;

#[tokio::test]
async fn the_list_shows_a_new_checkout_and_its_end_without_being_loaded_again() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    browser.open("/").await?;
    browser.mark().await?;
    browser.until_shows("#list", "No saga fits").await?;

    let body = json!({"userId": "u1", "totalAmount": 500, "forceInventoryFail": true});
    let saga_id = id(&client.checkout(&body).await?.json()?, "sagaId")?;

    browser.until_shows("#list tbody tr", "INVENTORY_FAILED").await?;
    browser.until_shows("#figures", "1 INVENTORY_FAILED").await?;
    browser.is_the_marked_page().await?;
    browser.click(&format!("a[href='/dashboard/sagas/{saga_id}']")).await?;
    browser.until_shows("h1", "FAILED").await?;
    browser.nothing_is_wrong().await?;
    browser.close().await
}

#[tokio::test]
async fn a_text_stays_selected_and_what_happened_meanwhile_is_shown_afterwards() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    services.stop(Service::Payment).await?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let saga_id = id(&client.checkout_async(&body).await?.json()?, "sagaId")?;
    browser.open(&format!("/dashboard/sagas/{saga_id}")).await?;
    browser.mark().await?;
    browser.watch_requests().await?;

    browser.until_shows("h1", "PAYMENT_CHARGE").await?;
    browser.js("getSelection().selectAllChildren(document.querySelector('#saga dd.id'))").await?;
    services.start_again(Service::Payment).await?;
    client.end_of(&format!("/sagas/{saga_id}"), Duration::from_secs(60)).await?;
    let asked = browser.js("return sent.length").await?;
    // The second one from now on has begun after the first one was dealt with, and the saga's end before that.
    browser.until("the page has asked for news", &format!("sent.length >= {asked} + 2")).await?;

    let selected = browser.js("return getSelection().toString().trim()").await?;
    assert_eq!(selected, json!(saga_id.to_string()), "the text is no longer selected");
    ensure!(browser.text("h1").await?.contains("RUNNING"), "the part with the selection was replaced");
    browser.js("getSelection().removeAllRanges()").await?;
    browser.until_shows("h1", "COMPLETED").await?;
    browser.is_the_marked_page().await?;
    browser.nothing_is_wrong().await?;
    browser.close().await
}

/// Whether there is a place for one more stream of moves.
async fn can_listen(client: &Client) -> Result<bool> {
    Ok(client.request(Service::Orchestrator, Method::GET, "/events").send().await?.status() == 200)
}

#[tokio::test]
async fn a_tab_that_nobody_sees_holds_no_stream_and_is_fresh_when_it_is_seen_again() -> Result<()> {
    let services = Services::start(&[("EVENT_STREAMS_MAX", "1")]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    browser.open("/").await?;
    browser.mark().await?;
    let limit = Duration::from_secs(60);
    // Asked before that, the only stream would be ours, and the page's own would be refused for good.
    browser.until("the page has its stream", "source?.readyState === 1").await?;
    eventually("the page listens", limit, async || Ok((!can_listen(&client).await?).then_some(()))).await?;

    let page = browser.open_tab().await?;
    eventually("it listens no more", limit, async || Ok(can_listen(&client).await?.then_some(()))).await?;
    client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    browser.close_tab(page).await?;

    browser.until_shows("#list tbody tr", "COMPLETED").await?;
    browser.is_the_marked_page().await?;
    browser.nothing_is_wrong().await?;
    browser.close().await
}
