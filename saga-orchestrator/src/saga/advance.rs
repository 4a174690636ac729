//! Every legal move of a saga.

use faults::Bug;
use messages::{EventId, Money, OrderId, SagaId, Timestamp};

use super::definition::{Definition, Step};
use super::state::{Cause, Checkout, Saga, State};

/// Something that happened to a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub kind: InputKind,
    /// The message that told, where one did.
    pub event_id: Option<EventId>,
    /// A refusal in words, or why an operator wants it.
    pub reason: Option<String>,
    /// Who did it, where a person did.
    pub operator: Option<Operator>,
    /// What it is about, where a participant says so.
    pub about: Option<About>,
}

/// What a participant's reply says that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub order_id: OrderId,
    /// What was charged or refunded.
    pub money: Option<Money>,
    /// The `eventId` of the command that it answers.
    pub command: Option<EventId>,
}

impl About {
    /// How it differs from what the saga asked for, or ever asks for. Such a reply must not move the saga: less may have
    /// been charged, or somebody else's order, or for a command that the saga did not send.
    fn agrees_with(&self, saga: &Saga, kind: InputKind) -> Result<(), String> {
        let (order_id, money) = (saga.order_id, saga.checkout.money);
        if self.order_id != order_id {
            return Err(format!("it is about order {}, its saga about order {order_id}", self.order_id));
        }
        if let Some(told) = self.money.filter(|told| *told != money) {
            return Err(format!("it is about {told}, its saga about {money}"));
        }
        let Some(asked) = saga.command_answered_by(kind) else {
            return Err(format!("it is a {}, which nothing in its saga asks for", kind.as_str()));
        };
        match self.command {
            Some(command) if command == asked => Ok(()),
            Some(command) => Err(format!("it answers command {command}, its saga sends {asked}")),
            None => Err(format!("it has no causationId, its saga sends command {asked}")),
        }
    }
}

/// A person who steps in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub by: String,
    /// The compensation that was settled outside of the system, and what proves it: the number of a bank transfer.
    pub settled: Option<Settled>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// As in `sagas.step`: by the time that it is told, another one may be pending.
    pub step: String,
    pub evidence: String,
}

impl Input {
    fn settles(&self, step: &str) -> bool {
        let settled = self.operator.as_ref().and_then(|operator| operator.settled.as_ref());
        settled.is_some_and(|settled| settled.step == step)
    }
}

impl From<InputKind> for Input {
    fn from(kind: InputKind) -> Self {
        Self { kind, event_id: None, reason: None, operator: None, about: None }
    }
}

/// What may happen to a saga. Each belongs to one step, so a late answer can't be taken for another step's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    OrderCreated,
    OrderCreateRefused,
    OrderConfirmed,
    OrderConfirmRefused,
    OrderCancelled,
    PaymentCharged,
    PaymentFailed,
    PaymentRefunded,
    InventoryReserved,
    InventoryFailed,
    InventoryReleased,
    DeadlinePassed,
    /// An operator wants it undone.
    Cancelled,
    /// An operator wants the pending effect repeated now.
    Retried,
    /// An operator has settled the pending compensation outside of the system.
    Resolved,
}

impl InputKind {
    pub const ALL: [Self; 15] = [
        Self::OrderCreated,
        Self::OrderCreateRefused,
        Self::OrderConfirmed,
        Self::OrderConfirmRefused,
        Self::OrderCancelled,
        Self::PaymentCharged,
        Self::PaymentFailed,
        Self::PaymentRefunded,
        Self::InventoryReserved,
        Self::InventoryFailed,
        Self::InventoryReleased,
        Self::DeadlinePassed,
        Self::Cancelled,
        Self::Retried,
        Self::Resolved,
    ];

    /// What stands in the history: the topic's name for a message, and words like it for the rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrderCreated => "order.created",
            Self::OrderCreateRefused => "order.create-refused",
            Self::OrderConfirmed => "order.confirmed",
            Self::OrderConfirmRefused => "order.confirm-refused",
            Self::OrderCancelled => "order.cancelled",
            Self::PaymentCharged => "payment.charged",
            Self::PaymentFailed => "payment.failed",
            Self::PaymentRefunded => "payment.refunded",
            Self::InventoryReserved => "inventory.reserved",
            Self::InventoryFailed => "inventory.failed",
            Self::InventoryReleased => "inventory.released",
            Self::DeadlinePassed => "deadline.passed",
            Self::Cancelled => "operator.cancelled",
            Self::Retried => "operator.retried",
            Self::Resolved => "operator.resolved",
        }
    }
}

/// A move: what to store. What to do then is told by the stored state itself: see [`super::effect`].
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub saga: Saga,
    pub entry: HistoryEntry,
}

/// A row of `saga_events`: one for each version of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The version that the move led to.
    pub seq: i64,
    pub input: &'static str,
    pub event_id: Option<EventId>,
    pub status: &'static str,
    pub step: &'static str,
    pub reason: Option<String>,
    pub operator: Option<Operator>,
    pub at: Timestamp,
}

/// An input that does not fit the state: late, repeated, or nothing that the pending step waits for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{input} does not count in {state}")]
pub struct Ignored {
    pub state: String,
    pub input: &'static str,
}

/// Why an input moves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMove {
    /// It is no fault: everything may come twice, or late.
    #[error(transparent)]
    Ignored(#[from] Ignored),
    /// A participant did something else than it was asked for, or what somebody else was. So it is in every state.
    #[error("it contradicts its saga: {0}")]
    Contradiction(String),
}

