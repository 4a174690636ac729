//! What a saga's steps are, as a table. Another flow is another table, not another engine.
//!
//! The name and version are stored with each saga: a saga ends by the table that it began with. A table that
//! sagas were started with is therefore never changed; a new version stands beside it.

use std::fmt::Write as _;
use std::time::Duration;

use messages::{ChargePayment, Message as _, RefundPayment, ReleaseInventory, ReserveInventory};

use super::advance::InputKind;
use super::state::Cause;

/// A flow: its steps in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    pub name: &'static str,
    pub version: i32,
    pub steps: &'static [Step],
}

/// One forward action, and how it is undone.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What stands in `sagas.step` while the action is pending.
    pub name: &'static str,
    pub action: Action,
    pub success: InputKind,
    pub failure: Failure,
    /// `None` where there is nothing to undo.
    pub compensation: Option<Compensation>,
    /// How long to wait for an answer before the step's outcome counts as unknown and is compensated. `None` from
    /// the pivot on: an unknown outcome is then asked for again, for ever.
    pub deadline: Option<Duration>,
}

/// A definite refusal of a step.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub input: InputKind,
    pub cause: Cause,
    /// Whether the refused step itself is compensated as well. Mostly a refusal leaves nothing behind.
    pub undo_this_step: bool,
}

/// The undoing of a step. It never gives up.
#[derive(Debug, PartialEq, Eq)]
pub struct Compensation {
    /// What stands in `sagas.step` while it is pending.
    pub name: &'static str,
    pub action: Action,
    pub done: InputKind,
}

/// What is asked of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    CreateOrder,
    ConfirmOrder,
    CancelOrder,
    ChargePayment,
    RefundPayment,
    ReserveInventory,
    ReleaseInventory,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::CreateOrder => "create-order",
            Self::ConfirmOrder => "confirm-order",
            Self::CancelOrder => "cancel-order",
            Self::ChargePayment => "charge-payment",
            Self::RefundPayment => "refund-payment",
            Self::ReserveInventory => "reserve-inventory",
            Self::ReleaseInventory => "release-inventory",
        }
    }

    /// The topic of the command that asks for it; `None` where it is asked for over HTTP.
    pub const fn command(self) -> Option<&'static str> {
        match self {
            Self::CreateOrder | Self::ConfirmOrder | Self::CancelOrder => None,
            Self::ChargePayment => Some(ChargePayment::TOPIC.name()),
            Self::RefundPayment => Some(RefundPayment::TOPIC.name()),
            Self::ReserveInventory => Some(ReserveInventory::TOPIC.name()),
            Self::ReleaseInventory => Some(ReleaseInventory::TOPIC.name()),
        }
    }
}

const STEP_DEADLINE: Option<Duration> = Some(Duration::from_secs(60));

/// Take the money first: it is the scarcer good. Reserve, then confirm.
pub static PAY_FIRST: Definition = Definition {
    name: "pay-first",
    version: 1,
    steps: &[
        Step {
            name: "ORDER_CREATE",
            action: Action::CreateOrder,
            success: InputKind::OrderCreated,
            // The order's row says CANCELLED even then, so that no order is known to one database only.
            failure: Failure { input: InputKind::OrderCreateRefused, cause: Cause::OrderRefused, undo_this_step: true },
            compensation: Some(Compensation {
                name: "ORDER_CANCEL",
                action: Action::CancelOrder,
                done: InputKind::OrderCancelled,
            }),
            deadline: STEP_DEADLINE,
        },
        Step {
            name: "PAYMENT_CHARGE",
            action: Action::ChargePayment,
            success: InputKind::PaymentCharged,
            failure: Failure { input: InputKind::PaymentFailed, cause: Cause::PaymentFailed, undo_this_step: false },
            compensation: Some(Compensation {
                name: "PAYMENT_REFUND",
                action: Action::RefundPayment,
                done: InputKind::PaymentRefunded,
            }),
            deadline: STEP_DEADLINE,
        },
        Step {
            name: "INVENTORY_RESERVE",
            action: Action::ReserveInventory,
            success: InputKind::InventoryReserved,
            failure: Failure {
                input: InputKind::InventoryFailed,
                cause: Cause::InventoryFailed,
                undo_this_step: false,
            },
            compensation: Some(Compensation {
                name: "INVENTORY_RELEASE",
                action: Action::ReleaseInventory,
                done: InputKind::InventoryReleased,
            }),
            deadline: STEP_DEADLINE,
        },
        // The pivot: no deadline, and only a definite refusal turns back.
        Step {
            name: "ORDER_CONFIRM",
            action: Action::ConfirmOrder,
            success: InputKind::OrderConfirmed,
            failure: Failure {
                input: InputKind::OrderConfirmRefused,
                cause: Cause::OrderRefused,
                undo_this_step: false,
            },
            compensation: None,
            deadline: None,
        },
    ],
};

/// Every definition that this release knows.
pub static DEFINITIONS: [&Definition; 1] = [&PAY_FIRST];

impl Definition {
    /// The definition that a stored saga names, if this release knows it.
    pub fn find(name: &str, version: i32) -> Option<&'static Self> {
        DEFINITIONS.into_iter().find(|definition| definition.name == name && definition.version == version)
    }

    /// The action that this input answers.
    pub fn answered_by(&self, kind: InputKind) -> Option<Action> {
        self.steps.iter().find_map(|step| {
            let undone = step.compensation.as_ref().filter(|undo| undo.done == kind).map(|undo| undo.action);
            let answers = kind == step.success || kind == step.failure.input;
            if answers { Some(step.action) } else { undone }
        })
    }

    /// All that it is, a line for each step: what is stored of it, to notice that it was changed. The words are not those
    /// of the source, so that a type may be renamed.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for step in self.steps {
            let deadline = step.deadline.map_or("no limit".to_owned(), |limit| format!("{} s", limit.as_secs_f64()));
            let Failure { input, cause, undo_this_step } = &step.failure;
            let _ = write!(
                text,
                "{}: {}, {deadline}; done by {}; refused by {} as {}",
                step.name,
                step.action.as_str(),
                step.success.as_str(),
                input.as_str(),
                cause.as_str()
            );
            text += if *undo_this_step { ", undoing this step; " } else { "; " };
            text += &step.compensation.as_ref().map_or("never undone".to_owned(), |undo| {
                format!("undone by {}: {}, done by {}", undo.name, undo.action.as_str(), undo.done.as_str())
            });
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text
    }
}
