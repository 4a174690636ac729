//! A program under test as a child process, with its output in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::{PIDS, Scratch};
use crate::{eventually, programs};

/// What a child needs of our own environment. The rest might configure it behind a test's back.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "PG_BINDIR",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// A running program. It is killed with the value.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
}

/// How a program ended by itself, and how long that took.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub after: Duration,
}

impl Process {
    /// Starts a program of this workspace. Its output is appended to `<scratch>/<name>.log`.
    pub fn start(
        scratch: &Scratch,
        name: &str,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Self> {
        Self::start_as(name, scratch, name, arguments, environment)
    }

    /// Starts a program under a name of its own, where several of it run.
    pub fn start_as(
        name: &str,
        scratch: &Scratch,
        program: &str,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Self> {
        let path = programs::program(program)?;
        let log = log_path(scratch, name);
        let file = File::options().append(true).create(true).open(&log)?;
        let child = Command::new(&path)
            .args(arguments)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            // Programs without planted bugs don't look at it; those with refuse to start unless it is set.
            .env("PLANTED_BUG", std::env::var("PLANTED_BUG").unwrap_or_else(|_| "none".to_owned()))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", path.display()))?;
        let pid_file = scratch.path().join(PIDS).join(name);
        std::fs::write(&pid_file, child.id().to_string())?;
        Ok(Self { name: name.to_owned(), child, log, pid_file })
    }

    /// All that it has said, over all its starts.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            let _ = std::fs::remove_file(&self.pid_file);
        }
        status
    }

    /// Kills it with SIGKILL, and sees it gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.pid_file);
    }

    /// # Errors
    /// When it has ended: its number may be another's by now.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.has_ended().is_none(), "{} has ended", self.name);
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a child has a number")?;
        kill_process(pid, signal).with_context(|| format!("{} can't be signalled", self.name))
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self, limit: Duration) -> Result<Ended> {
        let began = Instant::now();
        let what = format!("{} ends", self.name);
        let status = eventually(&what, limit, async || Ok(self.has_ended())).await?;
        Ok(Ended { status, after: began.elapsed() })
    }

    /// Sends a signal and waits for the end that it should lead to.
    pub async fn end_with(&mut self, signal: Signal, limit: Duration) -> Result<Ended> {
        self.signal(signal)?;
        self.ended(limit).await
    }

    /// Waits for `probe` to say that it is ready. A process that ends before is an error at once.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut(&Self) -> bool,
    ) -> Result<()> {
        let what = format!("{} {what}", self.name);
        let ended_early = eventually(&what, limit, async || match self.has_ended() {
            Some(status) => Ok(Some(Some(status))),
            None => Ok(probe(self).await.then_some(None)),
        });
        let outcome = match ended_early.await {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => anyhow!("{what}: it ended with {status}"),
            Err(error) => error,
        };
        Err(outcome.context(format!("the end of its log:\n{}", last_lines(&self.output(), 20))))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            self.kill();
        }
    }
}

pub(crate) fn log_path(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path().join(format!("{name}.log"))
}

/// Prints what a log has got since, when it is dropped. The test runner shows that of a failed test only.
pub(crate) struct LogTail {
    path: PathBuf,
    from: usize,
}

impl LogTail {
    pub fn since_now(path: &Path) -> Self {
        Self { path: path.to_owned(), from: std::fs::metadata(path).map_or(0, |meta| meta.len() as usize) }
    }

    pub fn text(&self) -> String {
        let log = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        println!("--- {}\n{}", self.path.display(), last_lines(&self.text(), 200));
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
