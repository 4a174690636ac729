//! Steps and the three zones: undoable before the pivot, the pivot, forward only behind it.

use crate::file::{At, FlowFile, Late, Step, Undo};
use crate::finding::Findings;
use crate::rule::Rule;

pub fn check(file: &FlowFile, pivot: usize, findings: &mut Findings) {
    for (place, step) in file.steps.iter().enumerate() {
        asked_or_awaited(step, findings);
        if place < pivot {
            before_the_pivot(step, findings);
        } else {
            from_the_pivot(step, place == pivot, findings);
        }
        if let (Some(late), None) = (&step.late, &step.within) {
            findings.report(late.at, Rule::Within, "`late` says what a passed limit means: the step needs `within`");
        }
    }
    if let (Some(_), Some(second)) = (&file.reach_pivot_within, &file.reach_answer_within) {
        let message =
            "`reach_pivot_within` and `reach_answer_within` exclude each other: a saga has one limit as a whole";
        findings.report(second.at, Rule::Choice, message);
    }
    if let Some(cancel) = &file.cancel {
        match file.steps.iter().position(|step| *step.name == *cancel.until) {
            None => unknown(&cancel.until, file, findings),
            Some(until) if until > pivot => {
                let message = format!(
                    "`{}` is behind the pivot: from {} on nothing is cancelled",
                    cancel.until.value, file.pivot.value
                );
                findings.report(cancel.until.at, Rule::Pivot, message);
            }
            Some(_) => {}
        }
    }
}

/// Reports a step that is named and does not exist.
pub fn unknown(name: &At<String>, file: &FlowFile, findings: &mut Findings) {
    let known: Vec<_> = file.steps.iter().map(|step| step.name.as_str()).collect();
    findings.report(
        name.at,
        Rule::UnknownStep,
        format!("`{}` is no step of this flow: {}", name.value, known.join(", ")),
    );
}

fn asked_or_awaited(step: &Step, findings: &mut Findings) {
    let name = &step.name;
    match (&step.ask, &step.wait) {
        (Some(_), None) if step.done.is_empty() => {
            findings.report(name.at, Rule::MissingKey, "a step that asks needs `done`: the event by which it is done");
        }
        (Some(_), None) => {}
        (None, Some(_)) => {
            let replies = step.done.iter().map(|(event, _)| event);
            let replies = replies.chain(step.refused.iter().map(|(event, _)| event));
            for event in replies.chain(step.progress.iter().map(|(event, _)| event)) {
                let message = format!(
                    "`{}`: a step that waits is done by its signal, and asks nobody who could reply",
                    event.value
                );
                findings.report(event.at, Rule::Choice, message);
            }
            if let Undo::By(undo) = &step.undo {
                findings.report(undo.name.at, Rule::Undo, "a signal has no effect that could be undone: `undo: none`");
            }
        }
        _ => findings.report(name.at, Rule::Choice, "a step has either `ask` or `wait`"),
    }
}

fn before_the_pivot(step: &Step, findings: &mut Findings) {
    let name = &step.name;
    if let Undo::Unsaid = step.undo {
        let message = format!(
            "{} is before the pivot: it needs `undo`, or `undo: none` and a comment why nothing has to be undone",
            name.value
        );
        findings.report(name.at, Rule::Undo, message);
    }
    if step.within.is_none() {
        let message = format!("{} is before the pivot: it needs `within`, after which it counts as late", name.value);
        findings.report(name.at, Rule::Within, message);
    }
}

fn from_the_pivot(step: &Step, is_pivot: bool, findings: &mut Findings) {
    let name = &step.name;
    let place = if is_pivot { "the pivot" } else { "behind the pivot" };
    match &step.undo {
        Undo::Unsaid => {}
        Undo::Nothing(at) => {
            findings.report(
                *at,
                Rule::Pivot,
                format!("{} is {place}: nothing is undone there, so leave `undo` out", name.value),
            );
        }
        Undo::By(undo) => {
            findings.report(undo.name.at, Rule::Pivot, format!("{} is {place}: it is never undone", name.value));
        }
    }
    if is_pivot && step.wait.is_some() {
        let message = "the pivot asks: a saga that waits may still be cancelled. Name the step behind the wait";
        return findings.report(name.at, Rule::Pivot, message);
    }
    if let (Some(within), Some(_)) = (&step.within, &step.ask) {
        let message =
            format!("{} is {place}: what it asks is repeated until it is done, so it has no `within`", name.value);
        findings.report(within.at, Rule::Pivot, message);
    }
    if let Some(At { at, value: Late::Undo(_) }) = &step.late {
        findings.report(*at, Rule::Pivot, format!("{} is {place}: `late` is `attention` or `go_on` there", name.value));
    }
    if step.wait.is_some() && step.within.is_some() && step.late.is_none() {
        let message = format!("{} is {place}: say what `late` means, `attention` or `go_on`", name.value);
        findings.report(name.at, Rule::Pivot, message);
    }
    for (event, refusal) in step.refused.iter().filter(|_| !is_pivot) {
        let message = format!(
            "{} is behind the pivot: it can't turn back for {}. A refusal there needs a person; leave it out",
            name.value, refusal.cause.value
        );
        findings.report(event.at, Rule::Pivot, message);
    }
    for (event, refusal) in step.refused.iter().filter(|(_, refusal)| refusal.undo_this_step) {
        let message = format!("{} has no undo: `undo_this_step` of {} means nothing", name.value, refusal.cause.value);
        findings.report(event.at, Rule::Undo, message);
    }
}
