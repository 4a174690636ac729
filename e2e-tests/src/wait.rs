//! The one way to wait: for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `probe` answers `Some`. A probe that fails is tried again, since what it looks at may be down on
/// purpose.
///
/// # Errors
/// When the limit is over; with `what` was waited for, and how the last probe failed if it did.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = probe().await;
        if let Ok(Some(value)) = outcome {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            match outcome {
                Err(error) => bail!("not within {limit:?}: {what} (last: {error:#})"),
                _ => bail!("not within {limit:?}: {what}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
