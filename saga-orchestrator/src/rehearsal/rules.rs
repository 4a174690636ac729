//! The rules. They hold for every flow, and are checked at each move, at each send, at each reply, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use flow::payload::Payload;
use flow::{Meaning, Slot, Source, State, write_string};
use messages::{EventId, Timestamp};

use super::coverage::Seen;
use super::participant::{Command, Status};
use super::plan::place_of;
use super::world::World;
use crate::flow_outcome::FlowOutcome;
use crate::saga::{Effect, Saga, Transition};

/// A question of a saga: its place, the step, and whether it is the step's undo.
type Asked = (usize, usize, bool);

/// What the rules remember of a run.
pub struct Ledger {
    /// Contradicting replies.
    pub forged: BTreeSet<EventId>,
    /// What each version of a saga asks for.
    effects: BTreeMap<(usize, i64), Effect>,
    /// What was asked first by each question.
    asked: BTreeMap<Asked, Effect>,
    /// Which question has which command's id.
    ids: BTreeMap<EventId, Asked>,
    /// The reply to each command, by the row that it was made from.
    replies: BTreeMap<(EventId, Status), String>,
    /// Of each right reply: what it answers, its event and its payload.
    said: BTreeMap<EventId, (Asked, String, String)>,
    /// What each saga has to have kept: the JSON of each field, by step and field.
    kept: Vec<BTreeMap<(String, String), Vec<u8>>>,
    /// What each client was answered at the end.
    answers: Vec<Option<(u16, String)>>,
}

impl Ledger {
    pub fn new(sagas: usize) -> Self {
        Self {
            forged: BTreeSet::new(),
            effects: BTreeMap::new(),
            asked: BTreeMap::new(),
            ids: BTreeMap::new(),
            replies: BTreeMap::new(),
            said: BTreeMap::new(),
            kept: vec![BTreeMap::new(); sagas],
            answers: vec![None; sagas],
        }
    }
}

