//! Data folders for the environments' Postgres servers. Initialising them takes seconds, so it is done once per
//! test process; each environment gets a copy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use standalone::data_dir::DataDir;
use standalone::postgres::{PASSWORD_FILE, Servers};
use tokio::sync::OnceCell;

use crate::free_ports;
use crate::scratch::Scratch;

/// Puts initialised databases into `data`, which is made.
pub(crate) async fn copy_initialised(data: &Path) -> Result<()> {
    static TEMPLATE: OnceCell<Scratch> = OnceCell::const_new();
    let template = TEMPLATE.get_or_try_init(initialise).await?.data();
    std::fs::create_dir_all(data)?;
    for entry in std::fs::read_dir(template)? {
        let path = entry?.path();
        // Not the lock, nor the installation's id.
        if path.is_dir() || path.ends_with(PASSWORD_FILE) {
            let copied = Command::new("cp").arg("-a").arg(&path).arg(data).status()?;
            ensure!(copied.success(), "{} could not be copied", path.display());
        }
    }
    Ok(())
}

async fn initialise() -> Result<Scratch> {
    let scratch = Scratch::new()?;
    let data_dir = DataDir::open(&scratch.data())?;
    Servers::start(&data_dir, free_ports()?.databases(), |line| println!("{line}")).await?.stop().await;
    Ok(scratch)
}

/// Stops whatever servers run in `data`, without a checkpoint: their rows are not needed any more. Blocks, for a moment.
pub(crate) fn stop_servers(data: &Path) {
    let pid_files = pid_files(data);
    for file in &pid_files {
        if let Some(pid) = first_line_as_pid(file) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while pid_files.iter().any(|file| file.exists()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The servers' pid files. There is one for each server that runs, or was killed.
pub(crate) fn pid_files(data: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(data).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("postmaster.pid")).filter(|file| file.exists()).collect()
}

fn first_line_as_pid(file: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(file).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}
