//! The participants of `examples/trip` on an embedded broker: `sagactl participant check` passes for each, and finds
//! what is planted in copies of the one in Python. Python and Go have to be there, so these tests have a cargo feature
//! of their own; `.ci/run` runs them.

mod trip;

use std::collections::BTreeSet;

use anyhow::Result;

use crate::trip::Trip;

/// Where the hotel takes the row that it has stored for a trip.
const RETURNS_STORED_ROW: &str = "        if row:\n            return row\n";

#[tokio::test]
async fn hotel_car_and_flight_keep_all_rules() -> Result<()> {
    let trip = Trip::start("hotel car flight", None).await?;

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
    let trip = Trip::start("hotel", Some(fault)).await?;

    let checked = trip.check("HOTEL_BOOK", by_kill.then_some("hotel")).await?;

    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.with_result("broken").contains(rule), "{checked:?}");
    Ok(())
}
