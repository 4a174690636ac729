//! The modelled world: its clock, its processes, and what happens to them.
//!
//! A process' work is cut at its persistence points: each piece is a [`Work`] of its own. A crash drops all that is
//! pending of a process, so it strikes between any two points.

use std::collections::BTreeMap;

use super::coverage::{Coverage, Seen};
use super::dice::{Dice, Rate, Statement};
use super::fault::Fault;
use super::orchestrator::Work;
use super::outside::{Outside, StoredSignal, Turn};
use super::participant::{Answer, Command, Held};
use super::plan::{Disturbance, Plan, Planned, Rates};
use super::row::Row;
use super::rules::Ledger;
use super::script::Script;
use crate::saga::Saga;

/// The work of an event by itself.
const EVENT: usize = 1_000;

/// Two orchestrators.
pub type ProcessId = usize;
pub const PROCESSES: usize = 2;

pub enum Event {
    /// A client sends its request.
    Request {
        saga: usize,
    },
    /// A piece of a process' work.
    Work {
        process: ProcessId,
        life: u32,
        work: Work,
    },
    /// A saga's effect may be due to be repeated.
    Due {
        saga: usize,
    },
    /// A command reaches its participant.
    Command(Command),
    /// A participant goes on with what it has reported progress of.
    GoesOn(Command),
    /// A reply reaches the orchestrators.
    Answer(Answer),
    /// Something happens outside.
    Outside(Turn),
    Restart {
        process: ProcessId,
    },
    Disturb(Disturbance),
    /// The faults end.
    Calm,
}

/// An orchestrator; what it has in memory is lost with it.
#[derive(Default)]
pub struct Process {
    pub up: bool,
    /// Counts its lives.
    pub life: u32,
    /// The sagas in flight as it knows them.
    pub cache: BTreeMap<usize, Saga>,
    /// Replies whose offsets are not committed, by a number of their own.
    pub in_hand: BTreeMap<u64, Answer>,
}

pub struct World<'a> {
    pub script: &'a Script,
    pub fault: Option<Fault>,
    /// In ms from the beginning.
    pub now: u64,
    pub dice: Dice,
    pub rates: Rates,
    pub calm_at: u64,
    pub sagas: Vec<Planned>,
    pub rows: Vec<Option<Row>>,
    pub processes: [Process; PROCESSES],
    /// Until when no orchestrator runs.
    pub outage_until: u64,
    /// Each step's participant's rows, by saga and step.
    pub held: Vec<Vec<Option<Held>>>,
    pub undos: u64,
    /// The stored signals, the oldest first.
    pub signals: Vec<StoredSignal>,
    pub outside: Outside,
    /// Until when each step's participant is silent: to its action, and to its undo.
    pub silent_until: Vec<[u64; 2]>,
    pub numbers: u64,
    pub ledger: Ledger,
    pub coverage: Coverage,
    /// What happened, in words, if somebody reads it.
    pub lines: Option<Vec<String>>,
    /// The first rule that was broken.
    pub violation: Option<String>,
    /// What is left of the work that the run may take, about in bytes copied.
    pub work: u64,
    /// What will happen, by its time; at one moment the dice decide, then the order in which it was scheduled.
    pending: BTreeMap<(u64, u32, u64), Event>,
    scheduled: u64,
}

impl<'a> World<'a> {
    /// The beginning of a seed's run.
    pub fn new(script: &'a Script, seed: u64, in_words: bool, work: u64) -> Self {
        let mut dice = Dice::new(seed);
        let Plan { sagas, rates, calm_at, disturbances } = Plan::new(&mut dice, script);
        let (count, steps) = (sagas.len(), script.flow.steps.len());
        let mut world = Self {
            script,
            fault: script.fault,
            now: 0,
            dice,
            rates,
            calm_at,
            rows: (0..count).map(|_| None).collect(),
            processes: std::array::from_fn(|_| Process { up: true, ..Process::default() }),
            outage_until: 0,
            held: vec![vec![None; steps]; count],
            undos: 0,
            signals: Vec::new(),
            outside: Outside::new(count, steps),
            silent_until: vec![[0; 2]; steps],
            numbers: 0,
            ledger: Ledger::new(count),
            sagas,
            coverage: Coverage::default(),
            lines: in_words.then(Vec::new),
            violation: None,
            work,
            pending: BTreeMap::new(),
            scheduled: 0,
        };
        world.trace(|| format!("faults until {calm_at} ms: {rates:?}; {disturbances:?}"));
        for saga in 0..count {
            world.schedule(world.sagas[saga].at, Event::Request { saga });
        }
        for (at, disturbance) in disturbances {
            world.schedule(at, Event::Disturb(disturbance));
        }
        world.schedule(calm_at, Event::Calm);
        world
    }

