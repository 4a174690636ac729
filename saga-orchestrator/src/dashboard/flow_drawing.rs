//! A flow as a picture: its steps from top to bottom, beside each what undoes it, where the pivot and the answer stand, and,
//! where it is known, what goes on at each of them.

use flow::{Action, Ask, Asked, Flow, Step, WAITING};
use maud::{Markup, html};

/// The drawing's width, in its own units.
const WIDTH: f64 = 1000.0;
const BOX: (f64, f64) = (430.0, 62.0);
/// Where the boxes of steps begin, and those of undos.
const STEPS: f64 = 20.0;
const UNDOS: f64 = WIDTH - BOX.0 - 20.0;
/// Between two rows: room for an arrow, and for a line with words.
const GAP: f64 = 30.0;
const MARK: f64 = 26.0;
/// Above the first row and below the last.
const END: f64 = 30.0;

/// What is said of a place, beside what the flow says.
pub struct Note {
    pub text: String,
    /// The class that gives it its colour.
    pub tone: &'static str,
}

/// Draws a flow. `notes` has what is known of a place (`sagas.status` and `sagas.step`), at most two short lines; `here` is
/// where the saga stands that the picture is about.
pub fn draw(flow: &Flow, notes: impl Fn(&str, &str) -> Vec<Note>, here: Option<(&str, &str)>) -> Markup {
    let tops = tops(flow);
    let bottom =
        tops.last().map_or(0.0, |top| top + BOX.1) + marks(flow, flow.steps.len() - 1).len() as f64 * MARK + GAP;
    let here = here.map(|(status, step)| (if status == WAITING { "RUNNING" } else { status }, step));
    let is_here = |status: &str, step: &str| here == Some((status, step));
    let failed = here.filter(|(status, _)| *status == "FAILED").map_or("FAILED", |(_, cause)| cause);
    html! {
        svg.flow viewBox={ "0 0 " (WIDTH) " " (bottom + END) } role="img" aria-label=(spoken(flow)) {
            defs { marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" { path d="M0 0 8 4 0 8z" {} } }
            text.end x=(STEPS + BOX.0 / 2.0) y="18" text-anchor="middle" { (start(flow)) }
            text.end.here[is_here("FAILED", failed)] x=(UNDOS + BOX.0 / 2.0) y="18" text-anchor="middle" { (failed) }
            @for (at, (step, top)) in flow.steps.iter().zip(&tops).enumerate() {
                (arrow(STEPS + BOX.0 / 2.0, if at == 0 { 24.0 } else { tops[at - 1] + BOX.1 }, *top))
                (place(STEPS, *top, ("RUNNING", &step.name), &asks(step), &notes, is_here("RUNNING", &step.name)))
                @if let Some(undo) = &step.undo {
                    line.undo x1=(STEPS + BOX.0) x2=(UNDOS - 4.0) y1=(top + BOX.1 / 2.0) y2=(top + BOX.1 / 2.0) marker-end="url(#tip)" {}
                    (arrow(UNDOS + BOX.0 / 2.0, *top, undone_before(flow, at).map_or(24.0, |before| tops[before] + BOX.1)))
                    (place(UNDOS, *top, ("COMPENSATING", &undo.name), topic(&undo.ask), &notes, is_here("COMPENSATING", &undo.name)))
                } @else {
                    text.dim x=(UNDOS + BOX.0 / 2.0) y=(top + BOX.1 / 2.0 + 4.0) text-anchor="middle" {
                        @if at < flow.pivot { "nothing is left to undo" } @else { "is never undone" }
                    }
                }
                @for (number, mark) in marks(flow, at).iter().enumerate() {
                    @let y = top + BOX.1 + MARK * number as f64 + 20.0;
                    line.mark x1=(STEPS) x2=(WIDTH - 20.0) y1=(y + 5.0) y2=(y + 5.0) {}
                    text.mark x=(WIDTH - 20.0) y=(y) text-anchor="end" { (mark) }
                }
            }
            (arrow(STEPS + BOX.0 / 2.0, tops.last().map_or(0.0, |top| top + BOX.1), bottom))
            text.end.here[is_here("COMPLETED", "COMPLETED")] x=(STEPS + BOX.0 / 2.0) y=(bottom + 18.0) text-anchor="middle" { "COMPLETED" }
        }
    }
}

/// Where each row begins.
fn tops(flow: &Flow) -> Vec<f64> {
    let mut top = END + 14.0;
    let row = |at: usize| {
        let this = top;
        top += BOX.1 + GAP + marks(flow, at).len() as f64 * MARK;
        this
    };
    (0..flow.steps.len()).map(row).collect()
}

/// What stands below a step.
fn marks(flow: &Flow, at: usize) -> Vec<String> {
    let pivot = (at == flow.pivot).then(|| "pivot: behind it nothing turns back".to_owned());
    let answer = (at == flow.answer.after).then(|| format!("the client is answered: {}", flow.answer.done));
    pivot.into_iter().chain(answer).collect()
}

/// The step before this one that has something to undo.
fn undone_before(flow: &Flow, at: usize) -> Option<usize> {
    flow.steps[..at].iter().rposition(|step| step.undo.is_some())
}

fn start(flow: &Flow) -> String {
    format!("POST {}", flow.start.route.clone().unwrap_or_else(|| format!("/flows/{}", flow.name)))
}

fn asks(step: &Step) -> String {
    match &step.action {
        Action::Ask(ask) => topic(ask).to_owned(),
        Action::Wait(wait) => format!("waits for {}", wait.signal),
    }
}

fn topic(ask: &Ask) -> &str {
    let (Asked::Topic(name) | Asked::Action(name)) = &ask.of;
    name
}

fn place(
    x: f64,
    y: f64,
    (status, name): (&str, &str),
    asks: &str,
    notes: &impl Fn(&str, &str) -> Vec<Note>,
    is_here: bool,
) -> Markup {
    html! {
        g class={ "place " (if status == "RUNNING" { "ahead" } else { "back" }) @if is_here { " here" } } {
            title { (name) ": " (asks) @if is_here { " (it stands here)" } }
            rect x=(x) y=(y) width=(BOX.0) height=(BOX.1) rx="10" {}
            text.name x=(x + 14.0) y=(y + 25.0) { (name) }
            text.asks x=(x + 14.0) y=(y + 46.0) { (shortened(asks)) }
            @for (number, note) in notes(status, name).iter().take(2).enumerate() {
                text class={ "note " (note.tone) } x=(x + BOX.0 - 14.0) y=(y + 25.0 + 21.0 * number as f64) text-anchor="end" { (note.text) }
            }
        }
    }
}

/// A topic's name is at most 200 bytes long, the box is not.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(32) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn arrow(x: f64, from: f64, to: f64) -> Markup {
    let to = if to > from { to - 3.0 } else { to + 3.0 };
    html! { line.arrow x1=(x) x2=(x) y1=(from) y2=(to) marker-end="url(#tip)" {} }
}

