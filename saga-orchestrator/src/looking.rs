//! What each instance looks up again and again: what others have stored.

use std::time::Duration;

use service_runtime::CancellationToken;
use service_runtime::database::{StoreError, within_limit};
use tracing::warn;

/// Looks every so often until `stop`. Of a database that does not answer one line is logged, which names `what`, until it
/// answers again.
pub async fn keep_looking<W: Future<Output = Result<(), StoreError>>>(
    every: Duration,
    what: &'static str,
    stop: CancellationToken,
    look: impl Fn() -> W,
) {
    let mut looking = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match within_limit(look()).await {
            Ok(()) => looking = true,
            Err(error) if looking => {
                warn!(error = error.for_log(), "{what} can't be looked up; trying on");
                looking = false;
            }
            Err(_) => {}
        }
    }
}
