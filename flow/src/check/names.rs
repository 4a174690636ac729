//! Names: what is taken, what is reserved, and what means two things.

use std::collections::HashMap;

use super::Origin;
use crate::file::{Ask, At, FlowFile, Step, Undo};
use crate::finding::Findings;
use crate::rule::Rule;

/// First words of topics, and names of flows, that are the platform's own.
const RESERVED: [&str; 14] = [
    "saga",
    "sagas",
    "flow",
    "flows",
    "signal",
    "signals",
    "order",
    "payment",
    "inventory",
    "fraud",
    "fulfilment",
    "notification",
    "pay-first",
    "reserve-first",
];

/// Those of them whose commands a user's flow may send: the participants that come with the platform.
pub const OUR_PARTICIPANTS: [&str; 5] = ["payment", "inventory", "fraud", "fulfilment", "notification"];

/// Takes the saga's money.
const CREATES_ORDER: &str = "order.create";

/// What the order service does by an HTTP call.
const ACTIONS: [&str; 5] = [CREATES_ORDER, "order.confirm", "order.cancel", "order.close", "order.in-transit"];

/// What stands in `sagas.step` besides steps.
const ENDS: [&str; 3] = ["COMPLETED", "TIMED_OUT", "CANCELLED"];

/// What the names of topics of replies, and of dead letters, end with.
const REPLIES: &str = ".replies";
const LETTERS: &str = ".dlq";

/// What stands in a saga's history for what is neither an event nor a signal: `deadline.passed`, `operator.cancelled`.
const INPUTS: [&str; 3] = ["started", "deadline", "operator"];

/// Likewise, of an owner: one word, so that events that begin with `owner` are free.
const OWNER_CANCELLED: &str = "owner.cancelled";

/// Fields of every message beside the subject's.
const ENVELOPE: [&str; 5] = ["eventId", "causationId", "sagaId", "timestamp", "payload"];

/// Fields of the answer that a saga is started with, likewise.
const ANSWER: [&str; 9] = ["flow", "version", "status", "step", "reason", "owner", "result", "createdAt", "updatedAt"];

pub fn check(file: &FlowFile, origin: Origin, findings: &mut Findings) {
    let subject = &file.start.subject;
    if ENVELOPE.contains(&subject.as_str()) || ANSWER.contains(&subject.as_str()) {
        let message = format!("messages and answers have a field `{}` already: choose another name", subject.value);
        findings.report(subject.at, Rule::Reserved, message);
    }
    step_names(file, findings);
    file.steps.iter().for_each(|step| events(step, origin, findings));
    for ask in asks(file) {
        match (&ask.topic, &ask.action) {
            (Some(_), None) => {}
            (None, Some(action)) if action.value == CREATES_ORDER && file.start.money.is_none() => {
                let message = format!("`{CREATES_ORDER}` creates an order about money: `start` has to name it");
                findings.report(action.at, Rule::Slot, message);
            }
            (None, Some(action)) if ACTIONS.contains(&action.as_str()) => {}
            (None, Some(action)) => {
                let message = format!("`{}` is no built-in action: {}", action.value, ACTIONS.join(", "));
                findings.report(action.at, Rule::Name, message);
            }
            _ => findings.report(ask.at, Rule::Choice, "`ask` has either `topic` or `action`"),
        }
    }
    if origin == Origin::User {
        reserved(file, findings);
    }
}

fn step_names(file: &FlowFile, findings: &mut Findings) {
    let mut lines = HashMap::new();
    for name in file.steps.iter().flat_map(|step| [Some(&step.name), undo_name(step)]).flatten() {
        if ENDS.contains(&name.as_str()) {
            let message = format!("`{}` is how a saga ends: choose another name", name.value);
            findings.report(name.at, Rule::Reserved, message);
        }
        if let Some(line) = lines.insert(name.as_str(), name.at.line) {
            let message =
                format!("`{}` names a step in line {line} already: each step and undo has its own", name.value);
            findings.report(name.at, Rule::DuplicateStep, message);
        }
    }
}

