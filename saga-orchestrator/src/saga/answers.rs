//! What the other services' answers mean to a saga: participants' replies from Kafka, and the order service's
//! answers over HTTP.

use messages::Event;
use serde::Deserialize;

use super::advance::{Input, InputKind};
use super::effect::OrderCall;

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        let event_id = Some(event.event_id());
        let (kind, reason) = match event {
            Event::PaymentCharged(_) => (InputKind::PaymentCharged, None),
            Event::PaymentFailed(event) => (InputKind::PaymentFailed, Some(event.payload.reason)),
            Event::PaymentRefunded(_) => (InputKind::PaymentRefunded, None),
            Event::InventoryReserved(_) => (InputKind::InventoryReserved, None),
            Event::InventoryFailed(event) => (InputKind::InventoryFailed, Some(event.payload.reason)),
            Event::InventoryReleased(_) => (InputKind::InventoryReleased, None),
        };
        Self { event_id, reason, ..kind.into() }
    }
}

#[derive(Deserialize)]
struct OrderAnswer {
    status: String,
}

#[derive(Deserialize)]
struct ProblemAnswer {
    detail: String,
}

/// What the order service's answer to `call` means; `None` where it tells nothing, so that the call is made again.
/// Only what the order service definitely refuses is a refusal; a cancel is never refused by a service that works,
/// so any refusal of it is tried again, and ends as a saga that needs attention.
pub fn interpret(call: &OrderCall, status: u16, body: &[u8]) -> Option<Input> {
    let refused = |kind: InputKind| {
        let problem = serde_json::from_slice::<ProblemAnswer>(body);
        let reason = problem.map_or_else(|_| format!("HTTP status {status}"), |problem| problem.detail);
        Some(Input { reason: Some(reason), ..kind.into() })
    };
    match (call, status) {
        (OrderCall::Create { .. }, 200..=299) => match serde_json::from_slice::<OrderAnswer>(body).ok()? {
            order if order.status == "CANCELLED" => refused(InputKind::OrderCreateRefused),
            _ => Some(InputKind::OrderCreated.into()),
        },
        (OrderCall::Confirm { .. }, 200..=299) => Some(InputKind::OrderConfirmed.into()),
        (OrderCall::Cancel { .. }, 200..=299) => Some(InputKind::OrderCancelled.into()),
        (OrderCall::Create { .. }, 400 | 409 | 422) => refused(InputKind::OrderCreateRefused),
        (OrderCall::Confirm { .. }, 409) => refused(InputKind::OrderConfirmRefused),
        _ => None,
    }
}
