//! How fast the platform is, and what a checkout costs: `dev/bench` builds and runs it; docs/performance.md tells how
//! it measures.
//!
//! Exit code 0: all runs count; 1: one does not, since a checkout was lost or the databases disagree; 2: it could not
//! run.

mod floor;
mod goods;
mod load;
mod machine;
mod platform;
mod preload;
mod report;
mod run;
mod table;
mod turns;
mod usage;
mod wal;
mod wide;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use chrono::Utc;
use clap::Parser;
use e2e_tests::{Client, Service, agreement, use_programs_in};

use crate::floor::{Floor, Rows};
use crate::load::{Generator, Load};
use crate::machine::Machine;
use crate::platform::{Platform, Subject};
use crate::report::Report;
use crate::run::{AGAINST, CHECKOUTS, EMPTY, FLOOR, OURS, Run};
use crate::turns::{Spread, Turn};

/// What comes before the first run: plans, caches and connections are made.
const WARM_UP: (Load, Duration) = (Load::Closed { concurrency: 64 }, Duration::from_secs(10));

/// The same for processes that were started anew, beside a Kafka and databases that are warm.
const WARM_UP_AGAIN: Duration = Duration::from_secs(4);

/// The open loops' shares of the best closed loop's rate.
const OPEN_SHARES: [f64; 2] = [0.5, 0.8];

