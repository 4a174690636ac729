//! The orchestrators: what `coordinator.rs`, `sweeper.rs`, `operator.rs` and the intake do around the core. Each statement
//! and each send is a piece of work of its own.

use std::rc::Rc;

use flow::State;

use super::applying::Applying;
use super::clock::{ms_of, timestamp};
use super::coverage::Seen;
use super::dice::{Rate, Statement};
use super::fault::Fault;
use super::matching::Matching;
use super::participant::{Command, Sent};
use super::plan::{Act, Disturbance, place_of};
use super::row::Row;
use super::world::{Event, ProcessId, World};
use crate::saga::{Attention, Effect, Input, Operator, OperatorAct, Saga, Settled, Transition, start};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a process does next.
pub enum Work {
    /// Stores a new saga.
    Store(Box<Transition>),
    Apply(Box<Applying>),
    /// Does what a stored saga asks for.
    Perform(Box<Saga>),
    /// Brings signals and sagas together.
    Match(Matching),
}

impl World<'_> {
    pub fn work(&mut self, process: ProcessId, work: Work) {
        match work {
            Work::Store(new) => self.store(process, new),
            Work::Apply(applying) => self.apply(process, applying),
            Work::Perform(saga) => self.perform(process, &saga),
            Work::Match(matching) => self.match_signals(process, matching),
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
            self.happen_outside(saga, &new.saga);
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

    /// When the effect of a state that was just reached is repeated first.
    pub fn first_attempt(&self, saga: &Saga) -> u64 {
        let times = self.script.times;
        let first = self.now + if saga.is_waiting() { times.rest } else { times.first };
        saga.deadline.map_or(first, |deadline| ms_of(deadline).min(first))
    }

    pub fn remember(&mut self, process: ProcessId, saga: &Saga) {
        let (place, cache) = (place_of(saga.saga_id), &mut self.processes[process].cache);
        if saga.is_resting() {
            cache.remove(&place);
        } else {
            cache.insert(place, saga.clone());
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

    /// `Coordinator::perform`.
    pub fn perform(&mut self, process: ProcessId, saga: &Saga) {
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
            Effect::Await => return self.look_for_signals(process, saga),
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
    pub fn expect(&mut self, saga: usize, due: u64) {
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
        let is_waiting = row.is_waiting();
        let (first, most) = if is_waiting { (times.rest, times.rest) } else { (times.first, times.most) };
        let pause = (first << row.attempts.min(20)).min(most);
        let next = now + pause - pause * chance / 1_000;
        let deadline = row.deadline.map(ms_of);
        row.next_attempt_at = deadline.filter(|deadline| *deadline > now).map_or(next, |limit| limit.min(next));
        let due = row.next_attempt_at;
        // A limit of the flow calls a person to one that waits, not the number of repetitions.
        let is_remarkable = !is_waiting && deadline.is_none() && row.attempts >= times.attention_after;
        if is_remarkable && row.attention.is_none() {
            let reason = format!("{} was repeated {} times without success", row.step, row.attempts);
            row.attention = Some(Attention { since: at, reason });
            self.saw(Seen::NeedsAttention);
            let act = if self.dice.chance(Rate::percent(60)) { Act::Resolve } else { Act::Retry };
            let at = now + self.dice.between(500, 20_000);
            self.schedule(at, Event::Disturb(Disturbance::Operate { saga, act }));
        }
        self.expect(saga, due);
        let Some(claimed) = self.read_row(saga) else { return };
        let is_seen = !(is_waiting && self.fault == Some(Fault::LateIgnored));
        if is_seen && claimed.deadline.is_some_and(|deadline| deadline <= at) {
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
            Act::Cancel(role) => OperatorAct::Cancel(role),
            Act::Retry => OperatorAct::Retry,
            Act::Resolve if row.attention.is_none() => return,
            Act::Resolve => OperatorAct::Resolve(Settled { step: row.step, evidence: "bank transfer 4711".to_owned() }),
        };
        let operator = Operator { by: "ann".to_owned(), reason: "the customer called".to_owned(), act };
        self.begin_input(process, saga, operator.into());
    }
}
