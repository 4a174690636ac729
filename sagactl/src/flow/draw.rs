//! A flow drawn for a terminal.

use flow::{Action, Asked, Flow};

use crate::paint::Paint;

/// A line for each step: what is asked, and to the right what undoes it.
pub fn steps(flow: &Flow, paint: Paint) -> String {
    let names = flow.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
    let asks: Vec<_> = flow.steps.iter().map(|step| asked(&step.action)).collect();
    let width = asks.iter().map(String::len).max().unwrap_or_default();
    let mut lines = Vec::new();
    for (place, (step, ask)) in flow.steps.iter().zip(&asks).enumerate() {
        let undo = match &step.undo {
            Some(undo) => format!("<- {} ({})", undo.name, asked(&Action::Ask(undo.ask.clone()))),
            None => String::new(),
        };
        let mut notes = Vec::new();
        if place == flow.pivot {
            notes.push("pivot".to_owned());
        }
        if place == flow.answer.after {
            notes.push(format!("answer {}", flow.answer.done));
        }
        if flow.cancel.is_some_and(|cancel| cancel.until == place) {
            notes.push("no cancel from here on".to_owned());
        }
        let notes = if notes.is_empty() { String::new() } else { format!("[{}]", notes.join(", ")) };
        let line = format!("  {:names$}  {ask:width$}  {}{}", step.name, paint.dim(&undo), paint.bold(&notes));
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// What a step asks, or waits for.
pub fn asked(action: &Action) -> String {
    match action {
        Action::Wait(wait) => format!("waits for {}", wait.signal),
        Action::Ask(ask) => match &ask.of {
            Asked::Topic(name) | Asked::Action(name) => name.clone(),
        },
    }
}
