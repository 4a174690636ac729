//! `flow simulate`: runs a flow's sagas by the orchestrator's own core, through many seeds of modelled failures.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use flow::Flow;
use indicatif::{HumanCount, ProgressBar};
use saga_orchestrator::rehearsal::{Broken, Coverage, Run, Script, Seen};
use serde_json::{Map, Value as Json, json};
use service_runtime::Fatal;

use super::file::read_well;
use crate::paint::{Paint, harmless};
use crate::sagas::print;

/// After this time the progress is shown.
const SLOW: Duration = Duration::from_secs(1);

/// What is simulated, and how often.
#[derive(Debug, Args)]
pub struct SimulateArguments {
    /// The flow file
    file: PathBuf,
    /// How many seeds to run, from 0 on
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this seed only, and print all that happens in it
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// A JSON request that starts the sagas [default: the input of a test in the file, and one made from the shapes]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Whether no seed breaks a rule.
///
/// # Errors
/// When the file can't be read or breaks a rule of flow files, or when this release does not run it.
pub fn run(arguments: &SimulateArguments, paint: Paint, out: &mut dyn Write) -> Result<bool, Fatal> {
    let SimulateArguments { file, seeds, seed, input, json } = arguments;
    let flow = read_well(file)?;
    let request = input.as_deref().map(|path| fs::read_to_string(path).map_err(|error| unusable(path, &error)));
    let script = Script::of(&flow, request.transpose()?.as_deref()).map_err(|why| unusable(file, &why))?;
    let began = Instant::now();
    let seed = match seed {
        Some(seed) => *seed,
        None => match rehearsed(&script, *seeds, began) {
            Ok(coverage) => {
                let text = match json {
                    true => well_json(file, &script, &coverage).to_string(),
                    false => well(file, &script, &coverage, began.elapsed(), paint),
                };
                return print(out, &text).map(|()| true);
            }
            Err(Broken { seed, .. }) => seed,
        },
    };
    let run = script.run(seed, true);
    let text = match json {
        true => one_json(file, &script, seed, &run).to_string(),
        false => one(&replay(file, input.as_deref(), seed), (file, seed), &run, paint) + &not_run(&script),
    };
    print(out, &text).map(|()| run.violation.is_none())
}

fn unusable(path: &Path, why: &dyn std::error::Error) -> Fatal {
    Fatal::new(format!("{}: {why}", path.display()))
}

/// Runs the seeds. The progress is shown on a terminal, once it takes long.
fn rehearsed(script: &Script, seeds: u64, began: Instant) -> Result<Coverage, Broken> {
    let bar = ProgressBar::new(seeds);
    let outcome = script.rehearse(seeds, |run| {
        if run % 64 == 0 && began.elapsed() > SLOW {
            bar.set_position(run);
        }
        true
    });
    bar.finish_and_clear();
    outcome
}

/// The command line that runs this seed again.
fn replay(file: &Path, input: Option<&Path>, seed: u64) -> String {
    let quoted = |path: &Path| {
        let path = path.display().to_string();
        let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
    };
    let input = input.map_or_else(String::new, |input| format!(" --input {}", quoted(input)));
    format!("sagactl flow simulate {}{input} --seed {seed}", quoted(file))
}

/// All that happened in a seed's run.
fn one(replay: &str, (file, seed): (&Path, u64), run: &Run, paint: Paint) -> String {
    let mut text: String = run.lines.iter().map(|line| format!("{}\n", harmless(line))).collect();
    let (path, seconds) = (file.display(), run.modelled / 1_000);
    // A string takes whatever is written.
    let _ = match &run.violation {
        None => {
            let well = paint.state("COMPLETED", "ok");
            write!(text, "{path}: {well}: seed {seed} breaks no rule in {seconds} s of modelled time")
        }
        Some(rule) => {
            let broken = paint.state("FAILED", "broken");
            let rule = harmless(rule);
            write!(text, "{path}: {broken}: seed {seed} breaks a rule: {rule}\nreplay: {replay}")
        }
    };
    text
}

/// A line for the file, then how the sagas ended, and what was met.
fn well(file: &Path, script: &Script, coverage: &Coverage, took: Duration, paint: Paint) -> String {
    let Flow { name, version, .. } = script.flow();
    let sagas: u64 = coverage.ends.values().sum();
    let well = paint.state("COMPLETED", "ok");
    let mut text = format!(
        "{}: {well}: {name} v{version}, {} seeds with {} sagas, no rule broken ({:.1} s)",
        file.display(),
        HumanCount(coverage.seeds),
        HumanCount(sagas),
        took.as_secs_f64()
    );
    let ends = coverage.ends.iter().map(|(name, count)| (name.as_str(), *count));
    let seen = Seen::of(script.flow());
    let met = seen.iter().map(|seen| (seen.words(), coverage.of(*seen)));
    for (words, count) in ends.chain(met) {
        let _ = write!(text, "\n{:>12}  {words}", HumanCount(count).to_string());
    }
    text + &not_run(script)
}

/// A line for each thing in the flow that this release does not run.
fn not_run(script: &Script) -> String {
    script.not_run().iter().map(|what| format!("\nnot published by this release: {what}")).collect()
}

fn well_json(file: &Path, script: &Script, coverage: &Coverage) -> Json {
    let flow = script.flow();
    let met: Map<String, Json> =
        Seen::of(flow).iter().map(|seen| (seen.words().to_owned(), json!(coverage.of(*seen)))).collect();
    let Flow { name, version, digest, .. } = flow;
    json!({
        "file": file, "flow": name, "version": version, "digest": digest,
        "seeds": coverage.seeds, "ends": coverage.ends, "met": met, "broken": null, "notRun": script.not_run(),
    })
}

fn one_json(file: &Path, script: &Script, seed: u64, run: &Run) -> Json {
    let Flow { name, version, digest, .. } = script.flow();
    json!({
        "file": file, "flow": name, "version": version, "digest": digest,
        "seed": seed, "broken": run.violation, "lines": run.lines, "notRun": script.not_run(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Color;

    fn arguments(file: &Path, seeds: u64, seed: Option<u64>, json: bool) -> SimulateArguments {
        SimulateArguments { file: file.to_owned(), seeds, seed, input: None, json }
    }

    fn output(arguments: &SimulateArguments) -> (bool, String) {
        let mut out = Vec::new();
        let done = run(arguments, Paint::new(Color::Never), &mut out).unwrap();
        (done, String::from_utf8(out).unwrap())
    }

    fn trip() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trip/trip.v1.yaml")
    }

    #[test]
    fn seeds_without_a_broken_rule_are_summed_up() {
        let (done, text) = output(&arguments(&trip(), 60, None, false));
        assert!(done && text.contains("trip.v1.yaml: ok: trip v1, 60 seeds with "), "{text}");
        assert!(text.contains("  COMPLETED\n") && text.contains("  commands lost\n"), "{text}");

        let (_, text) = output(&arguments(&trip(), 60, None, true));
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["flow"], &json["seeds"], &json["broken"]), (&json!("trip"), &json!(60), &Json::Null));
        assert!(json["ends"]["COMPLETED"].as_u64().is_some_and(|count| count > 20), "{text}");
    }

    #[test]
    fn one_seed_is_printed_in_lines_and_the_same_each_time() {
        let (done, text) = output(&arguments(&trip(), 0, Some(0), false));

        assert!(done && text.contains("saga 0 is stored: RUNNING/HOTEL_BOOK"), "{text}");
        assert!(text.contains("trip.v1.yaml: ok: seed 0 breaks no rule in "), "{text}");
        assert_eq!(text, output(&arguments(&trip(), 0, Some(0), false)).1);
    }

    #[test]
    fn a_broken_rule_stands_below_its_run_with_the_command_that_replays_it() {
        let lines = vec!["   0.001 s  BROKEN: it is lost".to_owned()];
        let run = Run { violation: Some("it is lost".to_owned()), coverage: Coverage::default(), lines, modelled: 1 };

        let trip = Path::new("my trip.yaml");
        let again = replay(trip, Some(Path::new("in/it's.json")), 7);
        let text = one(&again, (trip, 7), &run, Paint::new(Color::Never));

        let wanted = r"   0.001 s  BROKEN: it is lost
my trip.yaml: broken: seed 7 breaks a rule: it is lost
replay: sagactl flow simulate 'my trip.yaml' --input 'in/it'\''s.json' --seed 7";
        assert_eq!(text, wanted);
        assert_eq!(replay(Path::new("trip.yaml"), None, 7), "sagactl flow simulate trip.yaml --seed 7");
    }

    #[test]
    fn what_the_core_runs_is_simulated_and_what_this_release_does_not_run_is_named() {
        let order = Path::new(env!("CARGO_MANIFEST_DIR")).join("../flow/tests/flows/order.v1.yaml");
        let (done, text) = output(&arguments(&order, 5, None, false));
        assert!(done && text.contains("order.v1.yaml: ok: order v1, 5 seeds with "), "{text}");
        assert!(
            text.contains("\nnot published by this release: ORDER_CREATE: this release does not run `order`, a status"),
            "{text}"
        );
    }
}
