//! `examples/trip/run`, and what it leaves: logs and tables.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{KafkaClient, eventually, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::OnceCell;

/// The commands of the steps and their undos, and the replies.
pub const TOPICS: [&str; 6] = [
    "trip.hotel.book.command",
    "trip.hotel.cancel.command",
    "trip.car.rent.command",
    "trip.car.return.command",
    "trip.flight.ticket.command",
    "trip.replies",
];

/// Names, their first command topics, their tables.
const ALL: [(&str, &str, &str); 3] =
    [("hotel", TOPICS[0], "bookings"), ("car", TOPICS[2], "rentals"), ("flight", TOPICS[4], "tickets")];

/// How long the participants may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Prints the rows of a table as a JSON list.
const READ_TABLE: &str = "import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.row_factory = sqlite3.Row
print(json.dumps([dict(row) for row in db.execute('SELECT * FROM ' + sys.argv[2] + ' ORDER BY trip_id')]))";

/// Running participants. With the value they end.
pub struct Participants {
    /// Ends the participants when its input is closed, however this process ends.
    run: Child,
    names: String,
    dir: PathBuf,
}

impl Participants {
    /// Starts those of these names: on Kafka at an address, or at the one in a file, with logs and tables in `dir`.
    /// `hotel` takes the place of `hotel.py`.
    pub async fn start(names: &str, kafka: &str, dir: &Path, hotel: Option<PathBuf>) -> Result<Self> {
        set_up().await?;
        let mut run = Command::new("sh");
        run.args(["-c", r#""$@" & cat >/dev/null; kill $!; wait"#, "sh"]).arg(examples().join("run"));
        run.arg(kafka).envs(environment()?).env("TRIP_DIR", dir).env("TRIP_ONLY", names);
        run.envs(hotel.map(|hotel| ("HOTEL", hotel)));
        let log = std::fs::File::create(dir.join("run.log"))?;
        let run = run.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
        Ok(Self { run, names: names.to_owned(), dir: dir.to_owned() })
    }

    /// Waits until each has joined its group: it logs what is no command.
    pub async fn until_ready(&self, kafka: &KafkaClient) -> Result<()> {
        for (name, topic, _) in ALL.into_iter().filter(|(name, ..)| self.names.contains(name)) {
            let known = self.log(name).len();
            kafka.publish_everywhere(topic, b"no command").await?;
            let ready = async || Ok(self.log(name)[known..].contains("no command").then_some(()));
            let ready = eventually(&format!("{name} reads"), START_LIMIT, ready).await;
            ready.with_context(|| format!("{}\n{}", self.log("run"), self.log(name)))?;
        }
        Ok(())
    }

    /// All that a participant has logged; `run`: what the script has said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// How often a participant was started again.
    pub fn restarts(&self, name: &str) -> usize {
        self.log(name).matches("is started again").count()
    }

    /// The shell's command that kills a participant.
    pub fn kill_command(&self, name: &str) -> String {
        format!("TRIP_DIR='{}' '{}' kill {name}", self.dir.display(), examples().join("run").display())
    }

    /// Kills a participant as a user does.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let killed = tokio::process::Command::new("sh").args(["-c", &self.kill_command(name)]).output().await?;
        ensure!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
        Ok(())
    }

    /// Stops a participant where it is, until it is [continued](Self::go_on).
    pub fn pause(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::STOP)
    }

    pub fn go_on(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::CONT)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let pid = std::fs::read_to_string(self.dir.join(format!("{name}.pid")))?.trim().parse()?;
        Ok(kill_process(Pid::from_raw(pid).context("a process has a number")?, signal)?)
    }

    /// The rows of a participant's table.
    pub async fn rows(&self, name: &str) -> Result<Vec<Value>> {
        let (.., table) = ALL.into_iter().find(|(known, ..)| *known == name).context("a participant")?;
        let mut python = tokio::process::Command::new("python3");
        python.args(["-c", READ_TABLE]).arg(self.dir.join(format!("{name}.db"))).arg(table);
        let output = python.output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The rows about a trip.
    pub async fn rows_of(&self, name: &str, trip_id: &str) -> Result<Vec<Value>> {
        let mut rows = self.rows(name).await?;
        rows.retain(|row| row["trip_id"] == trip_id);
        Ok(rows)
    }
}

impl Drop for Participants {
    fn drop(&mut self) {
        drop(self.run.stdin.take());
        let _ = self.run.wait();
    }
}

/// The folder of the example.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trip")
}

/// What `run` needs to know to use the programs under test.
pub fn environment() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("FLIGHT", program("trip-flight")?)])
}

/// Installs and builds what the participants need, once per process.
pub async fn set_up() -> Result<()> {
    static DONE: OnceCell<()> = OnceCell::const_new();
    let set_up = async || {
        let mut run = tokio::process::Command::new(examples().join("run"));
        let output = run.arg("setup").envs(environment()?).stdin(Stdio::null()).output().await?;
        ensure!(output.status.success(), "run setup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    DONE.get_or_try_init(set_up).await.copied()
}
