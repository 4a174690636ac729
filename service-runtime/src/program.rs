//! The program around a service: arguments, settings, log, signals, exit code. A service's `main.rs` is one call.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::settings::{Settings, SettingsError, environment, require};
use crate::{CancellationToken, Fatal, http, telemetry};

/// How long after the signal, `SHUTDOWN_DRAIN_MS` and `SHUTDOWN_TIMEOUT_MS` the process ends at the latest, whatever it
/// waits for: a start that waits for its database or Kafka, a stop that waits for a broker. Nothing is lost by it.
const STOP_LIMIT: Duration = Duration::from_millis(1000);

#[derive(Debug, Parser)]
struct Arguments {
    /// A file with settings (TOML); the environment wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its default and what it means, as a file for --config, and exit
    #[arg(long)]
    print_config: bool,
    /// Ask the service that runs on PORT whether it is ready, and exit with 0 if so, else 1
    #[arg(long)]
    healthcheck: bool,
}

/// Runs a service until it is told to stop by SIGINT or SIGTERM.
///
/// `defaults` are its embedded default files. Exit codes: 0 after a clean stop, 1 for an error, 2 for bad settings
/// or arguments. A second signal ends the process at once.
pub fn run_service<C, F>(name: &'static str, defaults: &[&str], run: impl FnOnce(C, CancellationToken) -> F) -> ExitCode
where
    C: for<'a> TryFrom<&'a Settings, Error = SettingsError>,
    F: Future<Output = Result<(), Fatal>>,
{
    let command = <Arguments as clap::CommandFactory>::command().name(name).version(env!("CARGO_PKG_VERSION"));
    let arguments = match <Arguments as clap::FromArgMatches>::from_arg_matches(&command.get_matches()) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    if arguments.print_config {
        println!("{}", defaults.join("\n"));
        return ExitCode::SUCCESS;
    }
    let loaded = Settings::load(defaults, arguments.config.as_deref(), environment()).and_then(|settings| {
        telemetry::init(&settings.section()?)?;
        Ok((Threads::try_from(&settings)?, http::HttpSettings::try_from(&settings)?, C::try_from(&settings)?))
    });
    let (threads, listening, config) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = match threads.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(name, Err(error)),
    };
    if arguments.healthcheck {
        let ready = runtime.block_on(http::probe_ready(listening.local_address()));
        return if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Err(why) = faults::init() {
        eprintln!("{name}: {why}");
        return ExitCode::from(2);
    }
    allow_all_files();
    info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
    let outcome = runtime.block_on(async {
        let stop = stop_on_signal();
        let out_of_time = async {
            stop.cancelled().await;
            tokio::time::sleep(listening.stop_limit() + STOP_LIMIT).await;
        };
        tokio::select! {
            outcome = run(config, stop.clone()) => outcome,
            () = out_of_time => {
                warn!("not everything was finished in time; it will be repeated");
                Ok(())
            }
        }
    });
    end(name, outcome)
}

/// As many open files, and so connections, as the system permits: the first limit, often 1024, is for programs that
/// use `select`.
pub fn allow_all_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many threads do a service's work.
#[derive(Debug, Clone, Copy)]
pub struct Threads(usize);

impl TryFrom<&Settings> for Threads {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        #[derive(Deserialize)]
        struct Section {
            worker_threads: usize,
        }
        let Section { worker_threads } = settings.section()?;
        require("worker_threads", (1..=1024).contains(&worker_threads), "must be 1 to 1024")?;
        Ok(Self(worker_threads))
    }
}

impl Threads {
    /// A runtime of that many threads. A single one wakes nobody: half of what a checkout cost was threads that woke
    /// each other (docs/performance.md).
    pub fn runtime(self) -> Result<Runtime, Fatal> {
        let mut builder = match self.0 {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(self.0).enable_all().build();
        runtime.map_err(|error| Fatal::new(format!("no thread can be started: {error}")))
    }
}

/// Ends the process, with 0 or with one line on the standard error output and the failure's exit code. At once: leaving
/// the runtime would wait for a consumer whose closing waits for a broker.
pub fn end(name: &str, outcome: Result<(), Fatal>) -> ! {
    let code = outcome.as_ref().map_or_else(Fatal::exit_code, |()| 0);
    exit_code(name, outcome);
    std::process::exit(code.into())
}

/// One line on the standard error output for a failure, and the process's exit code.
pub fn exit_code(name: &str, outcome: Result<(), Fatal>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A token that is cancelled by the first SIGINT or SIGTERM. The second one ends the process.
pub fn stop_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let stopping = token.clone();
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    tokio::spawn(async move {
        let [Ok(mut interrupt), Ok(mut terminate)] = signals else { return };
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                info!("stopping: finishing what is in hand (a second signal ends at once)");
                stopping.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    token
}

/// Runs one part of a service; when it ends, by itself or by an error, `stop` ends the other parts.
///
/// A part is boxed: they are large, and stand beside each other on the stack of the thread that runs them all.
pub fn stop_when_done<T>(stop: &CancellationToken, part: impl Future<Output = T>) -> impl Future<Output = T> {
    let (part, stop) = (Box::pin(part), stop.clone());
    async move {
        let _stop = stop.drop_guard();
        part.await
    }
}
