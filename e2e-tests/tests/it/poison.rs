//! Whose fault it is when the database refuses. A record that it refuses alone, time and again, is set aside, and takes
//! nobody with it. The database's own trouble sets nothing aside: the records wait until somebody mends it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Command, Outsider, Service, Services, eventually};
use serde_json::json;

const CHARGES: &str = "payment.charge.command";
const LETTERS: &str = "payment.charge.command.dlq";

/// What no SQLSTATE class of Postgres' own tells: P0001, raised by a trigger.
const TRIGGER: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.amount = 666 THEN RAISE EXCEPTION 'the number of the beast'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION refuse()";

/// 53100, counted: a sequence does not roll back.
const DISK_FULL: &str = "
    CREATE SEQUENCE tries;
    CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM nextval('tries');
        RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full';
    END $$;
    CREATE TRIGGER disk_full BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION disk_full()";

const LIMIT: Duration = Duration::from_secs(20);

/// A payment service alone.
async fn payments() -> Result<Services> {
    let mut services = Services::launch_none(&[]).await?;
    services.start_again(Service::Payment).await?;
    Ok(services)
}

async fn run(client: &Client, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(&client.databases.payment).await?;
    Ok(())
}

async fn publish(client: &Client, amounts: impl Iterator<Item = u32>) -> Result<Vec<(Command, (i32, i64))>> {
    let mut published = Vec::new();
    for amount in amounts {
        let money = json!({"amount": amount, "currency": "USD"});
        let charge = Outsider::new(&client.kafka).command(&json!({"userId": "outsider", "money": money}));
        let place = charge.publish(CHARGES).await?;
        published.push((charge, place));
    }
    Ok(published)
}

#[tokio::test]
async fn a_record_that_a_trigger_refuses_is_set_aside_and_its_neighbours_are_done() -> Result<()> {
    let services = payments().await?;
    let client = services.client()?;
    run(&client, TRIGGER).await?;

    let mut charges = publish(&client, 656..676).await?;
    let (_, place) = charges.remove(10);

    let letter = client.kafka.dead_letter(CHARGES, place).await?;
    let why = letter.headers.get("dlq_error").cloned().unwrap_or_default();
    // Its words are for the log, which has them under the id that the letter names.
    let named =
        why.strip_prefix("the database refused (SQLSTATE P0001; error ").and_then(|rest| rest.strip_suffix(')'));
    let error_id = named.with_context(|| why.clone())?;
    let is_told = |line: &str| line.contains(error_id) && line.contains("the number of the beast");
    ensure!(client.log().lines().any(is_told), "{}", client.log());
    for (charge, _) in charges {
        charge.replies("payment.charged", 1).await?;
    }
    assert_eq!(client.kafka.records(LETTERS).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_missing_table_sets_nothing_aside_and_all_go_on_when_it_is_back() -> Result<()> {
    let services = payments().await?;
    let client = services.client()?;
    run(&client, "ALTER TABLE payments RENAME TO gone").await?;
    let charges = publish(&client, 1..11).await?;
    eventually("the log tells", LIMIT, async || {
        let log = client.log();
        Ok(log.lines().any(|l| l.contains("not available") && l.contains("does not exist")).then_some(()))
    })
    .await?;

    run(&client, "ALTER TABLE gone RENAME TO payments").await?;

    for (charge, _) in charges {
        charge.replies("payment.charged", 1).await?;
    }
    assert_eq!(client.kafka.records(LETTERS).await?, []);
    Ok(())
}

#[tokio::test]
async fn the_databases_own_trouble_sets_nothing_aside_however_often_a_record_meets_it() -> Result<()> {
    let services = payments().await?;
    let client = services.client()?;
    run(&client, DISK_FULL).await?;
    let charges = publish(&client, 1..2).await?;
    eventually("it was tried more often than a record at fault is", LIMIT, async || {
        let tries: i64 =
            sqlx::query_scalar("SELECT last_value FROM tries").fetch_one(&client.databases.payment).await?;
        Ok((tries > 5).then_some(()))
    })
    .await?;

    run(&client, "DROP TRIGGER disk_full ON payments").await?;

    charges[0].0.replies("payment.charged", 1).await?;
    assert_eq!(client.kafka.records(LETTERS).await?, []);
    Ok(())
}
