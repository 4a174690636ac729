//! The programs under test. They are built once per test process, with the profile of the tests, so that no test
//! runs against yesterday's; or they are those of a folder, where one is given ([`use_programs_in`]).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};

/// The features of this crate that were asked for, and with which the programs are built too: so they share the build of
/// all that both consist of.
const FEATURES: [(&str, bool); 5] = [
    ("e2e-tests/browser", cfg!(feature = "browser")),
    ("e2e-tests/failpoints", cfg!(feature = "failpoints")),
    ("e2e-tests/more-flows", cfg!(feature = "more-flows")),
    ("e2e-tests/trip", cfg!(feature = "trip")),
    ("e2e-tests/kafka-tls", cfg!(feature = "kafka-tls")),
];

const PROGRAMS: [&str; 8] = [
    "order-service",
    "payment-service",
    "inventory-service",
    "saga-orchestrator",
    "kafka-init",
    "standalone",
    "sagactl",
    "trip-flight",
];

static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();

static GIVEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on the programs that are started are those in `folder`, as they are.
///
/// # Errors
/// When there is no such folder.
pub fn use_programs_in(folder: &Path) -> Result<()> {
    let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
    *GIVEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder);
    Ok(())
}

/// The path of a program of this workspace, built.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(folder) = &*GIVEN.lock().unwrap_or_else(PoisonError::into_inner) {
        return Ok(folder.join(name));
    }
    let built = BUILT.get_or_init(|| built().map_err(|error| format!("{error:#}")));
    Ok(built.as_ref().map_err(|error| anyhow!(error.clone()))?.join(name))
}

/// Builds the programs; answers the folder that they are in.
fn built() -> Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let asked_for: Vec<&str> = FEATURES.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name).collect();
    build(&asked_for)?;
    // What the programs are not without these.
    let own = match (cfg!(feature = "failpoints"), cfg!(feature = "more-flows")) {
        (_, true) => "more-flows",
        (true, false) => "faults",
        (false, false) => return Ok(profile_dir),
    };
    // Copied to a folder of their own, so that the next normal build leaves them alone. A build folder of their own
    // would compile every dependency once more.
    let own = target_dir()?.join(own);
    std::fs::create_dir_all(&own)?;
    for name in PROGRAMS {
        // A file that runs can't be written over, but it can be replaced.
        let new = own.join(format!("{name}.new"));
        copy_to_run(&profile_dir.join(name), &new)?;
        std::fs::rename(new, own.join(name))?;
    }
    // The normal programs again, for whoever starts them by their path.
    build(&[])?;
    Ok(own)
}

/// Copies a program that is to be run. A process that writes a program itself, and starts others meanwhile, lends them the
/// open file until they are started: "Text file busy".
///
/// # Errors
/// When `cp` fails.
pub fn copy_to_run(program: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg(program).arg(to).status().context("cannot run cp")?;
    ensure!(status.success(), "cp {} {}: {status}", program.display(), to.display());
    Ok(())
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

fn build(features: &[&str]) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate stands in its workspace")?;
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(workspace)
        .args(["build", "--workspace", "--target-dir"])
        .arg(target_dir()?)
        // Not those that only people start, such as the benchmark: they take as long as all of these.
        .args(PROGRAMS.iter().flat_map(|name| ["--bin", name]))
        .args(["--features", &features.join(",")]);
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
