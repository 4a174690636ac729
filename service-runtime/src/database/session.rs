//! A connection of one's own, for a task that issues one statement after another. A pool would add to each: a lock, a
//! task, and a round trip that tests the connection as it is given back, which costs as much as a small statement.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, PgPool, Postgres};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::{CONNECT_LIMIT, IDLE_LIMIT, StoreError, servers};
use crate::Cause;

/// How long between two tries to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// A connection that was used this recently is taken to be alive. A busy session so spares the round trip that asks.
const ALIVE_FOR: Duration = Duration::from_secs(1);

/// How long a session that is impatient of locks waits for one. Moves of the same row by two processes wait for each
/// other's commits, which is a matter of milliseconds; whoever holds a row for longer may hold it for minutes.
const LOCK_LIMIT: (&str, &str) = ("lock_timeout", "200ms");

/// One connection to the pool's database, beside the pool. It is made when it is first needed, and again after an
/// error or a minute without use. One statement at a time: the next one waits for it.
pub struct Session {
    /// It knows where the database is, also after a failover.
    pool: PgPool,
    connect_limit: Duration,
    is_impatient_of_locks: bool,
    /// With when it was last used.
    idle: Mutex<Option<(PgConnection, Instant)>>,
}

impl Session {
    pub fn beside(pool: &PgPool) -> Self {
        Self { pool: pool.clone(), connect_limit: CONNECT_LIMIT, is_impatient_of_locks: false, idle: Mutex::default() }
    }

    /// The same for somebody who can't wait: why there is no connection is told after so long.
    #[must_use]
    pub fn impatient(self, connect_limit: Duration) -> Self {
        Self { connect_limit, ..self }
    }

    /// The same for statements with many rows: one row that another transaction holds must not hold up the others. A
    /// statement that meets one fails with [`StoreError::Locked`]. (Until then it costs nothing: Postgres starts the
    /// time limit when it begins to wait.)
    #[must_use]
    pub fn impatient_of_locks(self) -> Self {
        Self { is_impatient_of_locks: true, ..self }
    }

    /// Runs a statement and answers its rows. If this is dropped half-way, so is the connection.
    ///
    /// # Errors
    /// [`StoreError::NotSent`] when no connection can be had within three seconds of its turn, unless it is [impatient](Self::impatient).
    pub async fn rows(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
        let mut idle = self.idle.lock().await;
        let until = Instant::now() + self.connect_limit;
        let alive = match idle.take() {
            Some((connection, used)) => alive(connection, used, until - self.connect_limit / 2).await,
            None => None,
        };
        let mut connection = match alive {
            Some(connection) => connection,
            None => self.connect(until).await?,
        };
        let answer = statement.fetch_all(&mut connection).await.map_err(StoreError::from);
        // What was refused leaves the connection in order; after everything else it is not trusted.
        if matches!(answer, Ok(_) | Err(StoreError::Refused(_) | StoreError::Locked(_))) {
            *idle = Some((connection, Instant::now()));
        }
        answer
    }

    async fn connect(&self, until: Instant) -> Result<PgConnection, StoreError> {
        let mut why = None;
        loop {
            let mut options = self.pool.connect_options();
            if self.is_impatient_of_locks {
                options = Arc::new((*options).clone().options([LOCK_LIMIT]));
            }
            match timeout_at(until, servers::connect(&options)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => why = Some(error),
                Err(_) => {}
            }
            if Instant::now() + CONNECT_AGAIN >= until {
                return Err(StoreError::NotSent(match why {
                    Some(error) => Cause::from(&error),
                    None => format!("no connection within {:?}", self.connect_limit).into(),
                }));
            }
            tokio::time::sleep(CONNECT_AGAIN).await;
        }
    }
}

/// The connection, unless it is known to be of no use. One that was not used for a moment is asked: what a failover or an
/// administrator has ended meanwhile shows here, where nothing is sent yet, and not in the statement.
async fn alive(mut connection: PgConnection, used: Instant, until: Instant) -> Option<PgConnection> {
    if used.elapsed() >= IDLE_LIMIT {
        return None;
    }
    let is_alive = used.elapsed() < ALIVE_FOR || matches!(timeout_at(until, connection.ping()).await, Ok(Ok(())));
    is_alive.then_some(connection)
}
