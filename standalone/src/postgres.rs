//! Four small Postgres servers as children of this process, one per service, so that `cargo run` needs no
//! database service. [`Servers::start`] finds or fetches the binaries, initialises what is not there yet,
//! takes care of servers that a killed run left behind, and returns when every database answers;
//! [`Servers::stop`] takes them down in order. Each can be stopped, killed and started alone
//! ([`Servers::server`]), which the end-to-end tests use as their broken database.
//!
//! Layout, for `Database { name: "order", .. }`: the data folder `<data-dir>/order/`, its log
//! `<data-dir>/order/server.log`, and `<data-dir>/postgres-<version>/` if the binaries were fetched.

mod account;
mod binaries;
mod error;
mod folder;
mod leftover;
mod ports;
mod server;

use std::sync::Arc;

use futures::future::{join_all, try_join_all};

use crate::data_dir::DataDir;
use account::Account;
use ports::Reservation;

pub use error::Error;
pub use server::Server;

/// One database: where it listens, and the one role that owns it.
#[derive(Debug, Clone)]
pub struct Database {
    /// Names the folder below the data directory, and the port's flag: `--<name>-db-port`.
    pub name: &'static str,
    /// The port on localhost. 0 picks a free one at [`Servers::start`].
    pub port: u16,
    /// The role that the service connects as. It is the server's superuser.
    pub user: &'static str,
    pub password: &'static str,
    pub database: &'static str,
}

impl Database {
    /// The `DATABASE_URL` of the service that owns this database.
    pub fn url(&self) -> String {
        let Database { port, user, password, database, .. } = self;
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
    }
}

/// The running servers. Dropping it without [`Servers::stop`] asks every server to stop and does not wait.
pub struct Servers {
    servers: Vec<Server>,
}

impl Servers {
    /// Starts a server for each of `databases`, in parallel, and returns when all of them answer. Takes the
    /// opened [`DataDir`], because only its lock makes it safe to stop servers that are found running there.
    ///
    /// `progress` gets one line per thing that a waiting person would like to know.
    pub async fn start(
        data_dir: &DataDir,
        databases: Vec<Database>,
        progress: impl Fn(&str) + Sync,
    ) -> Result<Servers, Error> {
        let dir = data_dir.path();
        let folders: Vec<_> = databases.iter().map(|database| dir.join(database.name)).collect();

        // What a killed run left behind still holds the ports, so it goes before they are looked at; and a
        // port in use should be told before anyone waits for a download.
        for (database, left_behind) in databases.iter().zip(join_all(folders.iter().map(|f| leftover::stop(f))).await) {
            if left_behind? {
                progress(&format!("{}: stopped the Postgres server that a killed run left behind", database.database));
            }
        }
        let mut reservations = Vec::new();
        for database in &databases {
            reservations.push(Reservation::of(database).await?);
        }

        let wanted = folders.iter().find_map(|folder| folder::version(folder));
        let binaries = binaries::find_or_fetch(dir, wanted, &progress).await?;
        let account = Arc::new(Account::choose(&folders)?.able_to_reach(&[dir, &binaries.dir])?);
        let binaries = Arc::new(binaries);
        progress(&format!("Postgres {} from {}{account}", binaries.version, binaries.dir.display()));

        let starting = databases.into_iter().zip(folders).zip(reservations).map(|((database, folder), reservation)| {
            let database = Database { port: reservation.port, ..database };
            let (binaries, account, progress) = (binaries.clone(), account.clone(), &progress);
            async move {
                if folder::needs_init(&folder)? {
                    progress(&format!("{}: initialising {}", database.database, folder.display()));
                    folder::init(&database, &folder, &binaries, &account).await?;
                }
                folder::check(&folder, &binaries, &account)?;
                let server = Server::new(database, folder, binaries, account);
                server.start_on(reservation).await?;
                Ok::<_, Error>(server)
            }
        });
        Ok(Servers { servers: try_join_all(starting).await? })
    }

    /// The server of the database with this name (`"order"`), or `None` if there is none.
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.iter().find(|server| server.database().name == name)
    }

    /// All servers, in the order that they were asked for.
    pub fn iter(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    /// Stops all servers at once: open transactions are rolled back, what was committed is on disk. Takes
    /// well under a second, and at most about 5 s when a disk hangs.
    pub async fn stop(self) {
        join_all(self.iter().map(Server::stop)).await;
    }
}
