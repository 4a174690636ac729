//! `participant check`: plays the rules of a participant against a running one, over Kafka, knowing the flow file alone.

mod line;
mod reply;
mod report;
mod restart;
mod rule;
mod trial;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use flow::sample::Samples;
use flow::{Action, Asked, Flow, Step};
use service_runtime::Fatal;

use self::line::Line;
use self::report::Report;
use self::restart::Restart;
use self::trial::{Trial, topic_of};
use crate::flow::read_well;
use crate::paint::Paint;
use crate::topics::KafkaAddress;

/// Checks programs that carry out the steps of flows
#[derive(Debug, Subcommand)]
pub enum ParticipantCommand {
    /// Play duplicates, late and contradicting commands, undos and garbage against a running participant
    ///
    /// Commands of sagas that do not exist are sent to the topics of the flow's steps; the participant carries them out,
    /// and undoes most of them. Do not run it beside real sagas whose effects cost money.
    ///
    /// Exit codes: 0 all rules hold; 1 some are broken; 2 it could not be checked.
    Check(CheckArguments),
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The flow file
    file: PathBuf,
    /// Only the participant of this step [default: all steps that send a command]
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    #[command(flatten)]
    kafka: KafkaAddress,
    /// Kills the participant and starts it again: run by `sh` between a command and its reply
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
    /// A request in JSON that the participant accepts [default: the input of the file's first test, or made-up values]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// How long a reply is waited for
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print an object a line, one for each step and rule
    #[arg(long)]
    json: bool,
}

/// Checks a participant; answers the exit code.
///
/// # Errors
/// When the file can't be used, a topic is missing, Kafka fails, or the participant can't be restarted.
pub async fn run(command: ParticipantCommand, paint: Paint, out: &mut impl Write) -> Result<u8, Fatal> {
    let ParticipantCommand::Check(arguments) = command;
    let flow = read_well(&arguments.file)?;
    let input = arguments
        .input
        .as_ref()
        .map(|path| fs::read_to_string(path).map_err(|error| Fatal::new(format!("{}: {error}", path.display()))));
    let samples = Samples::of(&flow, input.transpose()?.as_deref())
        .map_err(|none| Fatal::new(format!("{none}. Give one with --input FILE")))?;
    let (mut is_broken, mut is_checked) = (false, true);
    for step in steps(&flow, arguments.step.as_deref())? {
        let report = check(&arguments, &flow, step, &samples).await?;
        is_broken |= !report.all_broken().is_empty();
        is_checked &= report.was_tried();
        let text = match arguments.json {
            true => report.to_json().iter().map(|line| format!("{line}\n")).collect(),
            false => format!("{}\n", report.to_text(paint)),
        };
        write!(out, "{text}").map_err(|error| Fatal::new(error.to_string()))?;
    }
    Ok(match (is_broken, is_checked) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 2,
    })
}

/// The steps that ask a participant: all, or the one of this name.
fn steps<'a>(flow: &'a Flow, name: Option<&str>) -> Result<Vec<&'a Step>, Fatal> {
    let asks = |step: &&Step| matches!(&step.action, Action::Ask(ask) if matches!(ask.of, Asked::Topic(_)));
    let known: Vec<&Step> = flow.steps.iter().filter(asks).collect();
    let names =
        |step: &Step, name: &str| step.name == *name || step.undo.as_ref().is_some_and(|undo| undo.name == *name);
    let wanted: Vec<&Step> = known.iter().copied().filter(|step| name.is_none_or(|name| names(step, name))).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = known.iter().map(|step| &*step.name).collect();
        let name = name.unwrap_or("at all");
        return Err(Fatal::new(format!("no step {name} sends a command; these do: {}", names.join(", "))));
    }
    Ok(wanted)
}

async fn check(arguments: &CheckArguments, flow: &Flow, step: &Step, samples: &Samples<'_>) -> Result<Report, Fatal> {
    let action = if let Action::Ask(ask) = &step.action { topic_of(ask) } else { "" };
    let undo = step.undo.as_ref().map(|undo| topic_of(&undo.ask));
    let commands: Vec<&str> = [action].into_iter().chain(undo).filter(|topic| !topic.is_empty()).collect();
    // A user's commands are answered on one topic, those of our own participants on one for each event.
    let is_shared = action.strip_prefix(&flow.name).is_some_and(|rest| rest.starts_with('.'));
    let own = format!("{}.replies", flow.name);
    let replies = if is_shared { vec![own.as_str()] } else { events(step) };
    let line = Line::open(&arguments.kafka.settings()?, &commands, &replies, arguments.patience).await?;
    let undone = step.undo.as_ref().map(|undo| format!(", undone by {}", undo.name)).unwrap_or_default();
    let report = Report::new(format!("{}{undone}", step.name));
    let restart = arguments.restart_command.clone().map(Restart);
    let mut trial = Trial { flow, step, samples, line, is_shared, restart, report };
    trial.run().await?;
    Ok(trial.report)
}

fn events(step: &Step) -> Vec<&str> {
    let done = step.done.iter().chain(step.undo.iter().flat_map(|undo| &undo.done)).map(|done| done.event.as_str());
    let refused = step.refused.iter().map(|refused| refused.event.as_str());
    done.chain(refused).chain(step.progress.iter().map(|progress| progress.event.as_str())).collect()
}
