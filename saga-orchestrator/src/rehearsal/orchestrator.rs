//! The orchestrators: what `coordinator.rs`, `replies.rs`, `sweeper.rs`, `operator.rs` and the intake do around the core.
//! Each statement and each send is a piece of work of its own.

use std::rc::Rc;

use flow::{Question, RawEvent, State};
use messages::Timestamp;

use super::clock::{ms_of, timestamp};
use super::coverage::Seen;
use super::dice::Rate;
use super::dice::Statement;
use super::fault::Fault;
use super::participant::{Answer, Command, Sent};
use super::plan::{Act, Disturbance, place_of};
use super::row::Row;
use super::world::{Event, ProcessId, World};
use crate::saga::answers::interpret;
use crate::saga::{
    Attention, Effect, Input, NoMove, Operator, OperatorAct, Reply, Saga, Settled, Transition, advance, start,
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a process does next.
pub enum Work {
    /// Stores a new saga.
    Store(Box<Transition>),
    Apply(Box<Applying>),
    /// Does what a stored saga asks for.
    Perform(Box<Saga>),
}

/// An input on its way to a stored move: `Coordinator::apply_read`.
pub struct Applying {
    saga: usize,
    incoming: Incoming,
    now: Timestamp,
    step: Step,
}

enum Incoming {
    /// A reply, read once its saga is known: its number among those in the process' hand.
    Message {
        number: u64,
        event: String,
        body: Rc<Vec<u8>>,
    },
    Read {
        number: Option<u64>,
        input: Box<Input>,
    },
}

enum Step {
    Begin,
    Read,
    Write(Box<Transition>),
    Stored(Box<Saga>),
}

impl World<'_> {
    pub fn work(&mut self, process: ProcessId, work: Work) {
        match work {
            Work::Store(new) => self.store(process, new),
            Work::Apply(applying) => self.apply(process, applying),
            Work::Perform(saga) => self.perform(process, &saga),
        }
    }

    /// A client's request comes in. If no orchestrator runs, the client goes away.
    pub fn request(&mut self, saga: usize) {
        let Some(process) = self.live() else { return };
        let (planned, now) = (&self.sagas[saga], timestamp(self.now));
        let expires_at = timestamp(self.now.saturating_add(self.script.times.reach));
        let (flow, request, trace) = (self.script.flow.clone(), planned.request.clone(), Some(TRACEPARENT.to_owned()));
        let new = start(flow, planned.saga_id, planned.subject, request, expires_at, trace, now);
        self.soon(process, Work::Store(Box::new(new)));
    }

    /// `Coordinator::start`.
    fn store(&mut self, process: ProcessId, new: Box<Transition>) {
        let (saga, statement) = (place_of(new.saga.saga_id), self.statement());
        if self.fault == Some(Fault::EffectBeforeRow) {
            self.perform(process, &new.saga);
        }
        let is_new = statement != Statement::Fails && self.rows[saga].is_none();
        if is_new {
            let due = self.first_attempt(&new.saga);
            self.rows[saga] = Some(Row::new(&new, due));
            self.trace(|| format!("orchestrator {process}: saga {saga} is stored: {}", new.saga));
            self.expect(saga, due);
        }
        match (statement, is_new) {
            (Statement::Works, true) => {
                let saga = Box::new(new.saga);
                self.remember(process, &saga);
                self.soon(process, Work::Perform(saga));
            }
            // An earlier try has stored it: the sweeper goes on with it.
            (Statement::Works, false) => {}
            _ => {
                let pause = self.dice.between(50, 1_000);
                self.later(process, pause, Work::Store(new));
            }
        }
    }

    /// A reply comes to one of the orchestrators.
    pub fn take_answer(&mut self, answer: Answer) {
        let now = timestamp(self.now);
        match answer {
            Answer::Message { saga, ref event, ref body } => {
                let Some(process) = self.live() else {
                    let at = self.outage_until.max(self.now) + self.dice.between(100, 1_000);
                    return self.schedule(at, Event::Answer(answer));
                };
                self.numbers += 1;
                let number = self.numbers;
                let incoming = Incoming::Message { number, event: event.clone(), body: body.clone() };
                self.processes[process].in_hand.insert(number, answer);
                self.begin(process, Box::new(Applying { saga, incoming, now, step: Step::Begin }));
            }
            Answer::Call { saga, call, caller: (process, life), status, body } => {
                if !self.processes[process].up || self.processes[process].life != life {
                    return;
                }
                match interpret(&call, status, body.as_bytes()) {
                    Some(reply) => self.begin_input(process, saga, reply.into()),
                    None => self.broken(format!("{call:?} was answered {status}")),
                }
            }
        }
    }

    fn begin_input(&mut self, process: ProcessId, saga: usize, input: Input) {
        let incoming = Incoming::Read { number: None, input: Box::new(input) };
        self.begin(process, Box::new(Applying { saga, incoming, now: timestamp(self.now), step: Step::Begin }));
    }

    fn begin(&mut self, process: ProcessId, mut applying: Box<Applying>) {
        match self.processes[process].cache.get(&applying.saga).cloned() {
            Some(guess) => self.decide(process, applying, &guess, true),
            None => {
                applying.step = Step::Read;
                self.soon(process, Work::Apply(applying));
            }
        }
    }

    fn decide(&mut self, process: ProcessId, mut applying: Box<Applying>, saga: &Saga, is_guess: bool) {
        if let Incoming::Message { number, event, body } = &applying.incoming {
            match read(saga, event, body, self.fault) {
                Ok(reply) => {
                    applying.incoming = Incoming::Read { number: Some(*number), input: Box::new(reply.into()) };
                }
                Err(why) => return self.set_aside(process, &applying, &why),
            }
        }
        let Incoming::Read { input, .. } = &applying.incoming else { return };
        applying.step = match advance(saga, input, applying.now) {
            Ok(mut transition) => {
                self.plant(applying.saga, saga.state, &mut transition);
                if self.fault == Some(Fault::EffectBeforeRow) {
                    self.perform(process, &transition.saga);
                }
                Step::Write(Box::new(transition))
            }
            Err(NoMove::Contradiction(why)) => return self.set_aside(process, &applying, &why),
            Err(_) if is_guess => {
                self.saw(Seen::StaleCache);
                self.processes[process].cache.remove(&applying.saga);
                Step::Read
            }
            Err(NoMove::Ignored(ignored)) => {
                self.saw(Seen::InputIgnored);
                self.trace(|| format!("orchestrator {process}: saga {}: {ignored}", applying.saga));
                return self.finished(process, &applying);
            }
        };
        self.soon(process, Work::Apply(applying));
    }

    /// `replies.rs`: what contradicts its saga is a dead letter, and done with.
    fn set_aside(&mut self, process: ProcessId, applying: &Applying, why: &str) {
        let event_id = match &applying.incoming {
            Incoming::Message { body, .. } => RawEvent::read(body).ok().map(|event| event.event_id),
            Incoming::Read { input, .. } => input.event_id(),
        };
        if event_id.is_none_or(|id| !self.ledger.forged.contains(&id)) {
            return self.broken(format!("a correct reply to saga {} is set aside: {why}", applying.saga));
        }
        self.saw(Seen::Contradiction);
        self.trace(|| format!("orchestrator {process}: saga {}: set aside: {why}", applying.saga));
        self.finished(process, applying);
    }

    fn apply(&mut self, process: ProcessId, mut applying: Box<Applying>) {
        let saga = applying.saga;
        match std::mem::replace(&mut applying.step, Step::Begin) {
            Step::Begin => self.begin(process, applying),
            Step::Read => match self.statement() {
                Statement::Works => {
                    if let Some(stored) = self.read_row(saga) {
                        self.decide(process, applying, &stored, false);
                    }
                }
                _ => self.not_applied(process, *applying),
            },
            Step::Write(transition) => {
                let statement = self.statement();
                let is_stored = statement != Statement::Fails && self.store_move(process, saga, &transition);
                if statement != Statement::Works || !is_stored {
                    self.processes[process].cache.remove(&saga);
                }
                match (statement, is_stored) {
                    (Statement::Works, true) => applying.step = Step::Stored(Box::new(transition.saga)),
                    (Statement::Works, false) => applying.step = Step::Read,
                    _ => return self.not_applied(process, *applying),
                }
                self.soon(process, Work::Apply(applying));
            }
            Step::Stored(stored) => {
                self.perform(process, &stored);
                self.remember(process, &stored);
                self.finished(process, &applying);
            }
        }
    }

    /// A saga as a process reads it that knows its row alone.
    pub fn read_row(&mut self, saga: usize) -> Option<Saga> {
        let (now, fault) = (timestamp(self.now), self.fault);
        let Some(row) = &self.rows[saga] else {
            self.broken(format!("there is an input for saga {saga}, which is not stored"));
            return None;
        };
        match row.saga(&self.script.flow, now, fault) {
            Ok(stored) => Some(stored),
            Err(why) => {
                self.broken(format!("the row of saga {saga} can't be read: {why}"));
                None
            }
        }
    }

    /// The conditional write of a move; whether it took place.
    fn store_move(&mut self, process: ProcessId, saga: usize, transition: &Transition) -> bool {
        let due = self.first_attempt(&transition.saga);
        let is_checked = self.fault != Some(Fault::NoVersionCheck);
        let Some(row) = self.rows[saga].as_mut() else { return false };
        let deadline = row.deadline;
        let is_stored = row.moved(transition, due, is_checked);
        let input = &transition.entry.input;
        if is_stored {
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: {}", transition.saga));
            self.check_move(saga, deadline, transition);
            self.expect(saga, due);
        } else {
            self.saw(Seen::RaceLost);
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: another input was quicker"));
        }
        is_stored
    }

    fn first_attempt(&self, saga: &Saga) -> u64 {
        let first = self.now + self.script.times.first;
        saga.deadline.map_or(first, |deadline| ms_of(deadline).min(first))
    }

    fn remember(&mut self, process: ProcessId, saga: &Saga) {
        let (place, cache) = (place_of(saga.saga_id), &mut self.processes[process].cache);
        if saga.state.has_ended() {
            cache.remove(&place);
        } else {
            cache.insert(place, saga.clone());
        }
    }

    /// Its offset may be committed.
    fn finished(&mut self, process: ProcessId, applying: &Applying) {
        let (Incoming::Message { number, .. } | Incoming::Read { number: Some(number), .. }) = &applying.incoming
        else {
            return;
        };
        self.processes[process].in_hand.remove(number);
    }

    /// The store failed: a reply is tried again, anything else is left to the sweeper, or to a person.
    fn not_applied(&mut self, process: ProcessId, applying: Applying) {
        if let Incoming::Read { number: Some(_), .. } | Incoming::Message { .. } = applying.incoming {
            let pause = self.dice.between(50, 2_000);
            self.later(process, pause, Work::Apply(Box::new(Applying { step: Step::Begin, ..applying })));
        }
    }

    /// `Coordinator::perform`.
    fn perform(&mut self, process: ProcessId, saga: &Saga) {
        let effect = saga.effect();
        self.check_effect(saga, &effect);
        let (step, of_undo) = match saga.state {
            State::Running { step } => (step, false),
            State::Compensating { step, .. } => (step, true),
            State::Completed | State::Failed { .. } => return,
        };
        let sent = match effect {
            Effect::Send(record) => Sent::Record(record),
            Effect::Call(call) => Sent::Call(call, (process, self.processes[process].life)),
            Effect::Wake => return,
        };
        let command = Command { saga: place_of(saga.saga_id), step, of_undo, sent: Rc::new(sent) };
        if self.dice.chance(self.rates.command_lost) {
            self.saw(Seen::CommandLost);
            return self.trace(|| format!("the command to the {} is lost", command.name()));
        }
        if self.dice.chance(self.rates.command_doubled) {
            self.saw(Seen::CommandDoubled);
            let at = self.now + self.delay();
            self.schedule(at, Event::Command(command.clone()));
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Command(command));
    }

    /// Lets the sweeper look at a saga within a tick after it is due.
    fn expect(&mut self, saga: usize, due: u64) {
        let at = due.max(self.now) + self.dice.between(0, 250);
        self.schedule(at, Event::Due { saga });
    }

    /// `sweeper.rs`, and `claim_due` of the store.
    pub fn sweep(&mut self, saga: usize) {
        let times = self.script.times;
        let is_due = self.rows[saga].as_ref().is_some_and(|row| !row.has_ended() && row.next_attempt_at <= self.now);
        if !is_due || self.fault == Some(Fault::SweeperOff) {
            return;
        }
        let Some(process) = self.live() else {
            return self.expect(saga, self.outage_until.max(self.now + 250));
        };
        let chance = self.dice.between(0, 250);
        let (now, at) = (self.now, timestamp(self.now));
        let Some(row) = self.rows[saga].as_mut() else { return };
        row.attempts += 1;
        let pause = (times.first << row.attempts.min(20)).min(times.most);
        let next = now + pause - pause * chance / 1_000;
        let deadline = row.deadline.map(ms_of);
        row.next_attempt_at = deadline.filter(|deadline| *deadline > now).map_or(next, |limit| limit.min(next));
        let due = row.next_attempt_at;
        if deadline.is_none() && row.attempts >= times.attention_after && row.attention.is_none() {
            let reason = format!("{} was repeated {} times without success", row.step, row.attempts);
            row.attention = Some(Attention { since: at, reason });
            self.saw(Seen::NeedsAttention);
            let act = if self.dice.chance(Rate::percent(60)) { Act::Resolve } else { Act::Retry };
            let at = now + self.dice.between(500, 20_000);
            self.schedule(at, Event::Disturb(Disturbance::Operate { saga, act }));
        }
        self.expect(saga, due);
        let Some(claimed) = self.read_row(saga) else { return };
        if claimed.deadline.is_some_and(|deadline| deadline <= at) {
            self.trace(|| format!("orchestrator {process}: saga {saga}: {claimed} has timed out"));
            return self.begin_input(process, saga, Input::DeadlinePassed);
        }
        self.saw(Seen::Repetition);
        self.trace(|| format!("orchestrator {process}: saga {saga}: {claimed} is repeated"));
        self.soon(process, Work::Perform(Box::new(claimed)));
    }

    /// A person sends a request to one of the orchestrators.
    pub fn operate(&mut self, saga: usize, act: Act) {
        let (Some(row), Some(process)) = (self.rows[saga].clone(), self.live()) else { return };
        let act = match act {
            Act::Cancel => OperatorAct::Cancel,
            Act::Retry => OperatorAct::Retry,
            Act::Resolve if row.attention.is_none() => return,
            Act::Resolve => OperatorAct::Resolve(Settled { step: row.step, evidence: "bank transfer 4711".to_owned() }),
        };
        let operator = Operator { by: "ann".to_owned(), reason: "the customer called".to_owned(), act };
        self.begin_input(process, saga, operator.into());
    }
}

/// `replies.rs`: a reply as its saga's flow reads it.
fn read(saga: &Saga, event: &str, body: &[u8], fault: Option<Fault>) -> Result<Reply, String> {
    let mut raw = RawEvent::read(body).map_err(|misfit| misfit.to_string())?;
    let pending = saga.state.question(&saga.flow).map(|pending| pending.name);
    let answers_it = |(asked, _): (Question<'_>, _)| Some(asked.name) == pending;
    if fault == Some(Fault::ReplyByEventAlone) && saga.flow.answered_by(event).any(answers_it) {
        raw.causation_id = saga.command_id();
    }
    Reply::read(saga, event, &raw)
}
