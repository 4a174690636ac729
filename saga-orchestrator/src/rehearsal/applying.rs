//! An input on its way to a stored move, as `replies.rs` and `Coordinator::apply_read` bring it there: read the saga, let
//! the core decide, store the move.

use std::collections::VecDeque;
use std::rc::Rc;

use flow::{Question, RawEvent};
use messages::Timestamp;

use super::clock::timestamp;
use super::coverage::Seen;
use super::dice::Statement;
use super::fault::Fault;
use super::matching::Pair;
use super::moves::Before;
use super::orchestrator::Work;
use super::participant::Answer;
use super::world::{Event, ProcessId, World};
use crate::saga::answers::interpret;
use crate::saga::{Input, NoMove, Reply, Saga, Signal, Transition};

/// An input, and how far it has come.
pub struct Applying {
    saga: usize,
    incoming: Incoming,
    now: Timestamp,
    step: Step,
    /// A move by a signal did not take place: the signal is passed over.
    has_lost: bool,
    /// What is tried where this saga does not take this signal.
    then: VecDeque<Pair>,
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
    /// A stored signal, by its place, read once, by the step that waits for it then.
    Signal {
        place: usize,
        read: Option<Box<Signal>>,
    },
}

enum Step {
    Begin,
    Read,
    Write(Box<Transition>),
    Stored(Box<Saga>),
}

impl Applying {
    fn of(saga: usize, incoming: Incoming, now: Timestamp) -> Self {
        Self { saga, incoming, now, step: Step::Begin, has_lost: false, then: VecDeque::new() }
    }

    /// A signal that this saga may take.
    pub fn signal((saga, place): Pair, then: VecDeque<Pair>, now: Timestamp) -> Self {
        Self { then, ..Self::of(saga, Incoming::Signal { place, read: None }, now) }
    }
}