/// Measures checkouts a second, latency, and what a checkout costs
#[derive(Debug, Parser)]
#[command(name = "dev/bench")]
struct Arguments {
    /// Clients at a time, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Vec<u32>,
    /// How long a run takes
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How often each load is put on the floor and on the platform, in turn; the middle pair is told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    turns: u8,
    /// The share of checkouts whose payment is declined; as many are out of stock
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    mix: f64,
    /// How many processes of each service
    #[arg(long, default_value_t = 1, conflicts_with = "embedded")]
    instances: usize,
    /// `standalone` with its embedded broker, instead of Kafka and a process for each service
    #[arg(long)]
    embedded: bool,
    /// So many finished sagas are in the databases before; compared with a platform without any, instead of the floor
    #[arg(long)]
    preload: Option<u64>,
    /// So many sagas of a flow wait for a signal meanwhile; compared with a platform without any, instead of the floor
    #[arg(long, conflicts_with = "preload")]
    waiting: Option<u64>,
    /// Compare with a platform that has this setting besides, as NAME=VALUE, instead of the floor; several times
    #[arg(long, value_parser = setting, conflicts_with_all = ["preload", "waiting"])]
    against_settings: Vec<(String, String)>,
    /// Compare with a platform of the programs in this folder, instead of the floor
    #[arg(long, conflicts_with_all = ["preload", "waiting"])]
    against_programs: Option<PathBuf>,
    /// Compare a flow of many bytes (1 KiB of input, 500 bytes kept) with checkouts on the same platform
    #[arg(long, conflicts_with_all = ["preload", "waiting", "against_programs", "against_settings", "mix"])]
    wide: bool,
    /// Compare checkouts of counted goods, of so many products, with those whose goods are not counted, on the same platform
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["preload", "waiting", "against_programs", "against_settings", "mix", "wide"])]
    skus: Option<u32>,
    /// With --skus: compare with those of so many products instead
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), requires = "skus")]
    against_skus: Option<u32>,
    /// Measure the platform only
    #[arg(long)]
    no_floor: bool,
    /// Measure closed loops only
    #[arg(long)]
    no_open: bool,
    /// A setting for all services, as NAME=VALUE; may be given several times
    #[arg(long, value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Write the results as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Append the results as a section to this Markdown file
    #[arg(long)]
    record: Option<PathBuf>,
    /// The folder of the programs
    #[arg(long, default_value = "target/dist")]
    programs: PathBuf,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "must be a number")?;
    if (0.0..=0.5).contains(&share) { Ok(share) } else { Err("must be from 0 to 0.5".to_owned()) }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::select! {
        outcome = bench(&arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: could not run: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all runs count.
async fn bench(arguments: &Arguments) -> Result<bool> {
    let (began, load_average) = (Utc::now(), machine::load_average()?);
    use_programs_in(&arguments.programs)?;
    let platform = Platform::start(arguments.instances, arguments.embedded, &arguments.settings).await?;
    let client = platform.client()?;
    let machine = Machine::look(&client.databases, load_average).await?;
    if let Some(count) = arguments.preload {
        preload::preload(&client.databases, count).await?;
        println!("{count} sagas are there before");
    }
    if let Some(count) = arguments.waiting {
        preload::wait(&client, count).await?;
        println!("{count} sagas wait for a signal");
    }
    let mut ours = platform.subject()?;
    let mut wide = None;
    if arguments.wide {
        let participant = wide::start(&client).await?;
        ours.urls.iter_mut().for_each(|url| *url = url.replace("/checkout", "/flows/wide"));
        wide = Some(Wide { generator: Generator::of(load::BODIES, wide::body)?, participant });
    }
    let goods = match arguments.skus {
        Some(products) => Some(goods::generator(&client.databases, products).await?),
        None => None,
    };
    let generator = match arguments.against_skus {
        Some(products) => goods::generator(&client.databases, products).await?,
        None => Generator::new(arguments.mix)?,
    };
    let other = Other::start(arguments, &platform).await?;
    let mut bench = Bench {
        platform,
        programs: arguments.programs.clone(),
        ours,
        other,
        wide,
        client,
        generator,
        goods,
        time: Duration::from_secs(arguments.seconds),
        turns: arguments.turns,
    };
    for subject in bench.other.iter().map(Other::subject) {
        bench.generator.run(&subject.urls, WARM_UP.0, WARM_UP.1).await?;
    }
    bench.generator_of(OURS).run(&bench.ours.urls, WARM_UP.0, WARM_UP.1).await?;
    // Or the first run would be charged with the last flushes of the warm-up.
    tokio::time::sleep(wal::COUNTS_ARE_TOLD_AFTER).await;

    let mut measured = Measured::default();
    for concurrency in &arguments.concurrency {
        bench.take_turns(Load::Closed { concurrency: *concurrency }, &mut measured).await?;
    }
    let ours = measured.runs.iter().filter(|run| run.who == OURS);
    let best = ours.map(|run| run.per_second).fold(0.0, f64::max);
    for share in OPEN_SHARES.into_iter().filter(|_| !arguments.no_open) {
        bench.take_turns(Load::Open { per_second: (best * share).round() }, &mut measured).await?;
    }
    let memory = bench.ours.groups.iter().map(|group| Ok((group.name.to_owned(), group.memory()?)));
    let report = Report {
        began,
        arguments: without_paths(std::env::args().skip(1)),
        machine,
        peak_memory: memory.collect::<Result<_>>()?,
        binaries: binaries(arguments)?,
        disagreement: agreement::disagreement(&bench.client.databases).await?,
        runs: measured.runs,
        spreads: measured.spreads,
        other_runs: measured.others,
    };
    println!("\n{}", report.text());
    if arguments.waiting.is_some() {
        let took = bench.platform.restart_orchestrator().await?;
        println!("killed beside those that wait, the orchestrator was ready again after {:.2} s", took.as_secs_f64());
    }
    arguments.json.iter().try_for_each(|file| report.write_json(file))?;
    arguments.record.iter().try_for_each(|file| report.record(file))?;
    Ok(report.wrong().is_empty())
}

/// What was asked for, without where the results go: a machine's folders mean nothing elsewhere.
fn without_paths(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    const PATHS: [&str; 4] = ["--json", "--record", "--programs", "--against-programs"];
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            None if PATHS.contains(&&*argument) => drop(arguments.next()),
            Some((name, _)) if PATHS.contains(&name) => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// The sizes of the programs that were measured.
fn binaries(arguments: &Arguments) -> Result<Vec<(String, u64)>> {
    let names = match arguments.embedded {
        true => vec!["standalone"],
        false => Service::ALL.map(Service::program).to_vec(),
    };
    let size = |name: &str| Ok((name.to_owned(), std::fs::metadata(arguments.programs.join(name))?.len()));
    names.into_iter().map(size).collect()
}

/// What ours is compared with.
enum Other {
    /// Held for its processes' life.
    Floor(Subject, #[expect(dead_code, reason = "with it go its processes")] Floor),
    /// Checkouts on the same platform.
    Checkouts(Subject),
    /// Another platform, by the name that the table gives it.
    Platform { name: &'static str, programs: PathBuf, subject: Subject, client: Client, platform: Platform },
}

/// Everything that takes part.
struct Bench {
    platform: Platform,
    programs: PathBuf,
    ours: Subject,
    other: Option<Other>,
    client: Client,
    generator: Generator,
    wide: Option<Wide>,
    /// What sends checkouts of counted goods, where some do.
    goods: Option<Generator>,
    time: Duration,
    turns: u8,
}

/// What sends requests of the flow with many bytes, and what answers its commands.
struct Wide {
    generator: Generator,
    #[expect(dead_code, reason = "it answers until it is dropped")]
    participant: wide::Participant,
}

impl Other {
    async fn start(arguments: &Arguments, platform: &Platform) -> Result<Option<Self>> {
        let is_against = arguments.against_programs.is_some() || !arguments.against_settings.is_empty();
        if arguments.preload.is_some() || arguments.waiting.is_some() || is_against {
            let programs = arguments.against_programs.as_ref().unwrap_or(&arguments.programs).clone();
            use_programs_in(&programs)?;
            let settings = [&*arguments.settings, &*arguments.against_settings].concat();
            let platform = Platform::start(arguments.instances, arguments.embedded, &settings).await?;
            use_programs_in(&arguments.programs)?;
            let name = if is_against { AGAINST } else { EMPTY };
            let (subject, client) = (platform.subject()?, platform.client()?);
            return Ok(Some(Self::Platform { name, programs, subject, client, platform }));
        }
        if arguments.wide || arguments.skus.is_some() {
            return Ok(Some(Self::Checkouts(platform.subject()?)));
        }
        if arguments.no_floor || arguments.embedded {
            return Ok(None);
        }
        let floor = Floor::start(&platform.client()?).await?;
        Ok(Some(Self::Floor(floor.subject(platform.postgres()?)?, floor)))
    }

    fn subject(&self) -> &Subject {
        match self {
            Self::Floor(subject, _) | Self::Checkouts(subject) | Self::Platform { subject, .. } => subject,
        }
    }
}

/// What was seen of all loads so far.
#[derive(Default)]
struct Measured {
    /// The middle pair of each load.
    runs: Vec<Run>,
    spreads: Vec<Spread>,
    others: Vec<Run>,
}

impl Bench {
    async fn take_turns(&mut self, load: Load, measured: &mut Measured) -> Result<()> {
        let mut turns = Vec::new();
        for number in 0..self.turns {
            self.renew(load).await?;
            turns.push(self.turn(load, number % 2 == 1).await?);
        }
        let (middle, spread, others) = turns::middle(turns);
        measured.runs.extend(middle.runs());
        measured.spreads.push(spread);
        measured.others.extend(others.into_iter().flat_map(Turn::runs));
        Ok(())
    }

    /// Starts two builds' processes anew. Where in memory and on which core a process has come to lie is luck that lasts as long
    /// as it does: of two platforms of the *same* programs one made 0.84 of the other in each of five turns.
    async fn renew(&mut self, load: Load) -> Result<()> {
        let Some(Other::Platform { name: AGAINST, programs, subject, platform, .. }) = &mut self.other else {
            return Ok(());
        };
        self.platform.renew().await?;
        self.ours = self.platform.subject()?;
        use_programs_in(programs)?;
        platform.renew().await?;
        *subject = platform.subject()?;
        use_programs_in(&self.programs)?;
        let urls = [subject.urls.clone(), self.ours.urls.clone()];
        for urls in urls {
            // With what is measured then: how much memory they get used to depends on it.
            self.generator.run(&urls, load, WARM_UP_AGAIN).await?;
        }
        tokio::time::sleep(wal::COUNTS_ARE_TOLD_AFTER).await;
        Ok(())
    }

    /// Whichever is first finds the machine as the one before has left it: they take turns in that, too.
    async fn turn(&self, load: Load, ours_first: bool) -> Result<Turn> {
        let ours = if ours_first { Some(self.platform(OURS, &self.ours, &self.client, load).await?) } else { None };
        let other = match &self.other {
            None => None,
            Some(Other::Platform { name, subject, client, .. }) => {
                Some(self.platform(name, subject, client, load).await?)
            }
            Some(Other::Checkouts(checkouts)) => Some(self.platform(CHECKOUTS, checkouts, &self.client, load).await?),
            Some(Other::Floor(floor, _)) => {
                let before = Rows::count(&self.client.databases).await?;
                let mut run = self.measure(FLOOR, floor, &self.client, load).await?;
                let after = Rows::count(&self.client.databases).await?;
                run.wrong = run.wrong.or(after.missing(before, run.seen.status("200")));
                Some(run)
            }
        };
        let ours = match ours {
            Some(ours) => ours,
            None => self.platform(OURS, &self.ours, &self.client, load).await?,
        };
        Ok(Turn { other, ours })
    }

    /// Measures a platform, and whether its rows agree with what its clients were told.
    async fn platform(&self, who: &'static str, subject: &Subject, client: &Client, load: Load) -> Result<Run> {
        let began = Utc::now();
        let mut run = self.measure(who, subject, client, load).await?;
        let disagreement = run::disagreement(client, began, &run.seen).await?;
        run.wrong = run.wrong.or(disagreement);
        Ok(run)
    }

    async fn measure(&self, who: &'static str, subject: &Subject, client: &Client, load: Load) -> Result<Run> {
        let run = run::measure(who, subject, &client.databases, self.generator_of(who), load, self.time).await?;
        let (rate, heap_only) = (run.per_second, run.heap_only * 100.0);
        println!("{load:>6} {who}: {rate:.0} checkouts/s, {heap_only:.0} % of the moves heap-only");
        Ok(run)
    }

    fn generator_of(&self, who: &str) -> &Generator {
        let ours = self.wide.as_ref().map(|wide| &wide.generator).or(self.goods.as_ref());
        ours.filter(|_| who == OURS).unwrap_or(&self.generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_that_are_recorded_name_no_folders() {
        let given = ["--json", "/a/b", "--mix", "0.1", "--record=/c", "--settings", "X=Y", "--no-floor"];
        let kept = without_paths(given.map(str::to_owned).into_iter());
        assert_eq!(kept, ["--mix", "0.1", "--settings", "X=Y", "--no-floor"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
        let parsed = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert_eq!(parsed("bench --concurrency 1,8").unwrap().concurrency, [1, 8]);
        for wrong in [
            "--concurrency 0",
            "--mix 0.6",
            "--settings X",
            "--embedded --instances 2",
            "--preload 9 --against-settings A=B",
            "--preload 9 --waiting 9",
            "--waiting 9 --against-programs A",
            "--against-skus 9",
            "--skus 9 --wide",
        ] {
            assert!(parsed(&format!("bench {wrong}")).is_err(), "{wrong}");
        }
    }
}
