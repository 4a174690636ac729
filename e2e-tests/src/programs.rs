//! The programs under test. They are built once per test process, with the profile of the tests, so that no test
//! runs against yesterday's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};

static BUILT: OnceLock<Result<(), String>> = OnceLock::new();

/// The path of a program of this workspace, built.
pub fn program(name: &str) -> Result<PathBuf> {
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!(error))?;
    Ok(profile_dir()?.join(name))
}

/// The target folder that these tests were built into.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("a profile's folder stands in the target folder")?.to_owned())
}

/// `target/debug`, for a test binary in `target/debug/deps`.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.ancestors().nth(2).context("a test binary stands in <target>/<profile>/deps")?.to_owned())
}

fn build() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate stands in its workspace")?;
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace).args(["build", "--workspace", "--bins", "--target-dir"]).arg(target_dir()?);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What the outer cargo says about this crate would make the inner one build others anew.
    for (name, _) in std::env::vars().filter(|(name, _)| is_about_this_crate(name)) {
        command.env_remove(name);
    }
    println!("building the programs: {command:?}");
    let status = command.status().with_context(|| format!("cannot run {}", env!("CARGO")))?;
    ensure!(status.success(), "the programs could not be built: cargo ended with {status}");
    Ok(())
}

fn is_about_this_crate(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
}
