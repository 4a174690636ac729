//! A page that does not belong here, in the browser of somebody whose machine the platform runs on.

use anyhow::{Result, ensure};
use e2e_tests::{Client, Service, Services};
use serde_json::{Value, json};

use crate::browser::Browser;

/// The status of a request that the page sends to `url`; null where the browser keeps the answer from it.
async fn status(browser: &Browser, url: &str, options: &Value) -> Result<Value> {
    browser
        .js(&format!("return fetch({}, {options}).then((answer) => answer.status || null, () => null)", json!(url)))
        .await
}

/// What pauses the intake, as a page may send it.
fn pause(mode: &str, content_type: &str) -> Value {
    let body = json!({"by": "a page", "reason": "because it can"}).to_string();
    json!({"method": "POST", "mode": mode, "headers": {"Content-Type": content_type}, "body": body})
}

async fn is_open(client: &Client) -> Result<()> {
    let intake = client.get(Service::Orchestrator, "/intake").await?.json()?;
    ensure!(intake["open"] == json!(true), "{intake}");
    Ok(())
}

#[tokio::test]
async fn a_hostile_page_reads_nothing_and_pauses_nothing_and_the_dashboard_works_on_localhost() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let port = client.ports.orchestrator;
    // What a name server does for its page once the page is loaded (DNS rebinding).
    let rebound = "--host-resolver-rules=MAP evil.test 127.0.0.1";
    let browser = Browser::start_with(port, &[rebound]).await?;

    // To the browser the platform now is the page's own server.
    browser.open_url(&format!("http://evil.test:{port}/sagas")).await?;
    ensure!(browser.text("body").await?.contains("421"), "{}", browser.text("body").await?);
    for path in ["/sagas", "/", "/stats", "/intake"] {
        assert_eq!(status(&browser, path, &json!({})).await?, json!(421), "{path}");
    }
    assert_eq!(status(&browser, "/intake/pause", &pause("cors", "application/json")).await?, json!(421));
    is_open(&client).await?;

    // A page of another server on this machine.
    browser.open_url(&format!("http://localhost:{}/health/live", client.ports.payment)).await?;
    for host in ["localhost", "127.0.0.1"] {
        let address = |path: &str| format!("http://{host}:{port}{path}");
        assert_eq!(status(&browser, &address("/sagas"), &json!({})).await?, Value::Null);
        for (mode, content_type) in [("cors", "application/json"), ("no-cors", "text/plain")] {
            assert_eq!(status(&browser, &address("/intake/pause"), &pause(mode, content_type)).await?, Value::Null);
        }
    }
    is_open(&client).await?;

    browser.open_url(&format!("http://localhost:{port}/dashboard/new")).await?;
    browser.click("form[data-checkout] button[type=submit]").await?;
    browser.until_shows("#saga", "COMPLETED").await?;
    browser.close().await
}
