//! A service dies at a failpoint and is started again: the checkout ends as if nothing had happened.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Service, Services};
use serde_json::json;

use crate::points::{GOOD, Point, Scenario};

/// From the start of what died until its saga has ended.
const RECOVERY: Duration = Duration::from_secs(15);

const SIGABRT: i32 = 6;

/// Runs a checkout up to the point, where its service dies; checks what it left, starts it again, checks the end.
pub async fn dies_and_recovers(point: &Point) -> Result<()> {
    let (victim, scenario) = (point.victim(), point.scenario);
    let settings = [scenario.settings, &[("RESEND_FIRST_MS", "500")]].concat();
    let mut services = Services::launch_none(&settings).await?;
    services.set_failpoints(victim, &format!("{}=return;{}", point.name, scenario.also));
    services.start_all().await?;
    let client = services.client()?;
    let checkout = tokio::spawn(checkout(client.clone(), scenario));

    let ended = services.end_of(victim).await.with_context(|| format!("{} was not reached", point.name))?;
    ensure!(ended.status.signal() == Some(SIGABRT), "{ended:?}");
    let left = left_by(&client, victim).await?;
    ensure!(left == point.stored, "{} left {left:?}, not {:?}", point.name, point.stored);

    services.set_failpoints(victim, "");
    services.start_again(victim).await?;
    if point.stored == "nothing" && victim == Service::Orchestrator {
        return nothing_happened(&client).await;
    }
    let rows = client.all_end_in_agreement(RECOVERY).await?;
    let ends: Vec<&str> = rows.sagas.iter().map(|saga| saga.step.as_str()).collect();
    ensure!(ends == [scenario.end], "it ended as {ends:?}");
    let answer = checkout.await?;
    if victim != Service::Orchestrator {
        ensure!(answer.as_ref().is_ok_and(|status| *status == scenario.answer), "{answer:?}");
    }
    Ok(())
}

async fn checkout(client: Client, scenario: &Scenario) -> Result<u16> {
    let mut body = json!({"userId": "u1", "totalAmount": 500});
    if scenario.has_items {
        body["items"] = json!([{"sku": "blue-mug", "qty": 2}, {"sku": "last-lamp", "qty": 1}]);
    }
    if let Some(flag) = scenario.flag {
        body[flag] = json!(true);
    }
    if scenario.is_placed {
        return Ok(client.post(Service::Order, "/orders", &body).await?.status);
    }
    Ok(client.checkout(&body).await?.status)
}

/// What the service's database holds: see [`Point::stored`].
async fn left_by(client: &Client, victim: Service) -> Result<String> {
    let held = held_by(client, victim).await?;
    Ok(if held.is_empty() { "nothing".to_owned() } else { held.join(", ") })
}

async fn held_by(client: &Client, service: Service) -> Result<Vec<String>> {
    let databases = &client.databases;
    let (pool, sql) = match service {
        Service::Orchestrator => (&databases.orchestrator, "SELECT step FROM sagas"),
        Service::Order => (&databases.order, "SELECT status FROM orders"),
        Service::Inventory => (&databases.inventory, "SELECT status FROM reservations"),
        Service::Payment => (
            &databases.payment,
            "SELECT what FROM (SELECT 0 AS nth, status AS what FROM payments
                               UNION ALL SELECT entry_id, kind FROM gateway_ledger) AS held ORDER BY nth",
        ),
    };
    Ok(sqlx::query_scalar(sql).fetch_all(pool).await?)
}

/// No service knows of the checkout; the next one completes.
async fn nothing_happened(client: &Client) -> Result<()> {
    for service in Service::ALL {
        let held = held_by(client, service).await?;
        ensure!(held.is_empty(), "{service:?} holds {held:?}");
    }
    ensure!(checkout(client.clone(), &GOOD).await? == 200, "the next checkout fails");
    let rows = client.all_end_in_agreement(RECOVERY).await?;
    ensure!(rows.count("COMPLETED") == 1, "{rows:?}");
    Ok(())
}
