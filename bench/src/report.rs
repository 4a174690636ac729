//! What a whole bench has found: for people as Markdown, for programs as JSON.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::floor::COMMITS;
use crate::load::Load;
use crate::machine::Machine;
use crate::run::{FLOOR, OURS, Run};
use crate::table;
use crate::turns::Spread;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub began: DateTime<Utc>,
    /// As it was called.
    pub arguments: Vec<String>,
    pub machine: Machine,
    /// Of each load the middle pair of its turns.
    pub runs: Vec<Run>,
    pub spreads: Vec<Spread>,
    /// The runs of the other turns. They have to count too.
    pub other_runs: Vec<Run>,
    /// By process, in bytes, over all runs.
    pub peak_memory: Vec<(String, u64)>,
    /// By program, in bytes.
    pub binaries: Vec<(String, u64)>,
    /// What is wrong with all databases together, at the end.
    pub disagreement: Option<String>,
}

impl Report {
    /// Why runs do not count; nothing, if all is well.
    pub fn wrong(&self) -> Vec<String> {
        let of_runs = self.runs.iter().chain(&self.other_runs).filter_map(|run| Some((run, run.wrong.as_ref()?)));
        let mut wrong: Vec<String> = of_runs.map(|(run, why)| format!("{} at {}: {why}", run.who, run.load)).collect();
        wrong.extend(self.disagreement.as_ref().map(|why| format!("at the end: {why}")));
        let floor = self.alone(FLOOR).filter(|run| run.wal_flushes.round() < COMMITS);
        wrong.extend(floor.map(|run| format!("the floor makes {:.2} durable commits, not {COMMITS}", run.wal_flushes)));
        wrong
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.machine, table::runs(&self.runs));
        if let Some(turns) = self.spreads.first().map(Spread::turns).filter(|turns| *turns > 1) {
            let each: Vec<String> = self.spreads.iter().map(Spread::to_string).collect();
            let _ =
                writeln!(text, "Shown is the middle pair of {turns} turns. All were between: {}.\n", each.join("; "));
        }
        if let Some((ours, floor)) = self.alone(OURS).zip(self.alone(FLOOR)) {
            let _ = writeln!(
                text,
                "Durable commits of one checkout alone, as flushes of the log: ours {:.2}, floor {:.2}.",
                ours.wal_flushes, floor.wal_flushes
            );
        }
        let _ = writeln!(text, "Peak memory, MB: {}.", megabytes(&self.peak_memory));
        let _ = writeln!(text, "Programs, MB: {}.", megabytes(&self.binaries));
        for wrong in self.wrong() {
            let _ = writeln!(text, "\n**Does not count**: {wrong}");
        }
        text
    }

    /// The run with one checkout at a time.
    fn alone(&self, who: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.who == who && run.load == Load::Closed { concurrency: 1 })
    }

    /// Appends it to a file, as a section with its date.
    pub fn record(&self, file: &Path) -> Result<()> {
        let title = format!("## {}: `dev/bench {}`", self.began.format("%Y-%m-%d %H:%M UTC"), self.arguments.join(" "));
        let open = File::options().append(true).create(true).open(file);
        let mut open = open.with_context(|| format!("cannot open {}", file.display()))?;
        Ok(write!(open, "\n{}\n\n{}", title.replace(" `dev/bench `", " `dev/bench`"), self.text())?)
    }

    pub fn write_json(&self, file: &Path) -> Result<()> {
        let open = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(serde_json::to_writer_pretty(open, self)?)
    }
}

fn megabytes(sizes: &[(String, u64)]) -> String {
    let each: Vec<String> = sizes.iter().map(|(name, bytes)| format!("{name} {:.1}", *bytes as f64 / 1e6)).collect();
    each.join(", ")
}
