//! Postgres: how to connect, the migrations at start, and what an error means to whoever issued the statement.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tracing::{info, warn};

use crate::Fatal;
use crate::settings::{Settings, SettingsError, require};

/// Every statement finds its rows by a key, for arrays of any length, so it is planned once and not for each set
/// of arrays (which cost more than the statement). Without the second setting a plan made while a table was small
/// would go on to scan it.
const PLANNING: [(&str, &str); 2] = [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

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
        require("database_max_connections", section.database_max_connections > 0, "must be at least 1")?;
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
            options: options.disable_statement_logging().options(PLANNING),
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
/// When the database can't be reached within `startup_timeout_ms`, refuses the login, or was migrated by a newer
/// release.
pub async fn open(settings: &DatabaseSettings, migrations: &Migrator) -> Result<PgPool, Fatal> {
    // No ping before each use: a broken connection shows in the statement itself, which is then repeated.
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .test_before_acquire(false)
        .acquire_timeout(CONNECT_LIMIT)
        .connect_lazy_with(settings.options.clone());
    let deadline = tokio::time::Instant::now() + settings.startup_timeout;
    let mut waiting = false;
    // Not through the pool, which would say "timed out" where the database said what is wrong.
    while let Err(error) = tokio::time::timeout(CONNECT_LIMIT, settings.options.connect())
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
    migrations
        .run(&pool)
        .await
        .map_err(|error| Fatal::new(format!("the schema of {settings} can't be brought up to date: {error}")))?;
    warn_of_another_clock(&pool).await;
    info!(database = %settings, "database ready");
    Ok(pool)
}

/// Deadlines are set by this machine's clock and judged by the database's.
async fn warn_of_another_clock(pool: &PgPool) {
    let Ok(theirs) = sqlx::query_scalar::<_, messages::Timestamp>("SELECT now()").fetch_one(pool).await else { return };
    let ahead_ms = (crate::now() - theirs).num_milliseconds();
    if ahead_ms.abs() > 1000 {
        warn!(ahead_ms, "this machine's clock and the database's differ: deadlines come early or late by that");
    }
}

/// Closes the pool; a connection that does not answer is left to itself.
pub async fn close(pool: PgPool) {
    let _ = tokio::time::timeout(Duration::from_millis(500), pool.close()).await;
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
    /// The database answered that it never will: the data is at fault.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(e) if is_datas_fault(e.code().as_deref()) => Self::Refused(error.to_string()),
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Self::Refused(error.to_string())
            }
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::NotSent(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Only SQLSTATE classes 22 (data exception) and 23 (constraint violation) are about the data. Everything else, a
/// changed password or a lost grant too, is the database's own trouble: it passes once somebody mends it, and no
/// record must be set aside meanwhile.
fn is_datas_fault(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// 57P03 "the database system is starting up" and its neighbours; 53300 too many connections.
fn is_starting_or_stopping(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("57P") || code == "53300")
}
