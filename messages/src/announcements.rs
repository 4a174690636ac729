//! Events for other systems: how sagas end, and what becomes of orders. The platform does not read them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::envelope::headers;
use crate::{
    Command, EventId, Items, Money, OrderId, OutgoingRecord, SagaId, Timestamp, TimestampText, UserId, timestamp,
};

/// Where [`SagaOutcome`] is sent.
pub const SAGA_OUTCOMES: &str = "saga.outcomes";

/// Where [`OrderEvent`] is sent.
pub const ORDER_EVENTS: &str = "order.events";

/// The end of a saga of any flow. There is one for each saga. Its record is keyed by the saga, and has the envelope that commands have: `eventId`,
/// `sagaId`, what the saga is about by the name that the flow gives it (`orderId` in a checkout), and as `timestamp` when it ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaOutcome {
    #[schema(example = "pay-first")]
    pub flow: String,
    /// The flow's version.
    #[schema(example = 1)]
    pub version: i32,
    /// `COMPLETED`: all was done. `FAILED`: all that was done is undone.
    #[schema(example = "FAILED")]
    pub status: String,
    /// Why it turned back, as a word: `PAYMENT_FAILED`, say. Absent where it did not.
    #[schema(nullable = false, example = "PAYMENT_FAILED")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The same for people.
    #[schema(nullable = false, example = "declined by the bank")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose saga it is: in a checkout the `userId`.
    #[schema(example = "u1")]
    pub owner: String,
    /// Absent where the flow is about no money.
    #[schema(nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// What the flow answers with, where it has something to answer.
    #[schema(value_type = Option<Object>, nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// A compensation was settled by a person, outside of the platform.
    pub resolved_by_hand: bool,
    pub started_at: TimestampText,
}

impl SagaOutcome {
    /// The record to produce, of a saga about `subject` (the name that the flow gives it, and the id) that ended at `timestamp`.
    pub fn to_record(
        &self,
        saga_id: SagaId,
        subject: (&str, OrderId),
        timestamp: Timestamp,
        source: &'static str,
        traceparent: Option<&str>,
    ) -> OutgoingRecord {
        let event_id = EventId::derived(saga_id, SAGA_OUTCOMES);
        let envelope = Command { event_id, saga_id, subject, timestamp };
        envelope.to_record(SAGA_OUTCOMES.into(), source, traceparent, |body| {
            serde_json::to_writer(body, self).expect("an outcome of plain fields always has a JSON form");
        })
    }
}

/// A change of an order. Keyed by the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// The event's own id: the same when it is sent again.
    pub event_id: EventId,
    pub order_id: OrderId,
    /// When the change was stored.
    #[serde(serialize_with = "timestamp::serialize")]
    #[schema(value_type = TimestampText)]
    pub timestamp: Timestamp,
    pub payload: ChangedOrder,
}

/// The order behind a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedOrder {
    /// Counts the order's changes, from 1. A reader that keeps the highest number per order is not misled by an event that is sent again.
    #[schema(example = 1)]
    pub sequence: u32,
    /// `PENDING`, then `CONFIRMED` or `CANCELLED`.
    #[schema(example = "PENDING")]
    pub status: String,
    /// Why it was cancelled, as a word. Absent where it was not, and where nobody has said so.
    #[schema(nullable = false, example = "OUT_OF_STOCK")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// The saga that moves it. Absent where there is none, or none yet.
    #[schema(nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
    pub user_id: UserId,
    pub money: Money,
    /// What it is of, where its goods are counted.
    #[schema(value_type = Vec<crate::Item>, max_items = 100)]
    #[serde(default, skip_serializing_if = "Items::is_empty")]
    pub items: Items,
}

impl OrderEvent {
    /// The event of this change, which was stored at `timestamp`.
    pub fn of(order_id: OrderId, timestamp: Timestamp, payload: ChangedOrder) -> Self {
        let event_id = EventId::derived(order_id, &format!("{ORDER_EVENTS}:{}", payload.status));
        Self { event_id, order_id, timestamp, payload }
    }

    /// The record to produce.
    pub fn to_record(&self, source: &'static str) -> OutgoingRecord {
        OutgoingRecord {
            topic: ORDER_EVENTS.into(),
            key: self.order_id.to_string(),
            body: serde_json::to_vec(self).expect("an event of plain fields always has a JSON form"),
            headers: headers(self.event_id, ORDER_EVENTS, self.timestamp, source, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Currency;

    const SAGA: &str = "01a1fcfc-71e1-7774-8bfb-889f9eb14880";
    const ORDER: &str = "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9";

    fn at() -> Timestamp {
        "2026-11-21T07:22:45.090Z".parse().unwrap()
    }

    #[test]
    fn the_outcome_of_a_saga_is_the_same_record_each_time() {
        let outcome = SagaOutcome {
            flow: "trip".to_owned(),
            version: 1,
            status: "FAILED".to_owned(),
            cause: Some("NO_SEAT".to_owned()),
            reason: Some("no seat left".to_owned()),
            owner: "u1".to_owned(),
            money: None,
            result: None,
            resolved_by_hand: false,
            started_at: at().into(),
        };
        let subject = ("tripId", ORDER.parse().unwrap());
        let record = || outcome.to_record(SAGA.parse().unwrap(), subject, at(), "saga-orchestrator", None);
        assert_eq!(record(), record());
        assert_eq!((&*record().topic, &*record().key), (SAGA_OUTCOMES, SAGA));
        let body: Value = serde_json::from_slice(&record().body).unwrap();
        assert_eq!(body["tripId"], ORDER);
        let payload = json!({"flow": "trip", "version": 1, "status": "FAILED", "cause": "NO_SEAT", "reason": "no seat left",
            "owner": "u1", "resolvedByHand": false, "startedAt": "2026-11-21T07:22:45.090000Z"});
        assert_eq!(body["payload"], payload);
    }

    #[test]
    fn each_change_of_an_order_has_an_id_of_its_own() {
        let event = |sequence, status: &str| {
            let payload = ChangedOrder {
                sequence,
                status: status.to_owned(),
                failure_reason: None,
                saga_id: None,
                user_id: "u1".to_owned().try_into().unwrap(),
                money: Money::parse("19.90", Currency::USD).unwrap(),
                items: Items::default(),
            };
            OrderEvent::of(ORDER.parse().unwrap(), at(), payload)
        };
        assert_eq!(event(1, "PENDING").to_record("order-service"), event(1, "PENDING").to_record("order-service"));
        assert_ne!(event(1, "PENDING").event_id, event(2, "CONFIRMED").event_id);
        let read: OrderEvent = serde_json::from_slice(&event(2, "CONFIRMED").to_record("order-service").body).unwrap();
        assert_eq!(read, event(2, "CONFIRMED"));
    }
}
