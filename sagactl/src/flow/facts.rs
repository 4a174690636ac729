//! What a flow says, fact by fact: each with where it stands, so that two flows can be compared.

use flow::payload::Payload;
use flow::shape::Shape;
use flow::{Action, Ask, Done, Flow, Late, Progress, Reach, Refused, Slot, Source, Step, UndoStep, Wait};

use super::draw::asked;

/// One thing that a flow says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The part of the flow: `start`, `limits`, `answer`, `causes`, or a step's name.
    pub part: String,
    pub key: String,
    pub value: String,
}

/// All that a flow says, but for its tests, in the order of the file.
pub fn facts(flow: &Flow) -> Vec<Fact> {
    let mut facts = Facts { part: String::new(), all: Vec::new() };
    facts.start(flow);
    facts.limits(flow);
    facts.answer(flow);
    facts.part("causes");
    for cause in &flow.causes {
        facts.add(cause.as_str(), "");
    }
    flow.steps.iter().for_each(|step| facts.step(step));
    facts.all
}

struct Facts {
    part: String,
    all: Vec<Fact>,
}

impl Facts {
    fn part(&mut self, part: &str) {
        part.clone_into(&mut self.part);
    }

    fn add(&mut self, key: &str, value: impl Into<String>) {
        self.all.push(Fact { part: self.part.clone(), key: key.to_owned(), value: value.into() });
    }

    fn start(&mut self, flow: &Flow) {
        let start = &flow.start;
        self.part("start");
        for (key, value) in [("route", &start.route), ("topic", &start.topic)] {
            value.iter().for_each(|value| self.add(key, value));
        }
        self.add("subject", &start.subject);
        self.add("owner", slot(&start.owner));
        if let Some((amount, currency)) = &start.money {
            self.add("money", format!("{} {}", slot(amount), slot(currency)));
        }
        for (name, of) in &start.input {
            self.add(&format!("input.{name}"), shape(of));
        }
    }

    fn limits(&mut self, flow: &Flow) {
        self.part("limits");
        self.add("pivot", flow.steps[flow.pivot].name.as_str());
        match flow.reach {
            Some(Reach::Pivot(limit)) => self.add("reach_pivot_within", time(limit)),
            Some(Reach::Answer(limit)) => self.add("reach_answer_within", time(limit)),
            None => {}
        }
        if let Some(cancel) = flow.cancel {
            let by = [(cancel.by_owner, "owner"), (cancel.by_operator, "operator")];
            let by: Vec<&str> = by.into_iter().filter_map(|(may, who)| may.then_some(who)).collect();
            self.add("cancel", format!("by {} until {}", by.join(" and "), flow.steps[cancel.until].name));
        }
        let repeat = flow.repeat;
        let after = repeat.attention_after;
        let text = format!("first {}, most {}, attention after {after}", time(repeat.first), time(repeat.most));
        self.add("repeat", text);
    }

    fn answer(&mut self, flow: &Flow) {
        let answer = &flow.answer;
        self.part("answer");
        self.add("after", flow.steps[answer.after].name.as_str());
        self.add("final", answer.is_final.to_string());
        self.add("done", answer.done.to_string());
        for (cause, status) in &answer.failed {
            self.add(&format!("failed.{cause}"), status.to_string());
        }
        self.add("failed.otherwise", answer.otherwise.to_string());
        if let Some(body) = &answer.body {
            self.payload("body", body);
        }
    }

