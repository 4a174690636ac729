//! Plays the rules against the participant of one step, one after the other.

use std::time::Duration;

use flow::payload::Payload;
use flow::sample::Samples;
use flow::{Action, Ask, Asked, Flow, Meaning, Record, Step, UndoStep};
use messages::{EventId, SagaId};
use service_runtime::Fatal;
use uuid::Uuid;

use super::line::{About, Command, Line};
use super::reply::{Fault, Reply, Wanted};
use super::report::{Evidence, Report};
use super::restart::Restart;
use super::rule::Rule;

/// How long nothing has to come for it to count as silence.
const QUIET: Duration = Duration::from_millis(700);

/// What is no command, in as many ways as readers fail at.
const POISON: [&[u8]; 8] = [
    b"",
    b"this is no JSON",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    br#"{"eventId":5,"sagaId":{},"timestamp":[],"payload":"x"}"#,
    br#"{"eventId":"not-a-uuid","sagaId":"","payload":{}}"#,
];

/// One step's participant under trial.
pub struct Trial<'a> {
    pub flow: &'a Flow,
    pub step: &'a Step,
    pub samples: &'a Samples<'a>,
    pub line: Line,
    pub is_shared: bool,
    pub restart: Option<Restart>,
    pub report: Report,
}

/// What a reply has to mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Means {
    Done,
    Refused,
}

/// The two things that a step may ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Action,
    Undo,
}

/// A reply that fits its shape, with what was read of it.
struct Answer {
    reply: Reply,
    means: Means,
    record: Record,
}