/// For those who can't see it.
fn spoken(flow: &Flow) -> String {
    let step = |step: &Step| match &step.undo {
        Some(undo) => format!("{}, undone by {}", step.name, undo.name),
        None => format!("{}, never undone", step.name),
    };
    let steps: Vec<String> = flow.steps.iter().map(step).collect();
    let (pivot, answer) = (&flow.steps[flow.pivot].name, &flow.steps[flow.answer.after].name);
    format!("{}. Pivot: {pivot}. The client is answered after {answer}.", steps.join("; "))
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;

    #[test]
    fn a_picture_has_all_steps_and_undos_and_marks_one_place() {
        let flow = check(include_str!("../../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        let note = |status: &str, _: &str| vec![Note { text: format!("<{status}>"), tone: "dim" }];
        let drawn = draw(&flow, note, Some(("COMPENSATING", "HOTEL_CANCEL"))).into_string();
        for name in ["HOTEL_BOOK", "HOTEL_CANCEL", "CAR_RENT", "CAR_RETURN", "FLIGHT_TICKET", "is never undone", "201"]
        {
            assert!(drawn.contains(name), "no {name} in {drawn}");
        }
        assert_eq!(drawn.matches("\"place ahead\"").count(), 3);
        assert_eq!(drawn.matches(" here\"").count(), 1, "{drawn}");
        assert!(drawn.contains("&lt;COMPENSATING&gt;"), "{drawn}");
        assert_eq!(tops(&flow).len(), 3);
    }

    #[test]
    fn an_undo_leads_to_the_next_one_that_there_is() {
        let flow = crate::saga::flows::pay_first();
        assert_eq!(
            [undone_before(&flow, 0), undone_before(&flow, 2), undone_before(&flow, 3)],
            [None, Some(1), Some(2)]
        );
    }
}
