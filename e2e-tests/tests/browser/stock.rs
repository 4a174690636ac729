//! The pages of what the shop sells: two customers want the last piece, and a person counts new ones.

use anyhow::Result;
use e2e_tests::Service::Inventory;
use e2e_tests::{Services, id};
use reqwest::Method;
use serde_json::json;

use crate::browser::Browser;

/// Fills a dialog in and sends it.
async fn send(browser: &Browser, act: &str, quantity: &str) -> Result<()> {
    browser.click(&format!("button[data-open=act-{act}]")).await?;
    browser.until("the dialog is open", &format!("document.querySelector('#act-{act}').open")).await?;
    for (field, text) in [("by", "ann"), ("reason", "delivery 4711"), ("quantity", quantity)] {
        browser.fill(&format!("#act-{act} [name={field}]"), text).await?;
    }
    browser.click(&format!("#act-{act} button[type=submit]")).await
}

#[tokio::test]
async fn the_last_piece_is_sold_once_and_new_ones_are_counted_by_a_person() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let lamp = json!({"name": "The last lamp"});
    client.request(Inventory, Method::PUT, "/products/lamp").json(&lamp).send().await?.error_for_status()?;
    let receipt = json!({"quantity": 1, "by": "ann", "reason": "the last one"});
    let request =
        client.request(Inventory, Method::POST, "/products/lamp/receipts").header("Idempotency-Key", "the-last-one");
    request.json(&receipt).send().await?.error_for_status()?;
    let body = json!({"userId": "u1", "totalAmount": 9, "items": [{"sku": "lamp", "qty": 1}]});
    let (one, other) = tokio::join!(client.checkout(&body), client.checkout(&body));
    let (one, other) = (one?, other?);
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let browser = Browser::start(client.ports.orchestrator).await?;

    for answer in [&one, &other] {
        browser.open(&format!("/dashboard/sagas/{}", id(&answer.json()?, "sagaId")?)).await?;
        browser.until_shows("h1", if answer.status == 200 { "COMPLETED" } else { "OUT_OF_STOCK" }).await?;
        browser.until_shows("#saga", "lamp").await?;
    }
    browser.open("/dashboard/stock?search=lamp").await?;
    browser.until_shows("#stock", "sold out").await?;
    browser.click("#stock a").await?;
    browser.until_shows("h1", "The last lamp").await?;
    browser.mark().await?;
    assert_eq!(
        (browser.text("#available").await?, browser.text("#committed").await?),
        ("0".to_owned(), "1".to_owned())
    );
    for (act, quantity, available) in [("receive", "5", "5"), ("receive", "5", "10"), ("adjust", "-2", "8")] {
        send(&browser, act, quantity).await?;
        browser.until_shows("#available", available).await?;
    }
    browser.until_shows("#product", "delivery 4711").await?;
    browser.is_the_marked_page().await?;
    browser.nothing_is_wrong().await?;
    for (quantity, words) in [("-100", "409"), ("a few", "quantity")] {
        send(&browser, "adjust", quantity).await?;
        browser.until_shows("#act-adjust .error", words).await?;
        browser.click("#act-adjust [data-close]").await?;
    }
    assert_eq!(browser.text("#available").await?, "8");
    browser.close().await
}