impl Trial<'_> {
    /// Plays all rules.
    ///
    /// # Errors
    /// When Kafka fails, or the participant can't be restarted.
    pub async fn run(&mut self) -> Result<(), Fatal> {
        let undone = self.step.undo.iter().flat_map(|undo| &undo.done);
        if !self.step.done.iter().chain(undone).any(|done| done.money_agrees) {
            self.report.not_tried(Rule::Agrees, "the flow file has no `agrees` here");
        }
        let about = new();
        let action = self.action(about);
        let Some(first) = self.ask(&action, Part::Action, Rule::Answered).await? else {
            self.rest_not_tried("the first command was not answered");
            return Ok(());
        };
        if first.means == Means::Refused {
            let why =
                format!("the participant refuses the sample ({}): give another with --input", first.reply.payload());
            self.rest_not_tried(&why);
            return Ok(());
        }
        self.again(&action, &first.reply, Rule::Repeat).await?;
        self.contradict(about, &action, &first.reply).await?;
        self.unknown_fields(about).await?;
        match self.step.undo.as_ref() {
            Some(undo) => {
                self.undo_after(undo, about, &action, &first.record).await?;
                self.undo_before(undo).await?;
            }
            None => {
                let undo_rules = [Rule::Undo, Rule::UndoRepeat, Rule::LateAction, Rule::UndoFirst];
                undo_rules.iter().for_each(|rule| self.report.not_tried(*rule, "the step has no undo"));
            }
        }
        self.poison(about).await?;
        self.restarts().await?;
        self.rest_not_tried("no reply was there to judge it by");
        Ok(())
    }

    fn rest_not_tried(&mut self, why: &str) {
        Rule::ALL.iter().for_each(|rule| self.report.not_tried(*rule, why));
    }

    /// Other contents for the same subject, and another saga for it: both may stay unanswered, and then the first command
    /// has its reply still.
    async fn contradict(&mut self, about: About, action: &Command, first: &Reply) -> Result<(), Fatal> {
        let other = self.samples.payload(self.send_of(), &self.samples.other, &about.subject.to_string(), None);
        let other = Command { id: EventId::new(), ..self.command(Part::Action, about, &other) };
        let other_saga = self.action(About { saga_id: self.line.beside(about.saga_id), ..about });
        for command in [&other, &other_saga] {
            self.line.send(command).await?;
        }
        self.again(action, first, Rule::Contradiction).await?;
        for command in [&other, &other_saga] {
            let shared = self.is_shared;
            for reply in self.line.strays_of(command.id, QUIET).await {
                if reply.payload() != first.payload() || reply.event(shared) != first.event(shared) {
                    let why = "a command that contradicts the first one was answered, and not from the stored row";
                    self.broken(Rule::Contradiction, why, command, Some(&reply));
                }
            }
        }
        Ok(())
    }

    async fn unknown_fields(&mut self, about: About) -> Result<(), Fatal> {
        let about = About { saga_id: self.line.beside(about.saga_id), ..new() };
        let payload = self.samples.payload(self.send_of(), &self.samples.usual, &about.subject.to_string(), None);
        let mut action = self.command(Part::Action, about, &with_unknown_field(&payload));
        action.body = with_unknown_field(&action.body);
        self.ask_for(&action, Part::Action, Means::Done, Rule::UnknownFields).await.map(drop)
    }

    /// The undo of what was done; twice; and the action behind it.
    async fn undo_after(
        &mut self,
        undo: &UndoStep,
        about: About,
        action: &Command,
        kept: &Record,
    ) -> Result<(), Fatal> {
        let undo = self.undo(undo, about, Some(kept));
        let Some(undone) = self.ask_for(&undo, Part::Undo, Means::Done, Rule::Undo).await? else { return Ok(()) };
        self.again(&undo, &undone.reply, Rule::UndoRepeat).await?;
        let refused = self.ask_for(action, Part::Action, Means::Refused, Rule::LateAction).await?;
        if let Some(refused) = refused {
            self.again(action, &refused.reply, Rule::LateAction).await?;
            self.again(&undo, &undone.reply, Rule::UndoRepeat).await?;
        }
        Ok(())
    }

    /// The undo of what was never done; and the action behind it.
    async fn undo_before(&mut self, undo: &UndoStep) -> Result<(), Fatal> {
        let about = new();
        let undo = self.undo(undo, about, None);
        let Some(undone) = self.ask_for(&undo, Part::Undo, Means::Done, Rule::UndoFirst).await? else { return Ok(()) };
        let action = self.action(about);
        self.ask_for(&action, Part::Action, Means::Refused, Rule::UndoFirst).await?;
        self.again(&undo, &undone.reply, Rule::UndoFirst).await.map(drop)
    }

    async fn poison(&mut self, about: About) -> Result<(), Fatal> {
        let about = About { saga_id: self.line.beside(about.saga_id), ..new() };
        let action = self.action(about);
        for body in POISON {
            self.line.send_poison(&action.topic, about.saga_id, body).await?;
        }
        self.ask_for(&action, Part::Action, Means::Done, Rule::Poison).await.map(drop)
    }

    /// Killed once while the command is under way, and once as soon as its reply is there.
    async fn restarts(&mut self) -> Result<(), Fatal> {
        let Some(restart) = self.restart.clone() else {
            self.report.not_tried(Rule::Restart, "--restart-command is not given");
            return Ok(());
        };
        let usual_patience = self.line.patience;
        self.line.patience = usual_patience.max(restart.patience());
        for waits in [false, true] {
            let action = self.action(new());
            self.line.send(&action).await?;
            let early = if waits { self.line.reply_to(&action, usual_patience).await } else { None };
            restart.run().await?;
            let first = match early {
                Some(early) => Some(early),
                None => self.judged(&action, Part::Action, Rule::Restart).await?.map(|answer| answer.reply),
            };
            if let Some(first) = first
                && self.again(&action, &first, Rule::Restart).await?
            {
                // The command may have come again by itself, too.
                for reply in self.line.strays_of(action.id, QUIET).await {
                    self.compare(&action, &first, &reply, Rule::Restart);
                }
            }
        }
        self.line.patience = usual_patience;
        Ok(())
    }

    /// Sends a command, and judges its reply. `None`: there is none that could be read.
    async fn ask(&mut self, command: &Command, part: Part, rule: Rule) -> Result<Option<Answer>, Fatal> {
        self.line.send(command).await?;
        self.judged(command, part, rule).await
    }

    async fn ask_for(
        &mut self,
        command: &Command,
        part: Part,
        means: Means,
        rule: Rule,
    ) -> Result<Option<Answer>, Fatal> {
        let Some(answer) = self.ask(command, part, rule).await? else { return Ok(None) };
        if answer.means == means {
            return Ok(Some(answer));
        }
        let why = match means {
            Means::Done => "it was answered as refused",
            Means::Refused => "it was answered as done, and has to be refused",
        };
        self.broken(rule, why, command, Some(&answer.reply));
        Ok(None)
    }

    async fn judged(&mut self, command: &Command, part: Part, rule: Rule) -> Result<Option<Answer>, Fatal> {
        let is_shared = self.is_shared;
        let wanted = Wanted {
            command,
            subject_field: &self.flow.start.subject,
            partitions: self.line.partitions,
            is_shared,
            money: self.samples.usual.money,
        };
        loop {
            let Some(reply) = self.line.reply_to(command, self.line.patience).await else {
                self.broken(rule, "no reply came", command, None);
                return Ok(None);
            };
            let mut faults = reply.faults(&wanted);
            let meaning = match (part, &self.step.undo) {
                (Part::Undo, Some(undo)) => undo.means(reply.event(is_shared)),
                _ => self.step.means(reply.event(is_shared)),
            };
            let read = match meaning {
                Some(meaning) => reply.read(meaning, &wanted),
                None => Err((Rule::Event, format!("{:?} is no event of this step", reply.event(is_shared)))),
            };
            if let Err(fault) = &read {
                faults.push(fault.clone());
            }
            for (rule, why) in &faults {
                self.broken(*rule, why, command, Some(&reply));
            }
            judged(&faults).for_each(|rule| self.report.holds(rule));
            let (Some(meaning), Ok(record)) = (meaning, read) else { return Ok(None) };
            let means = match meaning {
                Meaning::Done(_) => Means::Done,
                Meaning::Refused(_) => Means::Refused,
                // The outcome is yet to come.
                Meaning::Progress(_) => continue,
            };
            self.report.holds(rule);
            return Ok(Some(Answer { reply, means, record }));
        }
    }

    /// Sends a command again, which has to get the same reply. Whether it did.
    async fn again(&mut self, command: &Command, first: &Reply, rule: Rule) -> Result<bool, Fatal> {
        self.line.send(command).await?;
        match self.line.reply_to(command, self.line.patience).await {
            Some(reply) => Ok(self.compare(command, first, &reply, rule)),
            None => {
                self.broken(rule, "the command was sent again, and no reply came", command, None);
                Ok(false)
            }
        }
    }

    fn compare(&mut self, command: &Command, first: &Reply, reply: &Reply, rule: Rule) -> bool {
        let why = if first.event(self.is_shared) != reply.event(self.is_shared) {
            "the reply is another event"
        } else if first.event_id() != reply.event_id() {
            "the reply has another eventId"
        } else if first.body() != reply.body() {
            "the reply has other bytes"
        } else {
            self.report.holds(rule);
            return true;
        };
        let why = format!("{why} than the first one to this command, which was {}", first.describe());
        self.broken(rule, &why, command, Some(reply));
        false
    }

    fn broken(&mut self, rule: Rule, why: &str, command: &Command, reply: Option<&Reply>) {
        let sent = format!("{}, key {}: {}", command.topic, command.saga_id, command.body);
        let came = reply.map_or_else(|| format!("nothing within {:?}", self.line.patience), Reply::describe);
        self.report.broken(rule, Evidence { why: why.to_owned(), sent, came });
    }

    /// The step's command, with the usual contents.
    fn action(&self, about: About) -> Command {
        let payload = self.samples.payload(self.send_of(), &self.samples.usual, &about.subject.to_string(), None);
        self.command(Part::Action, about, &payload)
    }

    fn command(&self, part: Part, about: About, payload: &str) -> Command {
        let (name, ask) = match (part, &self.step.undo, &self.step.action) {
            (Part::Undo, Some(undo), _) => (&undo.name, Some(&undo.ask)),
            (_, _, Action::Ask(ask)) => (&self.step.name, Some(ask)),
            _ => (&self.step.name, None),
        };
        let topic = ask.map_or("", topic_of);
        Command::new(topic, EventId::derived(about.saga_id, name), about, &self.flow.start.subject, payload)
    }

    fn send_of(&self) -> &Payload {
        const NOTHING: &Payload = &Payload::Object(Vec::new());
        if let Action::Ask(ask) = &self.step.action { &ask.send } else { NOTHING }
    }

    fn undo(&self, undo: &UndoStep, about: About, kept: Option<&Record>) -> Command {
        let kept = kept.map(|record| (&*self.step.name, record));
        let payload = self.samples.payload(&undo.ask.send, &self.samples.usual, &about.subject.to_string(), kept);
        self.command(Part::Undo, about, &payload)
    }
}

