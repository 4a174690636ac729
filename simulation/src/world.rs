//! The simulated world: its clock, its processes, and what happens to them.
//!
//! A process' work is cut at its persistence points: each piece is a [`Work`] of its own. A crash drops all that is
//! pending of a process, so it strikes between any two points.

use std::collections::{BTreeMap, BTreeSet};

use messages::{EventId, Timestamp};
use saga_orchestrator::rehearsal::clock::timestamp;
use saga_orchestrator::rehearsal::dice::{Dice, Statement};
use saga_orchestrator::saga::Saga;

use crate::calls::CallUnderWay;
use crate::coverage::{Coverage, Seen};
use crate::databases::Databases;
use crate::fingerprint::Fingerprint;
use crate::forged;
use crate::kafka::{Log, logs};
use crate::pending::{Event, Pending, Scheduled, Work};
use crate::plan::{Plan, Planned, Rates, Service};
use crate::trace::Trace;

/// Two processes of each service: two and two, in the order of [`Service::ALL`].
pub type ProcessId = usize;

pub const PROCESSES_OF_A_SERVICE: usize = 2;

pub const PROCESSES: usize = Service::ALL.len() * PROCESSES_OF_A_SERVICE;

pub const fn service_of(process: ProcessId) -> Service {
    Service::ALL[process / PROCESSES_OF_A_SERVICE]
}

pub struct World {
    /// In ms from the beginning.
    pub now: u64,
    pub dice: Dice,
    /// Of its own, so that a seed in which nothing is forged is the run that it was before there were forgeries.
    pub forger: Dice,
    pub rates: Rates,
    pub calm_at: u64,
    pub planned: Vec<Planned>,
    pub processes: Vec<Process>,
    pub databases: Databases,
    /// Until when each service's database answers nothing.
    pub database_away_until: [u64; Service::ALL.len()],
    pub logs: Vec<Log>,
    pub broker_away_until: u64,
    /// Every command that was sent, by its id, and every reply, by its command and the row's version.
    pub commands: BTreeMap<EventId, Vec<u8>>,
    pub replies: BTreeMap<(EventId, u32), Vec<u8>>,
    /// Replies that tell of something else than was asked for.
    pub forged: BTreeSet<EventId>,
    pub coverage: Coverage,
    pub trace: Trace,
    pub fingerprint: Fingerprint,
    /// The first rule that was broken.
    pub violation: Option<String>,
    pending: Pending,
}

/// A process; what it has in memory is lost with it.
#[derive(Default)]
pub struct Process {
    pub up: bool,
    /// Counts its lives.
    pub life: u32,
    /// It does nothing until then, and does not know.
    pub frozen_until: u64,
    /// How far its clock is off, in ms.
    pub clock: i64,
    /// Of an orchestrator: the sagas in flight as it knows them, and the calls of the order service under way.
    pub cache: BTreeMap<usize, Saga>,
    pub calling: Vec<CallUnderWay>,
    pub calls: u64,
    /// Of an orchestrator: when it looks for overdue sagas next.
    pub sweeps_at: Option<u64>,
}

