//! A participant that does something else than it is asked for: its reply tells of another amount, another order, or
//! answers a command that the saga did not send. Such a reply must move nothing.

use messages::{EventId, OutgoingRecord};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::World;
use saga_orchestrator::rehearsal::dice::{Dice, Rate};

/// How often a reply is accompanied by a forged one: in some seeds, that is.
pub fn rate(forger: &mut Dice) -> Rate {
    if forger.chance(Rate::percent(12)) { Rate::percent(20) } else { Rate::NEVER }
}

impl World {
    /// Kafka takes a reply like this one that differs in one thing, with an id of its own.
    pub fn forge(&mut self, reply: &OutgoingRecord) {
        if self.broker_is_away() {
            return;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else {
            return self.broken(format!("a reply is not JSON: {reply:?}"));
        };
        let mut id = || Uuid::from_u64_pair(self.forger.bits(), self.forger.bits());
        let (event_id, other) = (id(), id());
        let what = self.forger.between(0, 3);
        let differs = match what {
            0 if body["payload"]["money"].is_object() => {
                body["payload"]["money"]["amount"] = json!("200000.01");
                "the amount"
            }
            1 => {
                body["causationId"] = Value::Null;
                "it names no command"
            }
            2 => {
                body["orderId"] = json!(other);
                "the order"
            }
            _ => {
                body["causationId"] = json!(other);
                "the command"
            }
        };
        body["eventId"] = json!(event_id);
        self.forged.insert(EventId::from(event_id));
        self.trace(|| format!("a forged {}: {differs}", reply.topic));
        let record = OutgoingRecord { body: body.to_string().into_bytes(), ..reply.clone() };
        self.append(record);
    }
}
