//! Files in a data folder, opened as the folder's account, and never through a link: only a regular file in
//! the folder itself is read or written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::Error;
use super::account::Account;
use crate::data_dir::write_private;

/// More than this is not read of any file. (A log that begins with a start's lines is read from there.)
const READ_LIMIT: u64 = 4 * 1024 * 1024;

/// A data folder, and the account that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct FolderFiles<'a> {
    pub folder: &'a Path,
    pub account: &'a Account,
}

impl FolderFiles<'_> {
    /// A file's text; empty if there is no such file, or none that can be read.
    pub fn text(&self, name: &str) -> Result<String, Error> {
        self.text_from(name, 0)
    }

    /// Whether there is such a file, with nothing in it.
    pub fn is_empty(&self, name: &str) -> Result<bool, Error> {
        let path = self.folder.join(name);
        self.account.act(|| fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == 0))
    }

    /// A file's text from `offset` on; likewise.
    pub fn text_from(&self, name: &str, offset: u64) -> Result<String, Error> {
        let path = self.folder.join(name);
        let read = || {
            let mut file = open(File::options().read(true), &path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(READ_LIMIT).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(self.account.act(read)?.unwrap_or_default())
    }

    /// Opens a file for appending, and makes it if it is not there. One that is longer than `limit` is renamed
    /// to `<name>.old` first. Returns its length, too.
    pub fn open_log(&self, name: &str, limit: u64) -> Result<(File, u64), Error> {
        let path = self.folder.join(name);
        let open_log = || {
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() > limit) {
                fs::rename(&path, self.folder.join(format!("{name}.old")))?;
            }
            let file = open(File::options().append(true).create(true).mode(0o600), &path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        self.account.act(open_log)?.map_err(Error::io(self.folder.join(name)))
    }

    /// Puts a file in place, whole and on disk.
    pub fn replace(&self, name: &str, text: &str) -> Result<(), Error> {
        let replace = || write_private(self.folder, name, text);
        self.account.act(replace)?.map_err(Error::io(self.folder.join(name)))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        self.account.act(|| fs::remove_file(&path))?.map_err(Error::io(&path))
    }
}

/// Without following a link, and without waiting for the other end of a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = options.custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &Path, test: impl FnOnce(FolderFiles<'_>)) {
        // Our own account, root's as well: what is tested here is no question of permissions.
        let account = Account::ourselves();
        test(FolderFiles { folder, account: &account });
    }

    #[test]
    fn a_link_in_place_of_the_log_is_refused_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("server.log")).unwrap();

        at(dir.path(), |files| {
            let error = files.open_log("server.log", 1000).unwrap_err().to_string();
            assert!(error.contains("server.log"), "{error}");
            assert_eq!(files.text("server.log").unwrap(), "");
        });
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn a_pipe_in_place_of_a_file_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("postmaster.pid")).status().unwrap();
        assert!(made.success());

        at(dir.path(), |files| assert_eq!(files.text("postmaster.pid").unwrap(), ""));
    }

    #[test]
    fn a_log_above_its_limit_is_begun_anew_and_the_old_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server.log"), "twelve bytes").unwrap();

        at(dir.path(), |files| {
            assert_eq!(files.open_log("server.log", 12).unwrap().1, 12);
            assert_eq!(files.open_log("server.log", 11).unwrap().1, 0);
        });
        assert_eq!(fs::read_to_string(dir.path().join("server.log.old")).unwrap(), "twelve bytes");
    }

    #[test]
    fn a_replaced_file_is_whole_whatever_a_crash_has_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pg_hba.conf.new"), "half").unwrap();

        at(dir.path(), |files| files.replace("pg_hba.conf", "whole").unwrap());

        assert_eq!(fs::read_to_string(dir.path().join("pg_hba.conf")).unwrap(), "whole");
        assert!(!dir.path().join("pg_hba.conf.new").exists());
    }
}
