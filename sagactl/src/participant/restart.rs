//! The command that kills a participant and starts it again.

use std::time::Duration;

use service_runtime::Fatal;
use tokio::process::Command;

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a participant may take to be back: Kafka gives the partitions of one that was killed to another only after
/// its session has timed out, 45 s by default.
const BACK: Duration = Duration::from_secs(60);

/// A command line for `sh`.
#[derive(Debug, Clone)]
pub struct Restart(pub String);

impl Restart {
    /// How long a reply is waited for after it.
    pub fn patience(&self) -> Duration {
        BACK
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it fails, or does not end within a minute.
    pub async fn run(&self) -> Result<(), Fatal> {
        let failed = |why: String| Fatal::new(format!("--restart-command {:?}: {why}", self.0));
        let mut command = Command::new("sh");
        command.args(["-c", &self.0]).stdin(std::process::Stdio::null()).kill_on_drop(true);
        // What it prints would stand between the lines of the report.
        command.stdout(std::process::Stdio::null());
        let ended = tokio::time::timeout(LIMIT, command.status()).await;
        let status = ended.map_err(|_| failed(format!("it did not end within {LIMIT:?}")))?;
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(format!("it ended with {status}"))) }
    }
}
