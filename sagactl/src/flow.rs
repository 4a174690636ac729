//! Flow files, offline: whether they keep the rules, what they look like, and the format for editors.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use flow::{Action, Asked, Finding, Flow, Origin, check};
use serde_json::json;
use service_runtime::Fatal;

use crate::paint::{Paint, harmless};

/// Checks and draws flow files. Needs no platform
///
/// Exit codes: 0 done; 1 a file breaks a rule; 2 a file can't be read.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Check files and run the tests in them; print all findings as FILE:LINE:COLUMN: RULE: MESSAGE
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Check as flows that come with the platform: they may use reserved names
        #[arg(long)]
        built_in: bool,
        /// Print an object a line, one for each finding
        #[arg(long)]
        json: bool,
    },
    /// Draw a file's steps, each with its undo, and where the pivot and the answer are
    Show {
        file: PathBuf,
        /// Check it as a flow that comes with the platform
        #[arg(long)]
        built_in: bool,
    },
    /// Print the JSON Schema of flow files, for editors
    Format,
}

/// Runs one of them.
///
/// # Errors
/// When a file can't be read, or the output can't be written.
pub fn run(command: FlowCommand, paint: Paint, out: &mut impl Write) -> Result<bool, Fatal> {
    match command {
        FlowCommand::Check { files, built_in, json } => {
            let mut all_well = true;
            for file in &files {
                match read(file, built_in)? {
                    Ok(flow) if !json => print(out, &summary(file, &flow, paint))?,
                    Ok(_) => {}
                    Err(findings) => {
                        all_well = false;
                        findings.iter().try_for_each(|finding| print(out, &line(file, finding, json)))?;
                    }
                }
            }
            Ok(all_well)
        }
        FlowCommand::Show { file, built_in } => match read(&file, built_in)? {
            Ok(flow) => print(out, &drawing(&flow, paint)).map(|()| true),
            Err(findings) => {
                findings.iter().try_for_each(|finding| print(out, &line(&file, finding, false)))?;
                Ok(false)
            }
        },
        FlowCommand::Format => {
            let schema = serde_json::to_string_pretty(&flow::format::json_schema());
            print(out, &schema.map_err(|error| Fatal::new(error.to_string()))?).map(|()| true)
        }
    }
}

fn read(file: &Path, built_in: bool) -> Result<Result<Arc<Flow>, Vec<Finding>>, Fatal> {
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

fn print(out: &mut impl Write, line: &str) -> Result<(), Fatal> {
    writeln!(out, "{line}").map_err(|error| Fatal::new(error.to_string()))
}

fn line(file: &Path, finding: &Finding, json: bool) -> String {
    let Finding { at, rule, message } = finding;
    if json {
        let rule = rule.name();
        return json!({ "file": file, "line": at.line, "column": at.column, "rule": rule, "message": message })
            .to_string();
    }
    format!("{}:{}:{}: {rule}: {}", file.display(), at.line, at.column, harmless(message))
}

fn summary(file: &Path, flow: &Flow, paint: Paint) -> String {
    let Flow { name, version, digest, .. } = flow;
    let (steps, tests) = (flow.steps.len(), flow.tests.len());
    let well = paint.state("COMPLETED", "ok");
    format!(
        "{}: {well}: {name} v{version}, {steps} steps, {tests} tests passed, sha256 {}",
        file.display(),
        &digest[..12]
    )
}

/// A line for each step: what is asked, and to the right what undoes it.
fn drawing(flow: &Flow, paint: Paint) -> String {
    let names = flow.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
    let asks: Vec<_> = flow.steps.iter().map(|step| asked(&step.action)).collect();
    let width = asks.iter().map(String::len).max().unwrap_or_default();
    let mut lines = vec![format!("{} v{}", paint.bold(&flow.name), flow.version)];
    for (place, (step, ask)) in flow.steps.iter().zip(&asks).enumerate() {
        let undo = match &step.undo {
            Some(undo) => format!("<- {} ({})", undo.name, asked(&Action::Ask(undo.ask.clone()))),
            None => String::new(),
        };
        let mut notes = Vec::new();
        if place == flow.pivot {
            notes.push("pivot".to_owned());
        }
        if place == flow.answer.after {
            notes.push(format!("answer {}", flow.answer.done));
        }
        if flow.cancel.is_some_and(|cancel| cancel.until == place) {
            notes.push("no cancel from here on".to_owned());
        }
        let notes = if notes.is_empty() { String::new() } else { format!("[{}]", notes.join(", ")) };
        let line = format!("  {:names$}  {ask:width$}  {}{}", step.name, paint.dim(&undo), paint.bold(&notes));
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

fn asked(action: &Action) -> String {
    match action {
        Action::Wait { signal, .. } => format!("waits for {signal}"),
        Action::Ask(ask) => match &ask.of {
            Asked::Topic(name) | Asked::Action(name) => name.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Color;

    fn output(command: FlowCommand) -> (bool, String) {
        let mut out = Vec::new();
        let done = run(command, Paint::new(Color::Never), &mut out).unwrap();
        (done, String::from_utf8(out).unwrap())
    }

    fn trip() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trip/trip.v1.yaml")
    }

    #[test]
    fn a_file_without_findings_is_summed_up_in_a_line() {
        let (done, text) = output(FlowCommand::Check { files: vec![trip()], built_in: false, json: false });

        assert!(done);
        assert!(text.contains("trip.v1.yaml: ok: trip v1, 3 steps, 1 tests passed, sha256 "), "{text}");
    }

    #[test]
    fn findings_stand_in_lines_that_an_editor_can_follow() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(fs::read_to_string(trip()).unwrap().replace("pivot: FLIGHT_TICKET", "pivot: FLIGHT").as_bytes())
            .unwrap();
        let path = file.path().to_owned();
        let check = |json| FlowCommand::Check { files: vec![path.clone(), trip()], built_in: false, json };

        let (done, text) = output(check(false));

        assert!(!done);
        assert!(text.starts_with(&format!("{}:19:8: unknown-step: `FLIGHT` is no step", path.display())), "{text}");
        assert!(text.contains("trip.v1.yaml: ok"), "the files behind it are checked as well: {text}");
        let first: serde_json::Value = serde_json::from_str(output(check(true)).1.lines().next().unwrap()).unwrap();
        assert_eq!((&first["line"], &first["rule"]), (&json!(19), &json!("unknown-step")));
    }

    #[test]
    fn a_flow_is_drawn_a_step_a_line() {
        let (_, text) = output(FlowCommand::Show { file: trip(), built_in: false });

        insta::assert_snapshot!(text);
    }
}
