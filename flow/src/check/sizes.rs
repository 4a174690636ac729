//! How large what is sent may become: Kafka takes messages of up to a megabyte, and a command that is larger would never
//! be sent.

use crate::file::{At, FlowFile, Step, Undo};
use crate::finding::{Findings, Position};
use crate::payload::Payload;
use crate::rule::Rule;
use crate::shape::{Shape, ShapeKind};
use crate::slot::{Slot, Source};

/// The most bytes of a filled payload. The rest of Kafka's megabyte is for the envelope and the headers.
const MAX_SENT: usize = 900_000;

/// No request is larger, so no field of one is.
const MAX_REQUEST: usize = 64 * 1024;

/// Bytes of a text that has no `max`, of the texts of our own types, and of a number: more than any of them has.
const TEXT: usize = 255 * 4;
const NUMBER: usize = 64;
/// An address has seven texts.
const ADDRESS: usize = 7 * TEXT;
const JSON: usize = 2 * 1024;
/// A refusal's reason is cut off there.
const REASON: usize = 4 * 1000;

pub fn check(file: &FlowFile, findings: &mut Findings) {
    for step in &file.steps {
        if let Some(ask) = &step.ask {
            payload(file, &ask.send, ask.at, findings);
        }
        if let Undo::By(undo) = &step.undo {
            payload(file, &undo.ask.send, undo.ask.at, findings);
        }
    }
    if let Some(body) = &file.answer.body {
        payload(file, body, file.answer.at, findings);
    }
}

fn payload(file: &FlowFile, payload: &Payload, at: Position, findings: &mut Findings) {
    let bytes = payload.slots().into_iter().fold(0_usize, |sum, slot| sum.saturating_add(of_slot(file, slot)));
    if bytes > MAX_SENT {
        let message = format!(
            "filled with the longest values that its slots may have, this has {bytes} bytes; {MAX_SENT} are sent at most: lower `max` or `most`, or refer to less"
        );
        findings.report(at, Rule::Bounds, message);
    }
}

/// The most bytes of a slot's value.
fn of_slot(file: &FlowFile, slot: &At<Slot>) -> usize {
    match &slot.source {
        Source::Input(name) => {
            let shape = file.start.input.iter().find(|(field, _)| field.value == *name).map(|(_, shape)| shape);
            shape.map_or(0, |shape| bytes(shape).min(MAX_REQUEST))
        }
        Source::Kept { step, field } => {
            let step = file.steps.iter().find(|known| *known.name == *step);
            step.map_or(0, |step| of_kept(step, field))
        }
        Source::Subject | Source::Owner | Source::Cause => TEXT,
        Source::Money => 2 * NUMBER,
        Source::Reply(_) => REASON,
    }
}

fn of_kept(step: &Step, field: &str) -> usize {
    let fields = step.fields().filter(|(name, _)| name.value == field);
    fields.map(|(_, shape)| bytes(shape)).max().unwrap_or_default()
}

/// The most bytes of a value as JSON. A character has four at most.
fn bytes(shape: &Shape) -> usize {
    let fields = || {
        let of = shape.of.iter();
        of.fold(2_usize, |sum, (name, shape)| sum.saturating_add(name.len() + 4).saturating_add(bytes(shape)))
    };
    match shape.kind {
        ShapeKind::Text => shape.max.map_or(TEXT, |max| max.saturating_mul(4)),
        ShapeKind::Json => shape.max.unwrap_or(JSON),
        ShapeKind::UserId | ShapeKind::Email | ShapeKind::Sku | ShapeKind::Date | ShapeKind::Currency => TEXT,
        ShapeKind::Count | ShapeKind::Amount | ShapeKind::Boolean => NUMBER,
        ShapeKind::Money => 2 * NUMBER,
        ShapeKind::Address => ADDRESS,
        ShapeKind::Record => fields(),
        ShapeKind::List => {
            let most = shape.most.and_then(|most| most.try_into().ok()).unwrap_or(usize::MAX);
            fields().saturating_mul(most)
        }
    }
}
