//! The orchestrator's processes: what `saga-orchestrator/src/coordinator.rs`, `replies.rs` and the intake of
//! `checkout.rs` do around the core. Each statement, send and answer is a piece of work of its own.

use messages::{Event as Message, OutgoingRecord, Timestamp};
use saga_orchestrator::saga::{Effect, Input, NoMove, Reply, Saga, Transition, advance, flows, start};

use crate::coverage::Seen;
use crate::kafka::Taken;
use crate::pending::{Event, Work};
use crate::plan::{Service, index_of};
use crate::sweeper::RESEND_FIRST;
use crate::world::{ProcessId, World};
use saga_orchestrator::rehearsal::clock::ms_of;
use saga_orchestrator::rehearsal::dice::Rate;
use saga_orchestrator::rehearsal::dice::Statement;

/// `saga_timeout_ms` and `checkout_wait_ms`.
const SAGA_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(90);
const CHECKOUT_WAIT: u64 = 30_000;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An input on its way to a stored move: `Coordinator::apply`.
pub struct Applying {
    saga: usize,
    input: Input,
    now: Timestamp,
    origin: Origin,
    step: Step,
}

/// Who waits for an input to be applied.
pub enum Origin {
    Reply {
        taken: Taken,
        tries: u32,
    },
    Call {
        number: u64,
        tries: u32,
    },
    /// The sweeper: if this fails, the saga stays due.
    Deadline,
    /// A person: if this fails, they see it.
    Operator,
}

enum Step {
    Begin,
    Read,
    Write(Box<Transition>),
    Stored(Box<Saga>),
    NoteIgnored,
}

impl World {
    /// A client's request comes in. Who finds nobody goes away.
    pub fn request(&mut self, saga: usize) {
        let live = self.live(Service::Orchestrator);
        if live.is_empty() {
            return self.saw(Seen::NeverStored);
        }
        let (process, planned) = (self.dice.pick(&live), &self.planned[saga]);
        let now = self.clock(process);
        let (saga_id, order_id, checkout) = (planned.saga_id, planned.order_id, planned.checkout.clone());
        let new =
            start(flows::pay_first(), saga_id, order_id, checkout, now + SAGA_TIMEOUT, Some(TRACEPARENT.into()), now);
        self.soon(process, Work::Start { new: Box::new(new), tries: 0 });
    }

    /// `checkout.rs`, `store`, and `Coordinator::start`.
    pub fn start(&mut self, process: ProcessId, new: Box<Transition>, tries: u32) {
        let index = index_of(new.saga.saga_id);
        let statement = self.statement(Service::Orchestrator);
        if statement != Statement::Fails {
            let next_attempt_at = self.now + RESEND_FIRST;
            let stored = self.databases.insert_saga(index, (*new).clone(), next_attempt_at);
            if stored {
                self.fingerprint.moved(&new);
            }
            self.trace(|| format!("orchestrator {process}: saga {index} is stored: {stored}"));
            self.wake_sweepers(next_attempt_at);
            match (statement, stored) {
                (Statement::Works, true) => return self.soon(process, Work::Started(Box::new(new.saga))),
                (Statement::Works, false) => return self.saw(Seen::StartedTwice),
                _ => {}
            }
        } else if tries == 0 && self.dice.chance(Rate::percent(50)) {
            // It is known that nothing was sent.
            return self.saw(Seen::NeverStored);
        }
        if self.now < ms_of(new.saga.created_at) + CHECKOUT_WAIT {
            let pause = self.backoff(tries, 1_000);
            self.later(process, pause, Work::Start { new, tries: tries + 1 });
        }
    }

    /// `replies.rs`, `handle`.
    pub fn take_reply(&mut self, process: ProcessId, taken: Taken, tries: u32) {
        match Message::decode(&taken.record.topic, &taken.record.body) {
            Ok(message) => {
                let (saga, now) = (index_of(message.saga_id()), self.clock(process));
                let input = Input::from(Reply::from(message));
                self.begin(process, saga, input, now, Origin::Reply { taken, tries });
            }
            Err(error) => self.broken(format!("a reply can't be read: {error}")),
        }
    }

    pub fn begin(&mut self, process: ProcessId, saga: usize, input: Input, now: Timestamp, origin: Origin) {
        let mut applying = Box::new(Applying { saga, input, now, origin, step: Step::Read });
        match self.processes[process].cache.get(&saga).cloned() {
            Some(guess) => self.decide(process, applying, &guess, true),
            None => {
                applying.step = Step::Read;
                self.soon(process, Work::Apply(applying));
            }
        }
    }

    fn decide(&mut self, process: ProcessId, mut applying: Box<Applying>, saga: &Saga, is_guess: bool) {
        applying.step = match advance(saga, &applying.input, applying.now) {
            Ok(transition) => Step::Write(Box::new(transition)),
            Err(NoMove::Contradiction(why)) => return self.set_aside(process, *applying, &why),
            Err(_) if is_guess => {
                self.saw(Seen::StaleCache);
                self.processes[process].cache.remove(&applying.saga);
                Step::Read
            }
            Err(_) => Step::NoteIgnored,
        };
        self.soon(process, Work::Apply(applying));
    }

    /// `replies.rs`: what contradicts its saga is a dead letter, and done with.
    fn set_aside(&mut self, process: ProcessId, applying: Applying, why: &str) {
        let is_forged = applying.input.event_id().is_some_and(|id| self.forged.contains(&id));
        if !is_forged {
            return self.broken(format!("{:?} contradicts its saga: {why}", applying.input));
        }
        self.saw(Seen::ForgedReply);
        self.trace(|| format!("orchestrator {process}: saga {}: set aside: {why}", applying.saga));
        self.applied(process, applying.origin);
    }

