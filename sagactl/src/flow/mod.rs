//! Flows: files, offline (`file`, `draw`, `simulate`), what two of them say differently (`diff`), those that are
//! published (`published`), and what travels by them (`schema`).

mod diff;
mod draw;
mod facts;
mod file;
mod published;
mod schema;
mod simulate;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use flow::{Finding, Flow};
use service_runtime::Fatal;

use self::diff::Diff;
pub use self::file::read_well;
use self::file::{line, read, summary};
use self::published::Becomes;
use self::simulate::SimulateArguments;
use crate::acts::Act;
use crate::api::{Api, OrchestratorAddress};
use crate::paint::Paint;
use crate::sagas::print;

/// Checks, draws, compares and simulates flow files, and publishes them
///
/// Exit codes: 0 done; 1 a file or a simulated saga breaks a rule, or the orchestrator refuses; 2 it could not be done.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Check files and run the tests in them; print all findings as FILE:LINE:COLUMN: RULE: MESSAGE
    ///
    /// Needs no platform.
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
    /// Draw the steps, each with its undo, and where the pivot and the answer are
    ///
    /// Of a file, without a platform; or of a published flow, with its state, who published it and why.
    Show {
        /// A file; or NAME (the active version, else the newest) or NAME/VERSION of a published flow
        flow: PathBuf,
        /// Check the file as a flow that comes with the platform
        #[arg(long)]
        built_in: bool,
    },
    /// Show what one version says and another does not: steps, events, limits, causes, answers
    ///
    /// One argument is compared with the flow's active version on the orchestrator, and the sagas that still run by that
    /// one are counted.
    ///
    /// Exit codes: 0 the same; 1 they differ; 2 they could not be compared.
    Diff {
        /// Files, or NAME or NAME/VERSION of published flows: the new one, or the old one and the new one
        #[arg(required = true, num_args = 1..=2, value_names = ["OLD", "NEW"])]
        flows: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run sagas of a file through simulated failures, by the orchestrator's own core, and check that all rules hold
    ///
    /// Needs no platform. The participants are modelled: they keep the rules of docs/participants.md, and refuse, stay
    /// silent, die, repeat and answer late. Messages are lost, doubled and reordered; orchestrators die between any two
    /// steps; operators step in. A seed decides all of it. The first seed that breaks a rule is printed with all that
    /// happened in it.
    ///
    /// Exit codes: 0 no rule is broken; 1 one is; 2 the file can't be used, or is about no money.
    Simulate(SimulateArguments),
    /// Publish a file: new sagas run by it from then on, started ones end by the version that they have
    Publish {
        file: PathBuf,
        #[command(flatten)]
        act: Act,
        /// Leave the active version active
        #[arg(long)]
        no_activate: bool,
        /// Print the answer's JSON; of findings, an object a line
        #[arg(long)]
        json: bool,
    },
    /// All published versions, and how many sagas run by each
    List {
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Have new sagas run by a published version
    Activate(VersionAct),
    /// Start no more sagas by a published version; those that run end by it
    Retire(VersionAct),
    /// Print the JSON Schema of a flow's requests, or of what travels on one of its topics
    ///
    /// For those who write its clients and participants. Of a file, without a platform; or of a published flow.
    Schema {
        /// A file; or NAME (the active version, else the newest) or NAME/VERSION of a published flow
        flow: PathBuf,
        /// The payload of a command (its topic), of a reply (its event, or the topic of all replies) or of a signal (its
        /// kind), instead of the request that starts a saga
        #[arg(long)]
        topic: Option<String>,
    },
    /// Print the commands and replies of a flow's own participants as an AsyncAPI document
    ///
    /// For those who write participants, and generate code for them. Of a file, without a platform; or of a published flow.
    Asyncapi {
        /// A file; or NAME (the active version, else the newest) or NAME/VERSION of a published flow
        flow: PathBuf,
    },
    /// Print the JSON Schema of flow files, for editors
    Format,
}

/// What is done to a published version.
#[derive(Debug, Args)]
pub struct VersionAct {
    name: String,
    version: i32,
    #[command(flatten)]
    act: Act,
    /// Print the answer's JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of them. Whether it was done.
///
/// # Errors
/// When a file can't be read, the orchestrator can't be asked, or the output can't be written.
pub async fn run(
    command: FlowCommand,
    orchestrator: &OrchestratorAddress,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let api = || Api::at(orchestrator);
    match command {
        FlowCommand::Check { files, built_in, json } => check_files(&files, built_in, json, paint, out),
        FlowCommand::Show { flow, built_in } => match Wanted::of(flow) {
            Wanted::File(file) => show_file(&file, built_in, paint, out),
            Wanted::Published(name, version) => {
                published::show(&api()?, &name, version, paint, out).await.map(|()| true)
            }
        },
        FlowCommand::Diff { flows, json } => differ(&api()?, flows, json, paint, out).await.map(|differ| !differ),
        FlowCommand::Publish { file, act, no_activate, json } => {
            published::publish(&api()?, &file, &act, !no_activate, json, paint, out).await
        }
        FlowCommand::Simulate(arguments) => simulate::run(&arguments, paint, out),
        FlowCommand::List { json } => published::list(&api()?, json, paint, out).await.map(|()| true),
        FlowCommand::Activate(act) => published::change(&api()?, act, Becomes::Active, paint, out).await,
        FlowCommand::Retire(act) => published::change(&api()?, act, Becomes::Retired, paint, out).await,
        FlowCommand::Schema { flow, topic } => {
            let (flow, _) = compiled(&api()?, Wanted::of(flow)).await?;
            let schema = match topic {
                None => schema::of_request(&flow),
                Some(topic) => schema::of_payload(&flow, &topic)?,
            };
            print(out, &format!("{schema:#}")).map(|()| true)
        }
        FlowCommand::Asyncapi { flow } => {
            let (flow, _) = compiled(&api()?, Wanted::of(flow)).await?;
            print(out, &format!("{:#}", flow.asyncapi())).map(|()| true)
        }
        FlowCommand::Format => print(out, &format!("{:#}", flow::format::json_schema())).map(|()| true),
    }
}

/// What an argument names.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    File(PathBuf),
    Published(String, Option<i32>),
}

impl Wanted {
    /// A file that is there is a file, whatever its name.
    fn of(argument: PathBuf) -> Self {
        let is_file = argument.exists() && !argument.is_dir();
        let published = || {
            let (name, version) = match argument.to_str()?.split_once('/') {
                None => (argument.to_str()?, None),
                Some((name, version)) => (name, Some(version.parse().ok()?)),
            };
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let is_name = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits);
            is_name.then(|| Self::Published(name.to_owned(), version))
        };
        let published = if is_file { None } else { published() };
        published.unwrap_or(Self::File(argument))
    }
}

