//! Statements as a cluster's superuser, in single-user mode: `postgres --single` reads them from its input,
//! while no server runs in the folder. So the superuser needs no password, and nobody can log in as it.
//! <https://www.postgresql.org/docs/current/app-postgres.html>

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::Error;
use super::binaries::Binaries;
use super::folder_file::FolderFiles;

/// Runs the statements in a database, and returns what they print. Each ends with a semicolon and an empty
/// line. An error ends the session; what it was in the middle of is rolled back.
pub(super) async fn run(
    files: FolderFiles<'_>,
    binaries: &Binaries,
    database: &str,
    statements: &str,
) -> Result<String, Error> {
    let program = binaries.postgres();
    let mut command = files.account.command(&program);
    command.arg("--single").arg("-j").arg("-D").arg(files.folder);
    // No library that the folder's own configuration names is loaded here.
    for setting in ["exit_on_error=on", "log_checkpoints=off", "shared_preload_libraries=", "local_preload_libraries="]
    {
        command.arg("-c").arg(setting);
    }
    command.arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Killed when this future is dropped. The statements are transactions, so any of them happened or did not.
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    let mut child = child.map_err(|source| files.account.spawn_error(&program, source))?;
    if let Some(mut input) = child.stdin.take() {
        // A session that has ended on an error reads no more; why it ended is what matters then.
        let _ = input.write_all(statements.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|source| files.account.spawn_error(&program, source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let fatal = said.lines().find_map(|line| Some(line.split_once("FATAL:")?.1.trim().to_owned()));
        let reason = fatal.unwrap_or_else(|| format!("the single-user session ended with {}", output.status));
        return Err(Error::Administer { path: files.folder.to_owned(), reason });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
