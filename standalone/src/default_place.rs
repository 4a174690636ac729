//! The data directory when none was chosen. It is `data` where the program is started. As root, that may be below
//! a folder that is closed to the account of the Postgres servers, as a clone below `/root` is; then it is a
//! link to a directory below [`PLACE`], and one that an older release left there is moved.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use service_runtime::Fatal;
use tracing::info;
use uuid::Uuid;

use crate::data_dir::{self, DataDir};
use crate::postgres::{Account, Database};

/// Where a root user's data goes that cannot stay.
pub const PLACE: &str = "/var/lib/checkout";

/// Opens `path`, so that the account of these databases' servers can reach it.
///
/// # Errors
/// When the directory can neither be used nor moved; the message says what to do.
pub fn open(path: &Path, databases: &[Database]) -> Result<DataDir, Fatal> {
    open_or_move(path, databases, Path::new(PLACE))
}

fn open_or_move(path: &Path, databases: &[Database], place: &Path) -> Result<DataDir, Fatal> {
    let folders: Vec<_> = databases.iter().map(|database| path.join(database.name)).collect();
    let account = Account::choose(&folders).map_err(|error| Fatal::new(error.to_string()))?;
    finish_move(path).map_err(|error| Fatal::new(format!("{}: {error}", moving(path).display())))?;
    let open = || DataDir::open(path).map_err(|error: data_dir::Error| Fatal::new(error.to_string()));
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = above.canonicalize().unwrap_or_else(|_| above.to_owned());
    let above_is_open = account.can_reach(&above);
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            // A link made here, into a container that is gone.
            if let Ok(target) = fs::read_link(path)
                && target.starts_with(place)
                && !target.exists()
            {
                info!("{} does not exist any more: starting with empty databases", target.display());
                create(place, &target).map_err(|error| cannot_link(path, &target, &error))?;
            }
            open()
        }
        Ok(_) if above_is_open => open(),
        Ok(_) => move_to(place, path, open()?),
        Err(_) if above_is_open => open(),
        Err(_) => {
            let target = place.join(Uuid::now_v7().to_string());
            create(place, &target)
                .and_then(|()| symlink(&target, path))
                .map_err(|error| cannot_link(path, &target, &error))?;
            info!("{} is closed to the account of Postgres: the data is in {}", above.display(), target.display());
            open()
        }
    }
}

/// Moves the directory, and leaves a link in its place. The link is made first, under another name, so that a
/// move that is cut short can be finished.
fn move_to(place: &Path, path: &Path, data_dir: DataDir) -> Result<DataDir, Fatal> {
    let (from, target) = (data_dir.path().to_owned(), place.join(data_dir.instance_id().to_string()));
    let moved = create_place(place)
        .and_then(|()| symlink(&target, moving(path)))
        .and_then(|()| fs::rename(&from, &target))
        .and_then(|()| fs::rename(moving(path), path));
    if let Err(error) = moved {
        finish_move(path).map_err(|error| cannot_link(path, &target, &error))?;
        return Err(Fatal::new(format!(
            "Postgres refuses to run as root, and its account cannot reach {from}: it is to be moved to {target}, which \
             failed ({error}): run `mkdir -p {place} && mv {from} {target} && ln -s {target} {from}`",
            from = from.display(),
            target = target.display(),
            place = place.display(),
        )));
    }
    info!("{} is closed to the account of Postgres: the data was moved to {}", from.display(), target.display());
    Ok(data_dir.moved_to(target))
}

/// Finishes or forgets a move that was cut short.
fn finish_move(path: &Path) -> std::io::Result<()> {
    let link = moving(path);
    match fs::symlink_metadata(&link) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) if fs::symlink_metadata(path).is_err() && link.exists() => fs::rename(&link, path),
        Ok(_) => fs::remove_file(&link),
    }
}

fn moving(path: &Path) -> PathBuf {
    path.with_extension("moving")
}

/// Makes the place, which is open to all, and the directory, which others may pass but not list.
fn create(place: &Path, target: &Path) -> std::io::Result<()> {
    create_place(place)?;
    fs::DirBuilder::new().mode(0o711).create(target)
}

/// Whatever the umask is.
fn create_place(place: &Path) -> std::io::Result<()> {
    fs::create_dir_all(place)?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))
}

fn cannot_link(path: &Path, target: &Path, error: &std::io::Error) -> Fatal {
    Fatal::new(format!(
        "Postgres refuses to run as root, and its account cannot reach {}; the data cannot be in {} either ({error}): \
         choose a --data-dir that it can reach",
        path.display(),
        target.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ORDER: [Database; 1] = [Database { name: "order", port: 0, user: "order_user", database: "order_db" }];

    /// A folder of mode 0700 with what a clone has, and a place that every account can reach; `None` unless root.
    fn closed_clone() -> Option<(tempfile::TempDir, tempfile::TempDir)> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root's servers run as another account");
            return None;
        }
        let with_mode = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            tempfile::Builder::new().permissions(permissions).tempdir().unwrap()
        };
        Some((with_mode(0o700), with_mode(0o755)))
    }

    #[test]
    fn below_a_closed_folder_the_data_is_elsewhere_and_found_again_by_a_link() {
        let Some((clone, place)) = closed_clone() else { return };
        let path = clone.path().join("data");

        let first = open_or_move(&path, &ORDER, place.path()).unwrap();
        let (where_it_is, id) = (first.path().to_owned(), first.instance_id());
        drop(first);
        let again = open_or_move(&path, &ORDER, place.path()).unwrap();

        assert!(where_it_is.starts_with(place.path().canonicalize().unwrap()), "{}", where_it_is.display());
        assert_eq!((again.path(), again.instance_id()), (where_it_is.as_path(), id));
        assert_eq!(fs::metadata(&where_it_is).unwrap().mode() & 0o777, 0o711);
    }

    #[test]
    fn data_that_an_older_release_left_there_is_moved_with_its_lock() {
        let Some((clone, place)) = closed_clone() else { return };
        let path = clone.path().join("data");
        fs::create_dir_all(path.join("order")).unwrap();
        fs::write(path.join("order/PG_VERSION"), "15\n").unwrap();

        let moved = open_or_move(&path, &ORDER, place.path()).unwrap();

        assert!(moved.path().starts_with(place.path().canonicalize().unwrap()));
        assert_eq!(fs::read_to_string(path.join("order/PG_VERSION")).unwrap(), "15\n");
        assert!(matches!(DataDir::open(&path), Err(data_dir::Error::InUse { .. })));
        assert!(!moving(&path).exists());
    }

    #[test]
    fn a_move_that_was_cut_short_is_finished() {
        let Some((clone, place)) = closed_clone() else { return };
        let (path, target) = (clone.path().join("data"), place.path().join("moved"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "here").unwrap();
        symlink(&target, moving(&path)).unwrap();

        let _opened = open_or_move(&path, &ORDER, place.path()).unwrap();

        assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "here");
        assert!(fs::symlink_metadata(moving(&path)).is_err());
    }
}
