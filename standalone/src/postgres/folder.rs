//! A server's data folder: made by `initdb` under another name and renamed when it is complete, so a folder
//! that is there is whole, and one whose making was cut short is simply made anew.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::Binaries;
use super::folder_file::FolderFiles;
use super::{Database, Error, roles};

/// The major version that initialised the folder, if it is a data folder.
pub(super) fn version(files: FolderFiles<'_>) -> Result<Option<u32>, Error> {
    Ok(files.text("PG_VERSION")?.trim().parse().ok())
}

/// Whether there is no data folder yet. Anything else in its place is an error, never overwritten.
pub(super) fn needs_init(files: FolderFiles<'_>) -> Result<bool, Error> {
    let folder = files.folder;
    let is_empty = || Ok::<_, std::io::Error>(fs::read_dir(folder)?.next().is_none());
    let empty = match files.account.act(is_empty)? {
        Ok(empty) => empty,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        // Another user's data folder has mode 0700; `check` says whose it is.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(false),
        Err(_) => return Err(Error::NotADataFolder { path: folder.to_owned() }),
    };
    if !empty && version(files)?.is_none() {
        return Err(Error::NotADataFolder { path: folder.to_owned() });
    }
    Ok(empty)
}

/// Checks that these binaries, run by this account, can use the folder. One of another owner (a copy, a backup)
/// is not given to the account: who may read it, and what stands in it, is for its owner to decide.
pub(super) fn check(files: FolderFiles<'_>, binaries: &Binaries) -> Result<(), Error> {
    let folder = files.folder;
    match version(files)? {
        Some(major) if major != binaries.major => {
            return Err(Error::OtherVersion {
                path: folder.to_owned(),
                folder: major,
                binaries: binaries.version.clone(),
                bin_dir: binaries.dir.clone(),
            });
        }
        _ => {}
    }
    let owner = fs::metadata(folder).map_err(Error::io(folder))?.uid();
    if owner != files.account.uid() {
        return Err(Error::ForeignFolder { path: folder.to_owned(), owner, user: files.account.uid() });
    }
    Ok(())
}

/// Initialises the folder, with its roles and its database. Takes about a second.
pub(super) async fn init(
    database: &Database,
    password: &str,
    folder: &Path,
    binaries: &Binaries,
    account: &Account,
) -> Result<(), Error> {
    remove_attempts(folder);
    // A name of its own for each attempt: the initdb of a killed run may still write into the last one's.
    let new = sibling(folder, &format!("new-{}", std::process::id()));
    account.create_folder(&new)?;

    let program = binaries.initdb();
    let mut command = account.command(&program);
    // Nobody may log in until the roles are as they should be.
    command.arg("-D").arg(&new).arg("--username").arg(roles::SUPERUSER).args([
        "--auth=reject",
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
        .map_err(|source| account.spawn_error(&program, source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Init { path: folder.to_owned(), reason: reason(&said, output.status) });
    }
    roles::establish(FolderFiles { folder: &new, account }, binaries, database, password).await?;

    // An empty folder in its place is replaced, which rename(2) does for directories.
    fs::rename(&new, folder).map_err(Error::io(folder))?;
    let parent = folder.parent().unwrap_or(folder);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(Error::io(parent))
}

/// Removes what killed attempts left, without following a link. What cannot be removed (an initdb that still
/// writes) is left for the next start; it is in nobody's way.
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
