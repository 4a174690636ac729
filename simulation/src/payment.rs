//! The payment service's processes: what `participant/src/handling.rs` does around `payment.rs`, and the gateway,
//! which decides each key once and keeps a ledger of its own, as `gateway.rs` does.

use messages::PaymentCommand;
use payment_service::payment::{Answer, Call, Next, Payment, Status, decide, settle};

use crate::coverage::Seen;
use crate::databases::{Entry, Versioned};
use crate::kafka::Taken;
use crate::pending::Work;
use crate::plan::{Service, index_of};
use crate::world::{ProcessId, World};
use saga_orchestrator::rehearsal::dice::Rate;
use saga_orchestrator::rehearsal::dice::Statement;

/// A command in the service's hands.
pub struct Paying {
    taken: Taken,
    tries: u32,
    command: PaymentCommand,
    stored: Option<Versioned<Payment>>,
    step: Step,
}

enum Step {
    Decide,
    /// Whether the row says that the gateway has refused the refund: then there is no reply.
    Write(Payment, bool),
    Read(bool),
    Gateway(Call, Payment),
    Settle(Answer, Payment),
}

/// Why a call has no answer: `gateway.rs`, `CallError`.
enum CallError {
    Unreachable,
    Store,
}

impl World {
    /// `Handling::handle`, from the beginning.
    pub fn take_payment_command(&mut self, process: ProcessId, taken: Taken, tries: u32) {
        match PaymentCommand::decode(&taken.record.topic, &taken.record.body) {
            Ok(command) => {
                let paying = Paying { taken, tries, command, stored: None, step: Step::Decide };
                self.decide_payment(process, Box::new(paying));
            }
            Err(error) => self.broken(format!("a payment command can't be read: {error}")),
        }
    }

    pub fn pay(&mut self, process: ProcessId, mut paying: Box<Paying>) {
        let index = index_of(paying.command.order_id());
        match paying.step {
            Step::Decide => self.decide_payment(process, paying),
            Step::Write(row, refused) => {
                let statement = self.statement(Service::Payment);
                let expected = paying.stored.as_ref().map(|stored| stored.row.status);
                let stored = statement != Statement::Fails && self.store_payment(index, expected, &row);
                if statement != Statement::Works {
                    return self.pay_again(process, paying.taken, paying.tries);
                }
                if stored {
                    paying.stored = self.databases.payments[index].clone();
                    paying.step = Step::Decide;
                } else {
                    self.saw(Seen::PaymentRaceLost);
                    paying.step = Step::Read(refused);
                }
                if stored && refused {
                    self.soon(process, Work::Finish(paying.taken));
                } else {
                    self.soon(process, Work::Pay(paying));
                }
            }
            Step::Read(refused) => match self.statement(Service::Payment) {
                Statement::Works if refused && self.databases.payments[index].is_some() => {
                    self.soon(process, Work::Finish(paying.taken));
                }
                Statement::Works => {
                    paying.stored = self.databases.payments[index].clone();
                    self.decide_payment(process, paying);
                }
                _ => self.pay_again(process, paying.taken, paying.tries),
            },
            Step::Gateway(call, announced) => match self.gateway(index, &call) {
                Ok(answer) => {
                    paying.step = Step::Settle(answer, announced);
                    let after = self.gateway_delay();
                    self.later(process, after, Work::Pay(paying));
                }
                // No reply: the saga sends the command again.
                Err(CallError::Unreachable) => self.soon(process, Work::Finish(paying.taken)),
                Err(CallError::Store) => {
                    self.pay_again(process, paying.taken, paying.tries);
                }
            },
            Step::Settle(answer, announced) => {
                let row = settle(&announced, answer, self.clock(process));
                let refused = row.status == announced.status;
                paying.step = Step::Write(row, refused);
                self.soon(process, Work::Pay(paying));
            }
        }
    }

    fn decide_payment(&mut self, process: ProcessId, mut paying: Box<Paying>) {
        let stored = paying.stored.as_ref();
        let next = decide(&paying.command, stored.map(|stored| &stored.row), self.clock(process));
        self.note_decision(&paying);
        match next {
            Next::Write(row) => {
                paying.step = Step::Write(row, false);
                self.soon(process, Work::Pay(paying));
            }
            Next::Ask { call, announced } => {
                paying.step = Step::Gateway(call, announced);
                let after = self.gateway_delay();
                self.later(process, after, Work::Pay(paying));
            }
            Next::Reply(reply) => {
                let record = reply.to_record("payment-service", traceparent(&paying.taken));
                let Paying { taken, command, stored, .. } = *paying;
                self.check_reply_bytes(command.event_id(), stored.map_or(0, |stored| stored.writes), &record);
                self.soon(process, Work::Reply { taken, reply: Box::new(record), tries: 0 });
            }
            Next::Contradiction(why) => self.broken(format!("a payment command contradicts the row: {why}")),
        }
    }

