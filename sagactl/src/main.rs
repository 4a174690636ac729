//! The program: arguments, and an exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use dead_letters::Topics;
use indicatif::{HumanCount, ProgressBar};
use sagactl::acts::{self, Act, CheckoutRequest, Intake, StepIn, Went};
use sagactl::api::{Api, OrchestratorAddress};
use sagactl::audit::{Options, audit};
use sagactl::databases::{Database, DatabaseUrls, Databases, OrchestratorUrl, Unreadable};
use sagactl::dlq::Mailbox;
use sagactl::dlq::look::{list, show};
use sagactl::dlq::redrive::{Outcome, Sending};
use sagactl::flow::{self, FlowCommand};
use sagactl::many::{self, MassAct, OneOrMany};
use sagactl::paint::{Color, Paint};
use sagactl::participant::{self, ParticipantCommand};
use sagactl::sagas::{self, Wanted};
use sagactl::show::show as show_saga;
use sagactl::signal::{self, SignalRequest};
use sagactl::stock::{self, StockArguments};
use sagactl::topics::{KafkaAddress, topics};
use service_runtime::Fatal;
use uuid::Uuid;

/// Looks after the checkout platform: where each customer's money is, and what happens next
///
/// Exit codes: 0 done; 1 refused, or not as wanted; 2 it could not be done; 3 (checkout) it still runs.
#[derive(Debug, Parser)]
#[command(name = "sagactl", version)]
struct Arguments {
    #[command(flatten)]
    orchestrator: OrchestratorAddress,
    /// When to use colour
    #[arg(long, value_enum, default_value_t, global = true)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send a checkout and print its outcome
    ///
    /// Exit codes: 0 completed; 1 failed, all undone; 3 still running; 2 nothing was stored, or nobody knows.
    Checkout {
        #[command(flatten)]
        checkout: CheckoutRequest,
        /// Print the answer's JSON
        #[arg(long)]
        json: bool,
    },
    /// The newest sagas, or those that fit
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// All about one saga: what happened, what happens next, what each service has stored
    Show {
        /// A saga's id, or an order's
        id: Uuid,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Moves as they happen: of one saga until it has ended, or of all
    Watch {
        saga: Option<Uuid>,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// How many sagas stand where, and how the newest fared
    Stats {
        /// How far to look back
        #[arg(long, default_value_t = 15)]
        minutes: u32,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Undo a saga that has not reached its pivot, or those that fit
    ///
    /// With filters instead of a saga's id: all that fit and have not turned back. They are counted and shown first.
    ///
    /// Exit codes: 0 done; 1 some were refused, or you did not agree; 2 it could not be done.
    Cancel {
        #[command(flatten)]
        on: OneOrMany,
        /// One saga, as its owner, who is named by --by: where the flow says so
        #[arg(long, requires = "saga")]
        as_owner: bool,
    },
    /// Have what is pending asked for now, by a saga or by those that fit
    ///
    /// With filters instead of a saga's id: all that fit and have had no answer in time, such as after an outage of a
    /// participant. They are counted and shown first, and asked for no faster than RESEND_PER_SECOND.
    ///
    /// Exit codes: 0 done; 1 some were refused, or you did not agree; 2 it could not be done.
    Retry(OneOrMany),
    /// Count a compensation that is refused for good as settled by hand
    ///
    /// One saga at a time: a person has to see that it is settled, and what proves it differs.
    Resolve {
        saga: Uuid,
        #[command(flatten)]
        act: Act,
        /// Which compensation: PAYMENT_REFUND, ...
        #[arg(long)]
        step: String,
        /// What proves it, such as a bank transfer's number
        #[arg(long)]
        evidence: String,
        /// Print the answer's JSON
        #[arg(long)]
        json: bool,
    },
    /// Report something that happened outside and that a saga waits for, or will wait for
    ///
    /// It is kept for seven days: a saga that begins to wait within that time finds it.
    ///
    /// Exit codes: 0 stored, and perhaps taken by a saga; 1 refused: another signal has this id, or no flow can read the
    /// payload; 2 it could not be sent, or no flow waits for signals of this kind.
    Signal {
        #[command(flatten)]
        signal: SignalRequest,
        /// Print the answer's JSON
        #[arg(long)]
        json: bool,
    },
    /// Whether new checkouts are taken; pause or resume it, for all instances
    Intake {
        #[command(subcommand)]
        change: Option<IntakeCommand>,
        /// Print the answer's JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// How many records each topic keeps, how far its readers lag behind, and what was set aside
    Topics {
        #[command(flatten)]
        kafka: KafkaAddress,
        /// Print an object a line, with the offsets of each partition
        #[arg(long)]
        json: bool,
    },
    Stock(StockArguments),
    Audit(AuditArguments),
    Dlq(DlqArguments),
    #[command(subcommand)]
    Flow(FlowCommand),
    #[command(subcommand)]
    Participant(ParticipantCommand),
    /// Print completions for a shell: sagactl completions bash > /etc/bash_completion.d/sagactl
    Completions {
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum IntakeCommand {
    /// Tell whether they are; the same as without a word
    Status,
    /// Take no new checkouts; running ones finish
    Pause {
        #[command(flatten)]
        act: Act,
    },
    /// Take new checkouts again
    Resume {
        #[command(flatten)]
        act: Act,
    },
}

/// Proves that the four databases agree about every order, and tells the money at risk where they do not
///
/// Only SELECTs, in read-only sessions: roles that may do nothing else suffice. May run beside a busy platform.
/// Orders that were made by hand, without a saga, are not looked at.
///
/// Exit codes: 0 all invariants hold; 1 some are violated; 2 it could not be checked.
#[derive(Debug, Args)]
struct AuditArguments {
    /// A saga that has moved within this time is in flight: it need not have ended, nor agree with its services yet
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How long to wait before what looks wrong is read again; it is reported if it still is
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    recheck: Duration,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    databases: DatabaseUrls,
}

/// Lists, shows and sends back what was set aside on the dead-letter topics
///
/// Exit codes: 0 done; 1 some letters were refused or could not be sent; 2 it could not be done.
#[derive(Debug, Args)]
struct DlqArguments {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// One line for each letter
    List {
        #[command(flatten)]
        mailbox: Mailbox,
        #[command(flatten)]
        orchestrator: OrchestratorUrl,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Letters in full: headers, and the body as it is
    Show {
        #[command(flatten)]
        mailbox: Mailbox,
        #[command(flatten)]
        orchestrator: OrchestratorUrl,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Send letters back to the topics they came from, once what made them fail is mended
    ///
    /// A dry run, unless --execute is given: it shows what would be sent. A command is refused unless its saga waits for
    /// it now, which the orchestrator's database tells. What was sent is marked on the dead-letter topic, and
    /// skipped the next time.
    ///
    /// Exit codes: 0 done; 1 some letters were refused or could not be sent; 2 it could not be done.
    Redrive {
        #[command(flatten)]
        mailbox: Mailbox,
        #[command(flatten)]
        sending: Sending,
        #[command(flatten)]
        orchestrator: OrchestratorUrl,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { orchestrator, color, command } = Arguments::parse();
    let outcome = match command {
        Command::Audit(arguments) => run_audit(arguments).await.map(code),
        Command::Topics { kafka, json } => {
            topics(&kafka, json, Paint::new(color), &mut std::io::stdout()).await.map(|()| 0)
        }
        Command::Dlq(arguments) => run_dlq(arguments.command).await.map(code),
        Command::Stock(arguments) => stock::run(&arguments, Paint::new(color), &mut std::io::stdout()).await.map(code),
        Command::Flow(command) => {
            flow::run(command, &orchestrator, Paint::new(color), &mut std::io::stdout()).await.map(code)
        }
        Command::Participant(command) => participant::run(command, Paint::new(color), &mut std::io::stdout()).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "sagactl", &mut std::io::stdout());
            Ok(0)
        }
        command => ask(&orchestrator, Paint::new(color), command).await,
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("sagactl: {error}");
            ExitCode::from(2)
        }
    }
}

/// 0 for what was done as wanted, else 1.
fn code(done: bool) -> u8 {
    (!done).into()
}

/// What the orchestrator is asked for. The exit code.
async fn ask(orchestrator: &OrchestratorAddress, paint: Paint, command: Command) -> Result<u8, Fatal> {
    let (api, out) = (Api::at(orchestrator)?, &mut std::io::stdout());
    match command {
        Command::Checkout { checkout, json } => Ok(match acts::checkout(&api, &checkout, json, paint, out).await? {
            Went::Completed => 0,
            Went::Failed => 1,
            Went::Running => 3,
        }),
        Command::List { wanted, json } => sagas::list(&api, &wanted, json, paint, out).await.map(|()| 0),
        Command::Show { id, json } => show_saga(&api, id, json, paint, out).await.map(|()| 0),
        Command::Watch { saga, json } => sagas::watch(&api, saga, json, paint, out).await.map(|()| 0),
        Command::Stats { minutes, json } => sagas::stats(&api, minutes, json, paint, out).await.map(|()| 0),
        Command::Cancel { on, as_owner } => {
            many::step_in(&api, MassAct::Cancel, &StepIn::Cancel { as_owner }, &on, paint, out).await.map(code)
        }
        Command::Retry(on) => many::step_in(&api, MassAct::Retry, &StepIn::Retry, &on, paint, out).await.map(code),
        Command::Resolve { saga, act, step, evidence, json } => {
            acts::step_in(&api, saga, &StepIn::Resolve { step, evidence }, &act, json, paint, out).await.map(code)
        }
        Command::Signal { signal, json } => signal::send(&api, &signal, json, out).await.map(code),
        Command::Intake { change, json } => {
            let change = match &change {
                None | Some(IntakeCommand::Status) => None,
                Some(IntakeCommand::Pause { act }) => Some((Intake::Pause, act)),
                Some(IntakeCommand::Resume { act }) => Some((Intake::Resume, act)),
            };
            acts::intake(&api, change, json, out).await.map(|()| 0)
        }
        // Those are answered without the orchestrator.
        Command::Audit(_)
        | Command::Stock(_)
        | Command::Topics { .. }
        | Command::Dlq(_)
        | Command::Flow(_)
        | Command::Participant(_)
        | Command::Completions { .. } => Ok(0),
    }
}

fn fatal(error: Unreadable) -> Fatal {
    Fatal::new(error.to_string())
}

/// Whether all invariants hold.
async fn run_audit(arguments: AuditArguments) -> Result<bool, Fatal> {
    let AuditArguments { grace, recheck, json, databases } = arguments;
    let databases = Databases::connect(&databases).await.map_err(fatal)?;
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::new_spinner();
    let progress = |what: &str, count: u64| {
        bar.set_message(format!("{} {what}", HumanCount(count)));
        bar.tick();
    };
    let report = audit(&databases, Options { grace, recheck }, progress).await;
    bar.finish_and_clear();
    let report = report.map_err(fatal)?;
    let text =
        if json { serde_json::to_string(&report).map_err(|e| Fatal::new(e.to_string()))? } else { report.to_string() };
    println!("{text}");
    Ok(report.all_hold())
}

/// Whether nothing was refused and nothing failed.
async fn run_dlq(command: DlqCommand) -> Result<bool, Fatal> {
    let out = &mut std::io::stdout().lock();
    match command {
        DlqCommand::List { mailbox, orchestrator, json } => {
            let topics = letter_topics(&mailbox, &orchestrator).await;
            let letters = list(&mailbox, &topics, json, out).await?;
            eprintln!("{letters} letters");
            Ok(true)
        }
        DlqCommand::Show { mailbox, orchestrator, json } => {
            let topics = letter_topics(&mailbox, &orchestrator).await;
            let letters = show(&mailbox, &topics, json, out).await?;
            eprintln!("{letters} letters");
            Ok(true)
        }
        DlqCommand::Redrive { mailbox, sending, orchestrator } => {
            let orchestrator = Database::orchestrator(&orchestrator).await.map_err(fatal)?;
            let Outcome { sent, skipped, refused, failed } = sending.run(&mailbox, &orchestrator, out).await?;
            let sent_or_not = if sending.execute { "sent" } else { "would be sent (a dry run: --execute sends)" };
            eprintln!("{sent} {sent_or_not}, {skipped} skipped, {refused} refused, {failed} failed");
            Ok(refused + failed == 0)
        }
    }
}

/// The topics that letters may come from, and a line where some are left out.
async fn letter_topics(mailbox: &Mailbox, orchestrator: &OrchestratorUrl) -> Topics {
    let (topics, left_out) = mailbox.topics(orchestrator).await;
    if let Some(why) = left_out {
        eprintln!("sagactl: {why}");
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
