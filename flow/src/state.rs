//! Where a saga can stand, and where what happens leads it: every legal move, in one `match`.

use crate::file::Late;
use crate::flow::{Action, Flow};

/// A place in a flow. Steps and causes are places in its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The step is pending.
    Running {
        step: usize,
    },
    /// The step's undo is pending.
    Compensating {
        step: usize,
        cause: usize,
    },
    Completed,
    /// All that had been done is undone.
    Failed {
        cause: usize,
    },
}

/// Something that happens to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened<'a> {
    /// An event that answers the pending command.
    Replied(&'a str),
    /// The signal that the pending step waits for.
    Signalled(&'a str),
    /// The pending step's limit has passed.
    Late,
    /// Somebody who may do so has cancelled it.
    Cancelled,
}

impl State {
    /// The first state of a saga.
    pub const START: Self = Self::Running { step: 0 };

    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }

    /// What stands in `sagas.step`, with the cause of a failure: `HOTEL_BOOK`, `HOTEL_CANCEL`, `COMPLETED`,
    /// `FAILED/NO_SEAT`.
    pub fn name(self, flow: &Flow) -> String {
        match self {
            Self::Running { step } => flow.steps[step].name.clone(),
            Self::Compensating { step, .. } => {
                flow.steps[step].undo.as_ref().map(|undo| undo.name.clone()).unwrap_or_default()
            }
            Self::Completed => "COMPLETED".to_owned(),
            Self::Failed { cause } => format!("FAILED/{}", flow.causes[cause]),
        }
    }

    /// The state that follows. `None`: it does not count here; that is no fault, since everything may come twice.
    pub fn next(self, flow: &Flow, happened: Happened<'_>) -> Option<Self> {
        match (self, happened) {
            (Self::Running { step }, Happened::Replied(event)) => {
                let pending = &flow.steps[step];
                if pending.done.iter().any(|done| done.event == event) {
                    return Some(forward(flow, step));
                }
                if pending.progress.iter().any(|progress| progress.event == event) {
                    return Some(self);
                }
                let refused = pending.refused.iter().find(|refused| refused.event == event)?;
                // Mostly a refusal leaves nothing behind.
                let done = if refused.undo_this_step { step + 1 } else { step };
                Some(back(flow, done, flow.cause(&refused.cause)?))
            }
            (Self::Running { step }, Happened::Signalled(kind)) => match &flow.steps[step].action {
                Action::Wait { signal, .. } if signal == kind => Some(forward(flow, step)),
                _ => None,
            },
            (Self::Running { step }, Happened::Late) => {
                let pending = &flow.steps[step];
                match &pending.late {
                    _ if pending.within.is_none() => None,
                    Late::GoOn => Some(forward(flow, step)),
                    Late::Attention => Some(self),
                    // Its outcome is unknown, so it is undone as well.
                    Late::Undo(cause) => {
                        Some(back(flow, step + 1, flow.cause(cause.as_deref().unwrap_or("TIMED_OUT"))?))
                    }
                }
            }
            (Self::Running { step }, Happened::Cancelled) if flow.cancel.is_some_and(|cancel| step < cancel.until) => {
                Some(back(flow, step + 1, flow.cause("CANCELLED")?))
            }
            (Self::Compensating { step, cause }, Happened::Replied(event)) => {
                let undo = flow.steps[step].undo.as_ref()?;
                undo.done.iter().any(|done| done.event == event).then(|| back(flow, step, cause))
            }
            _ => None,
        }
    }
}

impl Flow {
    /// The place of a cause.
    pub fn cause(&self, name: &str) -> Option<usize> {
        self.causes.iter().position(|cause| cause == name)
    }
}

/// The step is done.
fn forward(flow: &Flow, step: usize) -> State {
    if step + 1 < flow.steps.len() { State::Running { step: step + 1 } } else { State::Completed }
}

/// The state that undoes what is done, when the first `done` steps may have had an effect.
fn back(flow: &Flow, done: usize, cause: usize) -> State {
    let last = flow.steps[..done].iter().rposition(|step| step.undo.is_some());
    last.map_or(State::Failed { cause }, |step| State::Compensating { step, cause })
}
