//! Slots: each is filled when its payload is sent, or says by `?` that it may be null.

use messages::MAX_SIGNAL_MATCH;

use crate::file::{At, FlowFile, Late, Step, Undo};
use crate::finding::Findings;
use crate::rule::Rule;
use crate::shape::{Shape, ShapeKind};
use crate::slot::{Slot, Source};

pub fn check(file: &FlowFile, findings: &mut Findings) {
    start(file, findings);
    let scope = |place, undoes, reads_reply| Scope { file, place, undoes, reads_reply };
    for (place, step) in file.steps.iter().enumerate() {
        if let Some(ask) = &step.ask {
            ask.send.slots().into_iter().for_each(|slot| scope(place, false, false).check(slot, findings));
        }
        if let Some(wait) = &step.wait {
            scope(place, false, false).check(&wait.matched, findings);
            matched(file, &wait.matched, findings);
        }
        for (_, refusal) in &step.refused {
            refusal.reason.iter().for_each(|reason| scope(place, false, true).check(reason, findings));
        }
        agreements(&step.done, file, findings);
        if let Undo::By(undo) = &step.undo {
            undo.ask.send.slots().into_iter().for_each(|slot| scope(place, true, false).check(slot, findings));
            agreements(&undo.done, file, findings);
        }
    }
    if let Some(answered) = file.steps.iter().position(|step| *step.name == *file.answer.after)
        && let Some(body) = &file.answer.body
    {
        // Behind the step that it follows.
        body.slots().into_iter().for_each(|slot| scope(answered + 1, false, false).check(slot, findings));
    }
}

fn start(file: &FlowFile, findings: &mut Findings) {
    let is_text = [ShapeKind::Text, ShapeKind::UserId, ShapeKind::Email];
    let mut wanted = vec![(&file.start.owner, &is_text[..], "a text")];
    if let Some(money) = &file.start.money {
        wanted.push((&money.amount, &[ShapeKind::Amount], "an `amount`"));
        wanted.push((&money.currency, &[ShapeKind::Currency], "a `currency`"));
    }
    for (slot, kinds, what) in wanted {
        let shape = if let Source::Input(name) = &slot.source { input(file, name) } else { None };
        if !shape.is_some_and(|shape| kinds.contains(&shape.kind) && !shape.may_be_missing()) {
            findings.report(
                slot.at,
                Rule::Slot,
                format!("this has to be a field of the input that is {what} and never missing"),
            );
        }
    }
}

/// A signal names a short text: it stands in an index.
fn matched(file: &FlowFile, slot: &At<Slot>, findings: &mut Findings) {
    let is_short = |shape: &Shape| match shape.kind {
        ShapeKind::Text => shape.max.is_none_or(|max| max <= MAX_SIGNAL_MATCH),
        ShapeKind::UserId | ShapeKind::Email | ShapeKind::Sku => true,
        _ => false,
    };
    let is_text = match &slot.source {
        Source::Subject | Source::Owner => true,
        Source::Input(name) => input(file, name).is_none_or(is_short),
        Source::Kept { step, field } => {
            let step = file.steps.iter().find(|known| *known.name == *step);
            step.is_none_or(|step| {
                step.fields().filter(|(name, _)| name.value == *field).all(|(_, shape)| is_short(shape))
            })
        }
        Source::Money | Source::Cause | Source::Reply(_) => false,
    };
    if !is_text || slot.is_optional {
        let message =
            format!("what a signal names is a text of at most {MAX_SIGNAL_MATCH} characters that is never missing");
        findings.report(slot.at, Rule::Slot, message);
    }
}

fn agreements(done: &[(At<String>, crate::file::Reply)], file: &FlowFile, findings: &mut Findings) {
    for slot in done.iter().filter_map(|(_, reply)| reply.agrees.as_ref()) {
        if slot.source != Source::Money || file.start.money.is_none() {
            findings.report(slot.at, Rule::Slot, "what agrees is `$start.money`, and `start` has `money`");
        }
    }
}