/// A new saga, at its first step.
pub fn start(
    definition: &'static Definition,
    saga_id: SagaId,
    order_id: OrderId,
    checkout: Checkout,
    expires_at: Timestamp,
    traceparent: Option<String>,
    now: Timestamp,
) -> Transition {
    let saga = Saga {
        saga_id,
        order_id,
        definition,
        version: 0,
        state: State::Running { step: 0 },
        reason: None,
        checkout,
        deadline: None,
        expires_at,
        attention: None,
        resolved_by_hand: false,
        traceparent,
        created_at: now,
        updated_at: now,
    };
    let entry = entry(&saga, State::Running { step: 0 }, "started", now);
    moved(&saga, State::Running { step: 0 }, entry)
}

/// The move that `input` makes, if it counts in the saga's present state.
///
/// # Errors
/// [`NoMove`] says why it does not count. It changes nothing.
pub fn advance(saga: &Saga, input: &Input, now: Timestamp) -> Result<Transition, NoMove> {
    let steps = saga.definition.steps;
    if let Some(about) = input.about.as_ref().filter(|_| !faults::planted(Bug::UncheckedReply)) {
        about.agrees_with(saga, input.kind).map_err(NoMove::Contradiction)?;
    }
    let ignored = || Ignored { state: saga.to_string(), input: input.kind.as_str() };

    let next = match (saga.state, input.kind) {
        // Forward: the pending step succeeded.
        (State::Running { step }, kind) if kind == steps[step].success || another_steps_reply(steps, kind) => {
            let next = step + 1;
            if next < steps.len() { State::Running { step: next } } else { State::Completed }
        }
        // Back: it was refused.
        (State::Running { step }, kind) if kind == steps[step].failure.input => {
            let failure = &steps[step].failure;
            let undo = if failure.undo_this_step { step + 1 } else { step };
            let undo = if faults::planted(Bug::CancelWithoutRefund) { undo.min(1) } else { undo };
            unwind(saga.definition, undo, failure.cause)
        }
        // Back: its outcome is unknown, so it is undone as well. Not from the pivot on: it has no deadline.
        (State::Running { step }, InputKind::DeadlinePassed) if saga.deadline.is_some_and(|limit| limit <= now) => {
            unwind(saga.definition, step + 1, Cause::TimedOut)
        }
        // Back: an operator wants it. The pending step may have had its effect. Not from the pivot on.
        (State::Running { step }, InputKind::Cancelled) if saga.deadline.is_some() => {
            unwind(saga.definition, step + 1, Cause::Cancelled)
        }
        // Further back: the pending compensation is done.
        (State::Compensating { step, cause }, kind)
            if steps[step].compensation.as_ref().is_some_and(|compensation| compensation.done == kind) =>
        {
            unwind(saga.definition, step, cause)
        }
        // Further back: it could not be done, and a person has done it otherwise.
        (State::Compensating { step, cause }, InputKind::Resolved)
            if saga.attention.is_some() && input.settles(saga.step_name()) =>
        {
            unwind(saga.definition, step, cause)
        }
        // It stays, and does its effect again. A cancel of what goes back already: the first cause stays.
        (State::Running { .. } | State::Compensating { .. }, InputKind::Retried)
        | (State::Compensating { .. }, InputKind::Cancelled) => saga.state,
        _ => return Err(ignored().into()),
    };
    let reason = match (saga.state, input.kind) {
        (State::Running { step }, InputKind::DeadlinePassed) => {
            Some(format!("no answer to {} in time: its outcome is unknown", steps[step].name))
        }
        _ => input.reason.clone(),
    };
    let entry = entry(saga, next, input.kind.as_str(), now);
    let entry = HistoryEntry { event_id: input.event_id, reason, operator: input.operator.clone(), ..entry };
    if next == saga.state {
        // The row's times stay as well: they are a part of the messages that it repeats.
        return Ok(Transition { saga: Saga { version: entry.seq, ..saga.clone() }, entry });
    }
    let mut transition = moved(saga, next, entry);
    transition.saga.resolved_by_hand |= input.kind == InputKind::Resolved;
    Ok(transition)
}

/// A planted defect: whatever reply of success comes, it counts.
fn another_steps_reply(steps: &[Step], kind: InputKind) -> bool {
    faults::planted(Bug::ReplyOfAnotherStep) && steps.iter().any(|step| step.success == kind)
}

/// The state that undoes what is done, when the first `done` steps may have had an effect.
fn unwind(definition: &Definition, done: usize, cause: Cause) -> State {
    let last = definition.steps[..done].iter().rposition(|step| step.compensation.is_some());
    last.map_or(State::Failed { cause }, |step| State::Compensating { step, cause })
}

/// The history's next entry, which leads to `state`.
fn entry(saga: &Saga, state: State, input: &'static str, at: Timestamp) -> HistoryEntry {
    HistoryEntry {
        seq: saga.version + 1,
        input,
        event_id: None,
        status: state.status(),
        step: state.step_name(saga.definition),
        reason: None,
        operator: None,
        at,
    }
}

fn moved(saga: &Saga, state: State, entry: HistoryEntry) -> Transition {
    let now = entry.at;
    let deadline = match state {
        State::Running { step } => saga.definition.steps[step].deadline.map(|wait| (now + wait).min(saga.expires_at)),
        _ => None,
    };
    // The first reason stays: it belongs to the cause.
    let reason = saga.reason.clone().or_else(|| match (&entry.operator, state.cause()) {
        (_, None) => None,
        // The client sees it; an operator's own words are for the history.
        (Some(_), _) => Some("cancelled by an operator".to_owned()),
        (None, _) => entry.reason.clone(),
    });
    let (version, updated_at) = (entry.seq, now);
    Transition { saga: Saga { version, state, reason, deadline, attention: None, updated_at, ..saga.clone() }, entry }
}
