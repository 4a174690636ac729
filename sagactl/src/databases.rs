//! The four databases, for reading: where they are, and what is said when one can't be read.
//!
//! The defaults are those of `standalone`, whose passwords are in a file: a URL without a password gets it from
//! the file that `PGPASSFILE` names, as with `psql`, else from the one in `standalone`'s data directory.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dead_letters::Topics;
use service_runtime::database::{Servers, UrlError};
use service_runtime::pgpass;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgPool};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Connections to each database: as many as there are statements about one batch.
const CONNECTIONS: u32 = 3;

/// Nothing is ever written, whatever the role may do; and a statement that hangs is no answer.
const SESSION: [(&str, &str); 2] = [("default_transaction_read_only", "on"), ("statement_timeout", "5min")];

/// Where the orchestrator's database is.
#[derive(Debug, Clone, Args)]
pub struct OrchestratorUrl {
    #[arg(
        long,
        env = "ORCHESTRATOR_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://orchestrator_user@localhost:5436/orchestrator_db"
    )]
    pub orchestrator_database_url: String,
}

/// Where all four are.
#[derive(Debug, Clone, Args)]
pub struct DatabaseUrls {
    #[arg(
        long,
        env = "ORDER_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://order_user@localhost:5433/order_db"
    )]
    pub order_database_url: String,
    #[arg(
        long,
        env = "PAYMENT_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://payment_user@localhost:5434/payment_db"
    )]
    pub payment_database_url: String,
    #[arg(
        long,
        env = "INVENTORY_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://inventory_user@localhost:5435/inventory_db"
    )]
    pub inventory_database_url: String,
    #[command(flatten)]
    pub orchestrator: OrchestratorUrl,
}

/// A database that could not be read: which, where, why. Never holds a password.
#[derive(Debug, thiserror::Error)]
#[error("the {database} database{place} can't be read: {why}")]
pub struct Unreadable {
    database: &'static str,
    place: String,
    why: String,
}

/// One of the four.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: &'static str,
    pub pool: PgPool,
}

/// A connection pool to each.
#[derive(Debug, Clone)]
pub struct Databases {
    pub order: Database,
    pub payment: Database,
    pub inventory: Database,
    pub orchestrator: Database,
}

impl Databases {
    /// Connects to all of them.
    ///
    /// # Errors
    /// [`Unreadable`] names the first that can't be reached.
    pub async fn connect(urls: &DatabaseUrls) -> Result<Self, Unreadable> {
        Ok(Self {
            order: Database::connect("order", &urls.order_database_url).await?,
            payment: Database::connect("payment", &urls.payment_database_url).await?,
            inventory: Database::connect("inventory", &urls.inventory_database_url).await?,
            orchestrator: Database::orchestrator(&urls.orchestrator).await?,
        })
    }
}

