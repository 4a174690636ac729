//! The account that Postgres runs as. Mostly it is our own. Postgres refuses to run as root, though, and
//! containers run as root, so a root user's servers run as `postgres`, or else `nobody`, and own their data
//! folders. A clone below `/root` (mode 0700) cannot even be reached by such a user: there the servers keep
//! one capability, to pass directories, over the change of user. Only a root that put its data in a closed
//! place gets this; what it costs is that a superuser of these databases can read any file of the machine (and, where a container grants only
//! `CAP_DAC_OVERRIDE`, write any).

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;

use super::Error;

/// Who runs the servers.
#[derive(Debug)]
pub(super) struct Account {
    /// The user to become; `None` to stay who we are.
    user: Option<User>,
    /// The capability to keep in order to reach the folders.
    #[cfg(target_os = "linux")]
    keep: Option<rustix::thread::CapabilitySet>,
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
        let user = if rustix::process::geteuid().is_root() {
            let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
            // Keeping the owner means that a Postgres installed later (and with it, the user) changes nothing.
            let owner = folders.iter().find_map(|folder| fs::metadata(folder).ok()).map(|meta| meta.uid());
            let user = user(&users, |user| user.uid != 0 && Some(user.uid) == owner)
                .or_else(|| user(&users, |user| user.name == "postgres" && user.uid != 0))
                .or_else(|| user(&users, |user| user.name == "nobody" && user.uid != 0));
            Some(user.ok_or(Error::NoAccount)?)
        } else {
            None
        };
        Ok(Account {
            user,
            #[cfg(target_os = "linux")]
            keep: None,
        })
    }

    /// This account with what it needs to pass through every directory on the way to `paths`.
    pub fn able_to_reach(self, paths: &[&Path]) -> Result<Account, Error> {
        let Some(user) = &self.user else { return Ok(self) };
        let Some(path) = paths.iter().find(|path| !user.can_reach(path)) else { return Ok(self) };

        #[cfg(target_os = "linux")]
        {
            use rustix::thread::{CapabilitySet, capabilities};
            // The first only reads and passes; Docker withholds it by default, but grants the second.
            let wanted = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE];
            let ours = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
            if let Some(keep) = wanted.into_iter().find(|capability| ours.contains(*capability)) {
                return Ok(Account { keep: Some(keep), ..self });
            }
        }
        Err(Error::Unreachable { path: path.to_path_buf(), user: user.uid })
    }

    /// A command that runs as this account: with none of our environment that Postgres would listen to, and
    /// in a process group of its own, because Ctrl-C at a terminal signals the whole foreground group and
    /// the servers must outlive the services that use them.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.process_group(0).current_dir("/").stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        // English messages; and with a TZ, initdb need not compare hundreds of files to find out ours.
        command.env("LC_ALL", "C").env("TZ", "UTC");
        self.drop_root(&mut command);
        command
    }

    /// Why such a command could not be spawned. The change of user happens after the fork, so it fails here.
    pub fn spawn_error(&self, program: &Path, source: std::io::Error) -> Error {
        match (&self.user, Errno::from_io_error(&source)) {
            (Some(user), Some(Errno::ACCESS)) => Error::Unreachable { path: program.to_owned(), user: user.uid },
            (Some(user), Some(Errno::PERM)) => Error::MayNotBecome { user: user.uid, source },
            _ => Error::Run { program: program.to_owned(), source },
        }
    }

    /// Makes this account the owner of `path` and of all that is below it.
    pub fn give(&self, path: &Path) -> Result<(), Error> {
        let Some(user) = &self.user else { return Ok(()) };
        let meta = fs::symlink_metadata(path).map_err(Error::io(path))?;
        if meta.is_symlink() {
            return Ok(());
        }
        chown(path, Some(user.uid), Some(user.gid)).map_err(|source| Error::MayNotBecome { user: user.uid, source })?;
        if meta.is_dir() {
            for entry in fs::read_dir(path).map_err(Error::io(path))? {
                self.give(&entry.map_err(Error::io(path))?.path())?;
            }
        }
        Ok(())
    }

    /// The uid that the servers run as.
    pub fn uid(&self) -> u32 {
        self.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "pre_exec is unsafe; std has no way to keep a capability over a change of user")]
    fn drop_root(&self, command: &mut Command) {
        let Some(user) = &self.user else { return };
        let Some(keep) = self.keep else {
            command.uid(user.uid).gid(user.gid);
            return;
        };
        let (uid, gid) = (user.uid, user.gid);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes nothing
        // but system calls, which rustix issues itself, and neither allocates nor takes a lock. They act on
        // the calling thread, and the child has no other.
        unsafe {
            command.pre_exec(move || become_user_and_keep(uid, gid, keep));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_root(&self, command: &mut Command) {
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
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
    /// Whether the permissions let this user pass through `path` and everything above it.
    fn can_reach(&self, path: &Path) -> bool {
        path.ancestors().all(|directory| {
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

/// Changes the user as [`CommandExt::uid`] would, but carries `keep`, and no other capability, over the
/// change, and over the exec that follows (the ambient set): see capabilities(7).
#[cfg(target_os = "linux")]
fn become_user_and_keep(uid: u32, gid: u32, keep: rustix::thread::CapabilitySet) -> std::io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySets};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // This also makes access(2) respect the capability, by which initdb looks for the other programs. It
    // needs CAP_SETPCAP; without, programs that are installed in an open place still work.
    let no_fixup = thread::capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    if thread::set_capabilities_secure_bits(no_fixup).is_err() {
        thread::set_keep_capabilities(true)?;
    }
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    thread::set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable: keep })?;
    thread::configure_capability_in_ambient_set(keep, true)?;
    Ok(())
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
    fn a_closed_directory_on_the_way_cannot_be_reached() {
        let closed = tempfile::tempdir().unwrap();
        let inside = closed.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = User { name: "stranger".to_owned(), uid: 54321, gid: 54321 };

        assert!(stranger.can_reach(Path::new("/tmp")));
        assert!(!stranger.can_reach(&inside));
    }
}
