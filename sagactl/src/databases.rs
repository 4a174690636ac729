//! The four databases, for reading: where they are, and what is said when one can't be read.

use std::time::Duration;

use clap::Args;
use service_runtime::database::{Servers, UrlError};
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
        default_value = "postgres://orchestrator_user:orchestrator_pass@localhost:5436/orchestrator_db"
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
        default_value = "postgres://order_user:order_pass@localhost:5433/order_db"
    )]
    pub order_database_url: String,
    #[arg(
        long,
        env = "PAYMENT_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://payment_user:payment_pass@localhost:5434/payment_db"
    )]
    pub payment_database_url: String,
    #[arg(
        long,
        env = "INVENTORY_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "postgres://inventory_user:inventory_pass@localhost:5435/inventory_db"
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
        let servers = Servers::of_url(url).map_err(wrong)?;
        let servers = servers.with(|options| options.disable_statement_logging().options(SESSION));
        // Not through the pool, which would say "timed out" where the database said what is wrong.
        let options = match tokio::time::timeout(CONNECT_LIMIT, servers.connect()).await {
            Ok(Ok((connection, options))) => {
                drop(connection.close().await);
                options
            }
            Ok(Err(error)) => return Err(unreadable(format!(" {servers}"), error.to_string())),
            Err(_) => return Err(unreadable(format!(" {servers}"), format!("no answer within {CONNECT_LIMIT:?}"))),
        };
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT_LIMIT);
        Ok(Self { name, pool: pool.connect_lazy_with(options) })
    }

    /// What a failed statement means to the reader.
    pub(crate) fn unreadable(&self, error: &sqlx::Error) -> Unreadable {
        Unreadable { database: self.name, place: place(&self.pool.connect_options()), why: error.to_string() }
    }
}

fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_default();
    format!(" {}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port())
}
