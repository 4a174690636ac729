//! The account that Postgres runs as. Mostly it is our own. Postgres refuses to run as root, though, and
//! containers run as root, so a root user's servers run as `postgres`, or else `nobody`, and own their data
//! folders. They keep no privilege over the change of user.
//!
//! A data folder then belongs to an account that root must not trust: whoever got into its server may have put
//! links there. So root does nothing inside such a folder. What has to be done there is done as its account
//! ([`Account::act`]), which may do no more than its server could.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;

use super::Error;

/// What a Postgres program gets of our environment. The rest may configure it (`PG…`), or hold secrets, which
/// every process of its account could read in `/proc`.
const INHERITED: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"];

/// The account that many programs share.
const SHARED: &str = "nobody";

/// Who runs the servers.
#[derive(Debug)]
pub(crate) struct Account {
    /// The user to become; `None` to stay who we are.
    user: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Ourselves, or if we are root the owner of the first folder that exists, else `postgres`, else `nobody`.
    pub fn choose(folders: &[PathBuf]) -> Result<Account, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { user: None });
        }
        if !cfg!(target_os = "linux") {
            return Err(Error::Root);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        // Keeping the owner means that a Postgres installed later (and with it, the user) changes nothing.
        let owner = folders.iter().find_map(|folder| fs::metadata(folder).ok()).map(|meta| meta.uid());
        let user = user(&users, |user| user.uid != 0 && Some(user.uid) == owner)
            .or_else(|| user(&users, |user| user.name == "postgres" && user.uid != 0))
            .or_else(|| user(&users, |user| user.name == SHARED && user.uid != 0));
        Ok(Account { user: Some(user.ok_or(Error::NoAccount)?) })
    }

    /// Ourselves.
    #[cfg(test)]
    pub fn ourselves() -> Account {
        Account { user: None }
    }

    /// Somebody else, for a test that runs as root.
    #[cfg(test)]
    pub fn stranger() -> Account {
        Account { user: Some(User { name: "stranger".to_owned(), uid: 54321, gid: 54321 }) }
    }

    /// Whether this account may pass through every directory on the way to `path`, and into it.
    pub fn can_reach(&self, path: &Path) -> bool {
        self.closed_on_the_way_to(path).is_none()
    }

    /// # Errors
    /// When a directory on the way to one of `paths` is closed to this account.
    pub fn require_reach(&self, paths: &[&Path]) -> Result<(), Error> {
        for path in paths {
            if let Some(closed) = self.closed_on_the_way_to(path) {
                return Err(Error::Unreachable { path: path.to_path_buf(), closed, user: self.uid() });
            }
        }
        Ok(())
    }

    fn closed_on_the_way_to(&self, path: &Path) -> Option<PathBuf> {
        let user = self.user.as_ref()?;
        path.ancestors().filter(|directory| !user.can_pass(directory)).last().map(Path::to_owned)
    }

    /// A command that runs as this account: with none of our environment that Postgres would listen to, and
    /// in a process group of its own, because Ctrl-C at a terminal signals the whole foreground group and
    /// the servers must outlive the services that use them.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let inherited: Vec<(_, OsString)> = inherited.collect();
        command.process_group(0).current_dir("/").stdin(Stdio::null()).env_clear().envs(inherited);
        // English messages; and with a TZ, initdb need not compare hundreds of files to find out ours.
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(user) = &self.user {
            // Without supplementary groups, and the kernel takes away all capabilities with the user.
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Why such a command could not be spawned. The change of user happens after the fork, so it fails here.
    pub fn spawn_error(&self, program: &Path, source: std::io::Error) -> Error {
        match (&self.user, Errno::from_io_error(&source)) {
            (Some(user), Some(Errno::PERM)) => Error::MayNotBecome { user: user.uid, source },
            _ => Error::Run { program: program.to_owned(), source },
        }
    }

    /// Runs `work` with the permissions of this account: on a thread of its own that has become it, if it is
    /// not our own.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let Some(user) = &self.user else { return Ok(work()) };
        let acted = std::thread::scope(|scope| {
            let thread = scope.spawn(|| become_user(user).map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        acted.map_err(|source| Error::MayNotBecome { user: user.uid, source })
    }

    /// Makes a new, empty folder that belongs to this account, with access for nobody else. `path` stands in a
    /// folder of our own.
    pub fn create_folder(&self, path: &Path) -> Result<(), Error> {
        fs::DirBuilder::new().create(path).map_err(Error::io(path))?;
        let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
        let folder = File::options().read(true).custom_flags(flags).open(path).map_err(Error::io(path))?;
        rustix::fs::fchmod(&folder, rustix::fs::Mode::RWXU).map_err(|errno| Error::io(path)(errno.into()))?;
        let Some(user) = &self.user else { return Ok(()) };
        rustix::fs::fchown(&folder, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
            .map_err(|errno| Error::MayNotBecome { user: user.uid, source: errno.into() })
    }

    /// The uid that the servers run as.
    pub fn uid(&self) -> u32 {
        self.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
    }

    /// Whether other programs commonly run as this account, and so may read what it owns.
    pub fn is_shared(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.name == SHARED)
    }
}

/// What to say about the account, if it is not our own.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, ", as user {} because it refuses to run as root", user.name),
            None => Ok(()),
        }
    }
}

impl User {
    fn can_pass(&self, directory: &Path) -> bool {
        fs::metadata(directory).is_ok_and(|meta| {
            let bit = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            meta.mode() & bit != 0
        })
    }
}

/// Finds a user in the text of `/etc/passwd`: `name:password:uid:gid:…`.
fn user(passwd: &str, fits: impl Fn(&User) -> bool) -> Option<User> {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            Some(User { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        })
        .find(fits)
}

/// Makes the calling thread, and no other of this process, act as the user: the system calls are per thread
/// (setresuid(2), "C library/kernel differences"), and with the effective uid go all effective capabilities.
/// The real uid stays root's, so that the account's processes may not signal the thread.
#[cfg(target_os = "linux")]
fn become_user(user: &User) -> std::io::Result<()> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT)?;
    Ok(())
}

/// [`Account::choose`] refuses to start as root here, so there is no other user to become.
#[cfg(not(target_os = "linux"))]
fn become_user(_: &User) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn a_user_is_found_by_name_in_etc_passwd() {
        let nobody = user(PASSWD, |user| user.name == "nobody").unwrap();

        assert_eq!((nobody.uid, nobody.gid), (65534, 65534));
        assert_eq!(user(PASSWD, |user| user.name == "postgres"), None);
    }

    #[test]
    fn the_directory_that_closes_the_way_is_named() {
        let closed = tempfile::tempdir().unwrap();
        let inside = closed.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();

        assert!(Account::stranger().can_reach(Path::new("/tmp")));
        assert!(!Account::stranger().can_reach(&inside));
        let error = Account::stranger().require_reach(&[Path::new("/tmp"), &inside]).unwrap_err().to_string();
        assert!(error.contains(&format!("{} is closed to it", closed.path().display())), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_done_as_the_account_has_its_permissions_and_no_more() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can act as another account");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (closed, folder) = (dir.path().join("closed"), dir.path().join("folder"));
        fs::write(&closed, "root's").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Account::stranger().create_folder(&folder).unwrap();

        let refused = Account::stranger().act(|| fs::read(&closed)).unwrap().unwrap_err();
        Account::stranger().act(|| fs::write(folder.join("file"), "")).unwrap().unwrap();

        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(fs::metadata(folder.join("file")).unwrap().uid(), 54321);
        assert_eq!(fs::read(&closed).unwrap(), b"root's", "this thread is still root");
    }
}
