//! A schema that another release has changed, or that this one changes while others use it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Samples, Service, Services, eventually, id};
use reqwest::Method;
use serde_json::{Value, json};
use service_runtime::database::{self, DatabaseSettings};
use service_runtime::metrics::Metrics;
use service_runtime::settings::Settings;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, SqlStr};
use uuid::Uuid;

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

/// Fewer than the replies that come of a definition that the release does not know.
const MAX_IN_FLIGHT: &str = "3";

/// What these sagas run by, from now on: as a release would have stored it that knows another version of the flow.
async fn run_by_version(client: &Client, sagas: &[Uuid], version: i32) -> Result<()> {
    let ids: Vec<String> = sagas.iter().map(|id| format!("'{id}'")).collect();
    let sql = format!("UPDATE sagas SET definition_version = {version} WHERE saga_id IN ({})", ids.join(", "));
    let updated = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&client.databases.orchestrator).await?;
    ensure!(updated.rows_affected() == sagas.len() as u64);
    Ok(())
}

async fn shows(client: &Client, sample: &str, expected: f64) -> Result<()> {
    eventually(&format!("{sample} is {expected}"), LIMIT, async || {
        let value = Samples::of(client, Service::Orchestrator).await?.value(sample)?;
        ensure!(value == expected, "it is {value}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn replies_of_a_definition_that_the_older_release_does_not_know_are_passed_over_and_come_again_for_the_newer()
-> Result<()> {
    let mut services = Services::start(&[("KAFKA_MAX_IN_FLIGHT", MAX_IN_FLIGHT)]).await?;
    let client = services.client()?;
    services.stop(Service::Payment).await?;
    let mut sagas = Vec::new();
    for n in 1..=8 {
        let begun = client.checkout_async(&json!({"userId": "newer", "totalAmount": n})).await?.json()?;
        sagas.push(id(&begun, "sagaId")?);
    }
    for saga_id in &sagas {
        eventually("its charge is asked for", LIMIT, async || {
            Ok((client.saga(*saga_id).await?["step"] == "PAYMENT_CHARGE").then_some(()))
        })
        .await?;
    }
    // The newer release is rolled back. Its commands stand on Kafka.
    services.stop(Service::Orchestrator).await?;
    run_by_version(&client, &sagas, 7).await?;
    services.start_again(Service::Orchestrator).await?;
    services.start_again(Service::Payment).await?;

    // The older one reports their replies, and goes on with everything else.
    shows(&client, "saga_replies_passed_over_total", 8.0).await?;
    let ready = client.get(Service::Orchestrator, "/health/ready").await?;
    ensure!(ready.status == 200 && ready.json()?["status"] == "degraded", "{}", ready.text);
    let check = ready.json()?["checks"]["definitions"].clone();
    let check = check.as_str().context("a check")?;
    ensure!(check.starts_with("degraded: 8 replies") && check.contains("pay-first v7"), "{check}");
    shows(&client, "sagas_of_unknown_definition", 8.0).await?;
    for answer in client.checkouts(20).join_all().await {
        let answer = answer?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    }
    // They may come more than once. Each saga is logged once.
    let is_theirs = |reply: &Value| sagas.iter().any(|saga_id| reply["sagaId"] == json!(saga_id));
    for reply in client.kafka.wait_for("payment.charged", 8, is_theirs).await? {
        client.kafka.publish("payment.charged", &reply.key, &reply.body).await?;
    }
    shows(&client, "saga_replies_passed_over_total", 16.0).await?;
    let lines = client.log().lines().filter(|line| line.contains("a reply is passed over")).count();
    assert_eq!(lines, sagas.len());
    let cancel = json!({"by": "ann", "reason": "it does not move"});
    let refused = client.post(Service::Orchestrator, &format!("/sagas/{}/cancel", sagas[0]), &cancel).await?;
    refused.is_problem(409, &["pay-first v7", "does not know"])?;
    for page in ["", "/rows"] {
        let shown = client.get(Service::Orchestrator, &format!("/sagas/{}{page}", sagas[0])).await?;
        shown.is_problem(409, &["pay-first v7", "does not know"])?;
    }

    // The newer one comes back: it repeats their commands, and gets the same replies.
    services.stop(Service::Orchestrator).await?;
    run_by_version(&client, &sagas, 1).await?;
    services.start_again(Service::Orchestrator).await?;
    for saga_id in &sagas {
        let saga = client.end_of(&format!("/sagas/{saga_id}"), LIMIT).await?;
        assert_eq!(saga["status"], "COMPLETED", "{saga}");
    }
    client.all_end_in_agreement(LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_flow_that_was_changed_under_its_version_stops_the_start() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    services.stop(Service::Orchestrator).await?;
    // As a release had it whose charge had more time.
    let other = "UPDATE definitions SET steps = replace(steps, 'charge-payment, 60 s', 'charge-payment, 75 s') WHERE name = 'pay-first'";
    ensure!(sqlx::query(other).execute(&client.databases.orchestrator).await?.rows_affected() == 1);

    services.launch(Service::Orchestrator)?;

    let ended = services.end_of(Service::Orchestrator).await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    let log = client.log();
    let line = log.lines().find(|line| line.contains("pay-first v1 is not the one")).with_context(|| log.clone())?;
    ensure!(line.contains("75 s") && line.contains("60 s") && line.contains("a new version"), "{line}");
    Ok(())
}
