//! Postgres: how to connect, the migrations at start, and what an error means to whoever issued the statement.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tracing::{info, warn};

mod clock;
mod error;
mod servers;
mod session;
mod url;

use crate::Fatal;
use crate::metrics::Metrics;
use crate::settings::{HOUR_MS, Settings, SettingsError, require, require_within};

pub use self::clock::DatabaseClock;
pub use self::error::StoreError;
pub use self::servers::Servers;
pub use self::session::Session;
pub use self::url::UrlError;

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

/// What is said of a server that is none to write to.
const STANDBY: &str = "it is a standby, and takes no writes";

/// Where a service's database is.
#[derive(Clone)]
pub struct DatabaseSettings {
    servers: Servers,
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

impl Section {
    /// What libpq's variables put in place of parts of the URL, by the names of a URL's parameters.
    fn overrides(&self) -> Vec<(&'static str, String)> {
        let port = self.pgport.map(|port| port.to_string());
        let Self { pghost, pguser, pgpassword, pgdatabase, .. } = self;
        let all =
            [("host", pghost), ("port", &port), ("user", pguser), ("password", pgpassword), ("dbname", pgdatabase)];
        all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

impl TryFrom<&Settings> for DatabaseSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Section = settings.section()?;
        require_within("database_max_connections", section.database_max_connections, 1..=1000)?;
        require_within("startup_timeout_ms", section.startup_timeout_ms, 0..=HOUR_MS)?;
        let is_one = section.pghost.as_ref().is_none_or(|host| !host.contains(','));
        require("pghost", is_one, "must be one host: DATABASE_URL takes several, as in postgres://h1:5432,h2:5432/db")?;
        let servers = Servers::of_url_with(&section.database_url, &section.overrides())
            .map_err(|error| SettingsError::Invalid { key: "database_url", problem: error.to_string() })?;
        let servers =
            servers.with(|options| options.disable_statement_logging().options(PLANNING).options([STATEMENT_LIMIT]));
        Ok(Self {
            servers,
            max_connections: section.database_max_connections,
            startup_timeout: Duration::from_millis(section.startup_timeout_ms),
        })
    }
}

/// Where, without the password.
impl fmt::Display for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.servers.fmt(f)
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
    // Each connection is tested before it is used, which costs a round trip: one that a failover or an administrator has
    // ended must not fail a request. What has no time for that has a [`Session`].
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .idle_timeout(IDLE_LIMIT)
        .acquire_timeout(CONNECT_LIMIT)
        .after_connect(|connection, _| Box::pin(servers::refuse_standby(connection)))
        .connect_lazy_with(settings.servers.first().clone());
    let deadline = tokio::time::Instant::now() + settings.startup_timeout;
    let mut waiting = false;
    // Not through the pool, which would say "timed out" where the database said what is wrong.
    let (primary, options) = loop {
        let connected = tokio::time::timeout(CONNECT_LIMIT, settings.servers.connect()).await;
        let error = match connected.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)) {
            Ok(connected) => break connected,
            Err(error) => error,
        };
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
    };
    pool.set_connect_options(options.clone());
    if settings.servers.are_several() {
        tokio::spawn(settings.servers.clone().follow_primary(pool.clone(), primary));
    }
    migrate(&options, migrations)
        .await
        .map_err(|error| Fatal::new(format!("the schema of {settings} can't be brought up to date: {error}")))?;
    metrics.watch_pool(&pool);
    info!(database = %settings, "database ready");
    Ok(pool)
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

/// The SQLSTATE of a deadlock: what runs beside a migration may hold, and wait for, the same tables.
const DEADLOCK: &str = "40P01";

fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| [LOCK_NOT_AVAILABLE, DEADLOCK].contains(&&*code))
}

/// Closes the pool; a connection that does not answer is left to itself.
pub async fn close(pool: PgPool) {
    let _ = tokio::time::timeout(Duration::from_millis(500), pool.close()).await;
}

/// A database that does not answer at all, as a machine that is gone, must not hold up whoever asks it in a loop.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Runs `work`, at most for [`ANSWER_LIMIT`]; beyond it, it is not known whether it took effect.
pub async fn within_limit<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let no_answer = |_| Err(StoreError::Unavailable(format!("no answer within {ANSWER_LIMIT:?}").into()));
    tokio::time::timeout(ANSWER_LIMIT, work).await.unwrap_or_else(no_answer)
}

/// A connection that is gone shows at once. What has taken longer has been waited for.
const LOST_WITHIN: Duration = Duration::from_secs(1);

/// Runs `work` again, once, if its connection was lost: only for what may be done twice. A [`Session`] notices that the
/// server has ended its connection by the next statement at the latest, and connects again for the one behind it.
///
/// # Errors
/// As `work`'s. [`StoreError::Unavailable`] where the first try may have taken effect, and the second could not be made.
pub async fn again_if_lost<T, W>(work: impl Fn() -> W) -> Result<T, StoreError>
where
    W: Future<Output = Result<T, StoreError>>,
{
    let began = Instant::now();
    match work().await {
        Err(StoreError::Unavailable(cause)) if began.elapsed() < LOST_WITHIN => match work().await {
            Err(StoreError::NotSent(_) | StoreError::Locked(_)) => Err(StoreError::Unavailable(cause)),
            outcome => outcome,
        },
        outcome => outcome,
    }
}

/// 57P03 "the database system is starting up" and its neighbours; 53300 too many connections.
fn is_starting_or_stopping(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("57P") || code == "53300")
}
