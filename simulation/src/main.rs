//! Runs seeds of the simulation and says what they have seen; a seed that breaks a rule is told with all that happened
//! in it.

use std::hash::{DefaultHasher, Hasher as _};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use simulation::{Coverage, Seen, run, run_with_fingerprint};

/// Runs checkouts through simulated failures, and checks that nothing is lost or done twice
#[derive(Debug, Parser)]
#[command(name = "simulation", version)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run just this one
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Tell what happens, in words
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print a hash of every move and every command of all seeds, to compare this core with another
    #[arg(long, conflicts_with = "seed")]
    fingerprint: bool,
}

fn main() -> ExitCode {
    if let Err(error) = faults::init() {
        eprintln!("simulation: {error}");
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.trace),
        None => many(arguments.first, arguments.seeds, arguments.fingerprint),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let run = run(seed, trace);
    run.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: trace {:016x}, {} s simulated", run.trace_hash, run.simulated / 1000);
    match run.violation {
        Some(violation) => {
            println!("seed {seed} breaks a rule: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(first: u64, seeds: u64, with_fingerprint: bool) -> ExitCode {
    let (began, mut coverage, mut simulated) = (Instant::now(), Coverage::default(), 0);
    let mut fingerprint = DefaultHasher::new();
    for seed in first..first.saturating_add(seeds) {
        let run = if with_fingerprint { run_with_fingerprint(seed) } else { run(seed, false) };
        if run.violation.is_some() {
            one(seed, true);
            println!("again: simulation --seed {seed} --trace");
            return ExitCode::FAILURE;
        }
        coverage.merge(&run.coverage);
        fingerprint.write_u64(run.fingerprint.unwrap_or_default());
        simulated += run.simulated / 1000;
    }
    for seen in Seen::ALL {
        println!("{:>12}  {}", coverage.of(*seen), seen.words());
    }
    if with_fingerprint {
        println!("fingerprint {:016x}", fingerprint.finish());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {first}, {simulated} s simulated in {seconds:.1} s: {:.0} seeds/s, no rule broken",
        seeds as f64 / seconds
    );
    ExitCode::SUCCESS
}
