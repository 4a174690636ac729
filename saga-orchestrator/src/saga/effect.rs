//! What a stored state asks for. The process that made the move does it first; after a crash or a lost message
//! anyone who reads the row does exactly the same again.

use flow::{Asked, Question, Slot, Source, Value, write_string};
use messages::{Command, EventId, Money, OrderId, OutgoingRecord, SagaId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::state::Saga;

/// The one thing that is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this command. A repetition is the same record, `eventId` and all.
    Send(OutgoingRecord),
    /// Call the order service.
    Call(OrderCall),
    /// Look for the signal that it waits for: one that came before is stored.
    Await,
    /// The saga has ended: tell those who wait for it.
    Wake,
}

/// A call of the order service: what a flow's built-in actions do. Idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderCall {
    Create {
        order_id: OrderId,
        saga_id: SagaId,
        user_id: UserId,
        money: Money,
        /// The lines of an order whose goods are counted, as JSON.
        items: Option<String>,
    },
    Confirm {
        order_id: OrderId,
        saga_id: SagaId,
    },
    Cancel {
        order_id: OrderId,
        saga_id: SagaId,
        /// Why, as a word: the saga's cause.
        reason: Option<String>,
        /// The same for people.
        detail: Option<String>,
    },
}

impl OrderCall {
    /// The saga that makes it, and its order.
    pub const fn ids(&self) -> (SagaId, OrderId) {
        match *self {
            Self::Create { order_id, saga_id, .. }
            | Self::Confirm { order_id, saga_id }
            | Self::Cancel { order_id, saga_id, .. } => (saga_id, order_id),
        }
    }
}

impl Saga {
    /// What this state asks for.
    pub fn effect(&self) -> Effect {
        let Some(question) = self.state.question(&self.flow) else {
            return if self.state.has_ended() { Effect::Wake } else { Effect::Await };
        };
        match &question.ask.of {
            Asked::Topic(topic) => Effect::Send(self.command(question, topic)),
            Asked::Action(action) => Effect::Call(self.call(question, action)),
        }
    }

    /// The id of the pending command. `None` where none is pending.
    pub fn command_id(&self) -> Option<EventId> {
        self.command_id_of(self.state.question(&self.flow)?)
    }

    /// The id of the command that asks this; `None` where it is asked by a call.
    pub(super) fn command_id_of(&self, question: Question<'_>) -> Option<EventId> {
        question.command_id(&self.flow, self.saga_id)
    }

    fn command(&self, question: Question<'_>, topic: &str) -> OutgoingRecord {
        let command = Command {
            event_id: self.command_id_of(question).unwrap_or_else(|| EventId::derived(self.saga_id, topic)),
            saga_id: self.saga_id,
            subject: (&self.flow.start.subject, self.order_id),
            timestamp: self.updated_at,
        };
        let payload = |body: &mut Vec<u8>| question.ask.send.fill(body, &mut |slot, body| self.write(slot, body));
        command.to_record(topic.to_owned().into(), crate::NAME, self.traceparent.as_deref(), payload)
    }

    /// Writes the value of a slot; false where there is none.
    pub fn write(&self, slot: &Slot, body: &mut Vec<u8>) -> bool {
        let value = match &slot.source {
            Source::Input(field) => self.request.input.get(field),
            Source::Kept { step, field } => self.kept.get(step, field),
            Source::Subject => {
                write_string(&self.order_id.to_string(), body);
                return true;
            }
            Source::Owner => {
                write_string(self.request.owner.as_str(), body);
                return true;
            }
            Source::Cause => {
                write_string(self.cause().unwrap_or_default(), body);
                return true;
            }
            Source::Money => {
                let Some(money) = self.request.money else { return false };
                Value::Money(money).write(body);
                return true;
            }
            Source::Reply(_) => None,
        };
        value.inspect(|value| value.write(body)).is_some()
    }

    fn call(&self, question: Question<'_>, action: &str) -> OrderCall {
        let (order_id, saga_id) = (self.order_id, self.saga_id);
        match action {
            "order.confirm" => OrderCall::Confirm { order_id, saga_id },
            "order.cancel" => {
                let reason = self.cause().map(str::to_owned);
                OrderCall::Cancel { order_id, saga_id, reason, detail: self.reason.clone() }
            }
            // The other actions are in no flow that runs.
            _ => {
                let user_id = self.request.owner.clone();
                let money = self.request.money.expect("the check of flows demands money where an order is created");
                OrderCall::Create { order_id, saga_id, user_id, money, items: self.items(question) }
            }
        }
    }

    /// The lines of an order that is to be created, where its flow sends some. Whether they make sense the order service says.
    fn items(&self, question: Question<'_>) -> Option<String> {
        #[derive(Deserialize)]
        struct Sent<'a> {
            #[serde(borrow)]
            items: Option<&'a RawValue>,
        }

        if !question.ask.send.has("items") {
            return None;
        }
        let mut body = Vec::new();
        question.ask.send.fill(&mut body, &mut |slot, body| self.write(slot, body));
        // What a payload writes is JSON.
        let sent: Sent<'_> = serde_json::from_slice(&body).ok()?;
        sent.items.map(|items| items.get().to_owned())
    }
}
