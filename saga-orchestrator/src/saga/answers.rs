//! What the other services' answers mean to a saga: participants' replies from Kafka, and the order service's
//! answers over HTTP. Both are named as the flow's file names them.

use flow::{RawEvent, Record, Value};
use messages::object::Object;
use messages::{
    Event, InventoryCommitted, InventoryFailed, InventoryKept, InventoryReleased, InventoryReserved, Message as _,
    OrderId, PaymentCharged, PaymentFailed, PaymentRefunded,
};
use serde::Deserialize;

use super::effect::OrderCall;
use super::input::{MessageIds, Reply};
use super::state::Saga;

/// A reply of one of our own participants.
impl From<Event> for Reply {
    fn from(event: Event) -> Self {
        let message = Some(MessageIds {
            event_id: event.event_id(),
            order_id: event.order_id(),
            causation_id: event.causation_id(),
        });
        let money = |money| ("money".into(), Value::Money(money));
        let reason = |reason| vec![("reason".into(), Value::Text(reason))];
        let (event, values) = match event {
            Event::PaymentCharged(event) => (PaymentCharged::TOPIC.name(), vec![money(event.payload.money)]),
            Event::PaymentFailed(event) => (PaymentFailed::TOPIC.name(), reason(event.payload.reason)),
            Event::PaymentRefunded(event) => {
                let returned = ("moneyReturned".into(), Value::Flag(event.payload.money_returned));
                (PaymentRefunded::TOPIC.name(), vec![money(event.payload.money), returned])
            }
            Event::InventoryReserved(_) => (InventoryReserved::TOPIC.name(), Vec::new()),
            Event::InventoryFailed(event) => (InventoryFailed::TOPIC.name(), reason(event.payload.reason)),
            Event::InventoryReleased(_) => (InventoryReleased::TOPIC.name(), Vec::new()),
            Event::InventoryCommitted(_) => (InventoryCommitted::TOPIC.name(), Vec::new()),
            Event::InventoryKept(_) => (InventoryKept::TOPIC.name(), Vec::new()),
        };
        Self { event: event.into(), values: Record(values), message }
    }
}

impl Reply {
    /// A reply to a saga, read as its flow has it. `event` is the event's name.
    ///
    /// # Errors
    /// The field that is missing or breaks its shape.
    pub fn read(saga: &Saga, event: &str, raw: &RawEvent<'_>) -> Result<Self, String> {
        let flow = &saga.flow;
        let order_id = raw.subject(&flow.start.subject).map_err(|misfit| misfit.to_string())?;
        let is_answered = |question| raw.causation_id.is_some() && saga.command_id_of(question) == raw.causation_id;
        let mut meanings = flow.answered_by(event);
        let first = meanings.next();
        let (_, meaning) = match first {
            // An event that nothing in the flow waits for is refused by the core, with its name.
            None => return Ok(Self { message: Some(ids(raw, order_id)), ..Self::named(event.to_owned()) }),
            Some(first) => {
                std::iter::once(first).chain(meanings).find(|(asked, _)| is_answered(*asked)).unwrap_or(first)
            }
        };
        let values = meaning.read(raw.payload).map_err(|misfit| format!("its payload breaks its shape: {misfit}"))?;
        Ok(Self { event: event.to_owned().into(), values, message: Some(ids(raw, order_id)) })
    }
}

fn ids(raw: &RawEvent<'_>, order_id: OrderId) -> MessageIds {
    MessageIds { event_id: raw.event_id, order_id, causation_id: raw.causation_id }
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
pub fn interpret(call: &OrderCall, status: u16, body: &[u8]) -> Option<Reply> {
    let refused = |event: &'static str| {
        let problem = serde_json::from_slice::<Object<ProblemAnswer>>(body);
        let reason = problem.map_or_else(|_| format!("HTTP status {status}"), |Object(problem)| problem.detail);
        let values = Record(vec![("reason".into(), Value::Text(reason))]);
        Some(Reply { event: event.into(), values, message: None })
    };
    let done = |event: &'static str| Reply::named(event);
    let order = || serde_json::from_slice(body).ok().map(|Object::<OrderAnswer>(order)| order);
    let is_now = |wanted: &str| order().is_some_and(|order| order.status == wanted);
    match (call, status) {
        (OrderCall::Create { .. }, 200..=299) => match order()? {
            order if order.status == "CANCELLED" => refused("order.create-refused"),
            _ => Some(done("order.created")),
        },
        // Said by the order itself: whatever else listens at that address may answer 200 to everything.
        (OrderCall::Confirm { .. }, 200..=299) => is_now("CONFIRMED").then(|| done("order.confirmed")),
        (OrderCall::Cancel { .. }, 200..=299) => is_now("CANCELLED").then(|| done("order.cancelled")),
        (OrderCall::Create { .. }, 400 | 409 | 422) => refused("order.create-refused"),
        (OrderCall::Confirm { .. }, 409) => refused("order.confirm-refused"),
        _ => None,
    }
}