fn check_files(
    files: &[PathBuf],
    built_in: bool,
    json: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let mut all_well = true;
    for file in files {
        match read(file, built_in)? {
            Ok(flow) if !json => print(out, &summary(file, &flow, paint))?,
            Ok(_) => {}
            Err(findings) => {
                all_well = false;
                print_all(file, &findings, json, out)?;
            }
        }
    }
    Ok(all_well)
}

fn show_file(file: &Path, built_in: bool, paint: Paint, out: &mut dyn Write) -> Result<bool, Fatal> {
    match read(file, built_in)? {
        Ok(flow) => {
            let title = format!("{} v{}", paint.bold(&flow.name), flow.version);
            print(out, &format!("{title}\n{}", draw::steps(&flow, paint))).map(|()| true)
        }
        Err(findings) => print_all(file, &findings, false, out).map(|()| false),
    }
}

fn print_all(file: &Path, findings: &[Finding], json: bool, out: &mut dyn Write) -> Result<(), Fatal> {
    findings.iter().try_for_each(|finding| print(out, &line(file, finding, json)))
}

/// Prints what differs. Whether anything does.
async fn differ(
    api: &Api,
    mut flows: Vec<PathBuf>,
    json: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let Some(new) = flows.pop() else { return Ok(false) };
    let (new, _) = compiled(api, Wanted::of(new)).await?;
    let (old, unfinished) = match flows.pop() {
        Some(old) => compiled(api, Wanted::of(old)).await?,
        None => {
            let name = &new.name;
            let none = || Fatal::new(format!("no version of {name} is active: there is nothing to compare it with"));
            let active = published::active(api, name).await?.ok_or_else(none)?;
            (active.compiled().map_err(Fatal::new)?, Some(active.unfinished))
        }
    };
    let diff = Diff::of(&old, &new);
    let text = if json { diff.to_json(unfinished).to_string() } else { diff.to_text(unfinished, paint) };
    print(out, &text).map(|()| !diff.is_same_file())
}

