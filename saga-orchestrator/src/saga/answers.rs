//! What the other services' answers mean to a saga: participants' replies from Kafka, and the order service's
//! answers over HTTP.

use messages::Event;
use messages::object::Object;
use serde::Deserialize;

use super::advance::{About, Input, InputKind};
use super::effect::OrderCall;

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        let (event_id, order_id, command) = (Some(event.event_id()), event.order_id(), event.causation_id());
        let (kind, reason, money) = match event {
            Event::PaymentCharged(event) => (InputKind::PaymentCharged, None, Some(event.payload.money)),
            Event::PaymentFailed(event) => (InputKind::PaymentFailed, Some(event.payload.reason), None),
            Event::PaymentRefunded(event) => (InputKind::PaymentRefunded, None, Some(event.payload.money)),
            Event::InventoryReserved(_) => (InputKind::InventoryReserved, None, None),
            Event::InventoryFailed(event) => (InputKind::InventoryFailed, Some(event.payload.reason), None),
            Event::InventoryReleased(_) => (InputKind::InventoryReleased, None, None),
        };
        Self { event_id, reason, about: Some(About { order_id, money, command }), ..kind.into() }
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
        let problem = serde_json::from_slice::<Object<ProblemAnswer>>(body);
        let reason = problem.map_or_else(|_| format!("HTTP status {status}"), |Object(problem)| problem.detail);
        Some(Input { reason: Some(reason), ..kind.into() })
    };
    let order = || serde_json::from_slice(body).ok().map(|Object::<OrderAnswer>(order)| order);
    let is_now = |wanted: &str| order().is_some_and(|order| order.status == wanted);
    match (call, status) {
        (OrderCall::Create { .. }, 200..=299) => match order()? {
            order if order.status == "CANCELLED" => refused(InputKind::OrderCreateRefused),
            _ => Some(InputKind::OrderCreated.into()),
        },
        // Said by the order itself: whatever else listens at that address may answer 200 to everything.
        (OrderCall::Confirm { .. }, 200..=299) => is_now("CONFIRMED").then(|| InputKind::OrderConfirmed.into()),
        (OrderCall::Cancel { .. }, 200..=299) => is_now("CANCELLED").then(|| InputKind::OrderCancelled.into()),
        (OrderCall::Create { .. }, 400 | 409 | 422) => refused(InputKind::OrderCreateRefused),
        (OrderCall::Confirm { .. }, 409) => refused(InputKind::OrderConfirmRefused),
        _ => None,
    }
}
