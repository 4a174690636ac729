//! Every page in light and dark, wide and narrow.

use anyhow::{Result, ensure};
use e2e_tests::{Service, Services, id};
use serde_json::json;

use crate::browser::Browser;

#[tokio::test]
async fn every_page_fits_a_wide_and_a_narrow_window_in_light_and_dark() -> Result<()> {
    let services = Services::start(&[
        ("PAYMENT_PROCESSING_MS", "80"),
        ("INVENTORY_PROCESSING_MS", "120"),
        ("SAMPLE_PRODUCTS", "true"),
    ])
    .await?;
    let client = services.client()?;
    let mut of_each = Vec::new();
    for n in 1..=24 {
        let mut body = json!({"userId": format!("user-{n}"), "totalAmount": format!("{}.50", 20 * n + 9)});
        match n % 8 {
            3 => body["forcePaymentFail"] = json!(true),
            6 => body["forceInventoryFail"] = json!(true),
            _ => {}
        }
        of_each.push(id(&client.checkout(&body).await?.json()?, "sagaId")?);
    }
    let refunded = format!("/dashboard/sagas/{}", of_each[21]);
    // It stands until the services go.
    let mut lock = client.databases.inventory.begin().await?;
    sqlx::query("LOCK TABLE reservations IN SHARE MODE").execute(&mut *lock).await?;
    let long = "a-user-whose-name-is-as-long-as-names-of-users-can-be-without-a-single-place-to-break-it";
    let body = json!({"userId": long, "totalAmount": "1234567890.12"});
    let running = id(&client.checkout_async(&body).await?.json()?, "sagaId")?;
    let running = format!("/dashboard/sagas/{running}");

    let browser = Browser::start(client.ports.orchestrator).await?;
    browser.open(&running).await?;
    browser.until_shows("h1", "INVENTORY_RESERVE").await?;
    for (name, path) in [
        ("list", "/"),
        ("attention", "/?needsAttention=true"),
        ("refunded", &refunded),
        ("running", &running),
        ("new", "/dashboard/new"),
        ("dead-letters", "/dashboard/dead-letters"),
        ("stock", "/dashboard/stock"),
        ("product", "/dashboard/stock/blue-mug"),
        ("problem", "/dashboard/sagas/7"),
    ] {
        for (colours, width) in [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)] {
            browser.prefer(colours).await?;
            browser.resize(width, 900).await?;
            browser.open(path).await?;
            let wide = browser.js("return document.documentElement.scrollWidth").await?;
            ensure!(wide.as_i64().is_some_and(|wide| wide <= width), "{name} is {wide} wide in a window of {width}");
            browser.picture(&format!("{name}-{colours}-{width}"), width).await?;
        }
        // A page of a problem has its status, which the browser logs.
        if name != "problem" {
            browser.nothing_is_wrong().await?;
        }
    }
    ensure!(client.get(Service::Orchestrator, &running).await?.text.contains("INVENTORY_RESERVE"));
    lock.rollback().await?;
    browser.close().await
}
