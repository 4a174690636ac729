//! Every legal move of a saga.

use messages::{EventId, OrderId, SagaId, Timestamp};

use super::definition::Definition;
use super::state::{Cause, Checkout, Saga, State};

/// Something that happened to a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub kind: InputKind,
    /// The message that told, where one did.
    pub event_id: Option<EventId>,
    /// A refusal in words.
    pub reason: Option<String>,
}

impl From<InputKind> for Input {
    fn from(kind: InputKind) -> Self {
        Self { kind, event_id: None, reason: None }
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
}

impl InputKind {
    pub const ALL: [Self; 12] = [
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
    pub at: Timestamp,
}

/// An input that does not fit the state: late, repeated, or nothing that the pending step waits for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{input} does not count in {state}")]
pub struct Ignored {
    pub state: String,
    pub input: &'static str,
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
        traceparent,
        created_at: now,
        updated_at: now,
    };
    moved(&saga, State::Running { step: 0 }, None, "started", None, now)
}

/// The move that `input` makes, if it counts in the saga's present state.
///
/// # Errors
/// [`Ignored`] names the state and the input. It changes nothing, and is no fault: everything may come twice.
pub fn advance(saga: &Saga, input: &Input, now: Timestamp) -> Result<Transition, Ignored> {
    let steps = saga.definition.steps;
    let ignored = || Ignored { state: saga.to_string(), input: input.kind.as_str() };

    let (next, reason) = match (saga.state, input.kind) {
        // Forward: the pending step succeeded.
        (State::Running { step }, kind) if kind == steps[step].success => {
            let next = step + 1;
            (if next < steps.len() { State::Running { step: next } } else { State::Completed }, None)
        }
        // Back: it was refused.
        (State::Running { step }, kind) if kind == steps[step].failure.input => {
            let failure = &steps[step].failure;
            let undo = if failure.undo_this_step { step + 1 } else { step };
            (unwind(saga.definition, undo, failure.cause), input.reason.clone())
        }
        // Back: its outcome is unknown, so it is undone as well. Not from the pivot on: it has no deadline.
        (State::Running { step }, InputKind::DeadlinePassed) if saga.deadline.is_some_and(|limit| limit <= now) => {
            let why = format!("no answer to {} in time: its outcome is unknown", steps[step].name);
            (unwind(saga.definition, step + 1, Cause::TimedOut), Some(why))
        }
        // Further back: the pending compensation is done.
        (State::Compensating { step, cause }, kind)
            if steps[step].compensation.as_ref().is_some_and(|compensation| compensation.done == kind) =>
        {
            (unwind(saga.definition, step, cause), None)
        }
        _ => return Err(ignored()),
    };
    Ok(moved(saga, next, reason, input.kind.as_str(), input.event_id, now))
}

/// The state that undoes what is done, when the first `done` steps may have had an effect.
fn unwind(definition: &Definition, done: usize, cause: Cause) -> State {
    let last = definition.steps[..done].iter().rposition(|step| step.compensation.is_some());
    last.map_or(State::Failed { cause }, |step| State::Compensating { step, cause })
}

fn moved(
    saga: &Saga,
    state: State,
    reason: Option<String>,
    input: &'static str,
    event_id: Option<EventId>,
    now: Timestamp,
) -> Transition {
    let deadline = match state {
        State::Running { step } => saga.definition.steps[step].deadline.map(|wait| (now + wait).min(saga.expires_at)),
        _ => None,
    };
    let entry = HistoryEntry {
        seq: saga.version + 1,
        input,
        event_id,
        status: state.status(),
        step: state.step_name(saga.definition),
        reason: reason.clone(),
        at: now,
    };
    // The first reason stays: it belongs to the cause.
    let reason = saga.reason.clone().or(reason);
    Transition { saga: Saga { version: entry.seq, state, reason, deadline, updated_at: now, ..saga.clone() }, entry }
}