/// A flow, and how many sagas run by it where that is known.
async fn compiled(api: &Api, wanted: Wanted) -> Result<(Arc<Flow>, Option<u64>), Fatal> {
    match wanted {
        Wanted::File(file) => Ok((read_well(&file)?, None)),
        Wanted::Published(name, version) => {
            let flow = published::fetch(api, &name, version).await?;
            Ok((flow.compiled().map_err(Fatal::new)?, Some(flow.unfinished)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::paint::Color;

    /// Nobody listens there: what needs no platform asks none.
    fn nowhere() -> OrchestratorAddress {
        OrchestratorAddress { orchestrator_url: "http://127.0.0.1:1".to_owned() }
    }

    async fn output(command: FlowCommand) -> (bool, String) {
        let mut out = Vec::new();
        let done = run(command, &nowhere(), Paint::new(Color::Never), &mut out).await.unwrap();
        (done, String::from_utf8(out).unwrap())
    }

    fn trip() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trip/trip.v1.yaml")
    }

    fn changed(old: &str, new: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(fs::read_to_string(trip()).unwrap().replace(old, new).as_bytes()).unwrap();
        file
    }

    #[tokio::test]
    async fn a_file_without_findings_is_summed_up_in_a_line() {
        let (done, text) = output(FlowCommand::Check { files: vec![trip()], built_in: false, json: false }).await;

        assert!(done);
        assert!(text.contains("trip.v1.yaml: ok: trip v1, 3 steps, 1 tests passed, sha256 "), "{text}");
    }

    #[tokio::test]
    async fn findings_stand_in_lines_that_an_editor_can_follow() {
        let file = changed("pivot: FLIGHT_TICKET", "pivot: FLIGHT");
        let path = file.path().to_owned();
        let check = |json| FlowCommand::Check { files: vec![path.clone(), trip()], built_in: false, json };

        let (done, text) = output(check(false)).await;

        assert!(!done);
        assert!(text.starts_with(&format!("{}:19:8: unknown-step: `FLIGHT` is no step", path.display())), "{text}");
        assert!(text.contains("trip.v1.yaml: ok"), "the files behind it are checked as well: {text}");
        let first: serde_json::Value =
            serde_json::from_str(output(check(true)).await.1.lines().next().unwrap()).unwrap();
        assert_eq!((&first["line"], &first["rule"]), (&json!(19), &json!("unknown-step")));
    }

    #[tokio::test]
    async fn a_flow_is_drawn_a_step_a_line() {
        let (_, text) = output(FlowCommand::Show { flow: trip(), built_in: false }).await;

        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn two_files_are_compared_without_a_platform() {
        let file = changed("reach_pivot_within: 3m", "reach_pivot_within: 4m");
        let diff = |flows| FlowCommand::Diff { flows, json: false };

        let (same, text) = output(diff(vec![trip(), file.path().to_owned()])).await;

        assert!(!same);
        assert!(text.contains("reach_pivot_within: 3m -> 4m"), "{text}");
        assert!(output(diff(vec![trip(), trip()])).await.0);
    }

    #[tokio::test]
    async fn what_is_no_file_is_the_name_of_a_published_flow() {
        let wanted = |argument: &str| Wanted::of(argument.into());
        assert_eq!(wanted("trip"), Wanted::Published("trip".to_owned(), None));
        assert_eq!(wanted("trip/2"), Wanted::Published("trip".to_owned(), Some(2)));
        // A file that is there, a path with another form, and names that flows can't have.
        for file in ["Cargo.toml", "no/such.yaml", "trip.v1.yaml", "trip/two", "../trip"] {
            assert_eq!(wanted(file), Wanted::File(file.into()));
        }
        let nobody = FlowCommand::Show { flow: "trip".into(), built_in: false };
        let error = run(nobody, &nowhere(), Paint::new(Color::Never), &mut Vec::new()).await.unwrap_err();
        assert!(error.to_string().contains("the orchestrator can't be reached at http://127.0.0.1:1"), "{error}");
    }
}