impl World<'_> {
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
                self.begin(process, Box::new(Applying::of(saga, incoming, now)));
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

    /// An input that needs no reading.
    pub fn begin_input(&mut self, process: ProcessId, saga: usize, input: Input) {
        let incoming = Incoming::Read { number: None, input: Box::new(input) };
        self.begin(process, Box::new(Applying::of(saga, incoming, timestamp(self.now))));
    }

    /// Begins by what the process has in memory of the saga, if it has.
    pub fn begin(&mut self, process: ProcessId, mut applying: Box<Applying>) {
        match self.processes[process].cache.get(&applying.saga).cloned() {
            Some(guess) => self.decide(process, applying, &guess, true),
            None => {
                applying.step = Step::Read;
                self.soon(process, Work::Apply(applying));
            }
        }
    }

    fn decide(&mut self, process: ProcessId, mut applying: Box<Applying>, saga: &Saga, is_guess: bool) {
        self.spend(saga.size());
        let input = match self.understood(saga, &mut applying.incoming) {
            Ok(input) => input,
            Err(why) => {
                let Incoming::Signal { place, .. } = applying.incoming else {
                    return self.set_aside(process, &applying, &why);
                };
                if saga.wait().is_some_and(|wait| wait.signal == self.signals[place].kind) {
                    self.saw(Seen::SignalMisfit);
                }
                return self.pass_over(process, *applying, &why);
            }
        };
        applying.step = match self.advanced(saga, &input, applying.now) {
            Ok(mut transition) => {
                self.plant(applying.saga, saga.state, &mut transition);
                if self.fault == Some(Fault::EffectBeforeRow) {
                    self.perform(process, &transition.saga);
                }
                Step::Write(Box::new(transition))
            }
            Err(NoMove::Contradiction(why)) => return self.set_aside(process, &applying, &why),
            // The row itself has to say so.
            Err(_) if is_guess => {
                self.saw(Seen::StaleCache);
                self.processes[process].cache.remove(&applying.saga);
                Step::Read
            }
            Err(NoMove::Ignored(ignored)) => {
                self.saw(Seen::InputIgnored);
                return self.pass_over(process, *applying, &ignored.to_string());
            }
        };
        self.soon(process, Work::Apply(applying));
    }

    /// The input as the saga's flow reads it.
    fn understood(&self, saga: &Saga, incoming: &mut Incoming) -> Result<Input, String> {
        match incoming {
            Incoming::Read { input, .. } => Ok((**input).clone()),
            Incoming::Signal { read: Some(signal), .. } => Ok(Input::Signal((**signal).clone())),
            Incoming::Signal { place, read } => {
                let signal = self.signals[*place].read(saga)?;
                *read = Some(Box::new(signal.clone()));
                Ok(Input::Signal(signal))
            }
            Incoming::Message { number, event, body } => {
                let input = Input::from(read(saga, event, body, self.fault)?);
                *incoming = Incoming::Read { number: Some(*number), input: Box::new(input.clone()) };
                Ok(input)
            }
        }
    }

    /// It does not count here. A signal may be for another saga, and a saga may take another signal.
    fn pass_over(&mut self, process: ProcessId, applying: Applying, why: &str) {
        self.trace(|| format!("orchestrator {process}: saga {}: {why}", applying.saga));
        self.finished(process, &applying);
        self.take_one(process, applying.then);
    }

    /// `replies.rs`: what contradicts its saga is a dead letter, and done with.
    fn set_aside(&mut self, process: ProcessId, applying: &Applying, why: &str) {
        let event_id = match &applying.incoming {
            Incoming::Message { body, .. } => RawEvent::read(body).ok().map(|event| event.event_id),
            Incoming::Read { input, .. } => input.event_id(),
            Incoming::Signal { .. } => None,
        };
        if event_id.is_none_or(|id| !self.ledger.forged.contains(&id)) {
            return self.broken(format!("a correct reply to saga {} is set aside: {why}", applying.saga));
        }
        self.saw(Seen::Contradiction);
        self.trace(|| format!("orchestrator {process}: saga {}: set aside: {why}", applying.saga));
        self.finished(process, applying);
    }

    pub fn apply(&mut self, process: ProcessId, mut applying: Box<Applying>) {
        let saga = applying.saga;
        match std::mem::replace(&mut applying.step, Step::Begin) {
            Step::Begin => self.begin(process, applying),
            Step::Read => match self.statement() {
                Statement::Works => {
                    let Some(stored) = self.read_row(saga) else { return };
                    match applying.has_lost {
                        true => self.pass_over(process, *applying, "the signal or the saga has moved meanwhile"),
                        false => self.decide(process, applying, &stored, false),
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
                    (Statement::Works, false) => {
                        applying.has_lost = transition.takes.is_some();
                        applying.step = Step::Read;
                    }
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

    /// The conditional write of a move; whether it took place.
    fn store_move(&mut self, process: ProcessId, saga: usize, transition: &Transition) -> bool {
        let due = self.first_attempt(&transition.saga);
        let is_checked = self.fault != Some(Fault::NoVersionCheck);
        let is_free = self.is_free(transition.takes);
        let Some(row) = self.rows[saga].as_mut() else { return false };
        let before = Before {
            deadline: row.deadline,
            expires_at: row.expires_at,
            since: row.since(),
            waited: row.is_waiting(),
            is_marked: row.attention.is_some(),
        };
        let is_stored = is_free && row.moved(transition, due, is_checked);
        let input = &transition.entry.input;
        if is_stored {
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: {}", transition.saga));
            self.check_move(saga, before, transition);
            self.note_taken(saga, transition);
            self.expect(saga, due);
            self.happen_outside(saga, &transition.saga);
        } else {
            self.saw(if is_free { Seen::RaceLost } else { Seen::SignalRaceLost });
            self.trace(|| format!("orchestrator {process}: saga {saga}: {input}: another input or saga was quicker"));
        }
        is_stored
    }

    /// Its offset may be committed.
    fn finished(&mut self, process: ProcessId, applying: &Applying) {
        let (Incoming::Message { number, .. } | Incoming::Read { number: Some(number), .. }) = &applying.incoming
        else {
            return;
        };
        self.processes[process].in_hand.remove(number);
    }

    /// The store failed: a reply is tried again, a signal a few times. Anything else is left to the sweeper, or to a person.
    fn not_applied(&mut self, process: ProcessId, mut applying: Applying) {
        let is_tried_again = match &mut applying.incoming {
            Incoming::Message { .. } | Incoming::Read { number: Some(_), .. } => true,
            Incoming::Signal { read, .. } => {
                *read = None;
                self.is_patient()
            }
            Incoming::Read { number: None, .. } => false,
        };
        if is_tried_again {
            let pause = self.dice.between(50, 2_000);
            let applying = Applying { step: Step::Begin, has_lost: false, ..applying };
            self.later(process, pause, Work::Apply(Box::new(applying)));
        }
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