impl World {
    /// The beginning of a seed's run.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let Plan { sagas: planned, rates, calm_at, disturbances } = Plan::new(&mut dice);
        let mut forger = Dice::new(!seed);
        let rates = Rates { forged: forged::rate(&mut forger), ..rates };
        let mut process = || Process { up: true, clock: dice.between(0, 1_800) as i64 - 900, ..Process::default() };
        let processes = (0..PROCESSES).map(|_| process()).collect();
        let mut world = Self {
            now: 0,
            dice,
            forger,
            rates,
            calm_at,
            processes,
            databases: Databases::new(planned.len()),
            planned,
            database_away_until: [0; Service::ALL.len()],
            logs: logs(),
            broker_away_until: 0,
            commands: BTreeMap::new(),
            replies: BTreeMap::new(),
            forged: BTreeSet::new(),
            coverage: Coverage::default(),
            trace,
            fingerprint: Fingerprint::default(),
            violation: None,
            pending: Pending::default(),
        };
        let rates = world.rates;
        world.trace(|| format!("faults until {calm_at} ms: {rates:?}; {disturbances:?}"));
        for service in Service::ALL {
            world.rebalance(service);
        }
        for saga in 0..world.planned.len() {
            world.schedule(world.planned[saga].at, Event::Request { saga });
        }
        for (at, disturbance) in disturbances {
            world.schedule(at, Event::Disturb(disturbance));
        }
        world.schedule(calm_at, Event::Calm);
        world
    }

    /// Lets everything happen until nothing is pending, or a rule is broken.
    pub fn run(&mut self) {
        while self.violation.is_none() {
            let Some(Scheduled { key, event }) = self.pending.next() else { break };
            self.now = key.0;
            self.trace.happened(key);
            if self.now > self.calm_at {
                self.check_progress();
            }
            self.happen(event);
        }
        if self.violation.is_none() {
            self.check_the_end();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Work { process, life, work } => {
                let alive = &self.processes[process];
                if !alive.up || alive.life != life {
                    self.saw(Seen::WorkLost);
                } else if alive.frozen_until > self.now {
                    let at = alive.frozen_until + self.dice.between(0, 20);
                    self.schedule(at, Event::Work { process, life, work });
                } else if self.dice.chance(self.rates.crash) {
                    self.saw(Seen::WorkLost);
                    self.crash(process);
                } else {
                    self.work(process, work);
                }
            }
            Event::Deliver { log, epoch } => self.deliver(log, epoch),
            Event::Arrive(record) if self.broker_is_away() => {
                self.saw(Seen::CommandLost);
                self.trace(|| format!("{} finds no broker", record.topic));
            }
            Event::Arrive(record) => self.append(*record),
            Event::Request { saga } => self.request(saga),
            Event::Restart { process } => self.restart(process),
            Event::Rebalance(service) => self.rebalance(service),
            Event::Disturb(disturbance) => self.disturb(disturbance),
            Event::Calm => self.calm(),
        }
    }

    fn work(&mut self, process: ProcessId, work: Work) {
        match work {
            Work::Start { new, tries } => self.start(process, new, tries),
            Work::Started(saga) => self.stored(process, *saga),
            Work::Apply(applying) => self.apply(process, applying),
            Work::Send(record) => self.send(*record),
            Work::Call(calling) => self.call(process, *calling),
            Work::CallAnswered(answered) => self.call_answered(process, *answered),
            Work::CallTimeout { call } => self.call_ended(process, call),
            Work::Sweep => self.sweep(process),
            Work::TakeReply(taken, tries) => self.take_reply(process, taken, tries),
            Work::TakePaymentCommand(taken, tries) => self.take_payment_command(process, taken, tries),
            Work::TakeInventoryCommand(taken, tries) => self.take_inventory_command(process, taken, tries),
            Work::Pay(paying) => self.pay(process, paying),
            Work::Reserve(reserving) => self.reserve(process, reserving),
            Work::Reply { taken, reply, tries } => self.reply(process, taken, *reply, tries),
            Work::Finish(taken) => self.finished(&taken),
            Work::Serve(serving) => self.serve(process, serving),
        }
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        let throw = self.dice.bits() as u32;
        self.pending.add(at, throw, event);
    }

    /// The process goes on with this after a while.
    pub fn later(&mut self, process: ProcessId, after: u64, work: Work) {
        let life = self.processes[process].life;
        self.schedule(self.now + after, Event::Work { process, life, work });
    }

    /// The process goes on with this after a round trip to a database, a broker, another service.
    pub fn soon(&mut self, process: ProcessId, work: Work) {
        let delay = self.delay();
        self.later(process, delay, work);
    }

    /// How long something takes that mostly takes some milliseconds.
    pub fn delay(&mut self) -> u64 {
        if self.dice.chance(self.rates.delay) { self.dice.between(20, 3_000) } else { self.dice.between(1, 8) }
    }

    /// The pause before try number `tries`, as `Backoff::new(50 ms, most)` of `service-runtime/src/batch.rs` has it.
    pub fn backoff(&mut self, tries: u32, most: u64) -> u64 {
        let longest = (50_u64 << tries.min(10)).min(most);
        self.dice.between(longest / 2, longest)
    }

    /// The time by a process' own clock.
    pub fn clock(&self, process: ProcessId) -> Timestamp {
        timestamp(self.now.saturating_add_signed(self.processes[process].clock))
    }

    pub fn live(&self, service: Service) -> Vec<ProcessId> {
        let first = service as usize * PROCESSES_OF_A_SERVICE;
        let works =
            |process: &ProcessId| self.processes[*process].up && self.processes[*process].frozen_until <= self.now;
        (first..first + PROCESSES_OF_A_SERVICE).filter(works).collect()
    }

    /// What becomes of a statement.
    pub fn statement(&mut self, service: Service) -> Statement {
        let statement = if self.now < self.database_away_until[service as usize] {
            Statement::Fails
        } else {
            Statement::of(&mut self.dice, self.rates.statement)
        };
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

    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.now, line);
    }

    /// Notes a broken rule. The first one ends the run.
    pub fn broken(&mut self, rule: String) {
        self.trace(|| format!("BROKEN: {rule}"));
        self.violation.get_or_insert(rule);
    }
}
