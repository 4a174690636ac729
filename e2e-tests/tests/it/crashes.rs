//! SIGKILL with fifty checkouts in flight, in a world where payments are declined and goods are sold out. The rows say
//! what must happen next, so all of them end, in agreement.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::agreement::Rows;
use e2e_tests::{Answer, Service, Services, Standalone};

/// Slow, so that each of them is in flight for a while. The goods take long, so that most still run when the last one
/// is stored; the payment does not, so that each service is asked for something while it is away. Whoever waits for the
/// outcome has the patience that a recovery takes.
const WORLD: [(&str, &str); 5] = [
    ("PAYMENT_PROCESSING_MS", "500"),
    ("PAYMENT_FAILURE_RATE", "0.25"),
    ("INVENTORY_PROCESSING_MS", "3000"),
    ("INVENTORY_FAILURE_RATE", "0.35"),
    ("CHECKOUT_WAIT_MS", "60000"),
];

/// From the start of what was killed until no saga is unfinished.
const RECOVERY: Duration = Duration::from_secs(30);

fn left_of(limit: Duration, began: Instant) -> Duration {
    limit.saturating_sub(began.elapsed())
}

/// Checks that no checkout failed because of the crash, and that whoever got an answer was told the truth.
fn only_the_world_is_to_blame(rows: &Rows, answers: Vec<Result<Answer>>) -> Result<()> {
    ensure!(rows.count("COMPLETED") > 0 && rows.count("FAILED") > 0, "{:?}", rows.sagas);
    for saga in &rows.sagas {
        let step = saga.step.as_str();
        ensure!(matches!(step, "COMPLETED" | "PAYMENT_FAILED" | "INVENTORY_FAILED"), "{saga:?}");
    }
    for answer in answers.into_iter().flatten() {
        let told = match answer.status {
            200 => "COMPLETED",
            402 => "PAYMENT_FAILED",
            409 => "INVENTORY_FAILED",
            _ => anyhow::bail!("{} {}", answer.status, answer.text),
        };
        let stored = rows.sagas.iter().find(|saga| answer.header("location") == format!("/sagas/{}", saga.saga_id));
        ensure!(stored.is_some_and(|saga| saga.step == told), "told {told}, stored {stored:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_standalone_started_again_at_once_ends_all_checkouts_in_agreement() -> Result<()> {
    let mut standalone = Standalone::start(&WORLD).await?;
    let before = standalone.client()?;
    let checkouts = before.checkouts(50);
    before.in_flight(50).await?;

    standalone.kill();
    let began = standalone.start_again().await?;

    let rows = standalone.client()?.all_end_in_agreement(left_of(RECOVERY, began)).await?;
    assert_eq!(rows.sagas.len(), 50);
    only_the_world_is_to_blame(&rows, checkouts.join_all().await)
}

#[tokio::test]
async fn each_service_killed_in_turn_and_started_again_at_once_ends_all_checkouts_in_agreement() -> Result<()> {
    let mut services = Services::start(&WORLD).await?;
    let client = services.client()?;
    for (round, service) in (1..).zip(Service::ALL) {
        let name = service.program();
        let checkouts = client.checkouts(50);
        client.in_flight(50 * round).await?;

        services.kill(service)?;
        let began = services.start_again(service).await?;

        let rows = client.all_end_in_agreement(left_of(RECOVERY, began)).await;
        let rows = rows.with_context(|| format!("after a kill of {name}"))?;
        assert_eq!(rows.sagas.len(), 50 * round as usize);
        let answers = checkouts.join_all().await;
        let answered = answers.iter().flatten().count();
        ensure!(answered == 50 || service == Service::Orchestrator, "{answered} answers after a kill of {name}");
        only_the_world_is_to_blame(&rows, answers).with_context(|| format!("after a kill of {name}"))?;
    }
    Ok(())
}
