//! The program: arguments, and an exit code.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sagactl::audit::{Options, audit};
use sagactl::databases::{Database, DatabaseUrls, Databases, OrchestratorUrl, Unreadable};
use sagactl::dlq::Mailbox;
use sagactl::dlq::look::{list, show};
use sagactl::dlq::redrive::{Outcome, Sending};
use service_runtime::Fatal;

/// Looks after the checkout platform: proves that its databases agree, sends dead letters back
#[derive(Debug, Parser)]
#[command(name = "sagactl", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Audit(AuditArguments),
    Dlq(DlqArguments),
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
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Letters in full: headers, and the body as it is
    Show {
        #[command(flatten)]
        mailbox: Mailbox,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Send letters back to the topics they came from, once what made them fail is mended
    ///
    /// A dry run, unless --execute is given: it shows what would be sent. A command is refused if its saga has ended
    /// or is unknown, which the orchestrator's database tells. What was sent is marked on the dead-letter topic, and
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
    let outcome = match Arguments::parse().command {
        Command::Audit(arguments) => run_audit(arguments).await,
        Command::Dlq(arguments) => run_dlq(arguments.command).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sagactl: {error}");
            ExitCode::from(2)
        }
    }
}

fn fatal(error: Unreadable) -> Fatal {
    Fatal::new(error.to_string())
}

/// Whether all invariants hold.
async fn run_audit(arguments: AuditArguments) -> Result<bool, Fatal> {
    let AuditArguments { grace, recheck, json, databases } = arguments;
    let databases = Databases::connect(&databases).await.map_err(fatal)?;
    let mut terminal = std::io::stderr();
    let shows = terminal.is_terminal();
    let progress = |what: &str, count: u64| {
        if shows {
            let _ = write!(terminal, "\r\x1b[K{count} {what}");
        }
    };
    let report = audit(&databases, Options { grace, recheck }, progress).await;
    if shows {
        eprint!("\r\x1b[K");
    }
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
        DlqCommand::List { mailbox, json } => {
            let letters = list(&mailbox, json, out).await?;
            eprintln!("{letters} letters");
            Ok(true)
        }
        DlqCommand::Show { mailbox, json } => {
            let letters = show(&mailbox, json, out).await?;
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
