//! An order that was placed directly, and for which a saga is to be started.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::envelope::headers;
use crate::object::{self, Object};
use crate::{DecodeError, EventId, Items, Money, OrderId, OutgoingRecord, Timestamp, TimestampText, UserId, timestamp};

/// Where [`OrderCreated`] is sent.
pub const ORDER_CREATED: &str = "order.created";

/// An order that `POST /orders` has stored and that no saga has taken up yet. It is sent again, with the same `eventId`, until
/// one has: its reader starts one saga for it, however often it comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCreated {
    pub event_id: EventId,
    pub order_id: OrderId,
    /// When the order was stored.
    #[serde(serialize_with = "timestamp::serialize")]
    #[schema(value_type = TimestampText)]
    pub timestamp: Timestamp,
    #[serde(deserialize_with = "object::deserialize")]
    pub payload: PlacedOrder,
}

/// What was ordered, by whom, and by which flow it goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacedOrder {
    /// A flow behind `POST /checkout` that takes items.
    #[schema(example = "reserve-first")]
    pub flow: String,
    pub user_id: UserId,
    pub money: Money,
    #[schema(value_type = Vec<crate::Item>, min_items = 1, max_items = 100)]
    pub items: Items,
}

impl OrderCreated {
    /// The event of an order that was stored at this time.
    pub fn of(order_id: OrderId, timestamp: Timestamp, payload: PlacedOrder) -> Self {
        Self { event_id: EventId::derived(order_id, ORDER_CREATED), order_id, timestamp, payload }
    }

    /// Reads a record's body.
    ///
    /// # Errors
    /// [`DecodeError::Json`] names the field that is missing or wrong, and where.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Object(event) = serde_json::from_slice(body)?;
        Ok(event)
    }

    /// The record to produce: body as JSON, keyed by order, with the headers that messages have.
    pub fn to_record(&self, source: &'static str) -> OutgoingRecord {
        OutgoingRecord {
            topic: ORDER_CREATED.into(),
            key: self.order_id.to_string(),
            body: serde_json::to_vec(self).expect("an event of plain fields always has a JSON form"),
            headers: headers(self.event_id, ORDER_CREATED, self.timestamp, source, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Currency;

    #[test]
    fn an_order_that_is_announced_again_is_the_same_record_and_is_read_as_it_was_written() {
        let payload = PlacedOrder {
            flow: "reserve-first".to_owned(),
            user_id: "u1".to_owned().try_into().unwrap(),
            money: Money::parse("19.90", Currency::USD).unwrap(),
            items: serde_json::from_str(r#"[{"sku":"mug","qty":2}]"#).unwrap(),
        };
        let stored_at: Timestamp = "2026-11-21T07:22:45.090Z".parse().unwrap();
        let event = OrderCreated::of("01a1fcfc-71e1-7774-8bfb-88a030f9fbb9".parse().unwrap(), stored_at, payload);
        let record = event.to_record("order-service");
        assert_eq!(record, event.clone().to_record("order-service"));
        assert_eq!(OrderCreated::decode(&record.body).unwrap(), event);
        assert_eq!((&*record.topic, &*record.key), ("order.created", "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9"));
    }
}
