//! Calls of the order service, as an orchestrator makes them: what `saga-orchestrator/src/orders.rs` does, and
//! `Coordinator::call` around it.

use std::mem::{Discriminant, discriminant};

use saga_orchestrator::saga::OrderCall;
use saga_orchestrator::saga::answers::interpret;

use crate::coverage::Seen;
use crate::orchestrator::Origin;
use crate::order::{Answered, HttpAnswer};
use crate::pending::Work;
use crate::plan::Service;
use crate::world::{ProcessId, World};

/// `order_service_timeout_ms`.
const TIMEOUT: u64 = 1_500;

/// Quick retries of one call; beyond them the sweeper calls again.
const TRIES: u32 = 3;

/// A call of the order service: of which saga, of which kind, and its present number.
pub struct CallUnderWay {
    pub saga: usize,
    pub kind: Discriminant<OrderCall>,
    pub number: u64,
}

/// A call of the order service.
#[derive(Clone)]
pub struct Calling {
    pub saga: usize,
    pub call: OrderCall,
    /// Its place in the process' calls under way; another one for each try.
    pub number: u64,
    tries: u32,
}

impl World {
    /// `Coordinator::perform`, of a call: one that hangs is not joined by its own repetitions.
    pub fn begin_call(&mut self, process: ProcessId, saga: usize, call: OrderCall) {
        self.fingerprint.called(&call);
        let kind = discriminant(&call);
        let caller = &mut self.processes[process];
        if !caller.calling.iter().any(|other| other.saga == saga && other.kind == kind) {
            caller.calls += 1;
            let number = caller.calls;
            caller.calling.push(CallUnderWay { saga, kind, number });
            self.soon(process, Work::Call(Box::new(Calling { saga, call, number, tries: 0 })));
        }
    }

    /// `orders.rs`, `call`: one try.
    pub fn call(&mut self, process: ProcessId, calling: Calling) {
        let live = self.live(Service::Order);
        if live.is_empty() {
            self.saw(Seen::OrderServiceAway);
            return self.call_again(process, calling);
        }
        self.later(process, TIMEOUT, Work::CallTimeout { call: calling.number });
        if self.dice.chance(self.rates.http) {
            self.trace(|| format!("orchestrator {process}: {:?} is lost", calling.call));
            return self.saw(Seen::RequestLost);
        }
        if self.dice.chance(self.rates.request_doubled) {
            // A proxy repeats a request whose connection broke. The answer that is later has no number any more.
            self.saw(Seen::RequestDoubled);
            let server = self.dice.pick(&live);
            self.ask_order_service(server, process, calling.clone());
        }
        let server = self.dice.pick(&live);
        self.ask_order_service(server, process, calling);
    }

    pub fn call_answered(&mut self, process: ProcessId, Answered { calling, answer }: Answered) {
        // The answer may be too late.
        let Some(number) = self.renumber(process, calling.number) else { return };
        let calling = Calling { number, ..calling };
        let HttpAnswer::Complete { status, body } = answer else { return self.call_again(process, calling) };
        match interpret(&calling.call, status, &body) {
            Some(reply) => {
                let (saga, now) = (calling.saga, self.clock(process));
                self.begin(process, saga, reply.into(), now, Origin::Call { number, tries: 0 });
            }
            None => self.broken(format!("{:?} was answered {status}", calling.call)),
        }
    }

    /// After a passing trouble: a quick retry, or else it is left to the sweeper.
    fn call_again(&mut self, process: ProcessId, calling: Calling) {
        let tries = calling.tries + 1;
        if tries == TRIES {
            return self.call_ended(process, calling.number);
        }
        if let Some(number) = self.renumber(process, calling.number) {
            let pause = self.backoff(calling.tries, 200);
            self.later(process, pause, Work::Call(Box::new(Calling { number, tries, ..calling })));
        }
    }

    /// It is over: by an answer that is applied, or without one.
    pub fn call_ended(&mut self, process: ProcessId, number: u64) {
        self.processes[process].calling.retain(|call| call.number != number);
    }

    /// Gives a call under way its next number, so that the present one's timeout says nothing any more.
    fn renumber(&mut self, process: ProcessId, number: u64) -> Option<u64> {
        let caller = &mut self.processes[process];
        let call = caller.calling.iter_mut().find(|call| call.number == number)?;
        caller.calls += 1;
        call.number = caller.calls;
        Some(caller.calls)
    }
}
