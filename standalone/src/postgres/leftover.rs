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

/// Postgres' names for its signals (<https://www.postgresql.org/docs/current/server-shutdown.html>), and how
/// long each gets before the next. SIGQUIT skips the checkpoint; the next start replays the log instead.
pub(super) const ESCALATION: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(3)),
    (Signal::QUIT, Duration::from_secs(1)),
    (Signal::KILL, Duration::from_secs(1)),
];

/// Stops the server that runs in `folder`, if there is one; says whether there was.
pub(super) async fn stop(folder: &Path) -> Result<bool, Error> {
    let Some(pid) = recorded_pid(folder) else { return Ok(false) };
    if is_server_of(pid, folder) {
        end(pid, folder).await?;
        remove_misleading_file(folder)?;
        return Ok(true);
    }
    remove_misleading_file(folder)?;
    Ok(false)
}

async fn end(pid: Pid, folder: &Path) -> Result<(), Error> {
    for (signal, patience) in ESCALATION {
        // It may end between the check and the signal, which is what is wanted.
        let _ = kill_process(pid, signal);
        let give_up = Instant::now() + patience;
        while Instant::now() < give_up {
            // The file goes last, after the sockets and the shared memory.
            if recorded_pid(folder) != Some(pid) || !is_server_of(pid, folder) {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
    let stuck = std::io::Error::other(format!("process {pid} left behind by a killed run does not end"));
    Err(Error::Io { path: folder.to_owned(), source: stuck })
}

/// Removes a pid file that Postgres would take for a running server, and refuse to start, though there is
/// none: the number exists, as a zombie whose parent does not look after it (pid 1 of many containers), or
/// was given to another program. The file of a process that is gone is left to Postgres. In both cases
/// Postgres asks the shared memory whether a dead server's children still use the folder.
fn remove_misleading_file(folder: &Path) -> Result<(), Error> {
    let exists = |pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    if recorded_pid(folder).is_some_and(exists) {
        let pid_file = folder.join("postmaster.pid");
        fs::remove_file(&pid_file).map_err(Error::io(&pid_file))?;
    }
    Ok(())
}

/// The pid in the folder's `postmaster.pid`: its first line, negative for a server in single-user mode.
pub(super) fn recorded_pid(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    Pid::from_raw(pid.checked_abs()?)
}

/// Whether the process is the Postgres server of this folder. A server's working directory is its data
/// folder; where that is not readable (another uid's process, seen by a root without CAP_SYS_PTRACE, as in
/// a container), its command line names it. A process that has ended has neither.
fn is_server_of(pid: Pid, folder: &Path) -> bool {
    let command_line = command_line(pid);
    if !command_line.contains("postgres") {
        return false;
    }
    match (fs::metadata(format!("/proc/{pid}/cwd")), fs::metadata(folder)) {
        (Ok(cwd), Ok(folder)) => (cwd.dev(), cwd.ino()) == (folder.dev(), folder.ino()),
        _ => command_line.contains(&format!("-D {} ", folder.display())),
    }
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
    use super::*;

    fn folder_with_pid_file(pid: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("postmaster.pid"), format!("{pid}\n{}\n", folder.path().display())).unwrap();
        folder
    }

    #[tokio::test]
    async fn a_recycled_pid_is_not_signalled_and_its_file_goes() {
        // Our own pid stands for a program that got the number of a dead server.
        let folder = folder_with_pid_file(std::process::id());

        assert!(!stop(folder.path()).await.unwrap());

        assert!(!folder.path().join("postmaster.pid").exists());
    }

    #[tokio::test]
    async fn the_file_of_a_zombie_goes() {
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Its end of the pipe closes when it ends, and nobody has waited for it.
        std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        let folder = folder_with_pid_file(child.id());

        assert!(!stop(folder.path()).await.unwrap());

        assert!(!folder.path().join("postmaster.pid").exists());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_file_of_a_dead_server_is_left_to_postgres() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let folder = folder_with_pid_file(child.id());

        assert!(!stop(folder.path()).await.unwrap());

        assert!(folder.path().join("postmaster.pid").exists());
    }
}
