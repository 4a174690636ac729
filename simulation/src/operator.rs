//! The operator's hand: what `saga-orchestrator/src/operator.rs` lets a person do to a saga. A person looks at the
//! result, and does it again if nothing came of it.

use payment_service::payment::Answer;
use saga_orchestrator::saga::{Operator, OperatorAct, Role, Settled, State};

use crate::coverage::Seen;
use crate::orchestrator::Origin;
use crate::pending::Event;
use crate::plan::{Act, Disturbance, Service};
use crate::world::World;

impl World {
    /// A saga needs attention: a person comes before long, and looks again until it moves. What they settle by hand is
    /// a refund that the gateway has refused; anything else is repeated until it succeeds.
    pub fn call_operator(&mut self, saga: usize) {
        let at = self.now + self.dice.between(500, 20_000);
        self.schedule(at, Event::Disturb(Disturbance::Operate { saga, act: Act::Resolve }));
    }

    /// A person sends a request to one of the orchestrators.
    pub fn operate(&mut self, saga: usize, act: Act) {
        let Some(row) = &self.databases.sagas[saga] else { return };
        if act == Act::Resolve {
            // Once it moves, it needs attention no more.
            if row.saga.attention.is_none() || row.saga.state.has_ended() {
                return;
            }
            let is_refund = row.saga.step_name() == "PAYMENT_REFUND";
            let is_refused = matches!(self.databases.gateway[saga].refund, Some(Answer::Declined { .. }));
            let at = self.now + 5_000;
            self.schedule(at, Event::Disturb(Disturbance::Operate { saga, act }));
            if !is_refund || !is_refused {
                return;
            }
        }
        let live = self.live(Service::Orchestrator);
        if live.is_empty() {
            return;
        }
        let (step, evidence) = ("PAYMENT_REFUND".to_owned(), "bank transfer 4711".to_owned());
        let act = match act {
            Act::Cancel => OperatorAct::Cancel(Role::Operator),
            Act::Retry => OperatorAct::Retry,
            Act::Resolve => OperatorAct::Resolve(Settled { step, evidence }),
        };
        let operator = Operator { by: "ann".to_owned(), reason: "the customer called".to_owned(), act };
        let process = self.dice.pick(&live);
        let now = self.clock(process);
        self.begin(process, saga, operator.into(), now, Origin::Operator);
    }

    /// What came of it.
    pub fn note_operator(&mut self, before: Option<State>, input: &str) {
        match (input, before) {
            ("operator.cancelled", Some(State::Running { .. })) => self.saw(Seen::CancelledByOperator),
            ("operator.retried", _) => self.saw(Seen::RetriedByOperator),
            ("operator.resolved", _) => self.saw(Seen::ResolvedByOperator),
            _ => {}
        }
    }
}
