//! A saga: where it stands, and what it knows.

use std::fmt;
use std::sync::Arc;

use flow::{Flow, Kept, Request, State};
use messages::{OrderId, SagaId, Timestamp};

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
    /// When the pending step counts as timed out; `None` where nothing times out.
    pub deadline: Option<Timestamp>,
    /// When the saga as a whole has to have passed its pivot.
    pub expires_at: Timestamp,
    /// Set by the sweeper, not by a move: a person should look.
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

impl Saga {
    /// What stands in `sagas.step`: what is pending, or how it ended.
    pub fn step_name(&self) -> &str {
        self.state.step_name(&self.flow)
    }

    /// What stands in `sagas.cause`: why it turned back.
    pub fn cause(&self) -> Option<&str> {
        self.state.cause(&self.flow)
    }

    /// About how many bytes its request and what it keeps take.
    pub fn size(&self) -> usize {
        self.request.input.size() + self.kept.size()
    }

    /// The trace's id, for log lines and people.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// `RUNNING/PAYMENT_CHARGE`.
impl fmt::Display for Saga {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.state.status(), self.step_name())
    }
}