impl World<'_> {
    /// A saga's effect is about to be done: its row is stored, the effect is the same as each time, and its command has
    /// exactly the values that the flow wants there.
    pub fn check_effect(&mut self, saga: &Saga, effect: &Effect) {
        let place = place_of(saga.saga_id);
        let stored = self.rows[place].as_ref().map_or(0, |row| row.version);
        if saga.version > stored {
            return self
                .broken(format!("saga {place} does what version {} asks for: stored is {stored}", saga.version));
        }
        let first = self.ledger.effects.entry((place, saga.version)).or_insert_with(|| effect.clone());
        if first != effect {
            let rule = format!("version {} of saga {place} asks for two things: {}", saga.version, both(first, effect));
            return self.broken(rule);
        }
        let Some(question) = asked(place, saga.state) else { return };
        let first = self.ledger.asked.entry(question).or_insert_with(|| effect.clone());
        if first != effect {
            let rule = format!("saga {place} repeats a command, and it differs: {}", both(first, effect));
            return self.broken(rule);
        }
        let Effect::Send(record) = effect else { return };
        let id = saga.command_id();
        let other = id.map(|id| *self.ledger.ids.entry(id).or_insert(question));
        if other != Some(question) {
            return self.broken(format!("two questions have one command id: {question:?} and {other:?}"));
        }
        let Some(template) = saga.state.question(&self.script.flow).map(|question| &question.ask.send) else { return };
        let mut end = br#","payload":"#.to_vec();
        end.extend(self.wanted(place, saga.cause(), template));
        end.push(b'}');
        if !record.body.ends_with(&end) {
            let texts = [&record.body, &end].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            self.broken(format!(
                "a command of saga {place} does not carry the values that its flow asks for: it is {}, and has to end in {}",
                texts[0], texts[1]
            ));
        }
    }

    /// A payload as it has to be, made from what was asked for and what the participants said.
    fn wanted(&self, place: usize, cause: Option<&str>, template: &Payload) -> Vec<u8> {
        let (planned, kept) = (&self.sagas[place], &self.ledger.kept[place]);
        let mut out = Vec::new();
        template.fill(&mut out, &mut |slot: &Slot, out| {
            match &slot.source {
                Source::Input(field) => {
                    return planned.request.input.get(field).map(|value| value.write(out)).is_some();
                }
                Source::Subject => write_string(&planned.subject.to_string(), out),
                Source::Owner => write_string(planned.request.owner.as_str(), out),
                Source::Cause => write_string(cause.unwrap_or_default(), out),
                Source::Money => {
                    return planned.request.money.is_some_and(|money| serde_json::to_writer(out, &money).is_ok());
                }
                Source::Reply(_) => return false,
                Source::Kept { step, field } => match kept.get(&(step.clone(), field.clone())) {
                    Some(json) => out.extend_from_slice(json),
                    None => return false,
                },
            }
            true
        });
        out
    }

    /// The same command to the same row gets the same reply, byte for byte.
    pub fn check_reply(
        &mut self,
        command: &Command,
        command_id: EventId,
        event_id: EventId,
        event: &str,
        payload: &str,
        body: &str,
    ) {
        let asked = (command.saga, command.step, command.of_undo);
        self.ledger.said.insert(event_id, (asked, event.to_owned(), payload.to_owned()));
        let Some(status) = self.held[command.saga][command.step].as_ref().map(|held| held.status) else { return };
        match self.ledger.replies.get(&(command_id, status)) {
            None => drop(self.ledger.replies.insert((command_id, status), body.to_owned())),
            Some(first) if first == body => {}
            Some(first) => {
                self.broken(format!("the same command to the same row got two replies: {first} and {body}"));
            }
        }
    }

    /// A move was stored: it is legal, and what it rests on has happened.
    pub fn check_move(&mut self, place: usize, deadline: Option<Timestamp>, transition: &Transition) {
        let (saga, entry) = (&transition.saga, &transition.entry);
        let flow = &self.script.flow;
        let Some([.., before, _]) = self.rows[place].as_ref().map(|row| row.history.as_slice()) else { return };
        let (before, gap) = (before.state, entry.seq - before.seq);
        if let Some(wrong) = wrong_move(self, place, before, gap, deadline, transition) {
            return self.broken(format!("saga {place}: {}: {} to {saga}: {wrong}", entry.input, before.name(flow)));
        }
        self.note(before, entry.state, &entry.input);
        if let (State::Running { step }, Some(event_id)) = (before, entry.event_id) {
            self.keep(place, step, event_id);
        }
        if entry.state.has_ended() {
            self.coverage.ended(entry.state.name(flow));
            if let Some(wrong) = self.wrongly_held(place, entry.state) {
                return self.broken(format!("saga {place} is {saga}: {wrong}"));
            }
            let answer = self.answer(saga);
            self.ledger.answers[place] = Some(answer);
        }
    }

    fn note(&mut self, before: State, after: State, input: &str) {
        match input {
            "deadline.passed" => self.saw(Seen::DeadlinePassed),
            "operator.cancelled" if before != after => self.saw(Seen::Cancelled),
            "operator.retried" => self.saw(Seen::Retried),
            "operator.resolved" => self.saw(Seen::Resolved),
            _ => {}
        }
    }

    /// Remembers what a saga has to have kept of the reply that moved it.
    fn keep(&mut self, place: usize, step: usize, event_id: EventId) {
        let step = &self.script.flow.steps[step];
        let Some((_, event, payload)) = self.ledger.said.get(&event_id) else { return };
        let Some(meaning @ Meaning::Done(done)) = step.means(event) else { return };
        let Ok(read) = meaning.read(payload) else { return };
        for field in &done.keep {
            if let Some(value) = read.get(field) {
                let mut json = Vec::new();
                value.write(&mut json);
                self.ledger.kept[place].insert((step.name.to_string(), field.clone()), json);
            }
        }
    }

    /// The client's answer, from a row.
    fn answer(&self, saga: &Saga) -> (u16, String) {
        let flow = &saga.flow;
        let status = saga.cause().map_or(flow.answer.done, |cause| flow.failed_status(cause));
        (status, serde_json::to_string(&FlowOutcome(saga)).unwrap_or_default())
    }

    /// The steps whose undo a person has settled: their participants know nothing of it.
    pub fn settled(&self, place: usize) -> Vec<usize> {
        let history = self.rows[place].as_ref().map(|row| row.history.as_slice()).unwrap_or_default();
        let by_hand = history.windows(2).filter(|pair| pair[1].input == "operator.resolved");
        let undone = |before| if let State::Compensating { step, .. } = before { Some(step) } else { None };
        by_hand.filter_map(|pair| undone(pair[0].state)).collect()
    }

    /// What participants hold for a saga that has ended, where it is not what its end says.
    fn wrongly_held(&self, place: usize, end: State) -> Option<String> {
        let (flow, parts) = (&self.script.flow, &self.script.parts);
        let settled = self.settled(place);
        let mut undone_later = u64::MAX;
        for (place_of_step, (step, held)) in flow.steps.iter().zip(&self.held[place]).enumerate() {
            let (name, status) = (&step.name, held.as_ref().map(|held| held.status));
            if end == State::Completed {
                if status != Some(Status::Done) {
                    return Some(format!("{name} is {status:?}"));
                }
                continue;
            }
            let is_undone = step.undo.is_some() || place_of_step >= flow.pivot;
            if !is_undone || settled.contains(&place_of_step) {
                continue;
            }
            if let Some(held) = held {
                if held.holds(&parts[place_of_step]) {
                    return Some(format!("{name} is {status:?}, and was not undone"));
                }
                if held.status == Status::Undone {
                    if held.undone > undone_later {
                        return Some(format!("{name} was undone after an earlier step"));
                    }
                    undone_later = held.undone;
                }
            }
        }
        None
    }

    /// After the last fault everything ends before long.
    pub fn check_progress(&mut self) {
        let (times, steps) = (self.script.times, self.script.flow.steps.len() as u64);
        let most = times.most.max(times.first);
        let within = self.rates.slow + times.longest + (2 * steps + 4) * (most + most / 4 + 5_000);
        if self.now < self.calm_at + within {
            return;
        }
        if let Some(row) = self.rows.iter().flatten().find(|row| !row.has_ended()) {
            let (name, seconds) = (row.name(), (self.now - self.calm_at) / 1_000);
            self.broken(format!("{seconds} s after the last fault a saga is still {name}"));
        }
    }

    /// Nothing is pending any more.
    pub fn check_the_end(&mut self) {
        for place in 0..self.sagas.len() {
            if let Some(wrong) = self.wrong_end(place) {
                let name = self.rows[place].as_ref().map(super::row::Row::name);
                return self.broken(format!("at the end saga {place} is {}: {wrong}", name.unwrap_or_default()));
            }
        }
    }

    fn wrong_end(&mut self, place: usize) -> Option<String> {
        let Some(row) = &self.rows[place] else {
            let is_known = self.held[place].iter().any(Option::is_some);
            return is_known.then(|| "it is not stored, and a participant knows it".to_owned());
        };
        if !row.has_ended() {
            return Some("nothing is pending, and it has not ended".to_owned());
        }
        if !row.history.iter().map(|entry| entry.seq).eq(1..=row.version) {
            return Some(format!("its history is {:?}", row.history));
        }
        let saga = self.read_row(place)?;
        let last = self.rows[place].as_ref().and_then(|row| row.history.last()).map(|entry| entry.state);
        if last != Some(saga.state) {
            return Some("its history ends elsewhere".to_owned());
        }
        if *saga.request != self.sagas[place].request {
            return Some(format!("its stored request is {:?}", saga.request));
        }
        let (answer, given) = (self.answer(&saga), self.ledger.answers[place].clone());
        if given.as_ref() != Some(&answer) {
            return Some(format!("its client was answered {given:?}, but its stored row gives {answer:?}"));
        }
        let template = self.script.flow.answer.body.as_ref().filter(|_| saga.state == State::Completed);
        if let Some(template) = template {
            let wanted = format!(r#""result":{},"#, String::from_utf8_lossy(&self.wanted(place, None, template)));
            if !answer.1.contains(&wanted) {
                return Some(format!("its client was answered {}, which lacks {wanted}", answer.1));
            }
        }
        self.wrongly_held(place, saga.state)
    }
}

