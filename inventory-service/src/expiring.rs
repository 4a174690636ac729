//! Holds that end by themselves: their pieces are free again, and their end is announced on Kafka.

use std::time::Duration;

use futures::future::join_all;
use messages::{Envelope, EventId, InventoryExpired, Message as _, OrderId, SagaId, Timestamp, TimestampText};
use participant::Participant as _;
use service_runtime::CancellationToken;
use service_runtime::database::{Session, StoreError, within_limit};
use service_runtime::kafka::Producer;
use service_runtime::looking::keep_looking;
use service_runtime::metrics::Count;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use tracing::{info, warn};
use uuid::Uuid;

use crate::Reservations;
use crate::reserving::{EXPIRE, EXPIRE_FREE, FIRST_DUE};

/// A hold ends so late at most, in calm.
const EVERY: Duration = Duration::from_secs(1);

/// Reservations of one statement.
const AT_ONCE: usize = 100;

/// How long Kafka has to acknowledge what is announced.
const DELIVERY: Duration = Duration::from_secs(30);

/// How often it is looked for what was not announced: Kafka was away, or the process died.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(60);

// (What an older release has released before its time has not ended by itself.)
const UNANNOUNCED: &str = "SELECT order_id, saga_id, expires_at FROM reservations
     WHERE will_expire AND status <> 'RESERVED' AND updated_at >= expires_at AND updated_at < now() - interval '60 s'
     ORDER BY updated_at LIMIT $1";

const ANNOUNCED: &str =
    "UPDATE reservations SET will_expire = FALSE WHERE order_id = ANY($1) AND status <> 'RESERVED' AND will_expire";

/// A hold that has ended.
struct Ended {
    order_id: OrderId,
    saga_id: SagaId,
    expires_at: Timestamp,
}

/// Ends the holds whose time is over, until `stop`.
pub async fn expire(pool: &PgPool, producer: &Producer, expired: &Count, stop: CancellationToken) {
    let session = Session::beside(pool).impatient_of_locks();
    let end = |ended: Vec<Ended>| {
        let count = ended.len();
        if count > 0 {
            info!(orders = count, "the time of holds is over: their goods are free again");
            expired.inc_by(count as u64);
            // Whether Kafka answers or not, the next ones are freed.
            let (pool, producer) = (pool.clone(), producer.clone());
            tokio::spawn(async move { announced(&pool, &producer, ended).await });
        }
        count
    };
    let look = async || {
        // What is refused is left out: it would hold up all others.
        let mut wrong: Vec<Uuid> = Vec::new();
        let mut at_once = AT_ONCE;
        loop {
            match due(&session, EXPIRE, at_once, &wrong).await {
                Ok(ended) => {
                    if end(ended) < at_once {
                        return Ok(());
                    }
                }
                // Somebody holds a product: its holds are tried again in a second.
                Err(StoreError::Locked(_)) => {
                    end(due(&session, EXPIRE_FREE, AT_ONCE, &wrong).await?);
                    return Ok(());
                }
                Err(StoreError::Refused(_)) if at_once > 1 => at_once = 1,
                Err(StoreError::Refused(why)) => {
                    let first = sqlx::query_scalar(FIRST_DUE).bind(&wrong).fetch_optional(pool);
                    let Some(order_id) = within_limit(async { Ok(first.await?) }).await? else { return Ok(()) };
                    warn!(%order_id, %why, "its hold can't be ended: see its reservation and its products");
                    wrong.push(order_id);
                }
                Err(error) => return Err(error),
            }
        }
    };
    keep_looking(EVERY, "holds whose time is over", stop, look).await;
}

/// Announces those that should have been announced before, until `stop`.
pub async fn announce_again(pool: &PgPool, producer: &Producer, stop: CancellationToken) {
    let look = async || {
        loop {
            let unannounced = sqlx::query(UNANNOUNCED).bind(AT_ONCE as i64);
            let ended = within_limit(async { ended(&unannounced.fetch_all(pool).await?) }).await?;
            let is_last = ended.len() < AT_ONCE;
            if !announced(pool, producer, ended).await || is_last {
                return Ok(());
            }
        }
    };
    keep_looking(ANNOUNCE_AGAIN, "ended holds that were not announced", stop, look).await;
}

async fn due(
    session: &Session,
    statement: &'static str,
    at_once: usize,
    but_for: &[Uuid],
) -> Result<Vec<Ended>, StoreError> {
    ended(&within_limit(session.rows(sqlx::query(statement).bind(at_once as i64).bind(but_for))).await?)
}

fn ended(rows: &[PgRow]) -> Result<Vec<Ended>, StoreError> {
    let ended = rows.iter().map(|row| {
        Ok(Ended {
            order_id: row.try_get::<Uuid, _>("order_id")?.into(),
            saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
            expires_at: row.try_get("expires_at")?,
        })
    });
    ended.collect()
}

/// Whether Kafka has taken them all. Each is the same message whenever it is sent.
async fn announced(pool: &PgPool, producer: &Producer, ended: Vec<Ended>) -> bool {
    let sent = ended.iter().map(|hold| {
        let event = hold.event();
        let delivery = producer.send(&event.to_record(Reservations::NAME, None));
        async move {
            let outcome = tokio::time::timeout(DELIVERY, delivery.acknowledged()).await;
            outcome.is_ok_and(|outcome| outcome.is_ok()).then(|| Uuid::from(hold.order_id))
        }
    });
    let taken: Vec<Uuid> = join_all(sent).await.into_iter().flatten().collect();
    if taken.is_empty() {
        return ended.is_empty();
    }
    let mark = within_limit(async { Ok(sqlx::query(ANNOUNCED).bind(&taken).execute(pool).await?) }).await;
    if let Err(error) = &mark {
        warn!(error = error.for_log(), "holds that were announced can't be marked so: they are announced again");
    }
    taken.len() == ended.len() && mark.is_ok()
}

impl Ended {
    fn event(&self) -> Envelope<InventoryExpired> {
        Envelope {
            event_id: EventId::derived(self.order_id, InventoryExpired::TOPIC.name()),
            causation_id: None,
            saga_id: self.saga_id,
            order_id: self.order_id,
            timestamp: self.expires_at,
            payload: InventoryExpired { expires_at: TimestampText(self.expires_at) },
        }
    }
}
