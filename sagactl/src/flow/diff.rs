//! What one flow says and another does not.

use flow::Flow;
use serde_json::{Value, json};

use super::draw::asked;
use super::facts::{Fact, facts};
use crate::paint::{Paint, harmless, table};

/// A flow beside another one.
pub struct Diff<'a> {
    old: &'a Flow,
    new: &'a Flow,
    pub all: Vec<Difference>,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The part of the flow: `start`, `limits`, `answer`, `causes`, `steps`, or a step's name.
    pub part: String,
    pub key: String,
    /// `None`: it was added.
    pub old: Option<String>,
    /// `None`: it was removed.
    pub new: Option<String>,
}

impl<'a> Diff<'a> {
    pub fn of(old: &'a Flow, new: &'a Flow) -> Self {
        let mut all = Vec::new();
        if old.name != new.name {
            all.push(Difference::new("flow", "name", Some(&old.name), Some(&new.name)));
        }
        steps(old, new, &mut all);
        let (said, says) = (facts(old), facts(new));
        let is_in_both = |fact: &&Fact| {
            let is_step = |flow: &Flow| flow.steps.iter().any(|step| step.name == fact.part);
            is_step(old) == is_step(new)
        };
        let same = |fact: &Fact, other: &Fact| (&fact.part, &fact.key) == (&other.part, &other.key);
        for fact in said.iter().filter(is_in_both) {
            let now = says.iter().find(|other| same(fact, other)).map(|other| other.value.as_str());
            if now != Some(&fact.value) {
                all.push(Difference::new(&fact.part, &fact.key, Some(&fact.value), now));
            }
        }
        for fact in says.iter().filter(is_in_both) {
            if !said.iter().any(|other| same(fact, other)) {
                all.push(Difference::new(&fact.part, &fact.key, None, Some(&fact.value)));
            }
        }
        // Part by part, as they stand in the new flow; what is gone stays where it stood.
        let place = |part: &str| {
            let find = |facts: &[Fact]| facts.iter().position(|fact| fact.part == part);
            find(&says).or_else(|| find(&said))
        };
        all.sort_by_key(|difference| place(&difference.part));
        Self { old, new, all }
    }

    /// Whether one file is the other, byte for byte.
    pub fn is_same_file(&self) -> bool {
        self.old.digest == self.new.digest
    }

    /// A line for each difference. `unfinished`: how many sagas still run by the old version, where that is known.
    pub fn to_text(&self, unfinished: Option<u64>, paint: Paint) -> String {
        let title = |flow: &Flow| format!("{} v{} ({})", flow.name, flow.version, &flow.digest[..12]);
        let mut lines = vec![paint.bold(&format!("{} -> {}", title(self.old), title(self.new)))];
        let rows: Vec<Vec<String>> = self.all.iter().map(Difference::row).collect();
        if !rows.is_empty() {
            let lines_of = table(&["", "PART", "WHAT"], &rows, |row, column, cell| match (column, &*rows[row][0]) {
                (0, "+") => paint.state("COMPLETED", &cell),
                (0, "-") => paint.state("FAILED", &cell),
                _ => cell,
            });
            lines.push(lines_of);
        } else if self.is_same_file() {
            lines.push("the same file".to_owned());
        } else {
            lines.push("the same flow: comments, layout or tests differ".to_owned());
        }
        if self.old.version == self.new.version && self.old.name == self.new.name && !self.is_same_file() {
            lines.push(format!(
                "Both are version {}. A published version never changes: give the new file another version.",
                self.old.version
            ));
        }
        if let Some(unfinished) = unfinished {
            lines.push(match unfinished {
                1 => format!("1 saga still runs by v{}, and ends by it.", self.old.version),
                _ => format!("{unfinished} sagas still run by v{}, and end by it.", self.old.version),
            });
        }
        lines.join("\n")
    }

