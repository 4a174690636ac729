//! Where a saga can stand, and where what happens leads it: every legal move, in one `match`.

use std::fmt;

use crate::file::Late;
use crate::flow::{Action, Flow, Role, Step};

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

/// What stands in `sagas.status` of a saga whose pending step may take days: a signal is awaited, or the step has
/// reported progress. Everything else about it is as in [`State::Running`].
pub const WAITING: &str = "WAITING";

/// A stored state that the saga's flow does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownState(String);

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a stored saga has an unknown {}", self.0)
    }
}

impl std::error::Error for UnknownState {}

/// Something that happens to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened<'a> {
    /// An event that answers the pending command.
    Replied(&'a str),
    /// The signal that the pending step waits for.
    Signalled(&'a str),
    /// The pending step's limit has passed.
    Late,
    /// Somebody in this role has cancelled it.
    Cancelled(Role),
}

impl State {
    /// The first state of a saga.
    pub const START: Self = Self::Running { step: 0 };

    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }

    /// What stands in `sagas.status` of a saga that does not wait: see [`WAITING`].
    pub const fn status(self) -> &'static str {
        match self {
            Self::Running { .. } => "RUNNING",
            Self::Compensating { .. } => "COMPENSATING",
            Self::Completed => "COMPLETED",
            Self::Failed { .. } => "FAILED",
        }
    }

    /// What stands in `sagas.step`: what is pending, or how it ended.
    pub fn step_name(self, flow: &Flow) -> &str {
        match self {
            Self::Running { step } => &flow.steps[step].name,
            // A saga undoes only steps that have an undo.
            Self::Compensating { step, .. } => flow.steps[step].undo.as_ref().map_or("", |undo| undo.name.as_str()),
            Self::Completed => "COMPLETED",
            Self::Failed { cause } => &flow.causes[cause],
        }
    }

    /// What stands in `sagas.cause`.
    pub fn cause(self, flow: &Flow) -> Option<&str> {
        match self {
            Self::Compensating { cause, .. } | Self::Failed { cause } => Some(&flow.causes[cause]),
            Self::Running { .. } | Self::Completed => None,
        }
    }

    /// The state that the columns `status`, `step` and `cause` tell.
    ///
    /// # Errors
    /// When the flow has none of that name.
    pub fn parse(flow: &Flow, status: &str, step: &str, cause: Option<&str>) -> Result<Self, UnknownState> {
        let unknown = |what: String| UnknownState(format!("{what} in {}", flow.name));
        let unknown_state = || unknown(format!("state {status}/{step}"));
        let cause = || {
            let name = cause.ok_or_else(unknown_state)?;
            flow.cause(name).ok_or_else(|| unknown(format!("cause {name:?}")))
        };
        let undone_by = |name: &str| {
            let is_it = |of: &Step| of.undo.as_ref().is_some_and(|undo| undo.name == *name);
            flow.steps.iter().position(is_it)
        };
        match status {
            "RUNNING" | WAITING => {
                let step = flow.steps.iter().position(|of| of.name == *step);
                step.map(|step| Self::Running { step }).ok_or_else(unknown_state)
            }
            "COMPENSATING" => {
                Ok(Self::Compensating { step: undone_by(step).ok_or_else(unknown_state)?, cause: cause()? })
            }
            "COMPLETED" => Ok(Self::Completed),
            "FAILED" => Ok(Self::Failed { cause: cause()? }),
            _ => Err(unknown_state()),
        }
    }

    /// Where a saga stands, in one word: `HOTEL_BOOK`, `HOTEL_CANCEL`, `COMPLETED`, `FAILED/NO_SEAT`.
    pub fn name(self, flow: &Flow) -> String {
        match self {
            Self::Failed { cause } => format!("FAILED/{}", flow.causes[cause]),
            _ => self.step_name(flow).to_owned(),
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
                Some(flow.unwind(done, flow.cause(&refused.cause)?))
            }
            (Self::Running { step }, Happened::Signalled(kind)) => match &flow.steps[step].action {
                Action::Wait(wait) if wait.signal == kind => Some(forward(flow, step)),
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
                        Some(flow.unwind(step + 1, flow.cause(cause.as_deref().unwrap_or("TIMED_OUT"))?))
                    }
                }
            }
            (Self::Running { step }, Happened::Cancelled(role)) => {
                flow.cancel.filter(|cancel| cancel.permits(role) && step < cancel.until)?;
                // The pending step may have had its effect.
                Some(flow.unwind(step + 1, flow.cause("CANCELLED")?))
            }
            (Self::Compensating { step, cause }, Happened::Replied(event)) => {
                let undo = flow.steps[step].undo.as_ref()?;
                undo.done.iter().any(|done| done.event == event).then(|| flow.unwind(step, cause))
            }
            _ => None,
        }
    }

    /// The HTTP status that the move to `next` gives a client who has no answer yet. `None`: the move gives no answer.
    pub fn answer(self, flow: &Flow, next: Self) -> Option<u16> {
        match (self, next) {
            (_, Self::Failed { cause }) => Some(flow.failed_status(&flow.causes[cause])),
            (Self::Running { step }, Self::Running { .. } | Self::Completed)
                if self != next && step == flow.answer.after =>
            {
                Some(flow.answer.done)
            }
            _ => None,
        }
    }

    /// Whether a saga that has not turned back is past the step that its answer follows.
    pub fn is_behind_answer(self, flow: &Flow) -> bool {
        match self {
            Self::Running { step } => step > flow.answer.after,
            Self::Completed => true,
            Self::Compensating { .. } | Self::Failed { .. } => false,
        }
    }
}

impl Flow {
    /// The place of a cause.
    pub fn cause(&self, name: &str) -> Option<usize> {
        self.causes.iter().position(|cause| cause == name)
    }

    /// The state that undoes what is done, when the first `done` steps may have had an effect.
    pub fn unwind(&self, done: usize, cause: usize) -> State {
        let last = self.steps[..done].iter().rposition(|step| step.undo.is_some());
        last.map_or(State::Failed { cause }, |step| State::Compensating { step, cause })
    }
}

/// The step is done.
fn forward(flow: &Flow, step: usize) -> State {
    if step + 1 < flow.steps.len() { State::Running { step: step + 1 } } else { State::Completed }
}
