//! The shape of the source tree, as the design draws it. Each check is a function of what it looks at, and is shown to
//! fail on a planted fault.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

const MOST_LINES: usize = 450;

/// The members that may be used by a member. Members that are not named may use any.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("messages", &[]),
    ("faults", &[]),
    ("service-runtime", &["messages", "faults"]),
    ("order-service", &["messages", "faults", "service-runtime"]),
    ("payment-service", &["messages", "faults", "service-runtime", "participant"]),
    ("inventory-service", &["messages", "faults", "service-runtime", "participant"]),
    ("saga-orchestrator", &["messages", "faults", "flow", "service-runtime", "dead-letters"]),
    ("dead-letters", &["messages", "flow", "service-runtime"]),
    ("flow", &["messages"]),
    ("trip-flight", &[]),
    ("participant", &["messages", "faults", "service-runtime"]),
];

/// What the pure core must not know of: tasks, SQL, Kafka, HTTP, clocks, randomness.
const IMPURE: [&str; 14] = [
    "async",
    "await",
    "sqlx",
    "rdkafka",
    "tokio",
    "reqwest",
    "axum",
    "futures",
    "service_runtime",
    "rand",
    "SystemTime",
    "Instant",
    "Utc::now",
    "Local::now",
];

/// What the benchmark's floor must not know of: it is the yardstick, so nothing of ours may slow it down, or help it.
const OURS: [&str; 5] = ["e2e_tests", "faults", "messages", "service_runtime", "standalone"];

fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate stands in its workspace")?.to_owned())
}

/// The Rust files below a folder, but for what is built or hidden.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && !["target", "data"].contains(&&*name) {
            files.extend(rust_files(&path)?);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn too_long(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MOST_LINES).then(|| format!("{name} has {lines} lines"))
}

/// Uses of one member by another that is not to know of it, dev-dependencies included.
fn forbidden_uses(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let mut forbidden = Vec::new();
    for (name, allowed) in MAY_USE {
        let package = packages.iter().find(|package| package["name"] == name);
        let Some(dependencies) = package.and_then(|package| package["dependencies"].as_array()) else {
            forbidden.push(format!("there is no member {name}"));
            continue;
        };
        let ours = dependencies.iter().filter(|dependency| dependency["path"].is_string());
        let used = ours.filter_map(|dependency| dependency["name"].as_str());
        forbidden.extend(used.filter(|used| !allowed.contains(used)).map(|used| format!("{name} uses {used}")));
    }
    forbidden
}

/// The words in a source file that the core must not use. Comments and tests may.
fn impurities(name: &str, source: &str) -> Vec<String> {
    uses_of(&IMPURE, name, source)
}

fn uses_of(words: &[&str], name: &str, source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let line = line.split("//").next().unwrap_or_default();
        let is_word = |at: usize, word: &str| {
            let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
            !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
        };
        for word in words {
            if line.match_indices(word).any(|(at, _)| is_word(at, word)) {
                found.push(format!("{name}:{number} uses {word}"));
            }
        }
    }
    found
}