    pub fn apply(&mut self, process: ProcessId, mut applying: Box<Applying>) {
        let saga = applying.saga;
        match applying.step {
            Step::Begin => self.begin(process, saga, applying.input, applying.now, applying.origin),
            Step::Read => match (self.statement(Service::Orchestrator), &self.databases.sagas[saga]) {
                (Statement::Works, Some(row)) => {
                    let stored = row.saga.clone();
                    self.decide(process, applying, &stored, false);
                }
                (Statement::Works, None) => self.broken(format!("{:?} of a saga that nobody knows", applying.input)),
                _ => self.not_applied(process, *applying),
            },
            Step::Write(transition) => {
                let statement = self.statement(Service::Orchestrator);
                let stored = statement != Statement::Fails && self.store_move(process, saga, &transition);
                if statement != Statement::Works || !stored {
                    self.processes[process].cache.remove(&saga);
                }
                applying.step = match (statement, stored) {
                    (Statement::Works, true) => Step::Stored(Box::new(transition.saga)),
                    (Statement::Works, false) => Step::Read,
                    _ => {
                        applying.step = Step::Begin;
                        return self.not_applied(process, *applying);
                    }
                };
                self.soon(process, Work::Apply(applying));
            }
            Step::Stored(stored) => {
                self.stored(process, *stored);
                self.applied(process, applying.origin);
            }
            Step::NoteIgnored => match self.statement(Service::Orchestrator) {
                Statement::Works => {
                    let by_hand = matches!(applying.origin, Origin::Operator);
                    self.saw(if by_hand { Seen::OperatorTooLate } else { Seen::InputIgnored });
                    self.applied(process, applying.origin);
                }
                _ => self.not_applied(process, *applying),
            },
        }
    }

    /// The conditional write of a move; whether it took place.
    fn store_move(&mut self, process: ProcessId, saga: usize, transition: &Transition) -> bool {
        let (first, deadline) = (self.now + RESEND_FIRST, transition.saga.deadline.map(ms_of));
        let next_attempt_at = deadline.map_or(first, |deadline| deadline.min(first));
        let before = self.databases.sagas[saga].as_ref().map(|row| row.saga.state);
        let stored = self.databases.move_saga(saga, transition, next_attempt_at);
        let input = &transition.entry.input;
        if stored {
            self.fingerprint.moved(transition);
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: {}", transition.saga));
            self.check_move(saga, before, transition);
            self.wake_sweepers(next_attempt_at);
        } else {
            self.saw(Seen::SagaRaceLost);
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: someone else was quicker"));
        }
        stored
    }

    /// What follows once a saga is stored: it is remembered, and does what its row asks for.
    pub fn stored(&mut self, process: ProcessId, saga: Saga) {
        self.perform(process, &saga);
        let cache = &mut self.processes[process].cache;
        if saga.state.has_ended() {
            cache.remove(&index_of(saga.saga_id));
        } else {
            cache.insert(index_of(saga.saga_id), saga);
        }
    }

    fn applied(&mut self, process: ProcessId, origin: Origin) {
        match origin {
            Origin::Reply { taken, .. } => self.finished(&taken),
            Origin::Call { number, .. } => self.call_ended(process, number),
            Origin::Deadline | Origin::Operator => {}
        }
    }

    /// The store failed: whoever waits for the input tries again, or leaves it to the sweeper.
    fn not_applied(&mut self, process: ProcessId, applying: Applying) {
        let Applying { saga, input, origin, .. } = applying;
        match origin {
            Origin::Reply { taken, tries } => {
                let pause = self.backoff(tries, 5_000);
                self.later(process, pause, Work::TakeReply(taken, tries + 1));
            }
            Origin::Call { number, tries: 4.. } => self.call_ended(process, number),
            Origin::Call { number, tries } => {
                let (pause, now) = (self.backoff(tries, 1_000), self.clock(process));
                let origin = Origin::Call { number, tries: tries + 1 };
                let again = Box::new(Applying { saga, input, now, origin, step: Step::Begin });
                self.later(process, pause, Work::Apply(again));
            }
            Origin::Deadline | Origin::Operator => {}
        }
    }

    /// `Coordinator::perform`.
    pub fn perform(&mut self, process: ProcessId, saga: &Saga) {
        match saga.effect() {
            Effect::Send(record) => self.soon(process, Work::Send(Box::new(record))),
            Effect::Call(call) => self.begin_call(process, index_of(saga.saga_id), call),
            // Nothing in pay-first waits for a signal.
            Effect::Await | Effect::Wake => {}
        }
    }

    /// A command leaves; nobody waits for its acknowledgement.
    pub fn send(&mut self, record: OutgoingRecord) {
        self.fingerprint.sent(&record);
        if self.dice.chance(self.rates.command_lost) {
            self.saw(Seen::CommandLost);
            return self.trace(|| format!("{} is lost", record.topic));
        }
        if self.dice.chance(self.rates.command_doubled) {
            self.saw(Seen::CommandDoubled);
            let at = self.now + self.delay();
            self.schedule(at, Event::Arrive(Box::new(record.clone())));
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Arrive(Box::new(record)));
    }

    /// The sweeper has found a step timed out.
    pub fn time_out(&mut self, process: ProcessId, saga: usize, now: Timestamp) {
        self.begin(process, saga, Input::DeadlinePassed, now, Origin::Deadline);
    }
}
