//! The modelled participants: one for each step, with a row for each subject, by the rules of `docs/participants.md`. A
//! built-in action (a call of the order service) has one as well, which answers the call.

use std::rc::Rc;

use flow::{RawEvent, State};
use messages::{EventId, OutgoingRecord, TimestampText};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::clock::timestamp;
use super::coverage::Seen;
use super::dice::Rate;
use super::fault::Fault;
use super::script::{Part, Said, ms};
use super::world::{Event, ProcessId, World};
use crate::saga::OrderCall;

/// So many times a participant reports progress at most.
const MOST_REPORTS: u8 = 3;

/// A command or a call on its way to the participant of a step.
#[derive(Debug, Clone)]
pub struct Command {
    pub saga: usize,
    pub step: usize,
    pub of_undo: bool,
    pub sent: Rc<Sent>,
}

/// What is sent.
#[derive(Debug, PartialEq)]
pub enum Sent {
    Record(OutgoingRecord),
    /// A call, and the process that waits for its answer, in which of its lives.
    Call(OrderCall, (ProcessId, u32)),
}

/// A participant's row.
#[derive(Debug, Clone)]
pub struct Held {
    pub status: Status,
    /// What was decided about the action, or reported of it. `None` in a tombstone.
    pub action: Option<Decision>,
    /// What was answered to the undo.
    pub undo: Option<Decision>,
    /// Counts the undos of a run, so that their order can be seen.
    pub undone: u64,
    /// When it goes on with what is in progress.
    goes_on_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Nothing is decided yet; this report of progress was the last.
    InProgress(u8),
    Done,
    Refused,
    Undone,
}

/// What was decided once: the event, the payload, the time.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    kind: Kind,
    event: usize,
    payload: usize,
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The number of the report.
    Progress(u8),
    Done,
    Refused,
    Undone,
}

/// An answer on its way to an orchestrator.
#[derive(Debug, Clone)]
pub enum Answer {
    Message { saga: usize, event: String, body: Rc<Vec<u8>> },
    Call { saga: usize, call: OrderCall, caller: (ProcessId, u32), status: u16, body: String },
}

impl Held {
    /// Whether this row holds something that its step's undo has to take back.
    pub fn holds(&self, part: &Part) -> bool {
        let left = |decision: Decision| decision.said(part).leaves_something;
        matches!(self.status, Status::Done | Status::InProgress(_))
            || (self.status == Status::Refused && self.action.is_some_and(left))
    }
}

impl Decision {
    fn said(self, part: &Part) -> &Said {
        match self.kind {
            Kind::Progress(_) => &part.progress[self.event],
            Kind::Done => &part.done[self.event],
            Kind::Refused => &part.refused[self.event],
            Kind::Undone => &part.undone[self.event],
        }
    }
}