#[test]
fn no_source_file_is_longer_than_450_lines() -> Result<()> {
    let files = rust_files(&workspace()?)?;
    ensure!(files.len() > 50, "only {} files were found", files.len());
    let mut found = Vec::new();
    for file in files {
        found.extend(too_long(&file.display().to_string(), &std::fs::read_to_string(&file)?));
    }
    assert_eq!(found, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_file_of_451_lines_is_found() {
    assert_eq!(too_long("a.rs", &"\n".repeat(450)), None);
    assert_eq!(too_long("a.rs", &"\n".repeat(451)), Some("a.rs has 451 lines".to_owned()));
}

#[test]
fn services_use_only_messages_and_service_runtime_and_messages_uses_nothing_of_ours() -> Result<()> {
    let metadata = Command::new(env!("CARGO"))
        .current_dir(workspace()?)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()?;
    ensure!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    assert_eq!(forbidden_uses(&serde_json::from_slice(&metadata.stdout)?), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_service_that_uses_another_is_found() {
    let mut metadata = json!({"packages": MAY_USE.map(|(name, _)| json!({"name": name, "dependencies": []}))});
    assert!(forbidden_uses(&metadata).is_empty());
    metadata["packages"][0]["dependencies"] = json!([{"name": "service-runtime", "path": "/service-runtime"}]);
    metadata["packages"][4]["dependencies"] = json!([
        {"name": "tokio", "path": null},
        {"name": "messages", "path": "/messages"},
        {"name": "order-service", "kind": "dev", "path": "/order-service"},
    ]);
    assert_eq!(forbidden_uses(&metadata), ["messages uses service-runtime", "payment-service uses order-service"]);
    metadata["packages"][6]["name"] = json!("orchestrator");
    assert!(forbidden_uses(&metadata).contains(&"there is no member saga-orchestrator".to_owned()));
}

#[test]
fn the_saga_core_knows_no_tasks_no_sql_no_kafka_and_no_clock() -> Result<()> {
    let mut files = rust_files(&workspace()?.join("saga-orchestrator/src/saga"))?;
    files.extend(rust_files(&workspace()?.join("flow/src"))?);
    ensure!(files.iter().any(|file| file.ends_with("advance.rs")), "the core is not where it was: {files:?}");
    ensure!(files.iter().any(|file| file.ends_with("meaning.rs")), "the flows are not where they were: {files:?}");
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        found.extend(impurities(&file.display().to_string(), &std::fs::read_to_string(file)?));
    }
    assert_eq!(found, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_benchmarks_floor_uses_nothing_of_ours() -> Result<()> {
    let files = rust_files(&workspace()?.join("bench/src/bin/floor"))?;
    ensure!(files.iter().any(|file| file.ends_with("orchestrator.rs")), "the floor is not where it was: {files:?}");
    let mut found = Vec::new();
    for file in files {
        found.extend(uses_of(&OURS, &file.display().to_string(), &std::fs::read_to_string(&file)?));
    }
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(uses_of(&OURS, "a.rs", "use service_runtime::batch;"), ["a.rs:1 uses service_runtime"]);
    Ok(())
}

/// The lines of a source file that name one of these files. Comments and tests may.
fn lines_that_name(files: &[String], name: &str, source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default().lines();
    let code = (1..).zip(code.map(|line| line.split("//").next().unwrap_or_default()));
    let names = |line: &str| files.iter().find(|file| line.contains(file.as_str()));
    code.filter_map(|(number, line)| Some(format!("{name}:{number} names {}", names(line)?))).collect()
}

#[test]
fn no_source_file_names_the_file_of_a_built_in_flow() -> Result<()> {
    let root = workspace()?;
    let mut flows = Vec::new();
    for entry in std::fs::read_dir(root.join("flows"))? {
        flows.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(flows.iter().any(|flow| flow == "pay-first.v1.yaml"), "the flows are not where they were: {flows:?}");
    let is_test = |file: &Path| {
        file.components().any(|part| ["tests", "e2e-tests"].map(AsRef::as_ref).contains(&part.as_os_str()))
    };
    let mut found = Vec::new();
    for file in rust_files(&root)?.into_iter().filter(|file| !is_test(file)) {
        found.extend(lines_that_name(&flows, &file.display().to_string(), &std::fs::read_to_string(&file)?));
    }
    assert_eq!(found, Vec::<String>::new());
    let embedded = "mod a;\nlet text = include_str!(\"../flows/pay-first.v1.yaml\"); // one\n";
    assert_eq!(lines_that_name(&flows, "a.rs", embedded), ["a.rs:2 names pay-first.v1.yaml"]);
    Ok(())
}

#[test]
fn an_impure_core_is_found() {
    for (source, word) in [
        ("pub async fn advance() {}", "async"),
        ("    let x = y.await;", "await"),
        ("use sqlx::PgPool;", "sqlx"),
        ("use rdkafka::Message;", "rdkafka"),
        ("tokio::spawn(x);", "tokio"),
        ("let now = chrono::Utc::now();", "Utc::now"),
        ("use std::time::{Duration, SystemTime};", "SystemTime"),
        ("let t = std::time::Instant::now();", "Instant"),
    ] {
        assert_eq!(impurities("a.rs", &format!("mod a;\n{source}\n")), [format!("a.rs:2 uses {word}")], "{source}");
    }
    for source in ["//! No async, no sqlx.", "let instant_asynchrony = 1; // async", "#[cfg(test)]\nuse tokio;"] {
        assert_eq!(impurities("a.rs", source), Vec::<String>::new(), "{source}");
    }
}
