//! SIGKILL with fifty checkouts in flight. The rows say what must happen next, so all of them end, in agreement.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Service, Services, Standalone};

/// So that each of them is in flight for a while.
const SLOW: (&str, &str) = ("PAYMENT_PROCESSING_MS", "500");

/// From the start of what was killed until no saga is unfinished.
const RECOVERY: Duration = Duration::from_secs(15);

fn left_of(limit: Duration, began: Instant) -> Duration {
    limit.saturating_sub(began.elapsed())
}

#[tokio::test]
async fn a_killed_standalone_started_again_at_once_ends_all_checkouts_in_agreement() -> Result<()> {
    let mut standalone = Standalone::start(&[SLOW]).await?;
    let before = standalone.client()?;
    let checkouts = before.checkouts(50);
    before.in_flight(50).await?;

    standalone.kill();
    let began = standalone.start_again().await?;

    let client = standalone.client()?;
    let rows = client.all_end_in_agreement(left_of(RECOVERY, began)).await?;
    assert_eq!(rows.count("COMPLETED"), 50, "nothing went wrong but the crash: {:?}", rows.sagas);
    // The clients were cut off; none was told that it failed.
    for answer in checkouts.join_all().await {
        ensure!(answer.as_ref().map_or(true, |answer| answer.status == 200), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn each_service_killed_in_turn_and_started_again_at_once_ends_all_checkouts_in_agreement() -> Result<()> {
    let mut services = Services::start(&[SLOW]).await?;
    let client = services.client()?;
    for (round, service) in (1..).zip(Service::ALL) {
        let checkouts = client.checkouts(50);
        client.in_flight(50 * round).await?;

        services.kill(service)?;
        let began = services.start_again(service).await?;

        let all_end = client.all_end_in_agreement(left_of(RECOVERY, began)).await;
        let rows = all_end.with_context(|| format!("after a kill of {}", service.program()))?;
        assert_eq!(rows.count("COMPLETED"), rows.sagas.len(), "after a kill of {}", service.program());
        let answers: Vec<Result<Answer>> = checkouts.join_all().await;
        let told = answers.iter().flatten().filter(|answer| answer.status == 200).count();
        if service == Service::Orchestrator {
            ensure!(answers.iter().flatten().all(|answer| answer.status == 200), "{answers:?}");
        } else {
            ensure!(told == 50, "after a kill of {}: {answers:?}", service.program());
        }
    }
    Ok(())
}
