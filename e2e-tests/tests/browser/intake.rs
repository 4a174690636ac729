//! The buttons that close the intake and open it again.

use anyhow::Result;
use e2e_tests::Services;
use serde_json::json;

use crate::browser::Browser;

/// Confirms an act of the intake as its dialog asks.
async fn confirm(browser: &Browser, act: &str) -> Result<()> {
    browser.click(&format!("button[data-open=act-{act}]")).await?;
    browser.until("the dialog is open", &format!("document.querySelector('#act-{act}').open")).await?;
    browser.fill(&format!("#act-{act} [name=by]"), "ann").await?;
    browser.fill(&format!("#act-{act} [name=reason]"), "maintenance").await?;
    let request = browser.text(&format!("#act-{act} [data-request]")).await?;
    assert!(request.starts_with(&format!("POST /intake/{act}\n")), "{request}");
    browser.click(&format!("#act-{act} button[type=submit]")).await
}

#[tokio::test]
async fn the_intake_is_paused_and_resumed_on_one_page_as_often_as_one_likes() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let browser = Browser::start(client.ports.orchestrator).await?;
    // One page that keeps itself fresh, and one that does not.
    for path in ["/", "/dashboard/new"] {
        browser.open(path).await?;
        browser.mark().await?;
        for _ in 1..=2 {
            confirm(&browser, "pause").await?;
            browser.until_shows("#intake", "intake closed").await?;
            assert_eq!(client.checkout(&body).await?.status, 503, "{path}");
            confirm(&browser, "resume").await?;
            browser.until_shows("#intake", "intake open").await?;
            assert_eq!(client.checkout(&body).await?.status, 200, "{path}");
        }
        browser.is_the_marked_page().await?;
    }
    browser.nothing_is_wrong().await?;
    browser.close().await
}
