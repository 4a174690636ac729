//! What the database says goes into the log, under an id; what clients read has the id and none of the words: they may
//! quote rows, and name tables.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Outsider, Service, Services, eventually, id};
use reqwest::Method;
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// What a trigger says, as one may that quotes the row.
const CARD: &str = "4111111111111111";

/// Each service, the table that its requests write, and what no answer may hold of it.
const TABLES: [(Service, &str); 4] = [
    (Service::Order, "orders"),
    (Service::Payment, "payments"),
    (Service::Inventory, "reservations"),
    (Service::Orchestrator, "sagas"),
];

const LIMIT: Duration = Duration::from_secs(20);

async fn run(client: &Client, service: Service, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(client.databases.of(service)).await?;
    Ok(())
}

/// None of the database's words.
fn is_silent(text: &str) -> Result<()> {
    for word in [CARD, "relation", "does not exist", "gone_", "returned from database", "error connecting"] {
        ensure!(!text.contains(word), "it says {word:?}: {text}");
    }
    Ok(())
}

/// The id in a text, which the log has beside what the database said.
fn has_its_cause_in_the_log(client: &Client, text: &str, words: &str) -> Result<()> {
    let (_, behind) = text.split_once("errorId\":\"").or_else(|| text.split_once("error ")).context("no id")?;
    let error_id: String = behind.chars().take_while(char::is_ascii_hexdigit).collect();
    ensure!(error_id.len() == 12, "no id of an error: {text}");
    let log = client.log();
    let is_told = |line: &str| line.contains(&error_id) && line.contains(words);
    ensure!(log.lines().any(is_told), "the log does not say {words:?} of {error_id}");
    Ok(())
}

fn is_hidden(client: &Client, answer: &Answer, status: u16, words: &str) -> Result<()> {
    ensure!(answer.status == status, "{} {}", answer.status, answer.text);
    is_silent(&answer.text)?;
    has_its_cause_in_the_log(client, &answer.text, words)
}

