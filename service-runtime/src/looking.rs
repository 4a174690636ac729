//! What each instance looks up again and again in its database.

use std::time::Duration;

use tracing::warn;

use crate::CancellationToken;
use crate::database::StoreError;

/// Looks every so often until `stop`. Of a database that does not answer one line is logged, which names `what`, until it
/// answers again. Each look sets its own time limit.
pub async fn keep_looking<W: Future<Output = Result<(), StoreError>>>(
    every: Duration,
    what: &'static str,
    stop: CancellationToken,
    look: impl Fn() -> W,
) {
    let mut looking = true;
    loop {
        let next_look = async {
            tokio::time::sleep(every).await;
            look().await
        };
        match stop.run_until_cancelled(next_look).await {
            None => return,
            Some(Ok(())) => looking = true,
            Some(Err(error)) if looking => {
                warn!(error = error.for_log(), "{what} can't be looked up; trying on");
                looking = false;
            }
            Some(Err(_)) => {}
        }
    }
}
