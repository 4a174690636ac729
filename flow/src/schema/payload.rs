//! Payloads: of commands, as their templates have them; of replies and signals, as far as the flow reads them.

use std::collections::HashSet;

use messages::UserId;
use messages::schema::one_of;
use utoipa::PartialSchema;
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, ArrayItems, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};

use super::shape::{By, Described, constant, fields, money, or_null, string};
use crate::flow::{Ask, Asked, Flow, UndoStep};
use crate::meaning::Meaning;
use crate::payload::Payload;
use crate::slot::{Slot, Source};

/// What a payload travels as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier<'a> {
    /// A command, by its topic.
    Command(&'a str),
    /// A reply, by its event's name.
    Reply(&'a str),
    /// A signal, by its kind.
    Signal(&'a str),
}

impl<'a> Carrier<'a> {
    /// The topic, the event's name or the kind.
    pub const fn name(self) -> &'a str {
        match self {
            Self::Command(name) | Self::Reply(name) | Self::Signal(name) => name,
        }
    }
}

impl Flow {
    /// All that sagas of this flow send to participants, and read of them and of signals, in the order of the steps, each
    /// once.
    pub fn carriers(&self) -> Vec<Carrier<'_>> {
        let mut all = Vec::new();
        for step in &self.steps {
            let (action, undo) = (step.question(), step.undo.as_ref());
            if let Some(Asked::Topic(topic)) = action.map(|action| &action.ask.of) {
                let refused = step.refused.iter().map(|refused| &refused.event);
                let progress = step.progress.iter().map(|progress| &progress.event);
                let done = step.done.iter().map(|done| &done.event);
                all.push(Carrier::Command(topic));
                all.extend(done.chain(refused).chain(progress).map(|event| Carrier::Reply(event)));
            }
            if let Some(UndoStep { ask: Ask { of: Asked::Topic(topic), .. }, done, .. }) = undo {
                all.push(Carrier::Command(topic));
                all.extend(done.iter().map(|done| Carrier::Reply(&done.event)));
            }
            all.extend(step.wait().map(|wait| Carrier::Signal(&wait.signal)));
        }
        let mut seen = HashSet::new();
        all.retain(|carrier| seen.insert(*carrier));
        all
    }

    /// Whether this is a reply of a participant of the flow's own: those have a topic for all events
    /// ([`Flow::reply_topic`]). Each event of the platform's participants has one.
    pub fn is_own_reply(&self, carrier: Carrier<'_>) -> bool {
        let Carrier::Reply(event) = carrier else { return false };
        let own = self.own_command_topics();
        self.answered_by(event)
            .any(|(question, _)| matches!(&question.ask.of, Asked::Topic(topic) if own.contains(&topic.as_str())))
    }

    /// What a payload is that travels so.
    pub fn payload_schema(&self, carrier: Carrier<'_>) -> Schema {
        let schemas = match carrier {
            Carrier::Command(topic) => {
                let asks = self.steps.iter().flat_map(|step| step.questions()).map(|question| question.ask);
                let asks = asks.filter(|ask| matches!(&ask.of, Asked::Topic(of) if of == topic));
                asks.map(|ask| self.template(&ask.send, false)).collect()
            }
            Carrier::Reply(event) => self.answered_by(event).map(|(_, meaning)| meaning.schema().into()).collect(),
            Carrier::Signal(kind) => {
                let waits = self.waits().filter(|(_, wait)| wait.signal == kind);
                waits.map(|(_, wait)| fields(&wait.keep, By::Participant).into()).collect()
            }
        };
        any_of(schemas).into()
    }

    /// What `result` is in the answer, once there is one. `None`: the flow answers without.
    pub fn result_schema(&self) -> Option<Schema> {
        // Where clients are answered at a step's progress, what comes later is not there yet.
        let is_early = self.steps.iter().any(|step| step.progress.iter().any(|progress| progress.is_answered));
        self.answer.body.as_ref().map(|body| self.template(body, is_early).into())
    }

    /// `is_early`: what is kept may be lacking.
    fn template(&self, payload: &Payload, is_early: bool) -> Described {
        match payload {
            Payload::Constant(json) => constant(json).into(),
            Payload::Slot(slot) if slot.is_optional || (is_early && matches!(slot.source, Source::Kept { .. })) => {
                or_null(self.slot(slot)).into()
            }
            Payload::Slot(slot) => self.slot(slot),
            Payload::Object(parts) => {
                let part = |object: ObjectBuilder, (name, part): &(String, Payload)| {
                    object.property(name, self.template(part, is_early)).required(name)
                };
                parts.iter().fold(ObjectBuilder::new(), part).into()
            }
            Payload::List(items) => {
                let parts: Vec<Schema> = items.iter().map(|item| self.template(item, is_early).into()).collect();
                let list = ArrayBuilder::new().min_items(Some(parts.len())).max_items(Some(parts.len()));
                list.prefix_items(parts).items(ArrayItems::False).into()
            }
        }
    }

    fn slot(&self, slot: &Slot) -> Described {
        let of = |shapes: Vec<Described>| any_of(shapes);
        match &slot.source {
            Source::Input(field) => {
                let shapes = self.start.input.iter().filter(|(name, _)| name == field);
                of(shapes.map(|(_, shape)| shape.schema(By::Saga)).collect())
            }
            Source::Kept { step, field } => {
                let step = self.steps.iter().filter(|known| known.name == *step);
                let shapes = step.flat_map(|step| step.fields()).filter(|(name, _)| name == field);
                of(shapes.map(|(_, shape)| shape.schema(By::Saga)).collect())
            }
            Source::Subject => string()
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
                .description(Some("What the saga is about."))
                .into(),
            Source::Owner => UserId::schema(),
            Source::Money => money(By::Saga).into(),
            Source::Cause => one_of(self.causes.iter().map(|cause| cause.as_str()))
                .description(Some("Why the saga turned back."))
                .into(),
            // Only where a reply is read.
            Source::Reply(_) => any_of(Vec::new()),
        }
    }
}

impl Meaning<'_> {
    fn schema(self) -> ObjectBuilder {
        let mut object = fields(self.fields(), By::Participant);
        let is_read = |name: &str| self.fields().iter().any(|(field, _)| field == name);
        if self.money_agrees() && !is_read("money") {
            let about = "The money that was asked about.";
            object = object.property("money", money(By::Participant).description(Some(about))).required("money");
        }
        if let Some(field) = self.reason_field().filter(|field| !is_read(field)) {
            let kinds = SchemaType::from_iter([Type::String, Type::Null]);
            let about = "Why, in words. It may be missing; 1,000 characters of it are read.";
            object = object.property(field, ObjectBuilder::new().schema_type(kinds).description(Some(about)));
        }
        object
    }
}

/// What fits one of these. Without any: all.
fn any_of(mut schemas: Vec<Described>) -> Described {
    let mut distinct: Vec<Described> = Vec::new();
    for schema in schemas.drain(..) {
        if !distinct.contains(&schema) {
            distinct.push(schema);
        }
    }
    match distinct.len() {
        0 => ObjectBuilder::new().schema_type(SchemaType::AnyValue).into(),
        1 => distinct.swap_remove(0),
        _ => distinct.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).into(),
    }
}