#[tokio::test]
async fn a_trigger_that_quotes_a_card_number_is_heard_by_the_log_alone() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    for (service, table) in TABLES {
        let sql = format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'card {CARD} is blocked'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        run(&client, service, sql).await?;
    }
    let body = json!({"userId": "u1", "totalAmount": 500});

    let order = client.post(Service::Order, "/orders", &body).await?;
    is_hidden(&client, &order, 500, CARD)?;
    let batch = json!([{"method": "POST", "path": "/orders", "body": body}]);
    let batch = client.post(Service::Order, "/batch", &batch).await?;
    is_hidden(&client, &batch, 200, CARD)?;
    let cancel = json!({"status": "CANCELLED", "sagaId": Uuid::now_v7()});
    let cancel = client.patch(Service::Order, &format!("/orders/{}/status", Uuid::now_v7()), &cancel).await?;
    is_hidden(&client, &cancel, 500, CARD)?;
    let checkout = client.checkout(&body).await?;
    checkout.is_problem(500, &["nothing was stored"])?;
    is_hidden(&client, &checkout, 500, CARD)?;

    for (command, topic) in [
        (Outsider::new(&client.kafka).charge(), "payment.charge.command"),
        (Outsider::new(&client.kafka).reserve(), "inventory.reserve.command"),
    ] {
        let letter = client.kafka.dead_letter(topic, command.publish(topic).await?).await?;
        let why = letter.headers.get("dlq_error").context("a letter says why")?;
        ensure!(why.contains("the database refused (SQLSTATE P0001"), "{why}");
        is_silent(why)?;
        has_its_cause_in_the_log(&client, why, CARD)?;
    }
    for path in ["/dead-letters", "/dashboard/dead-letters"] {
        let letters = client.get(Service::Orchestrator, path).await?;
        ensure!(letters.status == 200 && letters.text.contains("P0001"), "{} {}", letters.status, letters.text);
        is_silent(&letters.text)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named_by_no_route() -> Result<()> {
    let services = Services::start(&[("RETENTION_DAYS", "1")]).await?;
    let client = services.client()?;
    let ended = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    ensure!(ended.status == 200, "{} {}", ended.status, ended.text);
    let (saga_id, order_id) = (id(&ended.json()?, "sagaId")?, id(&ended.json()?, "orderId")?);
    // All sagas that began two days ago have ended: what is older may be removed.
    let days_ago =
        |days| service_runtime::retention::first_id_at(service_runtime::now() - chrono::TimeDelta::days(days));
    let horizon = format!(
        "INSERT INTO retention_horizon (order_id) VALUES ('{}')
         ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id",
        days_ago(2)
    );
    run(&client, Service::Orchestrator, horizon).await?;
    for (service, table) in TABLES.into_iter().filter(|(service, _)| *service != Service::Orchestrator) {
        run(&client, service, format!("ALTER TABLE {table} RENAME TO gone_{table}")).await?;
    }

    let missing = "does not exist";
    for (service, path) in
        [(Service::Order, "orders"), (Service::Payment, "payments"), (Service::Inventory, "reservations")]
    {
        let row = client.get(service, &format!("/{path}/{order_id}")).await?;
        is_hidden(&client, &row, 503, missing)?;
        let removal =
            client.request(service, Method::DELETE, &format!("/{path}?before={}", days_ago(3))).send().await?;
        is_hidden(&client, &Answer::read(removal).await?, 503, missing)?;
    }
    for table in ["sagas", "intake_changes"] {
        run(&client, Service::Orchestrator, format!("ALTER TABLE {table} RENAME TO gone_{table}")).await?;
    }
    for path in [
        "/sagas".to_owned(),
        format!("/sagas?orderId={order_id}"),
        format!("/sagas/{saga_id}"),
        format!("/sagas/{saga_id}/rows"),
        format!("/sagas/{saga_id}/events"),
        "/stats".to_owned(),
    ] {
        is_hidden(&client, &client.get(Service::Orchestrator, &path).await?, 503, missing)?;
    }
    let act = json!({"by": "ann", "reason": "a test"});
    for path in [format!("/sagas/{saga_id}/cancel"), format!("/sagas/{saga_id}/retry"), "/intake/pause".to_owned()] {
        is_hidden(&client, &client.post(Service::Orchestrator, &path, &act).await?, 503, missing)?;
    }
    for path in ["/".to_owned(), format!("/dashboard/sagas/{saga_id}"), format!("/dashboard/find?id={order_id}")] {
        let page = client.get(Service::Orchestrator, &path).await?;
        ensure!(page.status == 503, "{path}: {} {}", page.status, page.text);
        is_silent(&page.text)?;
        ensure!(page.text.contains("errorId"), "{path}: {}", page.text);
    }
    let mut checkout = client.request(Service::Orchestrator, Method::POST, "/checkout");
    checkout = checkout.header("Idempotency-Key", "a key").json(&json!({"userId": "u1", "totalAmount": 500}));
    let checkout = Answer::read(checkout.send().await?).await?;
    ensure!(checkout.status == 503, "{} {}", checkout.status, checkout.text);
    is_silent(&checkout.text)
}

#[tokio::test]
async fn readiness_says_that_the_database_is_away_and_the_log_says_why() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    for service in Service::ALL {
        services.database(service)?.stop().await;
        let unready = eventually("it is not ready", LIMIT, async || {
            let ready = client.get(service, "/health/ready").await?;
            Ok((ready.status == 503 && ready.text.contains("the database is not available")).then_some(ready))
        });
        let unready = unready.await?;
        for word in ["onnection refused", "os error", "onnecting", "terminating"] {
            ensure!(!unready.text.contains(word), "{service:?} says {word:?}: {}", unready.text);
        }
        has_its_cause_in_the_log(&client, &unready.text, "cause")?;
    }
    Ok(())
}
