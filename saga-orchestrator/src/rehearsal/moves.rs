//! What holds at each move: it is legal, what it rests on has happened, and the row has the limit and the mark that the flow
//! wants there.

use chrono::TimeDelta;
use flow::{Late, Meaning, Progress, Reach, Record, Role, State};
use messages::{EventId, Timestamp};

use super::clock::timestamp;
use super::coverage::Seen;
use super::outside::StoredSignal;
use super::participant::Status;
use super::rules::asked;
use super::world::World;
use crate::saga::{HistoryEntry, OperatorAct, Transition};

/// What a row had before a move.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    pub deadline: Option<Timestamp>,
    pub expires_at: Timestamp,
    /// Since when it had stood there, in ms.
    pub since: u64,
    /// Whether it waited for something outside.
    pub waited: bool,
    /// Whether a person was called.
    pub is_marked: bool,
}

/// What made a move.
enum By<'a> {
    Reply,
    Progress(&'a Progress),
    Signal(&'a StoredSignal),
    Limit,
    Cancel(Role),
    Retry,
    Resolve,
}

impl World<'_> {
    /// A move was stored.
    pub fn check_move(&mut self, place: usize, row: Before, transition: &Transition) {
        let (saga, entry) = (&transition.saga, &transition.entry);
        let flow = &self.script.flow;
        let Some([.., before, _]) = self.rows[place].as_ref().map(|row| row.history.as_slice()) else { return };
        let (state, gap) = (before.state, entry.seq - before.seq);
        if let Some(wrong) = self.wrong_move(place, state, gap, row, transition) {
            return self.broken(format!("saga {place}: {}: {} to {saga}: {wrong}", entry.input, state.name(flow)));
        }
        self.note(state, entry);
        self.check_passed_over(place, state, row, entry);
        if let (State::Running { step }, Some(event_id)) = (state, entry.event_id) {
            self.keep(place, step, event_id);
        }
        if entry.state.has_ended() {
            self.coverage.ended(entry.state.name(flow));
            if let Some(wrong) = self.wrongly_held(place, entry.state) {
                return self.broken(format!("saga {place} is {saga}: {wrong}"));
            }
        }
        if let Some(wrong) = self.wrongly_answered(place, state, saga) {
            self.broken(format!("saga {place} is {saga}: {wrong}"));
        }
    }

    fn note(&mut self, before: State, entry: &HistoryEntry) {
        let after = entry.state;
        let waited = matches!(before, State::Running { step } if self.script.flow.steps[step].wait().is_some());
        match self.made_by(before, entry) {
            By::Limit => {
                self.saw(Seen::DeadlinePassed);
                match after {
                    _ if after == before => self.saw(Seen::LateAttention),
                    State::Running { .. } | State::Completed => self.saw(Seen::LateGoOn),
                    State::Compensating { .. } | State::Failed { .. } => {}
                }
            }
            By::Cancel(_) if before != after => {
                self.saw(Seen::Cancelled);
                if waited {
                    self.saw(Seen::CancelledWaiting);
                }
            }
            By::Retry => self.saw(Seen::Retried),
            By::Resolve => self.saw(Seen::Resolved),
            By::Progress(_) => self.saw(Seen::ProgressCounted),
            By::Reply | By::Signal(_) | By::Cancel(_) => {}
        }
    }

    /// No limit passes while the signal is there that the saga waits for.
    fn check_passed_over(&mut self, place: usize, before: State, row: Before, entry: &HistoryEntry) {
        let State::Running { step } = before else { return };
        let Some(wait) = self.script.flow.steps[step].wait() else { return };
        let is_late = matches!(self.made_by(before, entry), By::Limit);
        let named = self.named(place, wait).filter(|_| is_late);
        if let Some(at) = named.and_then(|named| self.there(wait, &named)) {
            self.check_soon(place, row.since, at);
        }
    }

    /// Remembers what a saga has to have kept of the reply or the signal that moved it.
    fn keep(&mut self, place: usize, step: usize, event_id: EventId) {
        let Some((fields, read)) = self.brought(step, event_id) else { return };
        let name = self.script.flow.steps[step].name.to_string();
        for field in fields {
            if let Some(value) = read.get(&field) {
                let mut json = Vec::new();
                value.write(&mut json);
                self.ledger.kept[place].insert((name.clone(), field), json);
            }
        }
    }

    /// The fields that the step keeps of a reply or a signal, and what is read of it.
    fn brought(&self, step: usize, event_id: EventId) -> Option<(Vec<String>, Record)> {
        let step = &self.script.flow.steps[step];
        if let Some(signal) = self.signal(event_id) {
            let wait = step.wait()?;
            return Some((wait.kept(), wait.read(&signal.payload).ok()?));
        }
        let (_, event, payload) = self.ledger.said.get(&event_id)?;
        let meaning @ (Meaning::Done(_) | Meaning::Progress(_)) = step.means(event)? else { return None };
        Some((meaning.keep().to_vec(), meaning.read(payload).ok()?))
    }

    /// The stored signal of this id.
    fn signal(&self, id: EventId) -> Option<&StoredSignal> {
        self.signals.iter().find(|signal| EventId::from(signal.id) == id)
    }

    fn made_by(&self, before: State, entry: &HistoryEntry) -> By<'_> {
        if let Some(operator) = &entry.operator {
            return match operator.act {
                OperatorAct::Cancel(role) => By::Cancel(role),
                OperatorAct::Retry => By::Retry,
                OperatorAct::Resolve(_) => By::Resolve,
            };
        }
        if let Some(signal) = entry.event_id.and_then(|id| self.signal(id)) {
            return By::Signal(signal);
        }
        let pending = if let State::Running { step } = before { Some(&self.script.flow.steps[step]) } else { None };
        match pending.and_then(|step| step.means(&entry.input)) {
            Some(Meaning::Progress(progress)) => By::Progress(progress),
            None if entry.event_id.is_none() && entry.input == "deadline.passed" => By::Limit,
            _ => By::Reply,
        }
    }

    /// What is wrong with a move from `before`, `gap` versions later.
    fn wrong_move(
        &self,
        place: usize,
        before: State,
        gap: i64,
        row: Before,
        transition: &Transition,
    ) -> Option<String> {
        let entry = &transition.entry;
        if gap != 1 {
            return Some(format!("its version is {gap} after the one before"));
        }
        if before.has_ended() {
            return Some("it had ended".to_owned());
        }
        if entry.event_id.is_some_and(|id| self.ledger.forged.contains(&id)) {
            return Some("a contradicting reply moves it".to_owned());
        }
        let answered = entry.event_id.and_then(|id| self.ledger.said.get(&id)).map(|(answered, ..)| *answered);
        if answered.is_some() && answered != asked(place, before) {
            return Some("the reply answers another command".to_owned());
        }
        let by = self.made_by(before, entry);
        self.wrong_limit(before, row, &by, transition)
            .or_else(|| self.wrong_input(place, before, row, &by, transition))
            .or_else(|| match before {
                State::Running { step } => self.wrong_way(place, step, &by, entry.state),
                State::Compensating { step, cause } => self.wrong_undo(place, (step, cause), &by, entry.state),
                State::Completed | State::Failed { .. } => None,
            })
            .or_else(|| self.wrong_mark(place, before, row, &by, entry.state))
    }

    /// Each step has its time from the move that leads to it. A report of progress gives it time again. A limit that calls a
    /// person is the last one there. The saga as a whole has its time to the pivot, however long it waits; or to its answer,
    /// and then what it waits is added.
    fn wrong_limit(&self, before: State, row: Before, by: &By<'_>, transition: &Transition) -> Option<String> {
        let (flow, at, after) = (&self.script.flow, transition.entry.at, transition.entry.state);
        let to_answer = matches!(flow.reach, Some(Reach::Answer(_)));
        let answers = flow.answer.after;
        let counted_not = match before {
            State::Running { step } if to_answer && row.waited && after != before && step <= answers => {
                at - timestamp(row.since)
            }
            _ => TimeDelta::zero(),
        };
        let expires_at = row.expires_at + counted_not;
        if transition.saga.expires_at != expires_at {
            return Some(format!("it expires at {}, and not at {expires_at}", transition.saga.expires_at));
        }
        let capped = |step: usize, limit: Timestamp| match flow.reach {
            Some(Reach::Pivot(_)) if step < flow.pivot => limit.min(expires_at),
            Some(Reach::Answer(_)) if step <= answers && flow.steps[step].wait().is_none() => limit.min(expires_at),
            _ => limit,
        };
        let wanted = match (by, after) {
            (By::Progress(progress), State::Running { step }) if after == before => {
                let until = at + progress.within;
                flow.steps[step].within.map(|_| if to_answer { until } else { capped(step, until) })
            }
            (By::Limit, _) if after == before => None,
            _ if after == before => row.deadline,
            (_, State::Running { step }) => flow.steps[step].within.map(|within| capped(step, at + within)),
            _ => None,
        };
        let limit = transition.saga.deadline;
        (limit != wanted).then(|| format!("its limit is {limit:?}, and not {wanted:?}"))
    }

    /// What made the move has happened, and counts for the first time.
    fn wrong_input(
        &self,
        place: usize,
        before: State,
        row: Before,
        by: &By<'_>,
        transition: &Transition,
    ) -> Option<String> {
        let entry = &transition.entry;
        match by {
            By::Limit if row.deadline.is_none_or(|deadline| deadline > entry.at) => {
                Some("its limit has not passed".to_owned())
            }
            By::Progress(_) => {
                let history = self.rows[place].as_ref().map(|row| row.history.as_slice()).unwrap_or_default();
                let counted = history.iter().filter(|earlier| earlier.event_id == entry.event_id).count();
                (counted != 1).then(|| format!("a report of progress counts {counted} times"))
            }
            By::Signal(signal) => {
                let wait =
                    if let State::Running { step } = before { self.script.flow.steps[step].wait() } else { None };
                let Some(wait) = wait else { return Some("it waits for no signal".to_owned()) };
                let named = self.named(place, wait);
                if signal.kind != wait.signal {
                    return Some(format!("it waits for a {}", wait.signal));
                }
                if named.as_ref() != Some(&signal.matched) {
                    return Some(format!("the signal names {:?}, and the saga waits for {named:?}", signal.matched));
                }
                if !signal.fits(wait) {
                    return Some(format!("the signal's payload does not fit: {}", signal.payload));
                }
                if let Some((other, _)) = signal.taken {
                    return Some(format!("the signal has moved saga {other} already"));
                }
                (transition.takes != Some(signal.id)).then(|| "it does not take its signal".to_owned())
            }
            _ => None,
        }
    }

    /// Whether a step may lead there.
    fn wrong_way(&self, place: usize, step: usize, by: &By<'_>, after: State) -> Option<String> {
        let (flow, pending) = (&self.script.flow, &self.script.flow.steps[step]);
        let held = self.held[place][step].as_ref().map(|held| held.status);
        match after {
            State::Compensating { cause, .. } | State::Failed { cause } => {
                let is_for = |name: &str| flow.causes[cause] == *name;
                let is_permitted = match (by, &pending.late) {
                    (By::Limit, Late::Undo(cause)) => {
                        step < flow.pivot && is_for(cause.as_deref().unwrap_or("TIMED_OUT"))
                    }
                    (By::Cancel(role), _) => {
                        let cancel = flow.cancel.filter(|cancel| cancel.permits(*role) && step < cancel.until);
                        cancel.is_some() && step < flow.pivot && is_for("CANCELLED")
                    }
                    // A definite refusal.
                    (By::Reply, _) => step <= flow.pivot && matches!(held, Some(Status::Refused | Status::Undone)),
                    _ => false,
                };
                if !is_permitted {
                    return Some(format!("it may not turn back: {held:?}"));
                }
                match after {
                    State::Compensating { step, .. } => self.wrong_place(step),
                    _ => None,
                }
            }
            State::Running { step: next } if next == step => {
                let is_permitted = match by {
                    By::Limit => pending.late == Late::Attention,
                    By::Progress(_) | By::Retry => true,
                    By::Reply | By::Signal(_) | By::Cancel(_) | By::Resolve => false,
                };
                (!is_permitted).then(|| "it may not stay there".to_owned())
            }
            State::Running { .. } | State::Completed => {
                let next = if let State::Running { step } = after { step } else { flow.steps.len() };
                if next != step + 1 {
                    return Some("it does not go on from there".to_owned());
                }
                let is_permitted = match by {
                    By::Reply => held == Some(Status::Done),
                    By::Signal(_) => true,
                    By::Limit => pending.late == Late::GoOn,
                    By::Progress(_) | By::Cancel(_) | By::Retry | By::Resolve => false,
                };
                (!is_permitted).then(|| format!("its step is {held:?}"))
            }
        }
    }

    /// Whether an undo may lead there.
    fn wrong_undo(&self, place: usize, (step, cause): (usize, usize), by: &By<'_>, after: State) -> Option<String> {
        let held = self.held[place][step].as_ref().map(|held| held.status);
        if matches!(by, By::Reply) && held != Some(Status::Undone) {
            return Some(format!("what it undoes is {held:?}"));
        }
        let goes_back = matches!(by, By::Reply | By::Resolve);
        match after {
            State::Compensating { step: next, cause: other } if cause == other => {
                let is_permitted = if goes_back { next < step } else { next == step };
                match is_permitted && (goes_back || matches!(by, By::Retry | By::Cancel(Role::Operator))) {
                    true => self.wrong_place(next),
                    false => Some("it does not go on from there".to_owned()),
                }
            }
            State::Failed { cause: other } if cause == other && goes_back => None,
            _ => Some("there is no such way".to_owned()),
        }
    }

    /// Whether something is undone there.
    fn wrong_place(&self, step: usize) -> Option<String> {
        let flow = &self.script.flow;
        let is_undone = step < flow.pivot && flow.steps[step].undo.is_some();
        (!is_undone).then(|| "nothing is undone there".to_owned())
    }

    /// A person is called by a limit that says so, and until the saga goes on or its step does.
    fn wrong_mark(&self, place: usize, before: State, row: Before, by: &By<'_>, after: State) -> Option<String> {
        let is_marked = self.rows[place].as_ref().is_some_and(|row| row.attention.is_some());
        let wanted = match by {
            By::Limit => after == before,
            By::Progress(_) => false,
            _ => after == before && row.is_marked,
        };
        (is_marked != wanted).then(|| match wanted {
            true => "nobody is called".to_owned(),
            false => "a person is still called".to_owned(),
        })
    }
}
