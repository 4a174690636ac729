//! Four small Postgres servers as children of this process, one per service, so that `cargo run` needs no
//! database service. [`Servers::start`] finds or fetches the binaries, initialises what is not there yet,
//! takes care of servers that a killed run left behind, and returns when every database answers;
//! [`Servers::stop`] takes them down in order. Each can be stopped, killed and started alone
//! ([`Servers::server`]), which the end-to-end tests use as their broken database.
//!
//! Layout, for `Database { name: "order", .. }`: the data folder `<data-dir>/order/`, its log
//! `<data-dir>/order/server.log`, the passwords of all roles `<data-dir>/pgpass`, and
//! `<data-dir>/postgres-<version>/` if the binaries were fetched.
//!
//! Other users of this machine can reach the servers' ports. Who may log in, and what then: `roles.rs`. What
//! a root user's servers may do, and what root does for them: `account.rs`.

mod account;
mod binaries;
mod error;
mod folder;
mod folder_file;
mod leftover;
mod passwords;
mod ports;
mod roles;
mod server;
mod single_user;

use std::sync::Arc;

use futures::future::{join_all, try_join_all};

use crate::data_dir::DataDir;
use folder_file::FolderFiles;
use passwords::Stored;
use ports::Reservation;

pub(crate) use account::Account;
pub use error::Error;
pub use passwords::PASSWORD_FILE;
pub use server::Server;

/// One database: where it listens, and the one role that owns it.
#[derive(Debug, Clone)]
pub struct Database {
    /// Names the folder below the data directory, and the port's flag: `--<name>-db-port`.
    pub name: &'static str,
    /// The port on localhost. 0 picks a free one at [`Servers::start`].
    pub port: u16,
    /// The role that the service connects as. It owns the database and nothing else.
    pub user: &'static str,
    pub database: &'static str,
}

impl Database {
    /// The `DATABASE_URL` of the service that owns this database. The password is a random one of
    /// [`PASSWORD_FILE`], so nothing in it has to be encoded.
    pub fn url(&self, password: &str) -> String {
        let Database { port, user, database, .. } = self;
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
        if databases.is_empty() {
            return Ok(Servers { servers: Vec::new() });
        }
        let dir = data_dir.path();
        let folders: Vec<_> = databases.iter().map(|database| dir.join(database.name)).collect();
        let account = Account::choose(&folders)?;
        account.require_reach(&[dir])?;
        let files = || folders.iter().map(|folder| FolderFiles { folder, account: &account });

        // What a killed run left behind still holds the ports, so it goes before they are looked at; and a
        // port in use should be told before anyone waits for a download.
        for (database, left_behind) in databases.iter().zip(join_all(files().map(leftover::stop)).await) {
            if left_behind? {
                progress(&format!("{}: stopped the Postgres server that a killed run left behind", database.database));
            }
        }
        let mut reservations = Vec::new();
        for database in &databases {
            reservations.push(Reservation::of(database).await?);
        }

        let mut wanted = None;
        for files in files() {
            wanted = wanted.or(folder::version(files)?);
        }
        let binaries = binaries::find_or_fetch(dir, wanted, &progress).await?;
        account.require_reach(&[&binaries.dir])?;
        progress(&format!("Postgres {} from {}{account}", binaries.version, binaries.dir.display()));
        if account.is_shared() {
            progress(
                "other programs that run as this user can read the databases: `useradd -r postgres` prevents that",
            );
        }
        let (account, binaries) = (Arc::new(account), Arc::new(binaries));

        let stored = Stored::read(data_dir)?;
        let preparing =
            databases.into_iter().zip(folders).zip(&reservations).map(|((database, folder), reservation)| {
                let database = Database { port: reservation.port, ..database };
                let known = stored.of(&database);
                let (binaries, account, progress) = (binaries.clone(), account.clone(), &progress);
                let passwords = passwords::path(data_dir);
                async move {
                    let is_known = known.is_some();
                    let password = known.map_or_else(passwords::generate, Ok)?;
                    let files = FolderFiles { folder: &folder, account: &account };
                    if folder::needs_init(files)? {
                        progress(&format!("{}: initialising {}", database.database, folder.display()));
                        folder::init(&database, &password, &folder, &binaries, &account).await?;
                    } else {
                        folder::check(files, &binaries)?;
                        let established = roles::are_established(files)?;
                        if !established || !is_known {
                            let what = if established { "a new password for" } else { "converting the roles of" };
                            progress(&format!("{}: {what} {}", database.database, folder.display()));
                            roles::establish(files, &binaries, &database, &password).await?;
                        }
                    }
                    Ok::<_, Error>(Server::new(database, password, folder, passwords, binaries, account))
                }
            });
        let servers = try_join_all(preparing).await?;
        // Before the first server answers, and after each cluster has its password: if it comes to nothing, the
        // next start finds a password missing and makes a new one.
        passwords::store(data_dir, servers.iter().map(|server| (server.database(), server.password())))?;
        let starting = servers.iter().zip(reservations).map(|(server, reservation)| server.start_on(reservation));
        try_join_all(starting).await?;
        Ok(Servers { servers })
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
