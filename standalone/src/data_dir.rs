//! The data directory: everything that outlives the process stands below it. [`DataDir`] owns it for
//! this process alone, by a lock on `<dir>/lock` that the operating system drops with the process, so a
//! SIGKILL leaves nothing to clean up. Whoever holds a `DataDir` may therefore treat every server that
//! still runs in it as left behind.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use uuid::Uuid;

/// How long a start waits for the lock. A killed process keeps its locks until its last thread is gone,
/// which takes some milliseconds, and "kill it and start it again at once" must work.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The file with [`DataDir::instance_id`].
const INSTANCE_ID: &str = "instance-id";

/// An opened, locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    instance_id: Uuid,
    /// Held for its lock; closing the file releases it.
    _lock: File,
}

/// Why the data directory cannot be used. Each message is one line that says what mends it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data directory {} is in use by {}: stop it, or choose another with --data-dir", path.display(), holder(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },

    #[error("data directory {} is a file: choose a directory with --data-dir", path.display())]
    NotADirectory { path: PathBuf },

    #[error(
        "data directory {} belongs to uid {owner} and uid {user} may not write to it: \
         run `sudo chown -R {user} {0}`, or choose another with --data-dir",
        path.display()
    )]
    NotWritable { path: PathBuf, owner: u32, user: u32 },

    #[error(
        "cannot create data directory {}: {} belongs to uid {owner} and uid {user} may not write to it: \
         choose another with --data-dir",
        path.display(), parent.display()
    )]
    CannotCreate { path: PathBuf, parent: PathBuf, owner: u32, user: u32 },

    #[error(
        "every user of this machine may write into data directory {0}: choose a directory inside it with --data-dir, or \
         run `chmod go-w {0}`",
        path.display()
    )]
    OpenToAll { path: PathBuf },

    #[error("cannot use data directory {}: {source}: choose another with --data-dir", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl DataDir {
    /// Opens `path`, creating it (and its parents) if it is not there, and locks it for this process.
    pub fn open(path: &Path) -> Result<DataDir, Error> {
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(|error| cannot_create(path, error))?;
        let path = path.canonicalize().map_err(|source| Error::Io { path: path.to_owned(), source })?;
        close(&path, is_new)?;
        let lock = lock(&path)?;
        let instance_id = instance_id(&path).map_err(|error| cannot_write(&path, error))?;
        Ok(DataDir { path, instance_id, _lock: lock })
    }

    /// The directory, absolute and free of symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that nobody else can read, whole or not at all.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> std::io::Result<()> {
        write_private(&self.path, name, text)
    }

    /// Where the directory is now that the caller has moved it. Its lock goes with it.
    pub(crate) fn moved_to(self, path: PathBuf) -> DataDir {
        DataDir { path, ..self }
    }

    /// A name for this installation that stays the same over restarts and is nobody else's: what Kafka's
    /// static group membership needs.
    pub fn instance_id(&self) -> Uuid {
        self.instance_id
    }
}

/// Closes a directory of our own (a new or empty one, or one with an instance id) to others: who can write into it, can
/// put another file in place of each that is in it. A root user's servers run as another account, which has to pass
/// through it, and need not list it. Any other directory is left as it is, and refused if everybody may write into it.
fn close(dir: &Path, is_new: bool) -> Result<(), Error> {
    let failed = |source| Error::Io { path: dir.to_owned(), source };
    let user = rustix::process::geteuid();
    let meta = fs::metadata(dir).map_err(failed)?;
    let has_our_id = || fs::symlink_metadata(dir.join(INSTANCE_ID)).is_ok_and(|id| id.uid() == user.as_raw());
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    let is_ours = is_new || has_our_id() || is_empty();
    if meta.uid() == user.as_raw() && is_ours {
        let mode = if is_new { 0o700 } else { meta.mode() & 0o755 };
        let mode = if user.is_root() { mode | 0o011 } else { mode };
        return fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed);
    }
    match meta.mode() & 0o002 {
        0 => Ok(()),
        _ => Err(Error::OpenToAll { path: dir.to_owned() }),
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(dir.join("lock"))
        .map_err(|error| cannot_write(dir, error))?;

    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The pid only makes the message better: a lock file that cannot be read still says "in use".
                let _ = file.read_to_string(&mut pid);
                return Err(Error::InUse { path: dir.to_owned(), pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: dir.to_owned(), source }),
        }
    }

    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| cannot_write(dir, error))?;
    Ok(file)
}

/// Reads the id, or makes one on the first start.
fn instance_id(dir: &Path) -> std::io::Result<Uuid> {
    let path = dir.join(INSTANCE_ID);
    match fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(id) = text.trim().parse() {
                return Ok(id);
            }
            tracing::warn!(path = %path.display(), "not a UUID: writing a new instance id");
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = Uuid::now_v7();
    write_private(dir, INSTANCE_ID, &format!("{id}\n"))?;
    Ok(id)
}

/// Puts a file in place that only its owner can read. It is renamed there, so that a crash leaves it whole, as it
/// is or as it was.
pub(crate) fn write_private(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))
}

/// Explains why something in `dir` could not be opened or written.
fn cannot_write(dir: &Path, error: std::io::Error) -> Error {
    let user = rustix::process::geteuid().as_raw();
    let owner_of = |path: PathBuf| fs::metadata(path).ok().map(|meta| meta.uid());
    if error.kind() == ErrorKind::PermissionDenied {
        let owners = [owner_of(dir.to_owned()), owner_of(dir.join("lock")), owner_of(dir.join(INSTANCE_ID))];
        if let Some(owner) = owners.into_iter().flatten().find(|owner| *owner != user) {
            return Error::NotWritable { path: dir.to_owned(), owner, user };
        }
    }
    Error::Io { path: dir.to_owned(), source: error }
}

fn cannot_create(path: &Path, error: std::io::Error) -> Error {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    if existing.is_file() {
        return Error::NotADirectory { path: existing.to_owned() };
    }
    let user = rustix::process::geteuid().as_raw();
    match fs::metadata(existing) {
        Ok(meta) if error.kind() == ErrorKind::PermissionDenied && meta.uid() != user => {
            Error::CannotCreate { path: path.to_owned(), parent: existing.to_owned(), owner: meta.uid(), user }
        }
        _ => Error::Io { path: path.to_owned(), source: error },
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}