    /// Lets everything happen until nothing is pending, a rule is broken, or the work is used up.
    pub fn run(&mut self) {
        while self.violation.is_none() {
            self.spend(EVENT);
            if self.work == 0 {
                return;
            }
            let Some(((at, ..), event)) = self.pending.pop_first() else { break };
            self.now = at;
            if self.now > self.calm_at {
                self.check_progress();
            }
            self.happen(event);
        }
        if self.violation.is_none() {
            self.check_the_end();
        }
    }

    /// Notes work.
    pub fn spend(&mut self, bytes: usize) {
        self.work = self.work.saturating_sub(bytes as u64);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Work { process, life, work } => {
                if !self.processes[process].up || self.processes[process].life != life {
                    self.saw(Seen::WorkLost);
                } else if self.dice.chance(self.rates.crash) {
                    self.saw(Seen::WorkLost);
                    let restart_at = self.now + self.dice.between(50, 3_000);
                    self.crash(process, restart_at);
                } else {
                    self.work(process, work);
                }
            }
            Event::Request { saga } => self.request(saga),
            Event::Due { saga } => self.sweep(saga),
            Event::Command(command) => self.carry_out(command),
            Event::GoesOn(command) => self.go_on(command),
            Event::Answer(answer) => self.take_answer(answer),
            Event::Outside(turn) => self.turn(turn),
            Event::Restart { process } => {
                self.processes[process].up = self.now >= self.outage_until;
                self.trace(|| format!("orchestrator {process} starts"));
            }
            Event::Disturb(disturbance) => self.disturb(disturbance),
            Event::Calm => {
                self.rates = self.rates.calm();
                self.silent_until.iter_mut().for_each(|until| *until = [0; 2]);
                self.trace(|| "the faults end".to_owned());
            }
        }
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Silence { step, of_undo, until } => {
                let silent = &mut self.silent_until[step][usize::from(of_undo)];
                *silent = until.max(*silent);
                let (name, what) = (&self.script.flow.steps[step].name, if of_undo { "undo" } else { "action" });
                self.trace(|| format!("the participant of {name} is silent to its {what} until {until} ms"));
            }
            Disturbance::Outage { until } => {
                self.outage_until = until.max(self.outage_until);
                for process in 0..PROCESSES {
                    self.crash(process, self.outage_until);
                }
            }
            Disturbance::Operate { saga, act } => self.operate(saga, act),
        }
    }

    /// A process dies, and starts again then. The replies in its hand come again.
    fn crash(&mut self, process: ProcessId, restart_at: u64) {
        self.saw(Seen::Crash);
        self.trace(|| format!("orchestrator {process} dies"));
        let life = self.processes[process].life + 1;
        let dead = std::mem::replace(&mut self.processes[process], Process { life, ..Process::default() });
        for answer in dead.in_hand.into_values() {
            let at = self.now + self.dice.between(20, 3_000);
            self.schedule(at, Event::Answer(answer));
        }
        self.schedule(restart_at, Event::Restart { process });
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        let throw = self.dice.bits() as u32;
        self.scheduled += 1;
        self.pending.insert((at, throw, self.scheduled), event);
    }

    /// The process goes on with this after a while.
    pub fn later(&mut self, process: ProcessId, after: u64, work: Work) {
        let life = self.processes[process].life;
        self.schedule(self.now + after, Event::Work { process, life, work });
    }

    /// The process goes on with this after a round trip to the database.
    pub fn soon(&mut self, process: ProcessId, work: Work) {
        // A long pause between two statements lets another process get there first.
        let is_slow = self.dice.chance(self.rates.delay);
        let after = if is_slow { self.dice.between(20, 3_000) } else { self.dice.between(1, 8) };
        self.later(process, after, work);
    }

    /// How long a message takes, mostly some milliseconds.
    pub fn delay(&mut self) -> u64 {
        match self.dice.chance(self.rates.delay) {
            true if self.dice.chance(Rate::percent(30)) => self.dice.between(20, self.rates.slow),
            true => self.dice.between(20, 3_000),
            false => self.dice.between(1, 8),
        }
    }

    /// One of the orchestrators that run.
    pub fn live(&mut self) -> Option<ProcessId> {
        let live: Vec<ProcessId> = (0..PROCESSES).filter(|process| self.processes[*process].up).collect();
        (!live.is_empty()).then(|| self.dice.pick(&live))
    }

    /// What becomes of a statement.
    pub fn statement(&mut self) -> Statement {
        let statement = Statement::of(&mut self.dice, self.rates.statement);
        match statement {
            Statement::Works => {}
            Statement::Fails => self.saw(Seen::StatementFailed),
            Statement::WorksAndSeemsToFail => self.saw(Seen::StatementUnknown),
        }
        statement
    }

    pub fn saw(&mut self, seen: Seen) {
        self.coverage.add(seen);
    }

    /// Notes something in words. `line` is made only when somebody reads.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>4}.{:03} s  {}", self.now / 1000, self.now % 1000, line()));
        }
    }

    /// Notes a broken rule. The first one ends the run.
    pub fn broken(&mut self, rule: String) {
        self.trace(|| format!("BROKEN: {rule}"));
        self.violation.get_or_insert(rule);
    }
}
