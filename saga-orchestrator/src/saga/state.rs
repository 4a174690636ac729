//! Where a saga can stand, and what it knows.

use std::fmt;
use std::str::FromStr;

use messages::{Money, OrderId, SagaId, Timestamp, UserId};

use super::definition::{Definition, Step};

/// One checkout.
#[derive(Debug, Clone, PartialEq)]
pub struct Saga {
    pub saga_id: SagaId,
    pub order_id: OrderId,
    pub definition: &'static Definition,
    /// Counts the transitions, from 1. A stored row is replaced only by the next version.
    pub version: i64,
    pub state: State,
    /// Why it turned back, in words.
    pub reason: Option<String>,
    pub checkout: Checkout,
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

/// What the client asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkout {
    pub user_id: UserId,
    pub money: Money,
    pub force_payment_fail: bool,
    pub force_inventory_fail: bool,
}

/// A place in the flow. `step` is an index into the definition's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The step's action is pending.
    Running {
        step: usize,
    },
    /// The step's compensation is pending.
    Compensating {
        step: usize,
        cause: Cause,
    },
    Completed,
    /// All that had been done is undone.
    Failed {
        cause: Cause,
    },
}

/// Why a saga turned back. Stored when it does, and never overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    PaymentFailed,
    InventoryFailed,
    TimedOut,
    Cancelled,
    OrderRefused,
}

impl Cause {
    pub const ALL: [Self; 5] =
        [Self::PaymentFailed, Self::InventoryFailed, Self::TimedOut, Self::Cancelled, Self::OrderRefused];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::InventoryFailed => "INVENTORY_FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Cancelled => "CANCELLED",
            Self::OrderRefused => "ORDER_REFUSED",
        }
    }
}

impl FromStr for Cause {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let known = Self::ALL.into_iter().find(|cause| cause.as_str() == text);
        known.ok_or_else(|| UnknownState(format!("cause {text:?}")))
    }
}

/// A stored state that the saga's definition does not have.
#[derive(Debug, thiserror::Error)]
#[error("a stored saga has an unknown {0}")]
pub struct UnknownState(String);

impl State {
    /// What stands in `sagas.status`.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Running { .. } => "RUNNING",
            Self::Compensating { .. } => "COMPENSATING",
            Self::Completed => "COMPLETED",
            Self::Failed { .. } => "FAILED",
        }
    }

    /// What stands in `sagas.step`: what is pending, or how it ended.
    pub fn step_name(self, definition: &Definition) -> &'static str {
        match self {
            Self::Running { step } => definition.steps[step].name,
            Self::Compensating { step, .. } => compensation_name(&definition.steps[step]),
            Self::Completed => "COMPLETED",
            Self::Failed { cause } => cause.as_str(),
        }
    }

    /// What stands in `sagas.cause`.
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Compensating { cause, .. } | Self::Failed { cause } => Some(cause),
            Self::Running { .. } | Self::Completed => None,
        }
    }

    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }

    /// The state that the columns `status`, `step` and `cause` tell.
    pub fn parse(definition: &Definition, status: &str, step: &str, cause: Option<&str>) -> Result<Self, UnknownState> {
        let unknown = || UnknownState(format!("state {status}/{step} in {}", definition.name));
        let place = |named: fn(&Step) -> &'static str| definition.steps.iter().position(|s| named(s) == step);
        let cause = || cause.ok_or_else(unknown)?.parse();
        match status {
            "RUNNING" => place(|step| step.name).map(|step| Self::Running { step }).ok_or_else(unknown),
            "COMPENSATING" => {
                let step = place(compensation_name).ok_or_else(unknown)?;
                Ok(Self::Compensating { step, cause: cause()? })
            }
            "COMPLETED" => Ok(Self::Completed),
            "FAILED" => Ok(Self::Failed { cause: cause()? }),
            _ => Err(unknown()),
        }
    }
}

fn compensation_name(step: &Step) -> &'static str {
    // A saga compensates only steps that have a compensation.
    step.compensation.as_ref().map_or("", |compensation| compensation.name)
}

impl Saga {
    pub fn step_name(&self) -> &'static str {
        self.state.step_name(self.definition)
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
