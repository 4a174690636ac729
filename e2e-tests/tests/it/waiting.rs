//! The waiting request: it only waits. Whoever hangs up, or asks not to wait, changes nothing for the saga.

use std::time::Duration;

use anyhow::Result;
use e2e_tests::{Standalone, id, shared};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_client_that_hangs_up_changes_nothing() -> Result<()> {
    let standalone = Standalone::start(&[("PAYMENT_PROCESSING_MS", "5000")]).await?;
    let client = standalone.client()?;
    let checkouts = client.checkouts(5);
    client.in_flight(5).await?;

    drop(checkouts);

    let rows = client.all_end_in_agreement(LIMIT).await?;
    assert_eq!(rows.count("COMPLETED"), 5);
    Ok(())
}

#[tokio::test]
async fn a_client_that_prefers_not_to_wait_is_answered_202_with_the_place_of_the_outcome() -> Result<()> {
    let client = shared().await?;

    let answer = client.checkout_async(&json!({"userId": "u1", "totalAmount": 500})).await?;

    assert_eq!(answer.status, 202, "{}", answer.text);
    let body = answer.json()?;
    let saga_id = id(&body, "sagaId")?;
    assert_eq!(answer.header("location"), format!("/sagas/{saga_id}"));
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", answer.headers);
    assert_eq!(body["status"], json!("RUNNING"));
    let saga = client.end_of(answer.header("location"), LIMIT).await?;
    assert_eq!(saga["status"], json!("COMPLETED"), "{saga}");
    assert_eq!(saga["orderId"], body["orderId"]);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn an_outcome_that_takes_longer_than_the_wait_limit_is_answered_202_and_comes_later() -> Result<()> {
    let settings = [("PAYMENT_PROCESSING_MS", "1500"), ("CHECKOUT_WAIT_MS", "300")];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;

    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500, "forceInventoryFail": true})).await?;

    assert_eq!(answer.status, 202, "{}", answer.text);
    assert!(!answer.header("retry-after").is_empty());
    let saga = client.end_of(answer.header("location"), LIMIT).await?;
    assert_eq!((&saga["status"], &saga["step"]), (&json!("FAILED"), &json!("INVENTORY_FAILED")));
    client.all_end_in_agreement(LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_checkout_beyond_those_that_may_wait_is_answered_429_and_is_not_stored() -> Result<()> {
    let settings = [("PAYMENT_PROCESSING_MS", "10000"), ("CHECKOUT_MAX_WAITING", "5")];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let checkouts = client.checkouts(5);
    client.in_flight(5).await?;

    let refused = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;

    refused.is_problem(429, &["nothing was stored"])?;
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{:?}", refused.headers);
    for answer in checkouts.join_all().await {
        assert_eq!(answer?.status, 200);
    }
    assert_eq!(client.all_end_in_agreement(LIMIT).await?.sagas.len(), 5);
    Ok(())
}