    /// The same as an object.
    pub fn to_json(&self, unfinished: Option<u64>) -> Value {
        let flow = |flow: &Flow| json!({"name": flow.name, "version": flow.version, "digest": flow.digest});
        let difference =
            |Difference { part, key, old, new }: &Difference| json!({"part": part, "key": key, "old": old, "new": new});
        json!({
            "old": flow(self.old), "new": flow(self.new), "unfinished": unfinished,
            "differences": self.all.iter().map(difference).collect::<Vec<_>>(),
        })
    }
}

/// Steps that are there in one of them only, and those in another order.
fn steps(old: &Flow, new: &Flow, all: &mut Vec<Difference>) {
    let has = |flow: &Flow, name: &str| flow.steps.iter().any(|step| step.name == *name);
    let describe = |flow: &Flow, place: usize| {
        let step = &flow.steps[place];
        let undo = step.undo.as_ref().map(|undo| format!(", undone by {}", undo.name)).unwrap_or_default();
        let number = format!("number {} of {}", place + 1, flow.steps.len());
        format!("{}{undo}, {number}", asked(&step.action))
    };
    for (place, step) in old.steps.iter().enumerate().filter(|(_, step)| !has(new, &step.name)) {
        all.push(Difference::new(&step.name, "step", Some(&describe(old, place)), None));
    }
    for (place, step) in new.steps.iter().enumerate().filter(|(_, step)| !has(old, &step.name)) {
        all.push(Difference::new(&step.name, "step", None, Some(&describe(new, place))));
    }
    let common = |flow: &Flow, other: &Flow| {
        let names = flow.steps.iter().map(|step| step.name.as_str()).filter(|name| has(other, name));
        names.collect::<Vec<_>>().join(", ")
    };
    let (before, after) = (common(old, new), common(new, old));
    if before != after {
        all.push(Difference::new("steps", "order", Some(&before), Some(&after)));
    }
}