impl World<'_> {
    /// A command has come to its participant.
    pub fn carry_out(&mut self, command: Command) {
        let Command { saga, step, of_undo, .. } = command;
        let silent_until = self.silent_until[step][usize::from(of_undo)];
        if self.now < silent_until {
            self.saw(Seen::Silence);
            return self.again_at(silent_until, command);
        }
        let dies = self.dice.chance(self.rates.participant_dies);
        if dies && self.fault != Some(Fault::ReplyBeforeRow) && self.dice.chance(Rate::percent(50)) {
            self.saw(Seen::DiedBeforeRow);
            self.trace(|| format!("{} dies before its row is stored", command.name()));
            return self.again_at(self.now, command);
        }
        let before = self.held[saga][step].clone();
        let decision = self.decide_once(&command);
        let after = self.held[saga][step].as_ref().map(|held| held.status);
        self.trace(|| {
            let was = before.as_ref().map(|held| held.status);
            format!("{}: its row was {was:?}, is {after:?}", command.name())
        });
        let Some(decision) = decision else { return };
        let is_repeated = before.as_ref().map(|held| held.status) == after;
        let answer = self.answer_of(&command, decision, is_repeated);
        if dies && self.fault == Some(Fault::ReplyBeforeRow) {
            self.held[saga][step] = before;
            self.again_at(self.now, command);
        } else if dies {
            self.saw(Seen::DiedBeforeReply);
            self.trace(|| format!("{} dies before it replies", command.name()));
            return self.again_at(self.now, command);
        }
        if let Some(answer) = answer {
            self.leave(answer, decision, step);
        }
    }

    /// Its offset is not committed, so a command comes again. A call's answer never comes.
    fn again_at(&mut self, at: u64, command: Command) {
        if command.is_record() {
            let pause = self.dice.between(20, 2_000);
            self.schedule(at + pause, Event::Command(command));
        }
    }

    /// Decides, if this subject's row is not there yet; what is to be answered. `None`: nothing.
    fn decide_once(&mut self, command: &Command) -> Option<Decision> {
        let (saga, step, fault) = (command.saga, command.step, self.fault);
        let script = self.script;
        let part = &script.parts[step];
        let status = self.held[saga][step].as_ref().map(|held| held.status);
        if status.is_some() && fault == Some(Fault::SilentDuplicate) && !command.of_undo {
            return None;
        }
        let held = match (command.of_undo, status) {
            (false, None) => self.act(command, 0),
            (false, Some(Status::InProgress(reports))) if self.is_due(saga, step) => self.act(command, reports),
            (false, Some(Status::Done)) if fault == Some(Fault::RefusalAfterDone) && !part.refused.is_empty() => {
                return Some(self.decision(Kind::Refused, part));
            }
            (true, None | Some(Status::Done | Status::Refused | Status::InProgress(_))) => {
                let undo = self.decision(Kind::Undone, part);
                let action = self.held[saga][step].as_ref().and_then(|held| held.action);
                if status.is_none() {
                    self.saw(Seen::Tombstone);
                    if fault == Some(Fault::NoTombstone) {
                        return Some(undo);
                    }
                }
                if matches!(status, Some(Status::InProgress(_))) {
                    self.saw(Seen::UndoneInProgress);
                }
                self.undos += 1;
                Held { status: Status::Undone, action, undo: Some(undo), undone: self.undos, goes_on_at: 0 }
            }
            // It came before, or too late.
            _ => {
                self.saw(match status {
                    Some(Status::Undone) if !command.of_undo => Seen::LateAction,
                    Some(Status::InProgress(_)) => Seen::ProgressRepeated,
                    _ => Seen::ReplyRepeated,
                });
                let held = self.held[saga][step].as_ref()?;
                return match (command.of_undo, held.status, held.action) {
                    (true, ..) => held.undo,
                    (false, Status::Undone, Some(refusal)) if refusal.kind == Kind::Refused => Some(refusal),
                    (false, Status::Undone, _) if part.refused.is_empty() => None,
                    (false, Status::Undone, _) => {
                        let at = held.undo.map_or(0, |undo| undo.at);
                        Some(Decision { kind: Kind::Refused, event: 0, payload: 0, at })
                    }
                    (false, _, action) => action,
                };
            }
        };
        let decision = if command.of_undo { held.undo } else { held.action };
        self.held[saga][step] = Some(held);
        decision
    }

    /// Decides about an action, or reports progress once more.
    fn act(&mut self, command: &Command, reports: u8) -> Held {
        let (saga, step, script) = (command.saga, command.step, self.script);
        let part = &script.parts[step];
        let may_report = reports < MOST_REPORTS && !part.progress.is_empty() && command.is_record();
        if may_report && self.dice.chance(self.rates.progress) {
            self.check_may_take_effect(saga, step, false);
            let report = self.decision(Kind::Progress(reports + 1), part);
            let within = ms(script.flow.steps[step].progress[report.event].within);
            let is_slow = self.dice.chance(Rate::percent(20));
            let (least, most) = if is_slow { (within / 2, within + within / 2) } else { (1, within / 2) };
            let goes_on_at = self.now + self.dice.between(least, most);
            self.schedule(goes_on_at, Event::GoesOn(command.clone()));
            return Held {
                status: Status::InProgress(reports + 1),
                action: Some(report),
                undo: None,
                undone: 0,
                goes_on_at,
            };
        }
        let is_refused = !part.refused.is_empty() && self.dice.chance(self.rates.refused);
        let decision = self.decision(if is_refused { Kind::Refused } else { Kind::Done }, part);
        self.check_may_take_effect(saga, step, is_refused);
        let status = if is_refused { Status::Refused } else { Status::Done };
        if is_refused {
            self.saw(Seen::Refusal);
        }
        Held { status, action: Some(decision), undo: None, undone: 0, goes_on_at: 0 }
    }

    /// Whether a participant's time has come to go on with what is in progress.
    fn is_due(&self, saga: usize, step: usize) -> bool {
        self.held[saga][step].as_ref().is_some_and(|held| held.goes_on_at <= self.now)
    }

    /// A participant goes on by itself with what it has reported progress of.
    pub fn go_on(&mut self, command: Command) {
        let (saga, step) = (command.saga, command.step);
        let status = self.held[saga][step].as_ref().map(|held| held.status);
        if matches!(status, Some(Status::InProgress(_))) && self.is_due(saga, step) {
            self.carry_out(command);
        }
    }

    fn decision(&mut self, kind: Kind, part: &Part) -> Decision {
        let events = match kind {
            Kind::Progress(_) => &part.progress,
            Kind::Done => &part.done,
            Kind::Refused => &part.refused,
            Kind::Undone => &part.undone,
        };
        let event = self.dice.between(0, events.len() as u64 - 1) as usize;
        let payload = self.dice.between(0, events[event].payloads.len() as u64 - 1) as usize;
        Decision { kind, event, payload, at: self.now }
    }

    /// The answer to a command: a function of the command and the row.
    fn answer_of(&mut self, command: &Command, decision: Decision, is_repeated: bool) -> Option<Answer> {
        let saga = command.saga;
        let said = decision.said(&self.script.parts[command.step]);
        let record = match &*command.sent {
            Sent::Record(record) => record,
            Sent::Call(call, caller) => {
                let (status, body) = match (decision.kind, call) {
                    (Kind::Refused, _) => (409, json!({ "detail": "it is not possible" })),
                    (_, OrderCall::Create { .. }) => (201, json!({ "status": "PENDING" })),
                    (_, OrderCall::Confirm { .. }) => (200, json!({ "status": "CONFIRMED" })),
                    (_, OrderCall::Cancel { .. }) => (200, json!({ "status": "CANCELLED" })),
                };
                let (call, caller) = (call.clone(), *caller);
                return Some(Answer::Call { saga, call, caller, status, body: body.to_string() });
            }
        };
        let asked = match RawEvent::read(&record.body) {
            Ok(asked) => asked,
            Err(misfit) => {
                self.broken(format!("a command can't be read by its participant: {misfit}"));
                return None;
            }
        };
        let planned = &self.sagas[saga];
        let mut payload = said.payloads[decision.payload].clone();
        if said.money_agrees
            && let Some(money) = planned.request.money
        {
            payload.insert("money".to_owned(), json!(money));
        }
        let (payload, event) = (Json::Object(payload).to_string(), said.event.clone());
        // Each report of progress is another message, and the same report the same one.
        let mut event_id = match decision.kind {
            Kind::Progress(number) => EventId::derived(asked.event_id, &format!("{event} {number}")),
            _ => EventId::derived(asked.event_id, &event),
        };
        if is_repeated && self.fault == Some(Fault::NewEventId) {
            event_id = Uuid::from_u64_pair(self.dice.bits(), self.dice.bits()).into();
        }
        let (command_id, saga_id, subject) = (asked.event_id, asked.saga_id, planned.subject);
        let (name, at) = (&self.script.flow.start.subject, TimestampText(timestamp(decision.at)));
        let body = format!(
            r#"{{"eventId":"{event_id}","causationId":"{command_id}","sagaId":"{saga_id}","{name}":"{subject}","timestamp":"{at}","payload":{payload}}}"#
        );
        self.check_reply(command, command_id, event_id, &event, &payload, &body);
        Some(Answer::Message { saga, event, body: Rc::new(body.into_bytes()) })
    }

    /// An answer leaves.
    fn leave(&mut self, answer: Answer, decision: Decision, step: usize) {
        if self.dice.chance(self.rates.forged) {
            let said = decision.said(&self.script.parts[step]);
            self.forge(&answer, said);
        }
        if self.dice.chance(self.rates.reply_doubled) {
            self.saw(Seen::ReplyDoubled);
            let at = self.now + self.delay();
            self.schedule(at, Event::Answer(answer.clone()));
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Answer(answer));
    }

    /// Sends a reply like this one that differs in one thing, with an id of its own. It must move nothing.
    fn forge(&mut self, answer: &Answer, said: &Said) {
        let Answer::Message { saga, event, body } = answer else { return };
        let Ok(Json::Object(mut message)) = serde_json::from_slice::<Json>(body) else { return };
        let mut id = || Uuid::from_u64_pair(self.dice.bits(), self.dice.bits());
        let (event_id, other) = (id(), id());
        let mut event = event.clone();
        let differs = match self.dice.between(0, 5) {
            0 if said.money_agrees => {
                message["payload"]["money"]["amount"] = json!("200000.01");
                "other money"
            }
            1 => {
                message.insert("causationId".to_owned(), Json::Null);
                "no command"
            }
            2 => {
                message.insert(self.script.flow.start.subject.clone(), json!(other));
                "another subject"
            }
            3 if said.has_fields => {
                message.insert("payload".to_owned(), Json::Object(Map::new()));
                "a payload without its fields"
            }
            4 => {
                while self.script.flow.answered_by(&event).next().is_some() {
                    event += ".unknown";
                }
                "an unknown event"
            }
            _ => {
                message.insert("causationId".to_owned(), json!(other));
                "another command"
            }
        };
        message.insert("eventId".to_owned(), json!(event_id));
        self.ledger.forged.insert(event_id.into());
        self.trace(|| format!("a reply {event} that contradicts saga {saga}: {differs}"));
        let at = self.now + self.delay();
        let body = Rc::new(Json::Object(message).to_string().into_bytes());
        self.schedule(at, Event::Answer(Answer::Message { saga: *saga, event, body }));
    }

    /// Nothing takes effect for a saga that has given everything back.
    fn check_may_take_effect(&mut self, saga: usize, step: usize, is_refused: bool) {
        let is_undone = self.script.flow.steps[step].undo.is_some() || step >= self.script.flow.pivot;
        let state = self.rows[saga].as_ref().and_then(|row| row.history.last()).map(|entry| entry.state);
        let has_failed = matches!(state, Some(State::Failed { .. }) | None);
        if !is_refused && is_undone && has_failed && !self.settled(saga).contains(&step) {
            let name = &self.script.flow.steps[step].name;
            self.broken(format!("{name} takes effect for saga {saga}, which has failed"));
        }
    }
}

impl Command {
    /// Whether it comes again until it is answered. A call does not.
    fn is_record(&self) -> bool {
        matches!(*self.sent, Sent::Record(_))
    }

    /// For a line of the trace.
    pub fn name(&self) -> String {
        let what = match &*self.sent {
            Sent::Record(record) => &*record.topic,
            Sent::Call(OrderCall::Create { .. }, _) => "the call that creates the order",
            Sent::Call(OrderCall::Confirm { .. }, _) => "the call that confirms the order",
            Sent::Call(OrderCall::Cancel { .. }, _) => "the call that cancels the order",
        };
        format!("participant of {what} of saga {}", self.saga)
    }
}
