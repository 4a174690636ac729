//! A server's data folder: made by `initdb` under another name and renamed when it is complete, so a folder
//! that is there is whole, and one whose making was cut short is simply made anew.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::Binaries;
use super::{Database, Error};

/// The major version that initialised the folder, if it is a data folder.
pub(super) fn version(folder: &Path) -> Option<u32> {
    fs::read_to_string(folder.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Whether there is no data folder yet. Anything else in its place is an error, never overwritten.
pub(super) fn needs_init(folder: &Path) -> Result<bool, Error> {
    let empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        // Another user's data folder has mode 0700; `check` says whose it is.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(false),
        Err(_) => return Err(Error::NotADataFolder { path: folder.to_owned() }),
    };
    if !empty && version(folder).is_none() {
        return Err(Error::NotADataFolder { path: folder.to_owned() });
    }
    Ok(empty)
}

/// Checks that these binaries, run by this account, can use the folder. A root user's folder that has come
/// into other hands (a copy, a backup) is given back to the account.
pub(super) fn check(folder: &Path, binaries: &Binaries, account: &Account) -> Result<(), Error> {
    let owner = fs::metadata(folder).map_err(Error::io(folder))?.uid();
    if owner != account.uid() {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::ForeignFolder { path: folder.to_owned(), owner, user: account.uid() });
        }
        account.give(folder)?;
    }
    match version(folder) {
        Some(major) if major != binaries.major => Err(Error::OtherVersion {
            path: folder.to_owned(),
            folder: major,
            binaries: binaries.version.clone(),
            bin_dir: binaries.dir.clone(),
        }),
        _ => Ok(()),
    }
}

/// Initialises the folder, with the database's role as the superuser. Takes about a second.
pub(super) async fn init(
    database: &Database,
    folder: &Path,
    binaries: &Binaries,
    account: &Account,
) -> Result<(), Error> {
    remove_attempts(folder);
    // A name of its own for each attempt: the initdb of a killed run may still write into the last one's.
    let new = sibling(folder, &format!("new-{}", std::process::id()));
    fs::create_dir(&new).map_err(Error::io(&new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o700)).map_err(Error::io(&new))?;
    account.give(&new)?;

    // In a file, since every user of the machine can read a command line.
    let password_file = sibling(folder, "new-password");
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&password_file)
        .and_then(|mut file| writeln!(file, "{}", database.password))
        .map_err(Error::io(&password_file))?;
    account.give(&password_file)?;

    let program = binaries.initdb();
    let mut command = account.command(&program);
    command.arg("-D").arg(&new).arg("--username").arg(database.user).arg("--pwfile").arg(&password_file).args([
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
        "--no-instructions",
    ]);
    // Killed when this future is dropped, so that Ctrl-C during a first start leaves nothing running.
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| account.spawn_error(&program, source));
    fs::remove_file(&password_file).map_err(Error::io(&password_file))?;
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Init { path: folder.to_owned(), reason: reason(&said, output.status) });
    }

    // An empty folder in its place is replaced, which rename(2) does for directories.
    fs::rename(&new, folder).map_err(Error::io(folder))?;
    let parent = folder.parent().unwrap_or(folder);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(Error::io(parent))
}

/// Removes what killed attempts left. What cannot be removed (an initdb that still writes) is left for the
/// next start; it is in nobody's way.
fn remove_attempts(folder: &Path) {
    let (Some(parent), prefix) = (folder.parent(), sibling(folder, "new-")) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes())
            && let Err(error) = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path))
        {
            tracing::debug!(path = %path.display(), %error, "a killed initialisation is not removed yet");
        }
    }
}

/// `<folder>.<ending>`
fn sibling(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// The line of initdb's output that says what failed.
fn reason(said: &str, status: std::process::ExitStatus) -> String {
    let telling = said.lines().find(|line| line.contains("error:") || line.contains("FATAL:"));
    telling.or(said.lines().last()).map_or_else(|| format!("initdb ended with {status}"), str::to_owned)
}