/// What is wrong with a move from `before`, `gap` versions later.
fn wrong_move(
    world: &World<'_>,
    place: usize,
    before: State,
    gap: i64,
    deadline: Option<Timestamp>,
    transition: &Transition,
) -> Option<String> {
    let (flow, entry, after) = (&world.script.flow, &transition.entry, transition.entry.state);
    let held = |step: usize| world.held[place][step].as_ref().map(|held| held.status);
    if gap != 1 {
        return Some(format!("its version is {gap} after the one before"));
    }
    if before.has_ended() {
        return Some("it had ended".to_owned());
    }
    if entry.event_id.is_some_and(|id| world.ledger.forged.contains(&id)) {
        return Some("a contradicting reply moves it".to_owned());
    }
    let answered = entry.event_id.and_then(|id| world.ledger.said.get(&id)).map(|(answered, ..)| *answered);
    if answered.is_some() && answered != asked(place, before) {
        return Some("the reply answers another command".to_owned());
    }
    let within = if let State::Running { step } = after { flow.steps[step].within } else { None };
    let limit = within.map(|within| (entry.at + within).min(transition.saga.expires_at));
    if before != after && transition.saga.deadline != limit {
        return Some(format!("its limit is {:?}, and not {limit:?}", transition.saga.deadline));
    }
    let is_reply =
        !matches!(&*entry.input, "deadline.passed" | "operator.cancelled" | "operator.retried" | "operator.resolved");
    match (before, after) {
        (State::Running { step }, State::Compensating { .. } | State::Failed { .. }) => {
            let is_permitted = match &*entry.input {
                "deadline.passed" => step < flow.pivot && deadline.is_some_and(|deadline| deadline <= entry.at),
                "operator.cancelled" => {
                    step < flow.pivot && flow.cancel.is_some_and(|cancel| cancel.by_operator && step < cancel.until)
                }
                // A definite refusal.
                _ => is_reply && step <= flow.pivot && held(step).is_some_and(|status| status != Status::Done),
            };
            if !is_permitted {
                return Some(format!("it may not turn back: {:?}", held(step)));
            }
        }
        (State::Running { step }, State::Running { step: next }) if next == step => {}
        (State::Running { step }, State::Running { .. } | State::Completed) => {
            let next = if let State::Running { step } = after { step } else { flow.steps.len() };
            if next != step + 1 {
                return Some("it does not go on from there".to_owned());
            }
            if !is_reply || held(step) != Some(Status::Done) {
                return Some(format!("its step is {:?}", held(step)));
            }
        }
        (State::Compensating { step, cause }, State::Compensating { step: next, cause: other }) => {
            if cause != other || next > step || (next == step && is_reply) {
                return Some("it does not go on from there".to_owned());
            }
        }
        (State::Compensating { cause, .. }, State::Failed { cause: other }) if cause == other => {}
        _ => return Some("there is no such way".to_owned()),
    }
    match (before, after) {
        (State::Compensating { step, .. }, _) if is_reply && held(step) != Some(Status::Undone) => {
            Some(format!("what it undoes is {:?}", held(step)))
        }
        (_, State::Compensating { step, .. }) if step >= flow.pivot || flow.steps[step].undo.is_none() => {
            Some("nothing is undone there".to_owned())
        }
        _ => None,
    }
}

/// The question that is pending.
const fn asked(place: usize, state: State) -> Option<Asked> {
    match state {
        State::Running { step } => Some((place, step, false)),
        State::Compensating { step, .. } => Some((place, step, true)),
        State::Completed | State::Failed { .. } => None,
    }
}

fn both(first: &Effect, second: &Effect) -> String {
    let [first, second] = [first, second].map(|effect| match effect {
        Effect::Send(record) => format!("{} {}", record.topic, String::from_utf8_lossy(&record.body)),
        other => format!("{other:?}"),
    });
    format!("{first} and {second}")
}
