//! What a stored state asks for. The process that made the move does it first; after a crash or a lost message
//! anyone who reads the row does exactly the same again.

use messages::{
    ChargePayment, Envelope, EventId, Message, Money, OrderId, OutgoingRecord, RefundPayment, ReleaseInventory,
    ReserveInventory, SagaId, UserId,
};

use super::advance::InputKind;
use super::definition::Action;
use super::state::{Saga, State};

/// The one thing that is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this command. A repetition is the same record, `eventId` and all.
    Send(OutgoingRecord),
    /// Call the order service.
    Call(OrderCall),
    /// The saga has ended: tell those who wait for it.
    Wake,
}

/// A call of the order service. Idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderCall {
    Create { order_id: OrderId, saga_id: SagaId, user_id: UserId, money: Money },
    Confirm { order_id: OrderId, saga_id: SagaId },
    Cancel { order_id: OrderId, saga_id: SagaId },
}

impl OrderCall {
    /// The saga that makes it, and its order.
    pub const fn ids(&self) -> (SagaId, OrderId) {
        match *self {
            Self::Create { order_id, saga_id, .. }
            | Self::Confirm { order_id, saga_id }
            | Self::Cancel { order_id, saga_id } => (saga_id, order_id),
        }
    }
}

impl Saga {
    /// What this state asks for.
    pub fn effect(&self) -> Effect {
        let steps = self.definition.steps;
        let action = match self.state {
            State::Running { step } => Some(steps[step].action),
            State::Compensating { step, .. } => steps[step].compensation.as_ref().map(|undo| undo.action),
            State::Completed | State::Failed { .. } => None,
        };
        action.map_or(Effect::Wake, |action| self.perform(action))
    }

    fn perform(&self, action: Action) -> Effect {
        let (order_id, saga_id, checkout) = (self.order_id, self.saga_id, &self.checkout);
        match action {
            Action::CreateOrder => {
                let (user_id, money) = (checkout.user_id.clone(), checkout.money);
                Effect::Call(OrderCall::Create { order_id, saga_id, user_id, money })
            }
            Action::ConfirmOrder => Effect::Call(OrderCall::Confirm { order_id, saga_id }),
            Action::CancelOrder => Effect::Call(OrderCall::Cancel { order_id, saga_id }),
            Action::ChargePayment => self.command(ChargePayment {
                user_id: checkout.user_id.clone(),
                money: checkout.money,
                force_fail: checkout.force_payment_fail,
            }),
            Action::RefundPayment => self.command(RefundPayment { money: checkout.money, reason: self.cause_name() }),
            Action::ReserveInventory => self.command(ReserveInventory { force_fail: checkout.force_inventory_fail }),
            Action::ReleaseInventory => self.command(ReleaseInventory { reason: self.cause_name() }),
        }
    }

    /// The id of the command that this input answers, whether it was sent yet or not; `None` where nothing in the saga
    /// asks for it by a command.
    pub fn command_answered_by(&self, kind: InputKind) -> Option<EventId> {
        Some(self.command_id(self.definition.answered_by(kind)?.command()?))
    }

    /// A saga sends one command of each topic: sent again, it keeps its id.
    fn command_id(&self, topic: &str) -> EventId {
        EventId::derived(self.saga_id, topic)
    }

    fn cause_name(&self) -> String {
        self.state.cause().map_or("", |cause| cause.as_str()).to_owned()
    }

    fn command<T: Message>(&self, payload: T) -> Effect {
        let envelope = Envelope {
            event_id: self.command_id(T::TOPIC.name()),
            causation_id: None,
            saga_id: self.saga_id,
            order_id: self.order_id,
            timestamp: self.updated_at,
            payload,
        };
        Effect::Send(envelope.to_record(crate::NAME, self.traceparent.as_deref()))
    }
}
