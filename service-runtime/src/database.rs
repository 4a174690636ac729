//! Postgres: how to connect, the migrations at start, and what an error means to whoever issued the statement.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions as _, Executor as _, PgPool, Row as _};
use tracing::{info, warn};

mod clock;
mod session;

use crate::Fatal;
use crate::metrics::Metrics;
use crate::settings::{HOUR_MS, Settings, SettingsError, require_within};

pub use self::clock::DatabaseClock;
pub use self::session::Session;

/// Every statement finds its rows by a key, for arrays of any length, so it is planned once and not for each set
/// of arrays (which cost more than the statement). A plan made while a table was small would go on to read all of it,
/// by the table or by the whole key, until the next analysis: so the best plan is the one that reads the fewest entries
/// of an index, which Postgres takes for nearly nothing otherwise. (At 10 looking up wins from 12 rows on. Much more would
/// use up what keeps Postgres from scanning a large table all the same.) At such costs it would compile, which pays for
/// no statement of ours.
const PLANNING: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("cpu_index_tuple_cost", "10"),
    ("jit", "off"),
];

/// What runs longer is given up by the database too, before its caller gives up ([`ANSWER_LIMIT`]): else statements that
/// wait for a lock would pile up behind it, and take effect when nobody reckons with them any more.
const STATEMENT_LIMIT: (&str, &str) = ("statement_timeout", "8s");

/// A connection that was not used for this long is made anew: what stands in between may have forgotten it in silence.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How long getting a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Where a service's database is.
#[derive(Clone)]
pub struct DatabaseSettings {
    options: PgConnectOptions,
    max_connections: u32,
    startup_timeout: Duration,
}

#[derive(Deserialize)]
struct Section {
    database_url: String,
    database_max_connections: u32,
    startup_timeout_ms: u64,
    pghost: Option<String>,
    pgport: Option<u16>,
    pguser: Option<String>,
    pgpassword: Option<String>,
    pgdatabase: Option<String>,
}

impl TryFrom<&Settings> for DatabaseSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Section = settings.section()?;
        require_within("database_max_connections", section.database_max_connections, 1..=1000)?;
        require_within("startup_timeout_ms", section.startup_timeout_ms, 0..=HOUR_MS)?;
        // The parser's message says what is wrong with the URL without repeating it: it holds a password.
        let mut options = PgConnectOptions::from_str(&section.database_url)
            .map_err(|error| SettingsError::Invalid { key: "database_url", problem: error.to_string() })?;
        if let Some(host) = &section.pghost {
            options = options.host(host);
        }
        if let Some(port) = section.pgport {
            options = options.port(port);
        }
        if let Some(user) = &section.pguser {
            options = options.username(user);
        }
        if let Some(password) = &section.pgpassword {
            options = options.password(password);
        }
        if let Some(database) = &section.pgdatabase {
            options = options.database(database);
        }
        Ok(Self {
            options: options.disable_statement_logging().options(PLANNING).options([STATEMENT_LIMIT]),
            max_connections: section.database_max_connections,
            startup_timeout: Duration::from_millis(section.startup_timeout_ms),
        })
    }
}

/// Where, without the password.
impl fmt::Display for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or("");
        write!(f, "{}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port())
    }
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseSettings({self})")
    }
}

/// Connects and brings the schema up to date (under an advisory lock, so instances may start side by side).
///
/// # Errors
/// When the database can't be reached within `startup_timeout_ms`, refuses the login, or a migration fails.
pub async fn open(settings: &DatabaseSettings, migrations: &Migrator, metrics: &Metrics) -> Result<PgPool, Fatal> {
    // No ping before each use: a broken connection shows in the statement itself, which is then repeated.
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .test_before_acquire(false)
        .idle_timeout(IDLE_LIMIT)
        .acquire_timeout(CONNECT_LIMIT)
        .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
        .connect_lazy_with(settings.options.clone());
    let deadline = tokio::time::Instant::now() + settings.startup_timeout;
    let mut waiting = false;
    // Not through the pool, which would say "timed out" where the database said what is wrong.
    while let Err(error) = tokio::time::timeout(CONNECT_LIMIT, connect(&settings.options))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
    {
        let refused = matches!(&error, sqlx::Error::Database(e) if !is_starting_or_stopping(e.code().as_deref()));
        if refused || tokio::time::Instant::now() >= deadline {
            return Err(Fatal::new(format!(
                "the database {settings} can't be used: {error}. Is it running? DATABASE_URL says where it is"
            )));
        }
        if !waiting {
            warn!(database = %settings, %error, "waiting for the database");
            waiting = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    migrate(&settings.options, migrations)
        .await
        .map_err(|error| Fatal::new(format!("the schema of {settings} can't be brought up to date: {error}")))?;
    metrics.watch_pool(&pool);
    info!(database = %settings, "database ready");
    Ok(pool)
}

/// A connection to a database that takes writes.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    refuse_standby(&mut connection).await?;
    Ok(connection)
}

/// After a failover a name may still lead to the server that was the primary and is a standby now. It answers every
/// question, with rows that are old or will never be any more: a saga would seem unknown, and its reply be ignored.
/// (A primary becomes a standby by a restart only, which ends its connections.)
async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match connection.fetch_one("SELECT pg_is_in_recovery()").await?.try_get(0)? {
        true => Err(sqlx::Error::Protocol("it is a standby, and takes no writes".to_owned())),
        false => Ok(()),
    }
}

