//! Pieces that are set aside for reservations that are released: an older release, which counted nothing, has ended these.

use std::time::Duration;

use service_runtime::CancellationToken;
use service_runtime::database::{Session, StoreError, within_limit};
use service_runtime::looking::keep_looking;
use sqlx::PgPool;
use tracing::info;

use crate::reserving::ASTRAY_GIVEN_BACK;

/// An older release may run beside this one while instances are replaced one by one.
const EVERY: Duration = Duration::from_secs(15);

/// Reservations of one statement.
const AT_ONCE: usize = 100;

/// Gives such pieces back, until `stop`.
pub async fn give_back(pool: &PgPool, stop: CancellationToken) {
    let session = Session::beside(pool).impatient_of_locks();
    let look = async || {
        while within_limit(some(&session)).await? == AT_ONCE {}
        Ok(())
    };
    keep_looking(EVERY, "pieces of orders that an older release has released", stop, look).await;
}

/// How many reservations there were, of [`AT_ONCE`] at most.
async fn some(session: &Session) -> Result<usize, StoreError> {
    let orders = session.rows(sqlx::query(ASTRAY_GIVEN_BACK).bind(AT_ONCE as i64)).await?.len();
    if orders > 0 {
        info!(orders, "pieces of orders that an older release has released are available again");
    }
    Ok(orders)
}