impl Difference {
    fn new(part: &str, key: &str, old: Option<&str>, new: Option<&str>) -> Self {
        Self { part: part.to_owned(), key: key.to_owned(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
    }

    fn row(&self) -> Vec<String> {
        let (sign, what) = match (&self.old, &self.new) {
            (Some(old), Some(new)) => ("~", format!("{}: {old} -> {new}", self.key)),
            (Some(value), None) => ("-", self.said(value)),
            (None, Some(value)) => ("+", self.said(value)),
            (None, None) => ("", String::new()),
        };
        vec![sign.to_owned(), self.part.clone(), harmless(&what)]
    }

    fn said(&self, value: &str) -> String {
        if value.is_empty() { self.key.clone() } else { format!("{}: {value}", self.key) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flow::{Origin, check};

    use super::*;
    use crate::paint::Color;

    const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

    fn flow(changes: &[(&str, &str)]) -> Arc<Flow> {
        let mut text = TRIP.to_owned();
        for (old, new) in changes {
            assert_eq!(text.matches(old).count(), 1, "{old:?}");
            text = text.replace(old, new);
        }
        check(&text, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"))
    }

    /// The lines of a step, its own comments included, up to the next one.
    fn step(name: &str) -> String {
        let from = TRIP.find(&format!("  - step: {name}")).unwrap();
        let length = TRIP[from + 1..].find("\n  - step: ").unwrap() + 2;
        TRIP[from..from + length].to_owned()
    }

    fn text(old: &Flow, new: &Flow, unfinished: Option<u64>) -> String {
        Diff::of(old, new).to_text(unfinished, Paint::new(Color::Never))
    }

    #[test]
    fn limits_answers_inputs_payloads_events_and_causes_that_differ_are_shown_part_by_part() {
        let new = flow(&[
            ("version: 1\n", "version: 2\n"),
            (
                "    back:      { type: date }\n",
                "    back:      { type: date }\n    seats:     { type: count, most: 9 }\n",
            ),
            ("reach_pivot_within: 3m", "reach_pivot_within: 5m"),
            ("failed: { TIMED_OUT: 504, otherwise: 409 }", "failed: { HOTEL_FULL: 410, otherwise: 409 }"),
            ("car: $CAR_RENT.bookingRef, ", ""),
            ("cause: HOTEL_FULL, reason", "cause: NO_ROOM, reason"),
            ("failed: { HOTEL_FULL", "failed: { NO_ROOM"),
            ("city: $input.to, arrive", "city: $input.to, seats: $input.seats, arrive"),
            ("price: { type: money }", "price: { type: money, optional: true }"),
            ("done: trip.car.returned }", "done: trip.car.back }"),
            ("trip.car.returned, trip.hotel.cancelled]", "trip.car.back, trip.hotel.cancelled]"),
            ("words: { done: \"Ticket {ticketNumber} issued\" }", "words: { done: \"Ticket {ticketNumber}\" }"),
            ("from: BER, to: LIS, out", "from: BER, to: LIS, seats: 1, out"),
        ]);

        insta::assert_snapshot!(text(&flow(&[]), &new, Some(12)));
    }

    #[test]
    fn a_step_that_is_gone_is_one_line_and_so_is_one_that_is_new() {
        let new = flow(&[
            ("version: 1\n", "version: 2\n"),
            (&step("CAR_RENT"), ""),
            ("car: $CAR_RENT.bookingRef, ", ""),
            ("[trip.hotel.booked, trip.car.rented, ", "[trip.hotel.booked, "),
            ("trip.car.returned, ", ""),
            ("HOTEL_BOOK, CAR_RENT, FLIGHT", "HOTEL_BOOK, FLIGHT"),
            ("CAR_RETURN, ", ""),
        ]);
        let (removed, added) = (text(&flow(&[]), &new, Some(1)), text(&new, &flow(&[]), None));

        insta::assert_snapshot!(format!("{removed}\n\n{added}"));
    }

    #[test]
    fn steps_in_another_order_are_reported_as_that_alone() {
        let (hotel, car) = (step("HOTEL_BOOK"), step("CAR_RENT"));
        let new = flow(&[
            (&format!("{hotel}{car}"), &format!("{car}{hotel}")),
            ("[trip.hotel.booked, trip.car.rented, ", "[trip.car.rented, trip.hotel.booked, "),
            ("trip.car.returned, trip.hotel.cancelled]", "trip.hotel.cancelled, trip.car.returned]"),
            ("[HOTEL_BOOK, CAR_RENT, FLIGHT", "[CAR_RENT, HOTEL_BOOK, FLIGHT"),
            ("CAR_RETURN, HOTEL_CANCEL, FAILED", "HOTEL_CANCEL, CAR_RETURN, FAILED"),
        ]);

        let diff = Diff::of(&flow(&[]), &new).all;

        let (before, after) = ("HOTEL_BOOK, CAR_RENT, FLIGHT_TICKET", "CAR_RENT, HOTEL_BOOK, FLIGHT_TICKET");
        assert_eq!(diff[0], Difference::new("steps", "order", Some(before), Some(after)));
        // The causes are in the order of the steps that refuse.
        assert_eq!(diff.len(), 1, "{diff:?}");
    }

    #[test]
    fn another_file_of_the_same_version_is_named_as_what_can_not_be_published() {
        let (old, commented) = (flow(&[]), flow(&[("format: 1", "format: 1 # today's")]));

        assert!(text(&old, &old, None).ends_with("\nthe same file"));
        let text = text(&old, &commented, Some(0));
        assert!(text.contains("\nthe same flow: comments, layout or tests differ\nBoth are version 1. "), "{text}");
        assert!(text.ends_with("\n0 sagas still run by v1, and end by it."), "{text}");
        let json = Diff::of(&old, &commented).to_json(Some(0));
        assert_eq!(
            (&json["unfinished"], &json["differences"], &json["old"]["version"]),
            (&json!(0), &json!([]), &json!(1))
        );
    }

    #[test]
    fn each_key_of_a_flow_is_a_fact_of_its_own() {
        for source in [TRIP, include_str!("../../../flows/pay-first.v1.yaml")] {
            let flow = check(source, Origin::BuiltIn).unwrap();
            let mut keys: Vec<_> = facts(&flow).into_iter().map(|fact| (fact.part, fact.key)).collect();
            let count = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), count);
        }
    }
}
