//! Flow files on the disk, and the lines in which they are reported about.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flow::{Finding, Flow, Origin, check};
use serde_json::json;
use service_runtime::Fatal;

use crate::paint::{Paint, harmless};

/// Reads and checks a file: the flow, or all findings.
///
/// # Errors
/// When the file can't be read.
pub fn read(file: &Path, built_in: bool) -> Result<Result<Arc<Flow>, Vec<Finding>>, Fatal> {
    let unreadable = |why: String| Fatal::new(format!("{}: {why}", file.display()));
    let bytes = fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    Ok(check(&text, if built_in { Origin::BuiltIn } else { Origin::User }))
}

/// A flow without findings, be it a user's or built in.
///
/// # Errors
/// When the file can't be read, or breaks a rule: with the first finding.
pub fn read_well(file: &Path) -> Result<Arc<Flow>, Fatal> {
    read(file, true)?.map_err(|findings| {
        let first = findings.first().map(|finding| line(file, finding, false)).unwrap_or_default();
        Fatal::new(format!("{first} (`sagactl flow check` shows all {} findings)", findings.len()))
    })
}

/// A finding of this release's own check, as a line.
pub fn line(file: &Path, finding: &Finding, json: bool) -> String {
    let Finding { at, rule, message } = finding;
    finding_line(file, (at.line as u64, at.column as u64), rule.name(), message, json)
}

/// A finding as a line that an editor can follow, or as an object.
pub fn finding_line(file: &Path, (line, column): (u64, u64), rule: &str, message: &str, json: bool) -> String {
    if json {
        return json!({ "file": file, "line": line, "column": column, "rule": rule, "message": message }).to_string();
    }
    format!("{}:{line}:{column}: {}: {}", file.display(), harmless(rule), harmless(message))
}

/// A file without findings, in a line.
pub fn summary(file: &Path, flow: &Flow, paint: Paint) -> String {
    let Flow { name, version, digest, .. } = flow;
    let (steps, tests) = (flow.steps.len(), flow.tests.len());
    let well = paint.state("COMPLETED", "ok");
    format!(
        "{}: {well}: {name} v{version}, {steps} steps, {tests} tests passed, sha256 {}",
        file.display(),
        &digest[..12]
    )
}
