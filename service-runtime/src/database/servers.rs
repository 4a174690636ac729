//! The servers that a database may be on, of which one takes writes: a primary and its standbys. After a failover it is
//! another one, and everything that connects goes there.

use std::fmt;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgPool, Row as _};
use tokio::time::timeout;
use tracing::{info, warn};

use super::url::{self, UrlError};
use super::{CONNECT_LIMIT, STANDBY};

/// How often it is checked that the primary still is there.
const LOOK: Duration = Duration::from_millis(500);

/// How long a primary may take to answer that it is alive.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);

/// How to connect to each server. There is at least one.
#[derive(Clone)]
pub struct Servers(Vec<PgConnectOptions>);

impl Servers {
    /// Those that a URL names: `postgres://user:password@host1:5432,host2:5432/database`.
    ///
    /// # Errors
    /// [`UrlError`] for a URL that is wrong or ambiguous, or has an unknown parameter. It repeats no secret.
    pub fn of_url(url: &str) -> Result<Self, UrlError> {
        Self::of_url_with(url, &[])
    }

    /// Those that a URL names, with these parameters in place of its own parts: a password file is searched for what
    /// comes of both.
    ///
    /// # Errors
    /// As with [`Self::of_url`].
    pub fn of_url_with(url: &str, overrides: &[(&'static str, String)]) -> Result<Self, UrlError> {
        url::read(url, overrides).map(Self)
    }

    /// The same servers with other options.
    #[must_use]
    pub fn with(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    /// The first of them. All have the same user and database.
    pub fn first(&self) -> &PgConnectOptions {
        &self.0[0]
    }

    pub(super) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Connects to all at once, and answers the first that takes writes, with the options that led to it.
    ///
    /// # Errors
    /// Where there is none: a database's refusal if there was one, else the error of the first host.
    pub async fn connect(&self) -> Result<(PgConnection, PgConnectOptions), sqlx::Error> {
        let tries = self.0.iter().enumerate().map(async |(number, options)| (number, connect(options).await));
        let mut tries: FuturesUnordered<_> = tries.collect();
        let mut errors = Vec::new();
        while let Some((number, outcome)) = tries.next().await {
            match outcome {
                Ok(connection) => return Ok((connection, self.0[number].clone())),
                Err(error) => errors.push((!matches!(error, sqlx::Error::Database(_)), number, error)),
            }
        }
        errors.sort_by_key(|(is_no_refusal, number, _)| (*is_no_refusal, *number));
        Err(errors.into_iter().next().map_or(sqlx::Error::PoolClosed, |(.., error)| error))
    }

    /// Keeps the pool's options at the server that takes writes, until the pool is closed. Sessions connect by them too.
    pub(super) async fn follow_primary(self, pool: PgPool, mut primary: PgConnection) {
        let following = async {
            loop {
                tokio::time::sleep(LOOK).await;
                // A primary becomes a standby by a restart only, which ends its connections.
                if matches!(timeout(ALIVE_LIMIT, primary.ping()).await, Ok(Ok(()))) {
                    continue;
                }
                warn!(
                    database = place(&pool.connect_options()),
                    "the database's primary does not answer: looking for another"
                );
                let options;
                (primary, options) = self.until_connected().await;
                info!(database = place(&options), "the database's primary is this one now");
                pool.set_connect_options(options);
            }
        };
        let _ = pool.close_event().do_until(following).await;
    }

    async fn until_connected(&self) -> (PgConnection, PgConnectOptions) {
        loop {
            if let Ok(Ok(connected)) = timeout(CONNECT_LIMIT, self.connect()).await {
                return connected;
            }
            tokio::time::sleep(LOOK / 5).await;
        }
    }
}

/// Where, without the password.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.0.iter().map(host).collect();
        let (user, database) = (self.first().get_username(), self.first().get_database().unwrap_or(""));
        write!(f, "{user}@{}/{database}", hosts.join(","))
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Servers({self})")
    }
}

fn host(options: &PgConnectOptions) -> String {
    format!("{}:{}", options.get_host(), options.get_port())
}

fn place(options: &PgConnectOptions) -> String {
    Servers(vec![options.clone()]).to_string()
}

/// A connection to a database that takes writes.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    refuse_standby(&mut connection).await?;
    Ok(connection)
}

/// After a failover a name may still lead to the server that was the primary and is a standby now. It answers every
/// question, with rows that are old or will never be any more: a saga would seem unknown, and its reply be ignored.
/// (A primary becomes a standby by a restart only, which ends its connections.)
pub(super) async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match connection.fetch_one("SELECT pg_is_in_recovery()").await?.try_get(0)? {
        true => Err(sqlx::Error::Protocol(STANDBY.to_owned())),
        false => Ok(()),
    }
}
