//! The three scenarios: the money is declined, the goods are sold out, all goes well. Each through HTTP and through
//! SQL in all four databases.

use anyhow::Result;
use e2e_tests::{Client, id, shared};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the history of a saga says, as input -> step.
async fn history(client: &Client, saga_id: Uuid) -> Result<Vec<String>> {
    let saga = client.saga(saga_id).await?;
    let moves = saga["history"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(moves.iter().map(|entry| format!("{} -> {}", text(&entry["input"]), text(&entry["step"]))).collect())
}

/// The statuses of the order, the payment and the reservation, in their databases.
async fn statuses(client: &Client, order_id: Uuid) -> Result<[Vec<String>; 3]> {
    let status = |rows: Vec<Value>| rows.iter().map(|row| row["status"].as_str().unwrap_or("").to_owned()).collect();
    let databases = &client.databases;
    Ok([
        status(databases.orders(order_id).await?),
        status(databases.payments(order_id).await?),
        status(databases.reservations(order_id).await?),
    ])
}

#[tokio::test]
async fn a_declined_payment_is_answered_402_and_leaves_a_cancelled_order_and_no_reservation() -> Result<()> {
    let client = shared().await?;

    let answer = client.checkout(&json!({"userId": "a", "totalAmount": 500, "forcePaymentFail": true})).await?;

    assert_eq!(answer.status, 402, "{}", answer.text);
    let body = answer.json()?;
    let (saga_id, order_id) = (id(&body, "sagaId")?, id(&body, "orderId")?);
    assert_eq!(answer.header("location"), format!("/sagas/{saga_id}"));
    assert_eq!((&body["status"], &body["step"]), (&json!("FAILED"), &json!("PAYMENT_FAILED")));
    assert!(body["reason"].as_str().is_some_and(|reason| reason.contains("declined")), "{body}");
    assert_eq!(statuses(&client, order_id).await?, [vec!["CANCELLED"], vec!["FAILED"], vec![]]);
    let saga = &client.databases.sagas(saga_id).await?[0];
    assert_eq!((&saga["status"], &saga["step"]), (&json!("FAILED"), &json!("PAYMENT_FAILED")));
    assert!(client.databases.ledger(order_id).await?.is_empty());
    let expected = [
        "started -> ORDER_CREATE",
        "order.created -> PAYMENT_CHARGE",
        "payment.failed -> ORDER_CANCEL",
        "order.cancelled -> PAYMENT_FAILED",
    ];
    assert_eq!(history(&client, saga_id).await?, expected);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn sold_out_goods_are_answered_409_and_the_charge_is_refunded() -> Result<()> {
    let client = shared().await?;

    let answer = client.checkout(&json!({"userId": "b", "totalAmount": 500, "forceInventoryFail": true})).await?;

    assert_eq!(answer.status, 409, "{}", answer.text);
    let body = answer.json()?;
    let (saga_id, order_id) = (id(&body, "sagaId")?, id(&body, "orderId")?);
    assert_eq!((&body["status"], &body["step"]), (&json!("FAILED"), &json!("INVENTORY_FAILED")));
    assert!(body["reason"].as_str().is_some_and(|reason| reason.contains("out of stock")), "{body}");
    assert_eq!(statuses(&client, order_id).await?, [["CANCELLED"], ["REFUNDED"], ["FAILED"]]);
    let saga = &client.databases.sagas(saga_id).await?[0];
    assert_eq!((&saga["status"], &saga["step"]), (&json!("FAILED"), &json!("INVENTORY_FAILED")));
    let kinds: Vec<Value> = client.databases.ledger(order_id).await?.iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["CHARGE", "REFUND"]);
    let expected = [
        "started -> ORDER_CREATE",
        "order.created -> PAYMENT_CHARGE",
        "payment.charged -> INVENTORY_RESERVE",
        "inventory.failed -> PAYMENT_REFUND",
        "payment.refunded -> ORDER_CANCEL",
        "order.cancelled -> INVENTORY_FAILED",
    ];
    assert_eq!(history(&client, saga_id).await?, expected);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn a_plain_checkout_is_answered_200_and_is_confirmed_charged_and_reserved() -> Result<()> {
    let client = shared().await?;

    let answer = client.checkout(&json!({"userId": "c", "totalAmount": 500})).await?;

    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json()?;
    let (saga_id, order_id) = (id(&body, "sagaId")?, id(&body, "orderId")?);
    assert_eq!(answer.header("location"), format!("/sagas/{saga_id}"));
    assert_eq!((&body["status"], &body["step"]), (&json!("COMPLETED"), &json!("COMPLETED")));
    assert_eq!((&body["userId"], &body["totalAmount"], &body["currency"]), (&json!("c"), &json!(500), &json!("USD")));
    assert_eq!(statuses(&client, order_id).await?, [["CONFIRMED"], ["CHARGED"], ["RESERVED"]]);
    let saga = &client.databases.sagas(saga_id).await?[0];
    assert_eq!((&saga["status"], &saga["step"]), (&json!("COMPLETED"), &json!("COMPLETED")));
    let ledger = client.databases.ledger(order_id).await?;
    assert_eq!(ledger.len(), 1);
    assert_eq!((&ledger[0]["kind"], &ledger[0]["amount"]), (&json!("CHARGE"), &json!(500)));
    let expected = [
        "started -> ORDER_CREATE",
        "order.created -> PAYMENT_CHARGE",
        "payment.charged -> INVENTORY_RESERVE",
        "inventory.reserved -> ORDER_CONFIRM",
        "order.confirmed -> COMPLETED",
    ];
    assert_eq!(history(&client, saga_id).await?, expected);
    client.agree_about(&[saga_id]).await
}

#[tokio::test]
async fn an_amount_keeps_its_exact_digits_from_the_request_to_every_database() -> Result<()> {
    let client = shared().await?;

    let answer = client.checkout(&json!({"userId": "d", "totalAmount": "999999999999.99", "currency": "EUR"})).await?;

    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.contains(r#""totalAmount":999999999999.99"#), "{}", answer.text);
    let order_id = id(&answer.json()?, "orderId")?;
    let (order, payment) = (client.databases.orders(order_id).await?, client.databases.payments(order_id).await?);
    for (row, amount) in [(&order[0], "total_amount"), (&payment[0], "amount")] {
        assert_eq!((row[amount].to_string().as_str(), &row["currency"]), ("999999999999.99", &json!("EUR")));
    }
    Ok(())
}
