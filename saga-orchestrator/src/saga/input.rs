//! What may happen to a saga.

use std::borrow::Cow;

use flow::{Record, Role};
use messages::{EventId, OrderId};
use uuid::Uuid;

/// Something that happened to a saga.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Somebody answered what the saga had asked.
    Reply(Reply),
    /// Something happened outside that a saga waits for.
    Signal(Signal),
    /// The pending step's deadline has passed.
    DeadlinePassed,
    /// A person steps in: an operator, or the saga's owner.
    Operator(Operator),
}

/// An answer: a participant's event, or what the order service said.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it says: a topic, or words like it. The flow says what it means.
    pub event: Cow<'static, str>,
    /// What was read of it.
    pub values: Record,
    /// `None` for an answer to a call.
    pub message: Option<MessageIds>,
}

/// A stored signal, read as the saga that waits for it has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// As in `signals.signal_id`. A signal moves one saga, once.
    pub signal_id: Uuid,
    pub kind: String,
    /// What it names: a saga that waits for this kind and this value is the one.
    pub matched: String,
    /// What was read of its payload.
    pub values: Record,
}

/// What a participant's message says that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageIds {
    pub event_id: EventId,
    pub order_id: OrderId,
    /// The `eventId` of the command that it answers.
    pub causation_id: Option<EventId>,
}

/// A person who steps in: an operator, or the owner, who can cancel only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub by: String,
    pub reason: String,
    pub act: OperatorAct,
}

/// What a person wants of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorAct {
    /// It is to be undone.
    Cancel(Role),
    /// The pending effect is to be repeated now.
    Retry,
    /// The pending compensation was settled outside of the system.
    Resolve(Settled),
}

/// A compensation that was settled, and what proves it: the number of a bank transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// As in `sagas.step`: when the request arrives, another one may be pending.
    pub step: String,
    pub evidence: String,
}

impl Reply {
    /// An answer to a call, with nothing in it.
    pub fn named(event: impl Into<Cow<'static, str>>) -> Self {
        Self { event: event.into(), values: Record::default(), message: None }
    }
}

impl Input {
    /// What stands in the history: the event's name for a reply, the kind of a signal, and words like it for the rest.
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Self::Reply(reply) => reply.event.clone(),
            Self::Signal(signal) => signal.kind.clone().into(),
            Self::DeadlinePassed => "deadline.passed".into(),
            Self::Operator(Operator { act, .. }) => act.name().into(),
        }
    }

    /// The person who steps in.
    pub const fn operator(&self) -> Option<&Operator> {
        if let Self::Operator(operator) = self { Some(operator) } else { None }
    }

    /// The message that carried it, or the signal that it is.
    pub fn event_id(&self) -> Option<EventId> {
        match self {
            Self::Reply(reply) => reply.message.map(|message| message.event_id),
            Self::Signal(signal) => Some(signal.signal_id.into()),
            Self::DeadlinePassed | Self::Operator(_) => None,
        }
    }

    /// The signal that the move takes.
    pub const fn signal_id(&self) -> Option<Uuid> {
        if let Self::Signal(signal) = self { Some(signal.signal_id) } else { None }
    }
}

impl OperatorAct {
    /// What stands in the history.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cancel(Role::Operator) => "operator.cancelled",
            Self::Cancel(Role::Owner) => "owner.cancelled",
            Self::Retry => "operator.retried",
            Self::Resolve(_) => "operator.resolved",
        }
    }

    /// Why a saga goes back that this has turned, as its client reads it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Cancel(Role::Owner) => "cancelled by its owner",
            Self::Cancel(Role::Operator) | Self::Retry | Self::Resolve(_) => "cancelled by an operator",
        }
    }

    /// What was settled by hand.
    pub const fn settled(&self) -> Option<&Settled> {
        if let Self::Resolve(settled) = self { Some(settled) } else { None }
    }
}

impl From<Reply> for Input {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl From<Operator> for Input {
    fn from(operator: Operator) -> Self {
        Self::Operator(operator)
    }
}
