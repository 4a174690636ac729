//! The README's table of settings against the default files that the programs embed.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const DEFAULT_FILES: [&str; 6] = [
    "service-runtime/defaults/service.toml",
    "service-runtime/defaults/kafka.toml",
    "order-service/default.toml",
    "payment-service/default.toml",
    "inventory-service/default.toml",
    "saga-orchestrator/default.toml",
];

/// The settings of a default file: name and default.
fn settings(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" = ")).map(|(key, value)| (key, value.trim_matches('"'))).collect()
}

/// The row of a table that names this environment variable in its first column.
fn row<'a>(readme: &'a str, variable: &str) -> Option<&'a str> {
    let names = |line: &&str| line.split('|').nth(1).is_some_and(|first| first.contains(&format!("`{variable}`")));
    readme.lines().find(names)
}

#[test]
fn the_readme_lists_every_setting_with_its_default() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let readme = std::fs::read_to_string(root.join("README.md"))?;
    for file in DEFAULT_FILES {
        let text = std::fs::read_to_string(root.join(file))?;
        let settings = settings(&text);
        ensure!(!settings.is_empty(), "{file} has no settings");
        for (key, default) in settings {
            let variable = key.to_uppercase();
            let row =
                row(&readme, &variable).with_context(|| format!("README.md does not list {variable} of {file}"))?;
            // Ports and databases are told as "4000 … 4003" and "the databases above"; 0.0 as 0.
            let told = row.contains(default.trim_end_matches(".0")) || matches!(key, "port" | "database_url");
            ensure!(told, "README.md gives another default of {variable} than {default:?}: {row}");
        }
    }
    Ok(())
}

#[test]
fn a_setting_that_is_missing_or_has_another_default_would_be_noticed() {
    assert_eq!(settings("# port = 1\nport = 4000\nname = \"x\"\n"), [("port", "4000"), ("name", "x")]);
    assert_eq!(row("text `PORT`\n| x | `PORT` |\n| `PORT` | 4000 |\n", "PORT"), Some("| `PORT` | 4000 |"));
    assert_eq!(row("| `PORTS` | 4000 |\n", "PORT"), None);
}
