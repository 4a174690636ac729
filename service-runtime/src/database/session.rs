//! A connection of one's own, for a task that issues one statement after another. A pool would add to each: a lock, a
//! task, and a round trip that tests the connection as it is given back, which costs as much as a small statement.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::{CONNECT_LIMIT, IDLE_LIMIT, StoreError};

/// How long between two tries to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// How long a session that is impatient of locks waits for one. Moves of the same row by two processes wait for each
/// other's commits, which is a matter of milliseconds; whoever holds a row for longer may hold it for minutes.
const LOCK_LIMIT: (&str, &str) = ("lock_timeout", "200ms");

/// One connection to the pool's database, beside the pool. It is made when it is first needed, and again after an
/// error or a minute without use. One statement at a time: the next one waits for it.
pub struct Session {
    options: Arc<PgConnectOptions>,
    connect_limit: Duration,
    /// With when it was last used.
    idle: Mutex<Option<(PgConnection, Instant)>>,
}

impl Session {
    pub fn beside(pool: &PgPool) -> Self {
        Self { options: pool.connect_options(), connect_limit: CONNECT_LIMIT, idle: Mutex::default() }
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
        Self { options: Arc::new((*self.options).clone().options([LOCK_LIMIT])), ..self }
    }

    /// Runs a statement and answers its rows. If this is dropped half-way, so is the connection.
    ///
    /// # Errors
    /// [`StoreError::NotSent`] when no connection can be had within three seconds of its turn, unless it is [impatient](Self::impatient).
    pub async fn rows(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
        let mut idle = self.idle.lock().await;
        let mut connection = match idle.take() {
            Some((connection, used)) if used.elapsed() < IDLE_LIMIT => connection,
            _ => self.connect().await?,
        };
        let answer = statement.fetch_all(&mut connection).await.map_err(StoreError::from);
        // What was refused leaves the connection in order; after everything else it is not trusted.
        if matches!(answer, Ok(_) | Err(StoreError::Refused(_) | StoreError::Locked(_))) {
            *idle = Some((connection, Instant::now()));
        }
        answer
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let until = Instant::now() + self.connect_limit;
        loop {
            let why = match timeout_at(until, super::connect(&self.options)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.to_string(),
                Err(_) => return Err(StoreError::NotSent(format!("no connection within {:?}", self.connect_limit))),
            };
            if Instant::now() + CONNECT_AGAIN >= until {
                return Err(StoreError::NotSent(why));
            }
            tokio::time::sleep(CONNECT_AGAIN).await;
        }
    }
}
