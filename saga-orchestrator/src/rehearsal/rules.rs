//! The rules. They hold for every flow, and are checked at each move, at each send, at each reply, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use flow::payload::Payload;
use flow::{Late, Slot, Source, State, Step, Wait, write_string};
use messages::EventId;

use super::coverage::Seen;
use super::participant::{Command, Status};
use super::plan::place_of;
use super::row::Row;
use super::world::World;
use crate::saga::{Effect, FlowOutcome, Saga};

/// A question of a saga: its place, the step, and whether it is the step's undo.
pub type Asked = (usize, usize, bool);

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
    pub said: BTreeMap<EventId, (Asked, String, String)>,
    /// What each saga has to have kept: the JSON of each field, by step and field.
    pub kept: Vec<BTreeMap<(String, String), Vec<u8>>>,
    /// What each client was answered.
    pub answers: Vec<Option<(u16, String)>>,
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
        self.spend(saga.size() + if let Effect::Send(record) = effect { record.body.len() } else { 0 });
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

    /// A payload as it has to be, made from what was asked for and what the participants and the signals said.
    fn wanted(&self, place: usize, cause: Option<&str>, template: &Payload) -> Vec<u8> {
        let mut out = Vec::new();
        template.fill(&mut out, &mut |slot: &Slot, out| self.value(place, cause, slot, out));
        out
    }

    /// Writes a slot's value as it has to be; false where there is none.
    fn value(&self, place: usize, cause: Option<&str>, slot: &Slot, out: &mut Vec<u8>) -> bool {
        let (planned, kept) = (&self.sagas[place], &self.ledger.kept[place]);
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
    }

    /// What a signal has to name that this saga waits for.
    pub fn named(&self, place: usize, wait: &Wait) -> Option<String> {
        let mut json = Vec::new();
        let is_there = self.value(place, None, &wait.matched, &mut json);
        serde_json::from_slice(&json).ok().filter(|_| is_there)
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

    /// The client's answer, from a row.
    fn answer(saga: &Saga) -> (u16, String) {
        if let Some(answered) = &saga.answered {
            return (answered.status, answered.body.clone());
        }
        let flow = &saga.flow;
        let status = saga.cause().map_or(flow.answer.done, |cause| flow.failed_status(cause));
        (status, serde_json::to_string(&FlowOutcome(saga)).unwrap_or_default())
    }

    /// The client is answered once: behind the step that the flow says, or at the end. The answer stays, whatever comes then;
    /// if it is final, the saga never fails.
    pub fn wrongly_answered(&mut self, place: usize, before: State, saga: &Saga) -> Option<String> {
        let (flow, after) = (self.script.flow.clone(), saga.state);
        let answer = Self::answer(saga);
        if let Some(given) = &self.ledger.answers[place] {
            if *given != answer {
                return Some(format!("its client was answered {given:?}, and is answered {answer:?} now"));
            }
            if matches!(after, State::Failed { .. }) {
                self.saw(Seen::FailedBehindAnswer);
                return flow.answer.is_final.then(|| "it fails behind its final answer".to_owned());
            }
            return None;
        }
        let passes = State::Running { step: flow.answer.after };
        let is_early = before == passes && before != after && matches!(after, State::Running { .. });
        if is_early != saga.answered.is_some() {
            return Some(format!("its client's answer is {:?}", saga.answered));
        }
        if !is_early && !after.has_ended() {
            return None;
        }
        let is_done = is_early || after == State::Completed;
        let template = flow.answer.body.as_ref().filter(|_| is_done);
        let result = template.map(|template| self.wanted(place, None, template));
        let result = result.map_or_else(|| "null".to_owned(), |json| String::from_utf8_lossy(&json).into_owned());
        let is_final = !is_early || flow.answer.is_final;
        let is_final = if flow.answers_early() { format!(r#","final":{is_final}"#) } else { String::new() };
        let (status, next) = match after {
            State::Running { step } => (self.rows[place].as_ref().map_or("", Row::status), &*flow.steps[step].name),
            State::Completed => ("COMPLETED", "COMPLETED"),
            State::Failed { cause } | State::Compensating { cause, .. } => ("FAILED", &*flow.causes[cause]),
        };
        let where_it_is = format!(r#""status":"{status}","step":"{next}","#);
        let wanted = format!(r#""result":{result}{is_final},"#);
        let code = match after {
            State::Failed { cause } => {
                let own = flow.answer.failed.iter().find(|(name, _)| flow.causes[cause] == **name);
                own.map_or(flow.answer.otherwise, |(_, code)| *code)
            }
            _ => flow.answer.done,
        };
        let is_right = answer.1.contains(&wanted) && answer.1.contains(&where_it_is) && answer.0 == code;
        if is_early {
            self.saw(Seen::AnsweredEarly);
        }
        let wrong = (!is_right)
            .then(|| format!("its client is answered {answer:?}, which is not {code} with {where_it_is} and {wanted}"));
        self.ledger.answers[place] = Some(answer);
        wrong
    }

    /// The steps whose undo a person has settled: their participants know nothing of it.
    pub fn settled(&self, place: usize) -> Vec<usize> {
        let history = self.rows[place].as_ref().map(|row| row.history.as_slice()).unwrap_or_default();
        let by_hand = history.windows(2).filter(|pair| pair[1].input == "operator.resolved");
        let undone = |before| if let State::Compensating { step, .. } = before { Some(step) } else { None };
        by_hand.filter_map(|pair| undone(pair[0].state)).collect()
    }

    /// What participants hold for a saga that has ended, where it is not what its end says.
    pub fn wrongly_held(&self, place: usize, end: State) -> Option<String> {
        let (flow, parts) = (&self.script.flow, &self.script.parts);
        let settled = self.settled(place);
        let mut undone_later = u64::MAX;
        for (place_of_step, (step, held)) in flow.steps.iter().zip(&self.held[place]).enumerate() {
            let (name, status) = (&step.name, held.as_ref().map(|held| held.status));
            if end == State::Completed {
                if has_to_be_done(step) && status != Some(Status::Done) {
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
        let (times, steps) = (self.script.times, &self.script.flow.steps);
        let most = times.most.max(times.first);
        let resting = steps.iter().filter(|step| step.wait().is_some() || !step.progress.is_empty()).count();
        let asked = (2 * steps.len() as u64 + 4) * (most + most / 4 + 5_000);
        // A signal may be taken by another saga, and each report of progress takes its time.
        let rested = (resting * self.sagas.len()) as u64 * (5 * times.longest + 2 * times.rest);
        let within = self.rates.slow + times.longest + asked + rested;
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
        if let Some(wrong) = self.wrongly_taken() {
            return self.broken(wrong);
        }
        for place in 0..self.sagas.len() {
            if let Some(wrong) = self.wrong_end(place) {
                let name = self.rows[place].as_ref().map(Row::name);
                return self.broken(format!("at the end saga {place} is {}: {wrong}", name.unwrap_or_default()));
            }
        }
    }

    /// Each signal stands once in a history, of the saga that has taken it, or in none.
    fn wrongly_taken(&mut self) -> Option<String> {
        let mut left = 0;
        for signal in &self.signals {
            let id = Some(EventId::from(signal.id));
            let moved = self.rows.iter().enumerate().flat_map(|(saga, row)| {
                let entries = row.iter().flat_map(|row| &row.history).filter(|entry| entry.event_id == id);
                entries.map(move |_| saga)
            });
            let moved: Vec<usize> = moved.collect();
            let taken: Vec<usize> = signal.taken.iter().map(|(saga, _)| *saga).collect();
            if moved != taken {
                return Some(format!("at the end a {} is taken by {taken:?}, and has moved {moved:?}", signal.kind));
            }
            left += usize::from(taken.is_empty());
        }
        (0..left).for_each(|_| self.saw(Seen::SignalUnmatched));
        None
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
        let (answer, given) = (Self::answer(&saga), self.ledger.answers[place].as_ref());
        if given != Some(&answer) {
            return Some(format!("its client was answered {given:?}, but its stored row gives {answer:?}"));
        }
        self.wrongly_held(place, saga.state)
    }
}

/// Whether a saga passes this step only when its participant has done it.
fn has_to_be_done(step: &Step) -> bool {
    step.wait().is_none() && (step.within.is_none() || step.late != Late::GoOn)
}

/// The question that is pending.
pub const fn asked(place: usize, state: State) -> Option<Asked> {
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
