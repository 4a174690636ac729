//! The `Idempotency-Key` of a `POST /checkout` (IETF draft-ietf-httpapi-idempotency-key-header): a client that got
//! no answer sends the same request again under the same key, and gets the outcome of the first one.
//!
//! A key belongs to its user. It is stored in the saga's own row, by the statement that stores the saga, and is
//! forgotten a while after the saga's end.

use std::time::Duration;

use service_runtime::CancellationToken;
use service_runtime::database::within_limit;
use sqlx::PgPool;
use tracing::{info, warn};

use crate::store::forget_keys;

/// How many keys are forgotten in one statement.
const AT_ONCE: i64 = 1000;

/// Forgets the keys of sagas that ended longer than `retention` ago, until `stop`.
pub async fn forget_old_keys(pool: PgPool, retention: Duration, stop: CancellationToken) {
    let pause = (retention / 4).clamp(Duration::from_millis(250), Duration::from_secs(60));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let mut forgotten = 0;
        let failure = loop {
            if stop.is_cancelled() {
                return;
            }
            match within_limit(forget_keys(&pool, retention, AT_ONCE)).await {
                Ok(0) => break None,
                Ok(count) => forgotten += count,
                Err(error) => break Some(error),
            }
        };
        if forgotten > 0 {
            info!(forgotten, "idempotency keys whose time was over");
        }
        if let Some(error) = failure {
            warn!(error = error.for_log(), "old idempotency keys can't be forgotten now");
        }
    }
}
