//! A schema that another release has changed, or that this one changes while others use it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Service, Services, eventually};
use reqwest::Method;
use serde_json::json;
use service_runtime::database::{self, DatabaseSettings};
use service_runtime::metrics::Metrics;
use service_runtime::settings::Settings;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, SqlStr};

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
async fn a_migration_lets_others_pass_while_it_waits_for_a_table_that_a_backup_reads() -> Result<()> {
    let services = Services::start(&[]).await?;
    let url = services.client()?.database_url(Service::Order)?;
    let (mut backup, mut other) = (PgConnection::connect(&url).await?, PgConnection::connect(&url).await?);
    let mut reading = backup.begin().await?;
    sqlx::query("SELECT FROM orders").execute(&mut *reading).await?;
    let change = Migration::new(
        10_000,
        "needs the table for itself".into(),
        MigrationType::Simple,
        SqlStr::from_static("ALTER TABLE orders ADD COLUMN remark text"),
        false,
    );
    let settings = [("DATABASE_URL".to_owned(), url)].into_iter();
    let settings = Settings::load(&order_service::DEFAULTS, None, settings)?;
    let settings = DatabaseSettings::try_from(&settings)?;

    let migrations = Migrator::with_migrations(vec![change]);
    let migrated = tokio::spawn(async move { database::open(&settings, &migrations, &Metrics::of("test")).await });
    // It tries for 2 s, and lets others pass for 5.
    let began = Instant::now();
    let (mut looks, mut longest) = (0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(12) {
        let look = Instant::now();
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, sqlx::query("SELECT FROM orders").execute(&mut other)).await??;
        (looks, longest) = (looks + 1, longest.max(look.elapsed()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(!migrated.is_finished(), "it did not wait for the backup");
    reading.rollback().await?;
    let pool = tokio::time::timeout(LIMIT, migrated).await???;

    ensure!(longest > Duration::from_secs(1), "the migration was in nobody's way: {longest:?} of {looks} looks");
    sqlx::query("SELECT remark FROM orders").execute(&pool).await?;
    Ok(())
}

#[tokio::test]
async fn a_service_whose_migration_waits_says_that_it_lives_and_answers_what_came_too_early_once_it_can() -> Result<()>
{
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let done = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    services.stop(Service::Orchestrator).await?;
    let url = client.database_url(Service::Orchestrator)?;
    let (mut holder, mut other) = (PgConnection::connect(&url).await?, PgConnection::connect(&url).await?);
    // It may be run again: it only sets how full pages are made.
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 8").execute(&mut other).await?;
    let mut holding = holder.begin().await?;
    sqlx::query("LOCK TABLE sagas IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *holding).await?;

    services.launch(Service::Orchestrator)?;
    eventually("the migration waits", LIMIT, async || {
        Ok(client.log().contains("a migration waits for what somebody else holds").then_some(()))
    })
    .await?;
    let live = client.get(Service::Orchestrator, "/health/live").await?;
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    let early = client.request(Service::Orchestrator, Method::GET, done.header("location")).send();
    let early = tokio::spawn(early);
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
