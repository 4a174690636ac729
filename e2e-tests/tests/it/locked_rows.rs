//! Somebody holds a row in an open transaction, as with a `SELECT … FOR UPDATE` in psql. What is written to that row waits
//! for them; what shares its statements does not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Outsider, Service, Standalone, eventually, id};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// What a service logs that has found the row held.
const HELD: &str = "another transaction holds rows";

/// What it logs when a statement was given up.
const GIVEN_UP: &str = "the database is not available";

/// Takes a row for itself until it is dropped or rolled back; answers what stands in one of its columns.
async fn hold(connection: &mut PgConnection, table: &str, column: &str, order_id: Uuid) -> Result<String> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let sql = format!("SELECT {column}::text FROM {table} WHERE order_id = '{order_id}' FOR UPDATE");
    Ok(sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)?)
}

async fn connection(client: &Client, service: Service) -> Result<PgConnection> {
    Ok(PgConnection::connect(&client.database_url(service)?).await?)
}

async fn held_is_logged(client: &Client, table: &str) -> Result<()> {
    eventually(&format!("that a row of {table} is held is logged"), LIMIT, async || {
        let logged = |line: &str| line.contains(HELD) && line.contains(table);
        Ok(client.log().lines().any(logged).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_row_that_somebody_holds_holds_up_its_own_checkout_and_no_other() -> Result<()> {
    // Time enough to take the row before the payment's reply comes.
    let standalone = Standalone::start(&[("PAYMENT_PROCESSING_MS", "5000")]).await?;
    for (service, table, column, expected, named) in [
        (Service::Orchestrator, "sagas", "step", "PAYMENT_CHARGE", "sagas"),
        (Service::Payment, "payments", "status", "CHARGING", "payments moved"),
        (Service::Order, "orders", "status", "PENDING", "orders moved"),
    ] {
        let client = standalone.client()?;
        let begun = client.checkout_async(&json!({"userId": "held", "totalAmount": 7})).await?;
        let (location, order_id) = (begun.header("location").to_owned(), id(&begun.json()?, "orderId")?);
        eventually(&format!("the row of {table} is there"), LIMIT, async || {
            Ok((!client.databases.payments(order_id).await?.is_empty()).then_some(()))
        })
        .await?;
        let mut holder = connection(&client, service).await?;
        assert_eq!(hold(&mut holder, table, column, order_id).await?, expected, "{table}");

        // At the same time as the write to that row, and after it.
        for round in 1..=2 {
            for answer in client.checkouts(10).join_all().await {
                let answer = answer?;
                ensure!(answer.status == 200, "{table}, round {round}: {} {}", answer.status, answer.text);
            }
        }
        held_is_logged(&client, named).await?;
        ensure!(!client.log().contains(GIVEN_UP), "{table}: a statement waited for the row:\n{}", client.log());
        let saga = client.get(Service::Orchestrator, &location).await?.json()?;
        assert_eq!(saga["status"], "RUNNING", "{table}: {saga}");

        sqlx::query("ROLLBACK").execute(&mut holder).await?;
        assert_eq!(client.end_of(&location, LIMIT).await?["status"], "COMPLETED", "{table}");
        client.all_end_in_agreement(LIMIT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_reservation_that_somebody_holds_holds_up_no_other_release() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let (held, other) = (Outsider::new(&client.kafka), Outsider::new(&client.kafka));
    for outsider in [&held, &other] {
        let reserve = outsider.reserve();
        reserve.publish("inventory.reserve.command").await?;
        reserve.replies("inventory.reserved", 1).await?;
    }
    let mut holder = connection(&client, Service::Inventory).await?;
    assert_eq!(hold(&mut holder, "reservations", "status", held.order_id).await?, "RESERVED");

    let (waits, goes) = (held.release(), other.release());
    waits.publish("inventory.release.command").await?;
    held_is_logged(&client, "reservations moved").await?;
    goes.publish("inventory.release.command").await?;
    goes.replies("inventory.released", 1).await?;

    assert_eq!(waits.replies_now("inventory.released").await?, []);
    ensure!(!client.log().contains(GIVEN_UP), "a statement waited for the row:\n{}", client.log());
    sqlx::query("ROLLBACK").execute(&mut holder).await?;
    waits.replies("inventory.released", 1).await.context("the release of the row that was held")?;
    Ok(())
}