fn input<'a>(file: &'a FlowFile, name: &str) -> Option<&'a Shape> {
    file.start.input.iter().find(|(field, _)| field.value == name).map(|(_, shape)| &shape.value)
}

/// Where a slot stands.
struct Scope<'a> {
    file: &'a FlowFile,
    /// The step's place; all before it have been done.
    place: usize,
    undoes: bool,
    reads_reply: bool,
}

/// Whether a value is there.
enum Filled {
    Always,
    Perhaps,
    Never(String),
}

impl Scope<'_> {
    fn check(&self, slot: &At<Slot>, findings: &mut Findings) {
        match self.filled(&slot.source) {
            Filled::Never(why) => findings.report(slot.at, Rule::Slot, why),
            Filled::Perhaps if !slot.is_optional => {
                findings.report(
                    slot.at,
                    Rule::Optional,
                    "this value may be missing: put `?` behind it, and null is sent then",
                );
            }
            Filled::Always | Filled::Perhaps => {}
        }
    }

    fn filled(&self, source: &Source) -> Filled {
        let perhaps = |perhaps: bool| if perhaps { Filled::Perhaps } else { Filled::Always };
        match source {
            Source::Subject | Source::Owner => Filled::Always,
            Source::Money if self.file.start.money.is_some() => Filled::Always,
            Source::Money => Filled::Never("`start` has no `money`".to_owned()),
            Source::Cause if self.undoes => Filled::Always,
            Source::Cause => Filled::Never("`$cause` is known only to what undoes".to_owned()),
            // Participants may leave the reason out.
            Source::Reply(_) if self.reads_reply => Filled::Always,
            Source::Reply(_) => Filled::Never("`$reply` is known only where a reply is read: in `reason`".to_owned()),
            Source::Input(name) => match input(self.file, name) {
                Some(shape) => perhaps(shape.may_be_missing()),
                None => Filled::Never(format!("the input has no field `{name}`")),
            },
            Source::Kept { step, field } => {
                let Some(place) = self.file.steps.iter().position(|known| *known.name == *step) else {
                    return Filled::Never(format!("`{step}` is no step of this flow"));
                };
                let is_own_undo = self.undoes && place == self.place;
                if place >= self.place && !is_own_undo {
                    return Filled::Never(format!("`{step}` comes later: nothing of it is known here"));
                }
                match kept(&self.file.steps[place], field) {
                    Filled::Always => perhaps(is_own_undo),
                    other => other,
                }
            }
        }
    }
}

/// Whether a step that is done has kept this field.
fn kept(step: &Step, field: &str) -> Filled {
    let goes_on_without = matches!(step.late.as_deref(), Some(Late::GoOn));
    let by_wait = step.wait.iter().flat_map(|wait| &wait.keep).find(|(name, _)| name.value == field);
    let by_reply = |(_, reply): &(At<String>, crate::file::Reply)| {
        let shape = reply.fields.iter().find(|(name, _)| name.value == field).map(|(_, shape)| shape);
        reply.keep.iter().any(|name| name.value == field) && shape.is_some_and(|shape| !shape.may_be_missing())
    };
    let is_kept = |keep: &[At<String>]| keep.iter().any(|name| name.value == field);
    let by_any = step.done.iter().any(|(_, reply)| is_kept(&reply.keep))
        || step.progress.iter().any(|(_, progress)| is_kept(&progress.keep));
    let always = by_wait.is_some_and(|(_, shape)| !shape.may_be_missing())
        || (!step.done.is_empty() && step.done.iter().all(by_reply));
    match (always && !goes_on_without, by_wait.is_some() || by_any) {
        (true, _) => Filled::Always,
        (false, true) => Filled::Perhaps,
        (false, false) => {
            Filled::Never(format!("{} keeps no `{field}`: add it to its `reply` and `keep`", step.name.value))
        }
    }
}