    fn note_decision(&mut self, paying: &Paying) {
        match (&paying.command, paying.stored.as_ref().map(|stored| stored.row.status)) {
            (PaymentCommand::Charge(_), Some(Status::Voided)) => self.saw(Seen::LateCharge),
            (PaymentCommand::Refund(_), Some(Status::Charging)) => self.saw(Seen::RefundMeetsCharge),
            _ => {}
        }
    }

    fn store_payment(&mut self, index: usize, expected: Option<Status>, row: &Payment) -> bool {
        let stored = self.databases.write_payment(index, expected, row);
        if stored {
            self.trace(|| format!("payment {index} is {}", row.status.as_str()));
            match row.status {
                Status::Voided => self.saw(Seen::PaymentTombstone),
                Status::Refunded => self.saw(Seen::Refunded),
                _ => {}
            }
        }
        stored
    }

    /// The handler failed for a while: `consumer.rs` tries the record again.
    fn pay_again(&mut self, process: ProcessId, taken: Taken, tries: u32) {
        let pause = self.backoff(tries, 5_000);
        self.later(process, pause, Work::TakePaymentCommand(taken, tries + 1));
    }

    /// How long a call is on its way there, or back. A slow one is done when the faults end.
    fn gateway_delay(&mut self) -> u64 {
        if self.dice.chance(self.rates.gateway_slow) {
            self.saw(Seen::GatewaySlow);
            self.dice.between(100, 100_000).min(self.calm_at.saturating_sub(self.now)) + 1
        } else {
            self.delay()
        }
    }

    /// `gateway.rs`, `call`.
    fn gateway(&mut self, index: usize, call: &Call) -> Result<Answer, CallError> {
        self.check_announced(index, call);
        let unreachable = self.dice.chance(self.rates.gateway);
        if unreachable && self.dice.chance(Rate::percent(50)) {
            self.saw(Seen::GatewayFailed);
            return Err(CallError::Unreachable);
        }
        let statement = self.statement(Service::Payment);
        if statement == Statement::Fails {
            return Err(CallError::Store);
        }
        let declined = match call {
            Call::Charge { .. } => self.dice.chance(self.rates.declined),
            Call::Refund { .. } => self.dice.chance(self.rates.refund_refused),
        };
        let memory = &self.databases.gateway[index];
        let (entry, remembered, money) = match call {
            Call::Charge { money, .. } => (Entry::Charge, memory.charge.clone(), *money),
            Call::Refund { money, .. } => (Entry::Refund, memory.refund.clone(), *money),
        };
        let answer = remembered.unwrap_or_else(|| {
            let answer = match call {
                Call::Charge { force_fail: true, .. } => Answer::Declined { reason: "declined: forced".to_owned() },
                Call::Charge { .. } if declined => Answer::Declined { reason: "declined by the bank".to_owned() },
                Call::Charge { .. } => Answer::Charged,
                Call::Refund { .. } if declined => Answer::Declined { reason: "the card is closed".to_owned() },
                Call::Refund { .. } => Answer::Refunded,
            };
            self.trace(|| format!("the gateway decides {entry:?} {index}: {answer:?}"));
            let memory = &mut self.databases.gateway[index];
            match entry {
                Entry::Charge => memory.charge = Some(answer.clone()),
                Entry::Refund => memory.refund = Some(answer.clone()),
            }
            if let Answer::Declined { .. } = answer {
                self.saw(if entry == Entry::Charge { Seen::Declined } else { Seen::RefundRefused });
            } else {
                self.databases.gateway[index].ledger.push((entry, money));
                self.check_ledger(index, entry);
            }
            answer
        });
        if unreachable {
            self.saw(Seen::GatewayAnswerLost);
            return Err(CallError::Unreachable);
        }
        if statement == Statement::Works { Ok(answer) } else { Err(CallError::Store) }
    }
}

/// The trace context that a reply carries on.
pub fn traceparent(taken: &Taken) -> Option<&str> {
    let mut headers = taken.record.headers.iter();
    headers.find(|(name, _)| *name == "traceparent").map(|(_, value)| value.as_str())
}
