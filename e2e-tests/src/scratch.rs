//! Folders for the tests' environments, and the promise that nothing is left behind: neither files nor processes,
//! however the test process ends.
//!
//! All folders stand below one of this process. A small shell waits beside it, at the other end of a pipe that
//! closes when this process ends. It then kills what still runs (a test binary has no last moment of its own: statics
//! are not dropped, and Ctrl-C drops nothing at all) and removes the folder, unless it is to be kept.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};

use crate::postgres::stop_servers;

/// Below an environment's folder: one file for each process of ours, with its number.
pub(crate) const PIDS: &str = "pids";

/// Below an environment's folder: the databases' folders.
pub(crate) const DATA: &str = "data";

/// Waits for the end of its input; then kills the processes that are noted, asks the Postgres servers to go, waits
/// for them, removes all.
const CLEANER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for file in "$1"/*/pids/*; do [ -f "$file" ] && kill -9 "$(cat "$file")"; done
for file in "$1"/*/data/*/postmaster.pid; do [ -f "$file" ] && kill -QUIT "$(head -n 1 "$file")"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    ls "$1"/*/data/*/postmaster.pid >/dev/null 2>&1 || break
    sleep 0.5
done
[ -f "$1/keep" ] || rm -rf "$1"
"#;

/// The file, in the folder of this process, that keeps the cleaner from removing it.
const KEEP: &str = "keep";

struct Root {
    path: PathBuf,
    _cleaner: Child,
}

/// An environment's folder. With the value go the Postgres servers that run in it, and the files.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty folder.
    pub fn new() -> Result<Self> {
        static ROOT: OnceLock<Result<Root, String>> = OnceLock::new();
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let root = ROOT.get_or_init(|| root().map_err(|error| format!("{error:#}")));
        let root = root.as_ref().map_err(|error| anyhow!(error.clone()))?;
        let path = root.path.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(path.join(PIDS))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the files stay where they are when this process ends, to be looked at.
    pub fn keep(&self, keep: bool) -> Result<()> {
        let mark = self.0.parent().context("an environment's folder stands in that of its process")?.join(KEEP);
        match keep {
            true => Ok(std::fs::write(mark, "")?),
            false if mark.exists() => Ok(std::fs::remove_file(mark)?),
            false => Ok(()),
        }
    }

    fn is_kept(&self) -> bool {
        self.0.parent().is_some_and(|root| root.join(KEEP).exists())
    }

    /// Where the databases go.
    pub fn data(&self) -> PathBuf {
        self.0.join(DATA)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        stop_servers(&self.data());
        if self.is_kept() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            println!("{} could not be removed: {error}", self.0.display());
        }
    }
}

fn root() -> Result<Root> {
    // Open to all, because a root user's Postgres servers run as another one.
    let open = std::fs::Permissions::from_mode(0o755);
    let path = tempfile::Builder::new().prefix("checkout-e2e-").permissions(open).tempdir()?.keep();
    let cleaner = Command::new("sh")
        .args(["-c", CLEANER, "e2e-cleaner"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not reached by a Ctrl-C for us.
        .process_group(0)
        .spawn()
        .context("cannot run sh")?;
    Ok(Root { path, _cleaner: cleaner })
}
