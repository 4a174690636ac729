//! Why the servers could not be started. Every message is one line that says what, where, and what mends
//! it, because it is the last thing a person reads before the process ends.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no Postgres found, and none could be fetched from Maven Central ({reason}): install one (apt-get install postgresql, \
         brew install postgresql), or set PG_BINDIR to the folder that holds initdb and postgres"
    )]
    NoBinaries { reason: String },

    #[error("PG_BINDIR={} cannot be used: {reason}", path.display())]
    BadBinDir { path: PathBuf, reason: String },

    #[error(
        "{} was initialised by Postgres {folder}, which Postgres {binaries} of {} cannot read: set PG_BINDIR to \
         the bin folder of a Postgres {folder}, or choose another --data-dir (the rows stay where they are)",
        path.display(), bin_dir.display()
    )]
    OtherVersion { path: PathBuf, folder: u32, binaries: String, bin_dir: PathBuf },

    #[error("{} is not a Postgres data folder: move it away, or choose another --data-dir", path.display())]
    NotADataFolder { path: PathBuf },

    #[error(
        "{0} belongs to uid {owner} and Postgres would run as uid {user}: run `sudo chown -R {user} {0}`, or choose \
         another --data-dir",
        path.display()
    )]
    ForeignFolder { path: PathBuf, owner: u32, user: u32 },

    #[error("port {port}, wanted for the {database} database, is in use: choose another with --{database}-db-port")]
    PortInUse { port: u16, database: &'static str },

    #[error(
        "cannot listen on port {port}, wanted for the {database} database: {source}: choose another with \
         --{database}-db-port"
    )]
    Port { port: u16, database: &'static str, source: std::io::Error },

    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody` in /etc/passwd to run \
         it as: run as another user, or add one (useradd postgres)"
    )]
    NoAccount,

    #[error("Postgres refuses to run as root: start as another user")]
    Root,

    #[error(
        "Postgres refuses to run as root, and uid {user} cannot reach {}, because {} is closed to it: choose a \
         --data-dir (and PG_BINDIR) that uid {user} can reach, such as /var/lib/checkout/data; move what is there \
         with `mv`, so that its owner stays",
        path.display(), closed.display()
    )]
    Unreachable { path: PathBuf, closed: PathBuf, user: u32 },

    #[error(
        "Postgres refuses to run as root, and this root may not run it as uid {user} ({source}): start as another user"
    )]
    MayNotBecome { user: u32, source: std::io::Error },

    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: std::io::Error },

    #[error("cannot initialise {}: {reason}", path.display())]
    Init { path: PathBuf, reason: String },

    #[error("the Postgres server of the {database} database did not start: {reason} (its log: {})", log.display())]
    Start { database: &'static str, reason: String, log: PathBuf },

    #[error("the operating system gives no randomness for passwords: {reason}")]
    NoRandomness { reason: String },

    #[error("cannot set up the roles and the database in {}: {reason}", path.display())]
    Administer { path: PathBuf, reason: String },

    #[error(
        "the Postgres server on port {port} refuses {user} ({reason}): the password in {} is not that of {}, which was \
         perhaps copied here; delete the file, and the next start makes new passwords",
        passwords.display(), path.display()
    )]
    Login { port: u16, user: &'static str, reason: String, path: PathBuf, passwords: PathBuf },

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl Error {
    /// For `map_err` on a file operation.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
