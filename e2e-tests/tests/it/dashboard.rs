//! The dashboard, as a browser gets it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, id, shared};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

async fn get(client: &Client, path: &str) -> Result<Answer> {
    client.get(Service::Orchestrator, path).await
}

fn shows(answer: &Answer, texts: &[&str]) -> Result<()> {
    for text in texts {
        ensure!(answer.text.contains(text), "no {text:?} in\n{}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn a_saga_that_failed_can_be_read_from_its_page_whatever_its_user_is_called() -> Result<()> {
    let client = shared().await?;
    let user = "<script>alert(\"x\")</script>";
    let body = json!({"userId": user, "totalAmount": "500.50", "forceInventoryFail": true});
    let saga_id = id(&client.checkout(&body).await?.json()?, "sagaId")?;

    // A service that is slow to answer is told as one that is away.
    let saga = e2e_tests::eventually("each service has answered", Duration::from_secs(15), async || {
        let saga = get(&client, &format!("/dashboard/sagas/{saga_id}")).await?;
        Ok((!saga.text.contains("can't be asked")).then_some(saga))
    })
    .await?;
    assert_eq!((saga.status, saga.header("content-type")), (200, "text/html; charset=utf-8"));
    shows(
        &saga,
        &[
            "INVENTORY_FAILED",
            "500.50 USD were charged at",
            "The goods were refused at",
            "out of stock: forceInventoryFail",
            "The money went back at",
            "no money and no goods are held",
            "REFUNDED",
            "payment.refund.command",
            "&lt;script&gt;",
        ],
    )?;
    ensure!(!saga.text.contains("<script>alert"), "a user's name became a script");
    let policy = saga.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    ensure!(!saga.text.contains(" style=") && !saga.text.contains("onclick"), "the policy forbids what stands in it");

    let list = get(&client, "/?step=INVENTORY_FAILED").await?;
    shows(&list, &[&format!("/dashboard/sagas/{saga_id}"), "&lt;script&gt;", "Checkouts a second"])?;
    ensure!(!list.text.contains("<script>alert"), "a user's name became a script");
    Ok(())
}

#[tokio::test]
async fn every_page_and_what_it_asks_for_is_served_and_a_wrong_one_is_explained() -> Result<()> {
    let client = shared().await?;
    client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    for path in
        ["/", "/?needsAttention=true", "/?status=&step=&userId=u1&since=", "/dashboard/new", "/dashboard/dead-letters"]
    {
        let page = get(&client, path).await?;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        for (_, rest) in page
            .text
            .match_indices("src=\"")
            .chain(page.text.match_indices("href=\"/assets"))
            .map(|(at, _)| page.text.split_at(at))
        {
            let asset = rest.split('"').nth(1).context("an address")?;
            assert_eq!(get(&client, asset).await?.status, 200, "{path} asks for {asset}");
        }
    }
    for (path, status, words) in [
        ("/?status=DONE".to_owned(), 400, "RUNNING"),
        ("/?orderId=7".to_owned(), 400, "orderId"),
        ("/dashboard/sagas/7".to_owned(), 400, "not a saga id"),
        (format!("/dashboard/sagas/{}", Uuid::now_v7()), 404, "there is no saga"),
        ("/dashboard/find?id=seven".to_owned(), 400, "not the id"),
    ] {
        let page = get(&client, &path).await?;
        assert_eq!((page.status, page.header("content-type")), (status, "text/html; charset=utf-8"), "{path}");
        shows(&page, &[words])?;
    }
    Ok(())
}

#[tokio::test]
async fn an_order_leads_to_its_saga_and_one_that_runs_has_buttons_and_its_streams_address() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "60000")]).await?;
    let client = services.client()?;
    let begun = client.checkout_async(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let (saga_id, order_id) = (id(&begun, "sagaId")?, id(&begun, "orderId")?);
    let page = e2e_tests::eventually("the charge is pending", Duration::from_secs(15), async || {
        let request = client.request(Service::Orchestrator, Method::GET, &format!("/dashboard/find?id={order_id}"));
        let page = Answer::read(request.send().await?).await?;
        Ok(page.text.contains("waits for PAYMENT_CHARGE").then_some(page))
    })
    .await?;

    let stream = format!("data-live=\"/sagas/{saga_id}/events\"");
    let cancel = format!("data-post=\"/sagas/{saga_id}/cancel\"");
    shows(&page, &[&stream, &cancel, "payment.charge.command", "Retry now"])?;
    let cancelled = client
        .post(Service::Orchestrator, &format!("/sagas/{saga_id}/cancel"), &json!({"by": "ann", "reason": "she called"}))
        .await?;
    assert_eq!(cancelled.status, 202);
    let page = get(&client, &format!("/dashboard/sagas/{saga_id}")).await?;
    shows(&page, &["ann cancelled it at", "she called", "PAYMENT_REFUND"])
}
