//! Brings signals and sagas together, as `signals.rs` does: a signal is stored first; then it is offered to the sagas that
//! wait for it; and a saga that waits looks for those that came before.

use std::collections::VecDeque;

use flow::{State, Wait};
use uuid::Uuid;

use super::applying::Applying;
use super::clock::timestamp;
use super::coverage::Seen;
use super::dice::{Rate, Statement};
use super::fault::Fault;
use super::orchestrator::Work;
use super::outside::StoredSignal;
use super::plan::place_of;
use super::world::{ProcessId, World};
use crate::saga::{Saga, Transition};

/// A saga, and the place of a stored signal that it may take.
pub type Pair = (usize, usize);

/// How long a signal and a saga that waits for it may be there before they find each other, in ms.
const SOON: u64 = 10_000;

/// What a process does with signals.
pub enum Matching {
    /// Stores a signal that was sent, by the sender's own id, and acknowledges it.
    Store(usize),
    /// Looks for the sagas that wait for a stored one.
    Offer(usize),
    /// Looks for those that a saga waits for.
    Look { saga: usize, kind: String, matched: String },
}

impl World<'_> {
    pub fn match_signals(&mut self, process: ProcessId, matching: Matching) {
        match (self.statement(), matching) {
            // It is sent again.
            (Statement::Fails, Matching::Store(_)) => {}
            (statement, Matching::Store(number)) => {
                let (place, is_new) = self.store_sent(number);
                if !is_new {
                    self.saw(Seen::SignalRepeated);
                }
                if statement == Statement::Works {
                    self.acknowledge(number);
                    if self.signals[place].taken.is_none() {
                        self.soon(process, Work::Match(Matching::Offer(place)));
                    }
                }
            }
            (Statement::Works, Matching::Offer(place)) => self.offer(process, place),
            (Statement::Works, Matching::Look { saga, kind, matched }) => self.look(process, saga, &kind, &matched),
            (_, matching) => {
                if self.is_patient() {
                    let pause = self.dice.between(50, 1_000);
                    self.later(process, pause, Work::Match(matching));
                }
            }
        }
    }

    /// What the database can't do now is tried again a few times. After that the sweeper has the saga look again.
    pub fn is_patient(&mut self) -> bool {
        self.dice.chance(Rate::percent(75))
    }

    fn offer(&mut self, process: ProcessId, place: usize) {
        let signal = &self.signals[place];
        let (key, by_kind) = (signal.key(), format!("{} ", signal.kind));
        let is_it = |awaits: &str| match self.fault {
            Some(Fault::SignalByKindAlone) => awaits.starts_with(&by_kind),
            _ => awaits == key,
        };
        let waits = |saga: &usize| {
            let row = self.rows[*saga].as_ref();
            row.and_then(|row| row.awaits.as_deref()).is_some_and(is_it)
        };
        let mut sagas: Vec<usize> = (0..self.rows.len()).filter(waits).collect();
        sagas.sort_by_key(|saga| self.rows[*saga].as_ref().map(|row| row.began()));
        self.take_one(process, sagas.into_iter().map(|saga| (saga, place)).collect());
    }

    /// What a saga asks for that waits.
    pub fn look_for_signals(&mut self, process: ProcessId, saga: &Saga) {
        let place = place_of(saga.saga_id);
        if self.fault == Some(Fault::SignalLostWhenEarly) {
            return;
        }
        match saga.awaited() {
            Some(awaited) => {
                let (kind, matched) = (awaited.kind.to_owned(), awaited.matched);
                self.soon(process, Work::Match(Matching::Look { saga: place, kind, matched }));
            }
            None => self.broken(format!("saga {place} waits for a signal that names nothing")),
        }
    }

    fn look(&mut self, process: ProcessId, saga: usize, kind: &str, matched: &str) {
        let is_unchecked = self.fault == Some(Fault::SignalTakenTwice);
        let found = self.signals.iter().enumerate().filter(|(_, signal)| {
            signal.kind == kind && signal.matched == matched && (signal.taken.is_none() || is_unchecked)
        });
        let found: VecDeque<Pair> = found.map(|(place, _)| (saga, place)).collect();
        if let Some((since, at)) = self.waits_for_what_is_there(saga, matched) {
            self.saw(Seen::SignalFound);
            self.check_soon(saga, since, at);
        }
        self.take_one(process, found);
    }

    /// Since when a saga waits, and when the signal was stored that it waits for, if it is there.
    fn waits_for_what_is_there(&self, saga: usize, matched: &str) -> Option<(u64, u64)> {
        let row = self.rows[saga].as_ref()?;
        let State::Running { step } = row.state()? else { return None };
        let at = self.there(self.script.flow.steps[step].wait()?, matched)?;
        Some((row.since(), at))
    }

    /// When the first signal was stored that names this, fits a wait, and that no saga has taken, in ms.
    pub fn there(&self, wait: &Wait, matched: &str) -> Option<u64> {
        let is_it = |signal: &&StoredSignal| signal.matched == matched && signal.taken.is_none() && signal.fits(wait);
        self.signals.iter().find(is_it).map(|signal| signal.at)
    }

    /// Once the faults are over nobody has to wait for the sweeper, and no limit passes over a signal: it finds its saga when
    /// it comes, or the saga finds it when it begins to wait.
    pub fn check_soon(&mut self, saga: usize, waits_since: u64, stored_at: u64) {
        let both = waits_since.max(stored_at);
        let undisturbed = self.calm_at.max(self.outage_until) + SOON;
        if both > undisturbed && self.now > both + SOON {
            let late = (self.now - both) / 1_000;
            self.broken(format!("saga {saga} has waited {late} s for a signal that was there"));
        }
    }

    /// Tries these one after the other, until a saga takes a signal.
    pub fn take_one(&mut self, process: ProcessId, mut pairs: VecDeque<Pair>) {
        if let Some(first) = pairs.pop_front() {
            // Another instance has gone on with it, if it is known here from a time when it did not wait.
            if self.fault != Some(Fault::SignalReadByGuess) {
                self.processes[process].cache.remove(&first.0);
            }
            let now = timestamp(self.now);
            self.begin(process, Box::new(Applying::signal(first, pairs, now)));
        }
    }

    /// Whether the signal that a move takes is still there.
    pub fn is_free(&self, takes: Option<Uuid>) -> bool {
        let is_taken = |id| self.signals.iter().any(|signal| signal.id == id && signal.taken.is_some());
        self.fault == Some(Fault::SignalTakenTwice) || !takes.is_some_and(is_taken)
    }

    /// A move has taken its signal, in the same statement.
    pub fn note_taken(&mut self, saga: usize, transition: &Transition) {
        let Some(place) = transition.takes.and_then(|id| self.signals.iter().position(|signal| signal.id == id)) else {
            return;
        };
        let before = self.rows[saga].as_ref().and_then(|row| row.history.iter().rev().nth(1)).map(|entry| entry.state);
        let Some(State::Running { step }) = before else { return };
        self.signals[place].taken = Some((saga, step));
        if self.signals[place].meant_for.0 != saga {
            self.saw(Seen::SignalOfAnother);
        }
    }
}
