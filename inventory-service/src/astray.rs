//! Pieces that are set aside for reservations that are released: an older release, which counted nothing, has ended these.

use std::time::Duration;

use service_runtime::CancellationToken;
use service_runtime::database::{StoreError, within_limit};
use sqlx::PgPool;
use tracing::{info, warn};

use crate::reserving::ASTRAY_GIVEN_BACK;

/// An older release may run beside this one while instances are replaced one by one.
const EVERY: Duration = Duration::from_secs(60);

/// Reservations of one statement.
const AT_ONCE: usize = 100;

/// Gives such pieces back, now and from time to time, until `stop`.
pub async fn give_back(pool: &PgPool, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(within_limit(some(pool))).await {
            None => return,
            Some(Ok(AT_ONCE)) => continue,
            Some(Ok(_)) => {}
            Some(Err(error)) => warn!(error = error.for_log(), "pieces can't be given back; trying on"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// How many reservations there were, of [`AT_ONCE`] at most.
async fn some(pool: &PgPool) -> Result<usize, StoreError> {
    let orders = sqlx::query(ASTRAY_GIVEN_BACK).bind(AT_ONCE as i64).fetch_all(pool).await?.len();
    if orders > 0 {
        info!(orders, "pieces of orders that an older release has released are available again");
    }
    Ok(orders)
}