/// How long a migration waits for a lock before it gives way and tries again: whoever comes meanwhile for the same table
/// waits behind it.
const LOCK_LIMIT: (&str, &str) = ("lock_timeout", "2s");

/// How long it lets the others through then.
const LOCK_AGAIN: Duration = Duration::from_secs(5);

/// On a connection of its own: the schema of a large table takes its time. A newer release's migrations don't matter:
/// each leaves a schema that the release before it works with, which may be started again beside it or after it.
async fn migrate(options: &PgConnectOptions, migrations: &Migrator) -> Result<(), MigrateError> {
    let unlimited = options.clone().options([(STATEMENT_LIMIT.0, "0"), LOCK_LIMIT]);
    let mut migrations = Migrator { migrations: migrations.migrations.clone(), ..Migrator::DEFAULT };
    migrations.set_ignore_missing(true);
    // One connection for all tries. It keeps the advisory lock meanwhile: else another instance would take its turn in the
    // pause, and there would be none.
    let one = PgPoolOptions::new().max_connections(1).connect_lazy_with(unlimited);
    let outcome = loop {
        match migrations.run(&one).await {
            Err(error) if is_lock_timeout(&error) => {
                warn!(%error, "a migration waits for what somebody else holds; trying again");
                tokio::time::sleep(LOCK_AGAIN).await;
            }
            outcome => break outcome,
        }
    };
    one.close().await;
    outcome
}

/// The SQLSTATE of a `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
}

/// Closes the pool; a connection that does not answer is left to itself.
pub async fn close(pool: PgPool) {
    let _ = tokio::time::timeout(Duration::from_millis(500), pool.close()).await;
}

/// A database that does not answer at all, as a machine that is gone, must not hold up whoever asks it in a loop.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Runs `work`, at most for [`ANSWER_LIMIT`]; beyond it, it is not known whether it took effect.
pub async fn within_limit<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let no_answer = |_| Err(StoreError::Unavailable(format!("no answer within {ANSWER_LIMIT:?}")));
    tokio::time::timeout(ANSWER_LIMIT, work).await.unwrap_or_else(no_answer)
}

/// What a failed statement means to its caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database can't do it now. The statement was not sent.
    #[error("the database is not available: {0}")]
    NotSent(String),
    /// The database failed meanwhile. Whether the statement took effect is not known.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Another transaction holds what the statement needs, and kept it for longer than [`Session::impatient_of_locks`]
    /// waits. Nothing was done.
    #[error("another transaction holds the row: {0}")]
    Locked(String),
    /// The database refused it for no reason of its own: what was to be stored is at fault.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(e) if e.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => Self::Locked(e.to_string()),
            sqlx::Error::Database(e) if !is_environments(e.code().as_deref()) => Self::Refused(error.to_string()),
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Self::Refused(error.to_string())
            }
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::NotSent(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// SQLSTATEs (PostgreSQL, appendix A) that tell of the database's own trouble, and of no record's: it passes by
/// itself or once somebody mends it, and nothing must be set aside meanwhile. By class, or in full where its class
/// is mixed.
const ENVIRONMENT: [&str; 17] = [
    "08",    // connection
    "0A",    // not supported: a statement prepared before a migration ("cached plan must not change result type")
    "25",    // transaction state: a standby, a failed-over primary is read-only
    "26",    // a prepared statement that the server does not know: another one answers now
    "28",    // login
    "3D",    // no such database
    "3F",    // no such schema
    "40",    // serialization failure, deadlock
    "42",    // a table or column that is not there, a lost grant
    "53",    // disk full, out of memory, too many connections
    "55",    // a lock that is not to be had
    "57",    // shutdown, a cancelled statement
    "58",    // I/O
    "72",    // a snapshot too old
    "F0",    // configuration file
    "XX001", // a corrupted table
    "XX002", // a corrupted index
];

/// Whether an error is the database's own. All others count against the record, once it has failed alone: the data
/// errors (22, 23), and what a trigger raises (P0001) or nobody has heard of, or one such record would be tried for
/// ever.
fn is_environments(code: Option<&str>) -> bool {
    code.is_none_or(|code| ENVIRONMENT.iter().any(|start| code.starts_with(start)))
}

/// 57P03 "the database system is starting up" and its neighbours; 53300 too many connections.
fn is_starting_or_stopping(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("57P") || code == "53300")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_own_trouble_counts_against_no_record() {
        for code in [
            "08006", "25006", "28P01", "3D000", "3F000", "40001", "40P01", "42501", "42P01", "53100", "53300", "55P03",
            "57014", "57P01", "58030", "XX001", "XX002",
        ] {
            assert!(is_environments(Some(code)), "{code}");
        }
        assert!(is_environments(None), "an answer without a code says nothing of the record");
    }

    #[test]
    fn data_errors_and_unknown_ones_count_against_the_record() {
        for code in ["22003", "23505", "23514", "P0001", "XX000", "54000", "21000", "44000", "ZZ999"] {
            assert!(!is_environments(Some(code)), "{code}");
        }
    }
}
