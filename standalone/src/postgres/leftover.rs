//! Servers that a killed run left behind. A SIGKILL of this program leaves its Postgres servers running,
//! with the ports, and the data folders locked. Only the holder of the data directory's lock comes here, so
//! a server that runs in one of its folders is nobody's. It is asked to stop like any other: what was
//! committed is on disk, and the open transactions are those of a dead process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use super::Error;
use super::folder_file::FolderFiles;

/// Where a running server has its number.
pub(super) const PID_FILE: &str = "postmaster.pid";

/// How long a server that is starting may take to write the file that it has made.
const WRITTEN_LIMIT: Duration = Duration::from_millis(500);

/// Postgres' names for its signals (<https://www.postgresql.org/docs/current/server-shutdown.html>), and how
/// long each gets before the next. SIGQUIT skips the checkpoint; the next start replays the log instead.
pub(super) const ESCALATION: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(3)),
    (Signal::QUIT, Duration::from_secs(1)),
    (Signal::KILL, Duration::from_secs(1)),
];

/// Stops the server that runs in the folder, if there is one; returns whether there was.
pub(super) async fn stop(files: FolderFiles<'_>) -> Result<bool, Error> {
    remove_empty_file(files).await?;
    let Some(pid) = recorded_pid(files)? else { return Ok(false) };
    let found = is_server_of(pid, files)?;
    if found {
        end(pid, files).await?;
    }
    remove_misleading_file(files)?;
    Ok(found)
}

/// Removes a pid file that has no line. Postgres takes it for one that another server is just writing, and refuses to
/// start; a server that was killed between making its file and writing it leaves one behind.
async fn remove_empty_file(files: FolderFiles<'_>) -> Result<(), Error> {
    let give_up = Instant::now() + WRITTEN_LIMIT;
    while files.is_empty(PID_FILE)? {
        if Instant::now() > give_up {
            return files.remove(PID_FILE);
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn end(pid: Pid, files: FolderFiles<'_>) -> Result<(), Error> {
    for (signal, patience) in ESCALATION {
        // It may end between the check and the signal, which is what is wanted. As the folder's account: the
        // number comes from a file that the account may write, and none but its own processes may be meant.
        let _ = files.account.act(|| kill_process(pid, signal))?;
        let give_up = Instant::now() + patience;
        while Instant::now() < give_up {
            // The file goes last, after the sockets and the shared memory.
            if recorded_pid(files)? != Some(pid) || !is_server_of(pid, files)? {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
    let stuck = std::io::Error::other(format!("process {pid} left behind by a killed run does not end"));
    Err(Error::Io { path: files.folder.to_owned(), source: stuck })
}

/// Removes a pid file that Postgres would take for a running server, and refuse to start, though there is
/// none: the number exists, as a zombie whose parent does not look after it (pid 1 of many containers), or
/// was given to another program. The file of a process that is gone is left to Postgres. In both cases
/// Postgres asks the shared memory whether a dead server's children still use the folder.
fn remove_misleading_file(files: FolderFiles<'_>) -> Result<(), Error> {
    let exists = |pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    if recorded_pid(files)?.is_some_and(exists) {
        files.remove(PID_FILE)?;
    }
    Ok(())
}

/// The pid in the folder's `postmaster.pid`: its first line, negative for a server in single-user mode.
pub(super) fn recorded_pid(files: FolderFiles<'_>) -> Result<Option<Pid>, Error> {
    Ok(pid_in(&files.text(PID_FILE)?))
}

/// The pid in the text of a `postmaster.pid`.
pub(super) fn pid_in(text: &str) -> Option<Pid> {
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    Pid::from_raw(pid.checked_abs()?)
}

/// Whether the process is the Postgres server of this folder. A server's working directory is its data folder;
/// where that is not readable (there is no `/proc`, or the server of an earlier release has a capability that its
/// account lacks here), its command line names the folder as the pid file's second line does: where it was then.
fn is_server_of(pid: Pid, files: FolderFiles<'_>) -> Result<bool, Error> {
    let command_line = command_line(pid);
    if !command_line.contains("postgres") {
        return Ok(false);
    }
    let here = || (fs::metadata(format!("/proc/{pid}/cwd")), fs::metadata(files.folder));
    if let (Ok(cwd), Ok(folder)) = files.account.act(here)? {
        return Ok((cwd.dev(), cwd.ino()) == (folder.dev(), folder.ino()));
    }
    let text = files.text(PID_FILE)?;
    Ok(text.lines().nth(1).is_some_and(|folder| command_line.contains(&format!("-D {folder} "))))
}

/// The arguments, joined by spaces; empty for a zombie and for a process that is not there.
fn command_line(pid: Pid) -> String {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => String::from_utf8_lossy(&arguments).replace('\0', " "),
        Err(_) if Path::new("/proc/self").exists() => String::new(),
        // As on macOS.
        Err(_) => std::process::Command::new("ps")
            .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::postgres::account::Account;

    fn folder_with_pid_file(pid: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("postmaster.pid"), format!("{pid}\n{}\n", folder.path().display())).unwrap();
        folder
    }

    async fn stop_in(folder: &tempfile::TempDir) -> bool {
        stop(FolderFiles { folder: folder.path(), account: &Account::ourselves() }).await.unwrap()
    }

    #[tokio::test]
    async fn a_recycled_pid_is_not_signalled_and_its_file_goes() {
        // Our own pid stands for a program that got the number of a dead server.
        let folder = folder_with_pid_file(std::process::id());

        assert!(!stop_in(&folder).await);

        assert!(!folder.path().join("postmaster.pid").exists());
    }

    #[tokio::test]
    async fn an_empty_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(PID_FILE), "").unwrap();

        assert!(!stop_in(&folder).await);

        assert!(!folder.path().join(PID_FILE).exists());
    }

    #[tokio::test]
    async fn the_file_of_a_zombie_goes() {
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Its end of the pipe closes when it ends, and nobody has waited for it.
        std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        let folder = folder_with_pid_file(child.id());

        assert!(!stop_in(&folder).await);

        assert!(!folder.path().join("postmaster.pid").exists());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_file_of_a_dead_server_is_left_to_postgres() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let folder = folder_with_pid_file(child.id());

        assert!(!stop_in(&folder).await);

        assert!(folder.path().join("postmaster.pid").exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_server_whose_working_directory_is_closed_is_known_by_the_folder_that_its_pid_file_names() {
        use std::os::unix::process::CommandExt;
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can run programs as two other users");
            return;
        }
        // Its folder has been moved here since.
        let mut server = std::process::Command::new("sleep");
        let mut server = server.arg0("postgres -D /old/order ").arg("60").uid(54322).spawn().unwrap();
        let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let account = Account::stranger();
        let files = FolderFiles { folder: folder.path(), account: &account };
        let known = |named: &str| {
            let pid_file = folder.path().join("postmaster.pid");
            fs::write(&pid_file, format!("{}\n{named}\n", server.id())).unwrap();
            is_server_of(recorded_pid(files).unwrap().unwrap(), files).unwrap()
        };

        let (old, other) = (known("/old/order"), known("/old/payment"));

        server.kill().unwrap();
        server.wait().unwrap();
        assert!(old);
        assert!(!other);
    }
}
