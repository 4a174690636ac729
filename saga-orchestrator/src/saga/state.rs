//! A saga: where it stands, and what it knows.

use std::fmt;
use std::sync::Arc;

use flow::{Flow, Kept, Request, State, WAITING, Wait};
use messages::{EventId, OrderId, SagaId, Timestamp};

/// One run of a flow. In a checkout its subject is the order.
#[derive(Debug, Clone, PartialEq)]
pub struct Saga {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    pub flow: Arc<Flow>,
    /// Counts the transitions, from 1. A stored row is replaced only by the next version.
    pub version: i64,
    pub state: State,
    /// Why it turned back, in words.
    pub reason: Option<String>,
    pub request: Arc<Request>,
    /// What is kept of the replies so far.
    pub kept: Kept,
    /// The progress that the pending step has reported, by the reports' ids: each counts once.
    pub progressed: Vec<EventId>,
    /// What the client was answered, where the saga goes on behind its answer.
    pub answered: Option<Arc<Answered>>,
    /// When the pending step counts as timed out; `None` where nothing times out.
    pub deadline: Option<Timestamp>,
    /// When the saga as a whole has to have passed its pivot, or answered: see [`flow::Reach`].
    pub expires_at: Timestamp,
    /// A person should look. Set by the sweeper, or by a limit after which the flow asks for it.
    pub attention: Option<Attention>,
    /// A compensation was settled outside of the system.
    pub resolved_by_hand: bool,
    /// The W3C trace context of the request that started it.
    pub traceparent: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Why a person should look at a saga, and since when. Its effect is repeated all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    pub since: Timestamp,
    pub reason: String,
}

/// The answer of a saga that goes on behind it. A repetition under the request's key gets these bytes, even after the saga
/// has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub at: Timestamp,
    /// The HTTP status.
    pub status: u16,
    /// JSON: a [`super::FlowOutcome`] of that moment.
    pub body: String,
}

/// A signal that a saga waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited<'a> {
    pub kind: &'a str,
    /// What the signal has to name.
    pub matched: String,
}

impl Awaited<'_> {
    /// What stands in `sagas.awaits`. A kind has no space in it.
    pub fn key(&self) -> String {
        format!("{} {}", self.kind, self.matched)
    }
}

impl Saga {
    /// What stands in `sagas.status`.
    pub fn status(&self) -> &'static str {
        if self.is_waiting() { WAITING } else { self.state.status() }
    }

    /// Whether its pending step may take days: it waits for a signal, or has reported progress.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Running { .. }) && (!self.progressed.is_empty() || self.wait().is_some())
    }

    /// Whether nothing is to be expected of it soon: it has ended, or waits for something outside.
    pub fn is_resting(&self) -> bool {
        self.state.has_ended() || self.is_waiting()
    }

    /// Whether its client can be answered: nothing more is to be expected soon, or the answer stands.
    pub fn has_news(&self) -> bool {
        self.is_resting() || self.answered.is_some()
    }

    /// The pending step, if it waits for a signal.
    pub fn wait(&self) -> Option<&Wait> {
        match self.state {
            State::Running { step } => self.flow.steps[step].wait(),
            _ => None,
        }
    }

    /// The signal that it waits for. `None` where it waits for none, and where what it is to name is no text.
    pub fn awaited(&self) -> Option<Awaited<'_>> {
        let wait = self.wait()?;
        let mut json = Vec::new();
        let is_there = self.write(&wait.matched, &mut json);
        let matched = serde_json::from_slice(&json).ok().filter(|_| is_there)?;
        Some(Awaited { kind: &wait.signal, matched })
    }

    /// What stands in `sagas.step`: what is pending, or how it ended.
    pub fn step_name(&self) -> &str {
        self.state.step_name(&self.flow)
    }

    /// Whether its pending step has reported what its client is to be answered.
    pub fn asks_its_client(&self) -> bool {
        let State::Running { step } = self.state else { return false };
        let reports = &self.flow.steps[step].progress;
        !self.progressed.is_empty() && reports.iter().any(|progress| progress.is_answered)
    }

    /// What stands in `sagas.cause`: why it turned back.
    pub fn cause(&self) -> Option<&str> {
        self.state.cause(&self.flow)
    }

    /// About how many bytes its request, what it keeps and its answer take.
    pub fn size(&self) -> usize {
        let answer = self.answered.as_ref().map_or(0, |answered| answered.body.len());
        self.request.input.size() + self.kept.size() + answer
    }

    /// The trace's id, for log lines and people.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// `RUNNING/PAYMENT_CHARGE`.
impl fmt::Display for Saga {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.status(), self.step_name())
    }
}
