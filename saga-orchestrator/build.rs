//! Embeds the files of `flows/`: a built-in flow is its file, and nothing else names it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The folders whose files are built in.
pub const FOLDERS: &[&str] =
    if cfg!(feature = "more-flows") { &["../flows", "../e2e-tests/flows"] } else { &["../flows"] };

/// The flow files of a folder, by name.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

/// The text of a Rust expression: a list of the files' contents.
pub fn embedded(files: &[PathBuf]) -> String {
    format!("&[{}]", files.iter().map(|file| format!("include_str!({file:?}),")).collect::<String>())
}

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")));
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let mut all = Vec::new();
    for folder in FOLDERS.iter().map(|folder| package.join(folder)) {
        // A file that comes or goes changes the folder.
        println!("cargo::rerun-if-changed={}", folder.display());
        all.extend(files(&folder)?);
    }
    fs::write(Path::new(&variable("OUT_DIR")?).join("flows.rs"), embedded(&all))
}
