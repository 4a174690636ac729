//! What happened to a saga of a user's flow, in sentences: those that its file has (`words`), and plain ones where it has
//! none.

use std::borrow::Cow;

use flow::{Flow, Meaning, Step, Value, WAITING};

use super::saga::{HistoryBody, SagaBody};
use super::summary::{by_a_person, waits};
use crate::saga::Saga;

/// The sentences, oldest first; the last one says what happens next, or how it ended.
pub fn sentences(saga: &Saga, body: &SagaBody) -> Vec<String> {
    let mut sentences = Vec::new();
    for (at, entry) in body.history.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &body.history[before]);
        sentences.extend(sentence(saga, entry, before, &body.history[..at]));
        if let Some(answer) = body.answer.as_ref().filter(|answer| answer.at.0 == entry.at.0) {
            sentences.push(format!(
                "The answer to its client is {} ({}).",
                answer.status,
                entry.at.0.format("%H:%M:%S%.3f")
            ));
        }
    }
    sentences.push(next(body));
    sentences
}

fn sentence(saga: &Saga, entry: &HistoryBody, before: Option<&HistoryBody>, earlier: &[HistoryBody]) -> Option<String> {
    let at = entry.at.0.format("%H:%M:%S%.3f");
    let Some(before) = before else { return Some(format!("Taken at {at}.")) };
    if let Some(sentence) = by_a_person(entry, &before.step) {
        return Some(sentence);
    }
    let why = entry.reason.as_deref().unwrap_or_default();
    let (step, is_undo) = step_of(&saga.flow, &before.step)?;
    if entry.input == "deadline.passed" {
        let (name, turned_back) = (&before.step, matches!(entry.status.as_str(), "COMPENSATING" | "FAILED"));
        return Some(match (turned_back, step.wait()) {
            (true, None) => {
                format!("{name} had no answer in time at {at}: whether it happened is unknown, so it is undone.")
            }
            (true, Some(wait)) => format!("{name} waited in vain for {} until {at}: it is undone.", wait.signal),
            (false, _) => format!("{name}: {why} ({at})."),
        });
    }
    let words = |kind: &str| step.words.iter().find(|(of, _)| *of == kind).map(|(_, text)| fill(text, saga, step, why));
    let plain = |text: String| Some(text);
    let sentence = match (is_undo, step.means(&entry.input)) {
        (true, _) => {
            let is_known = earlier.iter().any(|entry| matches!(step.means(&entry.input), Some(Meaning::Done(_))));
            let kind = if is_known { "undone" } else { "undone_unknown" };
            words(kind).or_else(|| words("undone")).or_else(|| plain(format!("{} is done", before.step)))
        }
        (false, Some(Meaning::Refused(_))) => {
            words("refused").or_else(|| plain(format!("{} was refused: {why}", step.name)))
        }
        (false, Some(Meaning::Progress(_))) => plain(format!("{} has reported {}", step.name, entry.input)),
        (false, _) => words("done").or_else(|| plain(format!("{} is done", step.name))),
    };
    Some(format!("{} ({at}).", sentence?.trim_end_matches('.')))
}

/// The step of this name, or whose undo has it.
fn step_of<'a>(flow: &'a Flow, name: &str) -> Option<(&'a Step, bool)> {
    let forward = flow.steps.iter().find(|step| step.name == *name).map(|step| (step, false));
    let undone = |step: &&Step| step.undo.as_ref().is_some_and(|undo| undo.name == *name);
    forward.or_else(|| flow.steps.iter().find(undone).map(|step| (step, true)))
}

/// Replaces `{money}`, `{reason}` and the names of kept fields.
fn fill(text: &str, saga: &Saga, step: &Step, reason: &str) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, name, after)) = placeholder(rest) {
        filled += before;
        filled += &match name {
            "reason" => Cow::Borrowed(reason),
            "money" => saga.request.money.map_or(Cow::Borrowed(""), |money| money.to_string().into()),
            field => saga.kept.get(&step.name, field).map_or(Cow::Borrowed("unknown"), shown),
        };
        rest = after;
    }
    filled + rest
}

fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// A kept value as people read it: a text without its quotes.
fn shown(value: &Value) -> Cow<'_, str> {
    let mut json = Vec::new();
    value.write(&mut json);
    match serde_json::from_slice::<String>(&json) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(&json).into_owned().into(),
    }
}

fn next(body: &SagaBody) -> String {
    let took = format!("{:.3} s", body.duration_ms / 1000.0);
    match (&body.pending, body.status) {
        (Some(pending), WAITING) if step_of(&body.flow, &body.step).is_some_and(|(step, _)| step.wait().is_some()) => {
            let until = pending.deadline_at.map(|at| format!(" until {}", at.0.format("%Y-%m-%d %H:%M:%S")));
            format!("Now it waits for {}{}.", pending.effect.effect, until.unwrap_or_default())
        }
        (Some(pending), _) => waits(&body.step, pending),
        (None, "COMPLETED") => format!("Completed after {took}."),
        (None, _) if body.resolved_by_hand => {
            format!("Ended after {took} as {}, settled by hand: participants may still hold something.", body.step)
        }
        (None, _) => format!("Failed after {took} ({}): all that was done is undone.", body.step),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flow::{Kept, Origin, Record, check};
    use messages::{OrderId, SagaId, Timestamp};

    use super::*;
    use crate::saga::start;
    use crate::views::summary::tests::{entry, sold_out};

    fn trip() -> Saga {
        let text = include_str!("../../../examples/trip/trip.v1.yaml");
        let flow = check(text, Origin::User).unwrap();
        let json =
            r#"{"traveller":"ann","budget":"900.00","from":"BER","to":"LIS","out":"2027-05-01","back":"2027-05-08"}"#;
        let request = flow.read_start(json).unwrap();
        let now = Timestamp::default();
        let saga = start(Arc::clone(&flow), SagaId::new(), OrderId::new(), request, now, None, now).saga;
        let reply = Record(vec![("bookingRef".into(), Value::Text("H-1".to_owned()))]);
        Saga { kept: Kept::default().with("HOTEL_BOOK", &["bookingRef".to_owned()], &reply), ..saga }
    }

    #[test]
    fn a_story_has_the_words_of_the_flow_and_plain_ones_where_it_has_none() {
        let body = SagaBody {
            step: "NO_SEAT".to_owned(),
            history: vec![
                entry(1, "started", "RUNNING", "HOTEL_BOOK", None),
                entry(2, "trip.hotel.booked", "RUNNING", "CAR_RENT", None),
                entry(3, "trip.car.rented", "RUNNING", "FLIGHT_TICKET", None),
                entry(4, "trip.flight.refused", "COMPENSATING", "CAR_RETURN", Some("no seat")),
                entry(5, "trip.car.returned", "COMPENSATING", "HOTEL_CANCEL", None),
                entry(6, "trip.hotel.cancelled", "FAILED", "NO_SEAT", None),
            ],
            ..sold_out()
        };
        assert_eq!(
            sentences(&trip(), &body),
            [
                "Taken at 12:00:00.010.",
                "Hotel booked (H-1) (12:00:00.020).",
                "Car rented (unknown) (12:00:00.030).",
                "FLIGHT_TICKET was refused: no seat (12:00:00.040).",
                "The car was returned (12:00:00.050).",
                "The hotel was cancelled (12:00:00.060).",
                "Failed after 0.060 s (NO_SEAT): all that was done is undone.",
            ]
        );
    }
}