impl Database {
    /// Connects to the orchestrator's.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn orchestrator(url: &OrchestratorUrl) -> Result<Self, Unreadable> {
        Self::connect("orchestrator", &url.orchestrator_database_url).await
    }

    async fn connect(name: &'static str, url: &str) -> Result<Self, Unreadable> {
        let unreadable = |place: String, why: String| Unreadable { database: name, place, why };
        let wrong = |error: UrlError| unreadable(String::new(), format!("its URL {error}"));
        let wanted = !has_password(url) && std::env::var_os("PGPASSWORD").is_none();
        let file = PasswordFile::from_environment();
        let servers = Servers::of_url(url).map_err(wrong)?;
        let servers = servers.with(|options| {
            let options = match file.password(&options) {
                // sqlx has looked into the file of PGPASSFILE itself.
                Ok(password) if wanted && !file.is_named => options.password(&password),
                _ => options,
            };
            options.disable_statement_logging().options(SESSION)
        });
        // Not through the pool, which would say "timed out" where the database said what is wrong.
        let options = match tokio::time::timeout(CONNECT_LIMIT, servers.connect()).await {
            Ok(Ok((connection, options))) => {
                drop(connection.close().await);
                options
            }
            Ok(Err(error)) => {
                let refused = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| {
                    // https://www.postgresql.org/docs/current/errcodes-appendix.html
                    code.starts_with("28")
                });
                let missing = (refused && wanted).then(|| file.password(servers.first()).err()).flatten();
                let hint = missing.map(|missing| format!("; {missing}")).unwrap_or_default();
                return Err(unreadable(format!(" {servers}"), format!("{error}{hint}")));
            }
            Err(_) => return Err(unreadable(format!(" {servers}"), format!("no answer within {CONNECT_LIMIT:?}"))),
        };
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT_LIMIT);
        Ok(Self { name, pool: pool.connect_lazy_with(options) })
    }

    /// The topics that dead letters may come from. For the orchestrator's database, which has the published flows.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn topics(&self) -> Result<Topics, Unreadable> {
        Topics::read(&self.pool).await.map_err(|error| self.unreadable(&error))
    }

    /// What a failed statement means to the reader.
    pub(crate) fn unreadable(&self, error: &sqlx::Error) -> Unreadable {
        Unreadable { database: self.name, place: place(&self.pool.connect_options()), why: error.to_string() }
    }
}

/// A file with passwords.
struct PasswordFile {
    path: PathBuf,
    /// Whether it is that of `PGPASSFILE`.
    is_named: bool,
}

impl PasswordFile {
    fn from_environment() -> Self {
        Self::of(std::env::var_os("PGPASSFILE"), std::env::var_os("DATA_DIR"))
    }

    fn of(named: Option<OsString>, data_dir: Option<OsString>) -> Self {
        match named {
            Some(path) => Self { path: path.into(), is_named: true },
            None => {
                let data_dir = data_dir.map_or_else(|| PathBuf::from("data"), PathBuf::from);
                Self { path: data_dir.join("pgpass"), is_named: false }
            }
        }
    }

    /// The password for a login, or why it has none.
    fn password(&self, login: &PgConnectOptions) -> Result<String, String> {
        let entries = pgpass::read(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound if !self.is_named => format!(
                "PGPASSFILE is not set, and there is no {}: `standalone` prints `export PGPASSFILE=…` when it is ready",
                display(&self.path)
            ),
            _ => format!("its password is not known, because {} can't be read: {error}", display(&self.path)),
        })?;
        let database = login.get_database().unwrap_or_else(|| login.get_username());
        let fits =
            |entry: &&pgpass::Entry| entry.fits(login.get_host(), login.get_port(), database, login.get_username());
        let entry = entries.iter().find(fits);
        let entry = entry.ok_or_else(|| format!("{} has no line for it", display(&self.path)))?;
        Ok(entry.password.clone())
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Whether the URL names a password. One that can't be read is refused anyway.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':') || tail.contains("password=")
}

fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_default();
    format!(" {}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_url_is_the_one_that_is_used() {
        assert!(has_password("postgres://order_user:x@localhost:5433/order_db"));
        assert!(has_password("postgres://localhost/order_db?user=order_user&password=x"));
        assert!(has_password("postgres://order_user:x@one:5433,two:5433/order_db"));
        assert!(!has_password("postgres://order_user@localhost:5433/order_db"));
        assert!(!has_password("postgres://order_user@one:5433,two:5433/order_db"));
    }

    #[test]
    fn the_file_is_that_of_pgpassfile_else_the_data_directorys() {
        let path = |named: Option<&str>, data_dir: Option<&str>| {
            PasswordFile::of(named.map(OsString::from), data_dir.map(OsString::from)).path
        };
        assert_eq!(path(Some("/x/pass"), Some("/y")), Path::new("/x/pass"));
        assert_eq!(path(None, Some("/y")), Path::new("/y/pgpass"));
        assert_eq!(path(None, None), Path::new("data/pgpass"));
    }
}
