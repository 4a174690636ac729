//! Connections that end while their databases are there: a failover, an administrator, a firewall. What was not sent is
//! sent by another one; no client learns of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, eventually, id};
use serde_json::json;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(60);

/// How often connections are ended. Each time what comes next finds all of them dead.
const ROUNDS: u32 = 3;

/// A service's connections for reads: few, since a login takes its time where tests run side by side.
const CONNECTIONS: &str = "2";

/// More reads at once than there are connections.
const READS: usize = 3;

/// Ends every connection to the four databases but the one that does it.
async fn end_all(client: &Client) -> Result<()> {
    let databases = &client.databases;
    for pool in [&databases.order, &databases.payment, &databases.inventory, &databases.orchestrator] {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(pool).await?;
    }
    Ok(())
}

/// The same read, many times at once.
async fn many(client: &Client, service: Service, path: &str) -> Result<Vec<Answer>> {
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        let (client, path) = (client.clone(), path.to_owned());
        reads.spawn(async move { client.get(service, &path).await });
    }
    reads.join_all().await.into_iter().collect()
}

#[tokio::test]
async fn no_read_fails_when_the_connections_were_ended() -> Result<()> {
    let services = Services::start(&[("DATABASE_MAX_CONNECTIONS", CONNECTIONS)]).await?;
    let client = services.client()?;
    let ended = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?;
    let (saga_id, order_id) = (id(&ended, "sagaId")?, id(&ended, "orderId")?);
    let reads = [
        (Service::Order, format!("/orders/{order_id}")),
        (Service::Payment, format!("/payments/{order_id}")),
        (Service::Inventory, format!("/reservations/{order_id}")),
        (Service::Orchestrator, format!("/sagas/{saga_id}")),
        (Service::Orchestrator, "/sagas".to_owned()),
        (Service::Orchestrator, "/stats".to_owned()),
        (Service::Orchestrator, "/".to_owned()),
    ];
    for (service, path) in &reads {
        for _ in 0..ROUNDS {
            eventually(&format!("{path} is read by new connections"), LIMIT, async || {
                // As many connections as there may be.
                many(&client, *service, path).await?;
                end_all(&client).await?;
                for answer in many(&client, *service, path).await? {
                    if is_late(&client, &answer)? {
                        return Ok(None);
                    }
                    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
                }
                Ok(Some(()))
            })
            .await?;
        }
    }
    Ok(())
}

/// Whether a new connection took longer than a request waits for one, as it may on a machine that does much else.
fn is_late(client: &Client, answer: &Answer) -> Result<bool> {
    if answer.status != 503 {
        return Ok(false);
    }
    // A page has the id in its text, an answer in its field.
    let (_, behind) = answer.text.split_once("errorId").unwrap_or_default();
    let is_of_id = |c: &char| c.is_ascii_digit() || ('a'..='f').contains(c);
    let behind = behind.replace("<code>", "");
    let error_id: String = behind.chars().skip_while(|c| !is_of_id(c)).take_while(is_of_id).collect();
    ensure!(error_id.len() == 12, "no id of an error: {}", answer.text);
    let log = client.log();
    Ok(log.lines().any(|line| line.contains(&error_id) && line.contains("timed out")))
}

#[tokio::test]
async fn no_write_fails_or_is_in_doubt_when_the_connections_were_ended() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let act = json!({"by": "ann", "reason": "a test"});
    let wanted = |answer: Answer, status: u16| {
        ensure!(answer.status == status, "expected {status}: {} {}", answer.status, answer.text);
        answer.json()
    };
    wanted(client.checkout(&body).await?, 200)?;
    for _ in 0..ROUNDS {
        end_all(&client).await?;
        let order = wanted(client.post(Service::Order, "/orders", &body).await?, 201)?;
        let path = format!("/orders/{}/status", id(&order, "orderId")?);
        end_all(&client).await?;
        wanted(client.patch(Service::Order, &path, &json!({"status": "CONFIRMED"})).await?, 200)?;
        end_all(&client).await?;
        wanted(client.post(Service::Orchestrator, "/intake/pause", &act).await?, 200)?;
        wanted(client.post(Service::Orchestrator, "/intake/resume", &act).await?, 200)?;
        end_all(&client).await?;
        wanted(client.checkout(&body).await?, 200)?;
    }
    client.all_end_in_agreement(Duration::from_secs(20)).await?;
    Ok(())
}
