//! `sagactl participant check` passes for each of the participants, and finds what is planted in copies of the one in
//! Python. They run on an embedded broker, without an orchestrator.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{KafkaClient, Scratch, program};
use serde_json::Value;
use standalone::broker::EmbeddedBroker;

use crate::participants::{Participants, TOPICS, environment, examples};

/// Where the hotel takes the row that it has stored for a trip.
const RETURNS_STORED_ROW: &str = "        if row:\n            return row\n";

#[tokio::test]
async fn hotel_car_and_flight_keep_all_rules() -> Result<()> {
    let trip = Checkable::start("hotel car flight", None).await?;

    for (name, step) in [("hotel", "HOTEL_BOOK"), ("car", "CAR_RENT"), ("flight", "FLIGHT_TICKET")] {
        let checked = trip.check(step, Some(name)).await?;

        assert_eq!(checked.code, 0, "{checked:?}");
        // A ticket can't be given back; and no reply is about money.
        let undo = ["undo", "undo-repeat", "late-action", "undo-first"].into_iter().filter(|_| name == "flight");
        let not_tried: BTreeSet<_> = undo.chain(["agrees"]).map(str::to_owned).collect();
        assert_eq!(checked.with_result("not tried"), not_tried, "{checked:?}");
        assert_eq!(checked.with_result("holds").len() + not_tried.len(), 16, "{checked:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tombstone_that_does_not_count_is_found() -> Result<()> {
    let fault = [(RETURNS_STORED_ROW, "        if row and row[\"asked\"]:\n            return row\n")];
    finds(&fault, "undo-first", false).await
}

#[tokio::test]
async fn a_new_event_id_for_a_repetition_is_found() -> Result<()> {
    finds(&[("uuid.uuid5(uuid.UUID(ids[\"eventId\"]), event)", "uuid.uuid4()")], "repeat", false).await
}

#[tokio::test]
async fn silence_for_a_duplicate_is_found() -> Result<()> {
    finds(&[(RETURNS_STORED_ROW, "        if row:\n            return None\n")], "repeat", false).await
}

#[tokio::test]
async fn a_reply_before_the_commit_is_found_by_a_kill() -> Result<()> {
    // The reply goes out, and for a new row there is a while in which it is not committed.
    let fault = [
        (
            "        row = decide(topic, ids, payload, dict(row) if row else None)",
            "        known = row\n        row = decide(topic, ids, payload, dict(row) if row else None)",
        ),
        (
            "        self.db.execute(\"COMMIT\")\n",
            "        self.send(reply(topic, ids, row)) if row else None\n        known or __import__(\"time\").sleep(3)\n        self.db.execute(\"COMMIT\")\n",
        ),
        ("        self.send(reply(topic, ids, row))\n\n", "\n"),
    ];
    finds(&fault, "restart", true).await
}

#[tokio::test]
async fn a_wrong_key_is_found() -> Result<()> {
    finds(&[("\"key\": ids[\"sagaId\"]", "\"key\": ids[\"tripId\"]")], "key", false).await
}

#[tokio::test]
async fn a_refusal_after_done_is_found() -> Result<()> {
    let fault = [(
        RETURNS_STORED_ROW,
        "        if row:\n            return {**row, \"status\": \"FULL\", \"reason\": \"a room is booked already\"}\n",
    )];
    finds(&fault, "repeat", false).await
}

/// Plants a fault in a copy of the hotel, and demands that the check reports this rule as broken.
async fn finds(fault: &[(&str, &str)], rule: &str, by_kill: bool) -> Result<()> {
    let trip = Checkable::start("hotel", Some(fault)).await?;

    let checked = trip.check("HOTEL_BOOK", by_kill.then_some("hotel")).await?;

    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.with_result("broken").contains(rule), "{checked:?}");
    Ok(())
}

/// Participants on a broker that nobody else uses.
struct Checkable {
    participants: Participants,
    scratch: Scratch,
    broker: EmbeddedBroker,
}

/// What the check reported.
#[derive(Debug)]
struct Checked {
    code: i32,
    /// Rules and their results.
    lines: Vec<Value>,
    #[expect(dead_code, reason = "assertions that fail show it")]
    stderr: String,
}

impl Checkable {
    /// Starts the participants of these names; the hotel from a copy in which each text is replaced by another.
    async fn start(names: &str, fault: Option<&[(&str, &str)]>) -> Result<Self> {
        let (scratch, broker) = (Scratch::new()?, EmbeddedBroker::start(&TOPICS.map(str::to_owned), 2)?);
        let hotel = fault.map(|fault| planted(&scratch, fault)).transpose()?;
        let participants = Participants::start(names, broker.bootstrap_servers(), scratch.path(), hotel).await?;
        participants.until_ready(&KafkaClient::new(broker.bootstrap_servers(), "")).await?;
        Ok(Self { participants, scratch, broker })
    }

    /// Runs `sagactl participant check` for a step, with kills of the participant of this name.
    async fn check(&self, step: &str, kills: Option<&str>) -> Result<Checked> {
        let mut command = tokio::process::Command::new(program("sagactl")?);
        let flow = examples().join("trip.v1.yaml");
        command.args(["participant", "check"]).arg(flow).args(["--step", step, "--patience", "8s", "--json"]);
        command.args(["--kafka", self.broker.bootstrap_servers()]);
        if let Some(name) = kills {
            command.arg("--restart-command").arg(self.participants.kill_command(name));
        }
        command.envs(environment()?).env("TRIP_DIR", self.scratch.path()).kill_on_drop(true);
        let output = command.output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let lines = text(&output.stdout).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Checked { code: output.status.code().context("it was killed")?, lines, stderr: text(&output.stderr) })
    }
}

impl Checked {
    /// The rules with this result: `holds`, `broken` or `not tried`.
    fn with_result(&self, result: &str) -> BTreeSet<String> {
        let lines = self.lines.iter().filter(|line| line["result"] == result);
        lines.filter_map(|line| line["rule"].as_str().map(str::to_owned)).collect()
    }
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
