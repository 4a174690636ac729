//! What an event means to a flow: to which questions it is an answer, and what is read of it.

use messages::{EventId, Money, SagaId};

use crate::flow::{Action, Ask, Asked, Done, Flow, PAY_FIRST, Progress, Refused, Step, UndoStep, Wait};
use crate::name::Name;
use crate::read::{Misfit, Reading, read};
use crate::shape::{Shape, ShapeKind};
use crate::slot::Source;
use crate::state::State;
use crate::value::{Record, Value};

/// Something that a saga of a flow may ask: a step's action, or its undo.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The step's, or the undo's.
    pub name: &'a Name,
    pub ask: &'a Ask,
}

/// What an event means where it answers a question.
#[derive(Debug, Clone, Copy)]
pub enum Meaning<'a> {
    Done(&'a Done),
    Refused(&'a Refused),
    Progress(&'a Progress),
}

impl State {
    /// What is asked in this state. `None` where a signal is waited for, and at the end.
    pub fn question(self, flow: &Flow) -> Option<Question<'_>> {
        match self {
            Self::Running { step } => flow.steps[step].question(),
            Self::Compensating { step, .. } => flow.steps[step].undo.as_ref().map(UndoStep::question),
            Self::Completed | Self::Failed { .. } => None,
        }
    }
}

impl Question<'_> {
    /// The id of the command by which a saga of this flow asks this; `None` where it is asked by a call. A saga asks each
    /// question by one command: sent again, it keeps its id.
    pub fn command_id(self, flow: &Flow, saga_id: SagaId) -> Option<EventId> {
        let Asked::Topic(topic) = &self.ask.of else { return None };
        // Those of sagas that earlier releases began are derived from topics.
        let what = if flow.name == PAY_FIRST { topic } else { self.name.as_str() };
        Some(EventId::derived(saga_id, what))
    }
}

impl Flow {
    /// Every question that this event answers, in the order of the file, and what it means there. Mostly there is one.
    pub fn answered_by<'a>(&'a self, event: &'a str) -> impl Iterator<Item = (Question<'a>, Meaning<'a>)> {
        self.steps.iter().flat_map(move |step| {
            let action = step.question().zip(step.means(event));
            let undo = step.undo.as_ref().and_then(|undo| Some((undo.question(), undo.means(event)?)));
            action.into_iter().chain(undo)
        })
    }
}

impl Step {
    /// What it asks, and what its undo asks.
    pub fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        self.question().into_iter().chain(self.undo.as_ref().map(UndoStep::question))
    }

    /// The fields that are read of what moves it on: replies, reports of progress, a signal.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &(String, Shape)> {
        let by_reply = self.done.iter().flat_map(|done| &done.fields);
        let by_progress = self.progress.iter().flat_map(|progress| &progress.fields);
        let by_signal = self.wait().into_iter().flat_map(|wait| &wait.keep);
        by_reply.chain(by_progress).chain(by_signal)
    }

    /// What it waits for. `None` where it asks.
    pub fn wait(&self) -> Option<&Wait> {
        match &self.action {
            Action::Wait(wait) => Some(wait),
            Action::Ask(_) => None,
        }
    }

    /// What it asks. `None` where it waits for a signal.
    pub fn question(&self) -> Option<Question<'_>> {
        match &self.action {
            Action::Ask(ask) => Some(Question { name: &self.name, ask }),
            Action::Wait(_) => None,
        }
    }

    /// What an event means while this step is pending; `None` where it answers something else.
    pub fn means(&self, event: &str) -> Option<Meaning<'_>> {
        let done = || self.done.iter().find(|done| done.event == event).map(Meaning::Done);
        let refused = || self.refused.iter().find(|refused| refused.event == event).map(Meaning::Refused);
        let progress = || self.progress.iter().find(|progress| progress.event == event).map(Meaning::Progress);
        done().or_else(refused).or_else(progress)
    }
}

impl UndoStep {
    fn question(&self) -> Question<'_> {
        Question { name: &self.name, ask: &self.ask }
    }

    /// What an event means while this undo is pending; `None` where it answers something else.
    pub fn means(&self, event: &str) -> Option<Meaning<'_>> {
        self.done.iter().find(|done| done.event == event).map(Meaning::Done)
    }
}

impl Wait {
    /// Reads what the flow keeps of a signal's payload. Other fields are ignored.
    ///
    /// # Errors
    /// The first field that is missing or does not fit.
    pub fn read(&self, payload: &str) -> Result<Record, Misfit> {
        read(&self.keep, payload, Reading::Reply)
    }

    /// The fields that are kept.
    pub fn kept(&self) -> Vec<String> {
        self.keep.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// The most characters of a refusal's reason that are read.
const MAX_REASON: usize = 1000;

impl<'a> Meaning<'a> {
    /// Reads what the flow wants of a reply's payload: the fields that have a shape, the money that has to agree, the
    /// reason of a refusal. Others are ignored.
    ///
    /// # Errors
    /// The first field that is missing or does not fit.
    pub fn read(self, payload: &str) -> Result<Record, Misfit> {
        let mut record = read(self.fields(), payload, Reading::Reply)?;
        if self.money_agrees() && record.get("money").is_none() {
            let money = [("money".to_owned(), Shape::of_kind(ShapeKind::Money))];
            record.0.extend(read(&money, payload, Reading::Reply)?.0);
        }
        if let Some(field) = self.reason_field().filter(|field| record.get(field).is_none()) {
            let json = Shape { is_optional: true, max: Some(usize::MAX), ..Shape::of_kind(ShapeKind::Json) };
            let given = read(&[(field.to_owned(), json)], payload, Reading::Reply)?;
            // A participant may leave it out, and whatever it is, a refusal is one.
            if let Some(Value::Json(json)) = given.get(field)
                && let Ok(reason) = serde_json::from_str::<String>(json.get())
            {
                let reason = reason.chars().take(MAX_REASON).collect();
                record.0.push((field.to_owned().into(), Value::Text(reason)));
            }
        }
        Ok(record)
    }

    /// Whether what was read agrees with what the saga is worth.
    ///
    /// # Errors
    /// The money that the reply is about.
    pub fn agrees(self, record: &Record, money: Option<Money>) -> Result<(), Money> {
        match record.get("money") {
            Some(Value::Money(other)) if self.money_agrees() && Some(*other) != money => Err(*other),
            _ => Ok(()),
        }
    }

    /// Why it was refused, in the participant's words.
    pub fn reason(self, record: &Record) -> Option<&str> {
        record.text(self.reason_field()?)
    }

    /// The fields that are stored.
    pub fn keep(self) -> &'a [String] {
        match self {
            Self::Done(done) => &done.keep,
            Self::Progress(progress) => &progress.keep,
            Self::Refused(_) => &[],
        }
    }

    pub(crate) fn fields(self) -> &'a [(String, Shape)] {
        match self {
            Self::Done(done) => &done.fields,
            Self::Progress(progress) => &progress.fields,
            Self::Refused(_) => &[],
        }
    }

    pub(crate) fn money_agrees(self) -> bool {
        matches!(self, Self::Done(done) if done.money_agrees)
    }

    pub(crate) fn reason_field(self) -> Option<&'a str> {
        match self {
            Self::Refused(Refused { reason: Some(slot), .. }) => match &slot.source {
                Source::Reply(field) => Some(field),
                _ => None,
            },
            _ => None,
        }
    }
}
