//! One Postgres server: the `postgres` program as a direct child, which is ready when its database answers
//! its role. Its log goes to `server.log` in its data folder, and from there into an error message if it
//! does not start.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;
use super::binaries::Binaries;
use super::folder_file::FolderFiles;
use super::ports::Reservation;
use super::{Database, Error, leftover, single_user};

/// How long a start may take. It is long because a server that was killed replays its log first, up to
/// `max_wal_size` of it.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The log is started anew above this size; the old one stays beside it.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;
/// Its name in the data folder.
const LOG: &str = "server.log";

/// A server of [`super::Servers`], which can be stopped, killed and started again alone.
pub struct Server {
    database: Database,
    password: String,
    folder: PathBuf,
    /// The file that the password is stored in.
    passwords: PathBuf,
    binaries: Arc<Binaries>,
    account: Arc<Account>,
    /// `None` while it is stopped.
    process: Mutex<Option<Child>>,
}

impl Server {
    pub(super) fn new(
        database: Database,
        password: String,
        folder: PathBuf,
        passwords: PathBuf,
        binaries: Arc<Binaries>,
        account: Arc<Account>,
    ) -> Server {
        Server { database, password, folder, passwords, binaries, account, process: Mutex::new(None) }
    }

    /// What it serves, with the port that it really has.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The `DATABASE_URL` of the service that owns its database.
    pub fn url(&self) -> String {
        self.database.url(&self.password)
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Runs statements in its database as the cluster's superuser, while it is stopped. Each ends with a
    /// semicolon and an empty line.
    pub async fn administer(&self, statements: &str) -> Result<(), Error> {
        single_user::run(self.files(), &self.binaries, self.database.database, statements).await.map(drop)
    }

    fn files(&self) -> FolderFiles<'_> {
        FolderFiles { folder: &self.folder, account: &self.account }
    }

    /// Starts it on its port again, after [`Server::stop`] or [`Server::kill`]; returns when its database
    /// answers. Does nothing if it runs.
    pub async fn start(&self) -> Result<(), Error> {
        if let Some(child) = self.process.lock().await.as_mut()
            && matches!(child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        leftover::stop(self.files()).await?;
        self.start_on(Reservation::of(&self.database).await?).await
    }

    /// Stops it: clients are disconnected, what was committed is on disk.
    pub async fn stop(&self) {
        if let Some(mut child) = self.process.lock().await.take() {
            for (signal, patience) in leftover::ESCALATION {
                send(&child, signal);
                if timeout(patience, child.wait()).await.is_ok() {
                    return;
                }
            }
        }
    }

    /// Kills it with SIGKILL, as a crash would: nothing is flushed, no client is told.
    pub async fn kill(&self) {
        if let Some(mut child) = self.process.lock().await.take() {
            send(&child, Signal::KILL);
            // It cannot fail for a child that was not waited for, and SIGKILL is not refused.
            let _ = child.wait().await;
        }
    }

    pub(super) async fn start_on(&self, reservation: Reservation) -> Result<(), Error> {
        let mut process = self.process.lock().await;
        let addresses = reservation.addresses();
        drop(reservation);

        let give_up = Instant::now() + START_LIMIT;
        loop {
            let (file, offset) = self.files().open_log(LOG, LOG_LIMIT)?;
            // In its place before it is awaited, so that it is stopped if this future is dropped.
            let child = process.insert(self.spawn(&addresses, file)?);
            let Err(reason) = self.ready(child, give_up).await else { break };
            // It only makes an error better, so a log that cannot be read is empty.
            let said = self.files().text_from(LOG, offset)?;
            // After a SIGKILL of the server its children take a moment to notice and to let go.
            if said.contains("pre-existing shared memory block") && Instant::now() < give_up {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            send(child, Signal::QUIT);
            return Err(self.explain(reason, &said));
        }
        self.log_in().await
    }

    fn spawn(&self, addresses: &str, log: File) -> Result<Child, Error> {
        let program = self.binaries.postgres();
        let mut command = self.account.command(&program);
        command.arg("-D").arg(&self.folder);
        for setting in settings(&self.database, addresses, self.binaries.major) {
            command.arg("-c").arg(setting);
        }
        command.stdout(Stdio::null()).stderr(log);
        Command::from(command).spawn().map_err(|source| self.account.spawn_error(&program, source))
    }

    /// Waits for the server to say that it takes connections, which it does in the eighth line of its pid file.
    async fn ready(&self, child: &mut Child, give_up: Instant) -> Result<(), String> {
        let pid = pid(child);
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("it ended with {status}"));
            }
            let status = self.files().text(leftover::PID_FILE).unwrap_or_default();
            let ready = status.lines().nth(7).is_some_and(|line| ["ready", "standby"].contains(&line.trim()));
            if ready && leftover::pid_in(&status) == pid {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(format!("it was not ready in {} s", START_LIMIT.as_secs()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Connects as the service will.
    async fn log_in(&self) -> Result<(), Error> {
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        const REFUSED_LOGIN: &str = "28";
        let Database { name, port, user, database } = self.database;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(user)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable);
        let failed = |error: sqlx::Error| match error.as_database_error() {
            Some(refusal) if refusal.code().is_some_and(|code| code.starts_with(REFUSED_LOGIN)) => Error::Login {
                port,
                user,
                reason: refusal.message().to_owned(),
                path: self.folder.clone(),
                passwords: self.passwords.clone(),
            },
            _ => Error::Start { database: name, reason: error.to_string(), log: self.folder.join(LOG) },
        };
        let connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        connection.close().await.map_err(failed)
    }

    /// Why it did not start, in its own last words if it had any.
    fn explain(&self, reason: String, said: &str) -> Error {
        let Database { name, port, .. } = self.database;
        if said.contains("could not create any TCP/IP sockets") {
            return Error::PortInUse { port, database: name };
        }
        let fatal = said.lines().rev().find_map(|line| Some(line.split_once("FATAL:")?.1.trim().to_owned()));
        Error::Start { database: name, reason: fatal.unwrap_or(reason), log: self.folder.join(LOG) }
    }
}

/// Asks a server that nobody stopped to stop, so that a failed start or test leaves none behind.
impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.process.get_mut() {
            send(child, Signal::INT);
        }
    }
}

/// What differs from Postgres' own defaults: only on localhost, small, and quiet when idle. Durability
/// (fsync, full_page_writes, synchronous_commit) is left as it is.
fn settings(database: &Database, addresses: &str, major: u32) -> Vec<String> {
    let mut settings = vec![
        format!("port={}", database.port),
        format!("listen_addresses={addresses}"),
        format!("cluster_name={}", database.database),
    ];
    let fixed = [
        "unix_socket_directories=",
        "max_connections=50",
        "max_worker_processes=2",
        "max_parallel_workers=0",
        "max_logical_replication_workers=0",
        "jit=off",
    ];
    settings.extend(fixed.map(str::to_owned));
    if major >= 18 {
        // The default since then is three more processes a server.
        settings.push("io_method=sync".to_owned());
    }
    settings
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()?.try_into().ok()?)
}

/// Sends a signal to a child. Its number is still its own, since it was not waited for.
fn send(child: &Child, signal: Signal) {
    if let Some(pid) = pid(child) {
        // A child that has just ended is what every signal here is for.
        let _ = kill_process(pid, signal);
    }
}
