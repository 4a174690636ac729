//! The machine and the versions, without which no figure means anything.

use std::fmt;
use std::process::Command;

use anyhow::Result;
use e2e_tests::Databases;
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub ram_gib: f64,
    pub kernel: String,
    pub postgres: String,
    /// None of it, where the broker is embedded.
    pub kafka: Option<String>,
    pub rustc: String,
    /// The revision that was built, with `-dirty` if files were changed since.
    pub revision: String,
    /// Over 1, 5 and 15 minutes, before anything was started.
    pub load_average: String,
}

impl Machine {
    /// Looks around. `KAFKA_VERSION` is told by dev/bench.
    pub async fn look(databases: &Databases, load_average: String) -> Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kilobytes: f64 =
            field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0.0);
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            ram_gib: kilobytes / 1024.0 / 1024.0,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            postgres: sqlx::query_scalar("SHOW server_version").fetch_one(&databases.order).await?,
            kafka: std::env::var("KAFKA_VERSION").ok(),
            rustc: said(Command::new("rustc").arg("--version")),
            revision: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            load_average,
        })
    }
}

/// `2.06 1.50 0.99`.
pub fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.map(str::trim)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, ram_gib, kernel, postgres, kafka, rustc, revision, load_average } = self;
        let kafka = kafka.as_ref().map_or_else(|| "no Kafka".to_owned(), |version| format!("Kafka {version}"));
        write!(f, "{cores} cores ({cpu}), {ram_gib:.0} GiB, Linux {kernel}; Postgres {postgres}, {kafka}, {rustc}; ")?;
        write!(f, "revision {revision}; load average before: {load_average}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\nMemTotal:       24653824 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2.50GHz"));
        assert_eq!(field(text, "MemTotal"), Some("24653824 kB"));
        assert_eq!(field(text, "model"), None);
    }
}
