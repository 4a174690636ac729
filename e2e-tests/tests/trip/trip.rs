//! `examples/trip/run` on a broker of its own.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{KafkaClient, Scratch, eventually, program};
use serde_json::Value;
use standalone::broker::EmbeddedBroker;
use tokio::sync::OnceCell;

const TOPICS: [&str; 6] = [
    "trip.hotel.book.command",
    "trip.hotel.cancel.command",
    "trip.car.rent.command",
    "trip.car.return.command",
    "trip.flight.ticket.command",
    "trip.replies",
];

/// How long the participants may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Running participants. With the value they end.
pub struct Trip {
    /// Ends the participants when its input is closed, however this process ends.
    run: Child,
    scratch: Scratch,
    broker: EmbeddedBroker,
}

/// What the check reported.
#[derive(Debug)]
pub struct Checked {
    pub code: i32,
    /// Rules and their results.
    lines: Vec<Value>,
    #[expect(dead_code, reason = "assertions that fail show it")]
    stderr: String,
}

impl Trip {
    /// Starts the participants of these names; the hotel from a copy in which each text is replaced by another.
    pub async fn start(names: &str, fault: Option<&[(&str, &str)]>) -> Result<Self> {
        set_up().await?;
        let (scratch, broker) = (Scratch::new()?, EmbeddedBroker::start(&TOPICS.map(str::to_owned), 2)?);
        let mut run = Command::new("sh");
        run.args(["-c", r#""$@" & cat >/dev/null; kill $!; wait"#, "sh"]).arg(examples().join("run"));
        run.arg(broker.bootstrap_servers())
            .envs(environment()?)
            .env("TRIP_DIR", scratch.path())
            .env("TRIP_ONLY", names);
        if let Some(fault) = fault {
            run.env("HOTEL", planted(&scratch, fault)?);
        }
        let log = std::fs::File::create(scratch.path().join("run.log"))?;
        let run = run.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
        let trip = Self { run, scratch, broker };
        trip.until_ready(names).await?;
        Ok(trip)
    }

    /// What is no command is logged: a participant that logs it has joined its group.
    async fn until_ready(&self, names: &str) -> Result<()> {
        let kafka = KafkaClient::new(self.broker.bootstrap_servers(), "");
        for (name, topic) in [("hotel", TOPICS[0]), ("car", TOPICS[2]), ("flight", TOPICS[4])] {
            if names.contains(name) {
                kafka.publish_everywhere(topic, b"no command").await?;
                let ready = async || Ok(self.log(name).contains("no command").then_some(()));
                let ready = eventually(&format!("{name} reads"), START_LIMIT, ready).await;
                ready.with_context(|| format!("{}\n{}", self.log("run"), self.log(name)))?;
            }
        }
        Ok(())
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Runs `sagactl participant check` for a step, with kills of the participant of this name.
    pub async fn check(&self, step: &str, kills: Option<&str>) -> Result<Checked> {
        let mut command = tokio::process::Command::new(program("sagactl")?);
        let flow = examples().join("trip.v1.yaml");
        command.args(["participant", "check"]).arg(flow).args(["--step", step, "--patience", "8s", "--json"]);
        command.args(["--kafka", self.broker.bootstrap_servers()]);
        if let Some(name) = kills {
            command.arg("--restart-command").arg(format!("'{}' kill {name}", examples().join("run").display()));
        }
        command.envs(environment()?).env("TRIP_DIR", self.scratch.path()).kill_on_drop(true);
        let output = command.output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let lines = text(&output.stdout).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Checked { code: output.status.code().context("it was killed")?, lines, stderr: text(&output.stderr) })
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        drop(self.run.stdin.take());
        let _ = self.run.wait();
    }
}

impl Checked {
    /// The rules with this result: `holds`, `broken` or `not tried`.
    pub fn with_result(&self, result: &str) -> BTreeSet<String> {
        let lines = self.lines.iter().filter(|line| line["result"] == result);
        lines.filter_map(|line| line["rule"].as_str().map(str::to_owned)).collect()
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trip")
}

fn environment() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("FLIGHT", program("trip-flight")?)])
}

/// Installs and builds what the participants need, once per process.
async fn set_up() -> Result<()> {
    static DONE: OnceCell<()> = OnceCell::const_new();
    let set_up = async || {
        let mut run = tokio::process::Command::new(examples().join("run"));
        let output = run.arg("setup").envs(environment()?).stdin(Stdio::null()).output().await?;
        ensure!(output.status.success(), "run setup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    DONE.get_or_try_init(set_up).await.copied()
}

/// A copy of the hotel with a fault.
fn planted(scratch: &Scratch, fault: &[(&str, &str)]) -> Result<PathBuf> {
    let mut text = std::fs::read_to_string(examples().join("hotel/hotel.py"))?;
    for (old, new) in fault {
        ensure!(text.matches(old).count() == 1, "hotel.py has not exactly one {old:?}: adapt the planted fault");
        text = text.replace(old, new);
    }
    let copy = scratch.path().join("hotel.py");
    std::fs::write(&copy, text)?;
    Ok(copy)
}
