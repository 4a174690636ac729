//! Embeds the files of `flows/`: a built-in flow is its file, and nothing else names it.

use std::path::Path;
use std::{env, fs, io};

/// The flow files of a folder as the text of a Rust expression: a list of their contents, by file name.
pub fn embedded(folder: &Path) -> io::Result<String> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(format!("&[{}]", files.iter().map(|file| format!("include_str!({file:?}),")).collect::<String>()))
}

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")));
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../flows");
    // A file that comes or goes changes the folder.
    println!("cargo::rerun-if-changed={}", folder.display());
    fs::write(Path::new(&variable("OUT_DIR")?).join("flows.rs"), embedded(&folder)?)
}