fn undo_name(step: &Step) -> Option<&At<String>> {
    if let Undo::By(undo) = &step.undo { Some(&undo.name) } else { None }
}

/// Within a step, its undo included, an event means one thing; and none is called as something else in the history.
fn events(step: &Step, origin: Origin, findings: &mut Findings) {
    let forward = step.done.iter().map(|(event, _)| (event, "done"));
    let refused = step.refused.iter().map(|(event, _)| (event, "refused"));
    let progress = step.progress.iter().map(|(event, _)| (event, "progress"));
    let undone = match &step.undo {
        Undo::By(undo) => undo.done.as_slice(),
        _ => &[],
    };
    let undone = undone.iter().map(|(event, _)| (event, "undo: done"));
    let signal = step.wait.iter().map(|wait| (&wait.signal, "signal"));
    let mut meanings = HashMap::new();
    for (event, meaning) in forward.chain(refused).chain(progress).chain(undone).chain(signal) {
        let is_taken = INPUTS.contains(&first_word(event)) || event.value == OWNER_CANCELLED;
        if is_taken && origin == Origin::User {
            let message =
                format!("`{}` is what a saga's history calls something else: choose another name", event.value);
            findings.report(event.at, Rule::Reserved, message);
        }
        if let Some(first) = meanings.insert(event.as_str(), meaning) {
            let message = format!("`{}` means `{first}` and `{meaning}` in step {}", event.value, step.name.value);
            findings.report(event.at, Rule::AmbiguousEvent, message);
        }
    }
}

/// All that is asked of anybody, forward and back.
pub fn asks(file: &FlowFile) -> impl Iterator<Item = &At<Ask>> {
    file.steps.iter().flat_map(|step| {
        let undo = if let Undo::By(undo) = &step.undo { Some(&undo.ask) } else { None };
        step.ask.iter().chain(undo)
    })
}

fn reserved(file: &FlowFile, findings: &mut Findings) {
    let flow = file.flow.as_str();
    if RESERVED.contains(&flow) {
        findings.report(file.flow.at, Rule::Reserved, format!("`{flow}` is a name of the platform's: choose another"));
    }
    if let Some(route) = &file.start.route {
        let message = format!("only built-in flows have a route of their own; this one starts by `POST /flows/{flow}`");
        findings.report(route.at, Rule::Reserved, message);
    }
    if let Some(topic) = &file.start.topic {
        start_topic(topic, file, findings);
    }
    let may_ask = |topic: &str| first_word(topic) == flow || OUR_PARTICIPANTS.contains(&first_word(topic));
    let topics = asks(file).filter_map(|ask| ask.topic.as_ref());
    for topic in topics.filter(|topic| !may_ask(topic)) {
        let message = format!(
            "`{}` is another flow's topic: a topic of this flow begins with `{flow}.`, one of the platform's participants with {}",
            topic.value,
            OUR_PARTICIPANTS.map(|name| format!("`{name}.`")).join(", ")
        );
        findings.report(topic.at, Rule::Reserved, message);
    }
}

/// The topic of events that start sagas is the flow's own, and nothing else is on it.
fn start_topic(topic: &At<String>, file: &FlowFile, findings: &mut Findings) {
    let (flow, name) = (file.flow.as_str(), topic.as_str());
    if first_word(name) != flow {
        let message = format!("`{name}` is not this flow's: a topic that starts its sagas begins with `{flow}.`");
        findings.report(topic.at, Rule::Reserved, message);
    }
    let is_asked = asks(file).filter_map(|ask| ask.topic.as_ref()).any(|asked| asked.as_str() == name);
    if is_asked || name.ends_with(REPLIES) || name.ends_with(LETTERS) {
        let message = format!("`{name}` has other records: those that start sagas need a topic of their own");
        findings.report(topic.at, Rule::Reserved, message);
    }
}

pub fn first_word(topic: &str) -> &str {
    topic.split('.').next().unwrap_or_default()
}