/// The topic of a command; empty where none is sent.
pub fn topic_of(ask: &Ask) -> &str {
    if let Asked::Topic(topic) = &ask.of { topic } else { "" }
}

/// The rules about a reply by itself that could be judged: where its key is wrong, its partition says nothing.
fn judged(faults: &[Fault]) -> impl Iterator<Item = Rule> {
    use Rule::{Agrees, Envelope, Event, Key, Partition, Shape};
    let is_broken = |rules: &[Rule]| faults.iter().any(|(rule, _)| rules.contains(rule));
    let depends = [
        (Envelope, &[][..]),
        (Event, &[]),
        (Key, &[]),
        (Partition, &[Key]),
        (Shape, &[Event]),
        (Agrees, &[Event, Shape]),
    ];
    depends.into_iter().filter(move |(_, on)| !is_broken(on)).map(|(rule, _)| rule)
}

/// A subject and a saga that nobody knows.
fn new() -> About {
    About { saga_id: SagaId::new(), subject: Uuid::now_v7() }
}

fn with_unknown_field(object: &str) -> String {
    let rest = object.strip_prefix('{').unwrap_or(object);
    let comma = if rest == "}" { "" } else { "," };
    format!(r#"{{"fieldOfALaterRelease":{{"a":[1,null,"x"]}}{comma}{rest}"#)
}
