//! A schema that another release has changed, or that this one changes while others use it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Service, Services, eventually};
use reqwest::Method;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_service_starts_again_on_a_schema_that_a_newer_release_has_migrated() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    for service in Service::ALL {
        let mut connection = PgConnection::connect(&client.database_url(service)?).await?;
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (9999, 'of a newer release', true, '', 0)";
        sqlx::query(newer).execute(&mut connection).await?;
        services.stop(service).await?;
        services.start_again(service).await.with_context(|| service.program())?;
    }

    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;

    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    Ok(())
}

#[tokio::test]
async fn a_migration_lets_others_pass_while_it_waits_for_a_table_and_its_service_says_that_it_lives() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let done = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    services.stop(Service::Orchestrator).await?;
    let url = client.database_url(Service::Orchestrator)?;
    let (mut holder, mut other) = (PgConnection::connect(&url).await?, PgConnection::connect(&url).await?);
    // It may be run again: it only sets how full pages are made.
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 8").execute(&mut other).await?;
    let mut holding = holder.begin().await?;
    // As a backup does that has read the table, or a person who forgot to commit.
    sqlx::query("SELECT FROM sagas LIMIT 1").execute(&mut *holding).await?;
    sqlx::query("LOCK TABLE sagas IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *holding).await?;

    services.launch(Service::Orchestrator)?;
    eventually("the migration waits", LIMIT, async || {
        Ok(client.log().contains("a migration waits for a table that is in use").then_some(()))
    })
    .await?;
    let live = client.get(Service::Orchestrator, "/health/live").await?;
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    let early = client.request(Service::Orchestrator, Method::GET, done.header("location")).send();
    let early = tokio::spawn(early);
    sqlx::query("SELECT count(*) FROM sagas").execute(&mut other).await?;
    holding.rollback().await?;

    assert_eq!((live.status, ready.status), (200, 503));
    ensure!(ready.text.contains("it starts"), "{ready:?}");
    // A request that came too early is answered once there is somebody to answer it.
    let early = tokio::time::timeout(LIMIT, early).await???;
    assert_eq!(early.status(), 200);
    let again = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    ensure!(again.status == 200, "{} {}", again.status, again.text);
    Ok(())
}