    fn step(&mut self, step: &Step) {
        self.part(&step.name);
        if let Some(status) = &step.order_status {
            self.add("order", status);
        }
        if let Some(within) = step.within {
            self.add("within", time(within));
            self.add("late", late(&step.late));
        }
        match &step.action {
            Action::Ask(ask) => self.ask("", ask),
            Action::Wait(Wait { signal, matched, keep }) => {
                self.add("wait", format!("{signal}, matched by {}", slot(matched)));
                for (name, of) in keep {
                    self.add(&format!("wait.{name}"), shape(of));
                }
            }
        }
        step.done.iter().for_each(|event| self.done("done", event));
        for Refused { event, cause, reason, undo_this_step } in &step.refused {
            let reason = reason.as_ref().map(|reason| format!(", reason {}", slot(reason))).unwrap_or_default();
            let undo = if *undo_this_step { ", undone itself" } else { "" };
            self.add(&format!("refused.{event}"), format!("{cause}{reason}{undo}"));
        }
        for Progress { event, fields, keep, within, is_answered } in &step.progress {
            let answer = if *is_answered { ", answer 202" } else { "" };
            let read = reads(fields, keep);
            self.add(&format!("progress.{event}"), format!("within {}{answer}{read}", time(*within)));
        }
        match &step.undo {
            None => self.add("undo", "none"),
            Some(UndoStep { name, ask, done }) => {
                self.add("undo", name.as_str());
                self.ask("undo.", ask);
                done.iter().for_each(|event| self.done("undo.done", event));
            }
        }
        for (kind, text) in &step.words {
            self.add(&format!("words.{kind}"), text);
        }
    }

    fn ask(&mut self, before: &str, ask: &Ask) {
        self.add(&format!("{before}ask"), asked(&Action::Ask(ask.clone())));
        self.payload(&format!("{before}send"), &ask.send);
    }

    fn done(&mut self, kind: &str, Done { event, money_agrees, fields, keep }: &Done) {
        let agrees = if *money_agrees { ", its money has to be the saga's" } else { "" };
        let text = format!("{}{agrees}", reads(fields, keep));
        self.add(&format!("{kind}.{event}"), text.trim_start_matches(", "));
    }

    /// Field by field, where it has fields.
    fn payload(&mut self, key: &str, payload: &Payload) {
        match payload {
            Payload::Object(fields) if !fields.is_empty() => {
                fields.iter().for_each(|(name, value)| self.payload(&format!("{key}.{name}"), value));
            }
            _ => self.add(key, self::payload(payload)),
        }
    }
}

/// What is read of an event, and what is kept of that.
fn reads(fields: &[(String, Shape)], keep: &[String]) -> String {
    let fields = fields.iter().map(|(name, of)| format!(", {name}: {}", shape(of)));
    let keep = if keep.is_empty() { String::new() } else { format!(", keeps {}", keep.join(" and ")) };
    fields.chain([keep]).collect()
}

fn late(late: &Late) -> String {
    match late {
        Late::Undo(cause) => format!("undo for {}", cause.as_deref().unwrap_or("TIMED_OUT")),
        Late::Attention => "attention".to_owned(),
        Late::GoOn => "go_on".to_owned(),
    }
}

fn time(limit: std::time::Duration) -> String {
    humantime::format_duration(limit).to_string()
}

/// As a file has it.
fn slot(slot: &Slot) -> String {
    let name = match &slot.source {
        Source::Input(field) => format!("input.{field}"),
        Source::Subject => "start.subject".to_owned(),
        Source::Owner => "start.owner".to_owned(),
        Source::Money => "start.money".to_owned(),
        Source::Cause => "cause".to_owned(),
        Source::Reply(field) => format!("reply.{field}"),
        Source::Kept { step, field } => format!("{step}.{field}"),
    };
    format!("${name}{}", if slot.is_optional { "?" } else { "" })
}

fn payload(of: &Payload) -> String {
    match of {
        Payload::Constant(json) => json.to_string(),
        Payload::Slot(of) => slot(of),
        Payload::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}: {}", payload(value))).collect();
            if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
        }
        Payload::List(items) => format!("[{}]", items.iter().map(payload).collect::<Vec<_>>().join(", ")),
    }
}

/// `text max 128 optional`
fn shape(of: &Shape) -> String {
    let mut words = vec![of.kind.name().to_owned()];
    words.extend(of.max.map(|max| format!("max {max}")));
    words.extend(of.most.map(|most| format!("most {most}")));
    words.extend(of.pattern.as_ref().map(|pattern| format!("pattern {}", pattern.as_str())));
    words.extend(of.default.as_ref().map(|default| format!("default {default}")));
    words.extend(of.is_optional.then(|| "optional".to_owned()));
    if !of.of.is_empty() {
        let fields: Vec<String> = of.of.iter().map(|(name, of)| format!("{name}: {}", shape(of))).collect();
        words.push(format!("of {{ {} }}", fields.join("; ")));
    }
    words.join(" ")
}
