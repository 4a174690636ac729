//! A checked flow: steps by their place, causes by their number, digest.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::check::causes;
use crate::file::{self, At, FlowFile, Late, Repeat, Undo};
use crate::name::Name;
use crate::payload::Payload;
use crate::shape::Shape;
use crate::slot::Slot;

/// The flow of a checkout without items.
pub const PAY_FIRST: &str = "pay-first";

/// The flow of a checkout with items.
pub const RESERVE_FIRST: &str = "reserve-first";

/// The flows behind `POST /checkout`.
pub const CHECKOUTS: [&str; 2] = [PAY_FIRST, RESERVE_FIRST];

/// How an effect is repeated where the file does not say it.
const REPEAT: Repeat = Repeat { first: Duration::from_secs(2), most: Duration::from_secs(10), attention_after: 10 };

/// A flow that keeps all rules.
#[derive(Debug, Clone)]
pub struct Flow {
    pub name: String,
    pub version: i32,
    /// SHA-256 of the file as written, in hexadecimal digits.
    pub digest: String,
    pub start: Start,
    /// The place of the pivot among the steps.
    pub pivot: usize,
    /// How long a saga may take as a whole.
    pub reach: Option<Reach>,
    pub cancel: Option<Cancel>,
    pub repeat: Repeat,
    pub answer: Answer,
    pub steps: Vec<Step>,
    /// Why a saga of this flow can turn back: as the answer names them, then in the order of the steps.
    pub causes: Vec<Name>,
    pub tests: Vec<file::Test>,
}

#[derive(Debug, Clone)]
pub struct Start {
    pub route: Option<String>,
    pub topic: Option<String>,
    pub subject: String,
    /// The field of the input that says whose saga it is.
    pub owner: Slot,
    pub money: Option<(Slot, Slot)>,
    pub input: Vec<(String, Shape)>,
}

/// A limit of the whole saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To its pivot.
    Pivot(Duration),
    /// To its answer. Time at a step that waits for a signal, or has reported progress, is not counted.
    Answer(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    pub by_owner: bool,
    pub by_operator: bool,
    /// The step at which it is too late.
    pub until: usize,
}

/// In which role a person cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Owner,
    Operator,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Owner, Self::Operator];
}

impl Cancel {
    /// Whether who has this role may cancel.
    pub const fn permits(&self, role: Role) -> bool {
        match role {
            Role::Owner => self.by_owner,
            Role::Operator => self.by_operator,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    /// The step behind which the client is answered.
    pub after: usize,
    pub is_final: bool,
    pub done: u16,
    pub failed: Vec<(String, u16)>,
    /// The status of causes that `failed` does not name.
    pub otherwise: u16,
    pub body: Option<Payload>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub name: Name,
    pub order_status: Option<String>,
    pub within: Option<Duration>,
    pub late: Late,
    pub action: Action,
    pub done: Vec<Done>,
    pub refused: Vec<Refused>,
    pub progress: Vec<Progress>,
    pub undo: Option<UndoStep>,
    /// Sentences for people, by kind: `done`, `refused`, `undone`, `undone_unknown`.
    pub words: Vec<(&'static str, String)>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    Ask(Ask),
    Wait(Wait),
}

/// A wait for a signal.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The kind of signal.
    pub signal: String,
    /// What the signal has to name: a text.
    pub matched: Slot,
    /// What is kept of its payload.
    pub keep: Vec<(String, Shape)>,
}

/// A question to somebody.
#[derive(Debug, Clone)]
pub struct Ask {
    pub of: Asked,
    pub send: Payload,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A participant, by a command to this topic.
    Topic(String),
    /// The order service, by an HTTP call.
    Action(String),
}

/// An event by which something is done.
#[derive(Debug, Clone)]
pub struct Done {
    pub event: String,
    /// Whether its `money` has to be the saga's.
    pub money_agrees: bool,
    pub fields: Vec<(String, Shape)>,
    pub keep: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Refused {
    pub event: String,
    pub cause: String,
    pub reason: Option<Slot>,
    pub undo_this_step: bool,
}

#[derive(Debug, Clone)]
pub struct Progress {
    pub event: String,
    pub fields: Vec<(String, Shape)>,
    pub keep: Vec<String>,
    pub within: Duration,
    /// Whether the client is answered with as much of the answer's body as there is.
    pub is_answered: bool,
}

#[derive(Debug, Clone)]
pub struct UndoStep {
    pub name: Name,
    pub ask: Ask,
    pub done: Vec<Done>,
}

/// A published version never changes: name, version and digest say which flow it is.
impl PartialEq for Flow {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.version, &self.digest) == (&other.name, other.version, &other.digest)
    }
}

impl Flow {
    /// Compiles a file that keeps all rules.
    pub(crate) fn of(file: &FlowFile, source: &str) -> Self {
        let place = |name: &At<String>| file.steps.iter().position(|step| *step.name == **name).unwrap_or_default();
        let answer = &file.answer;
        let failed = || answer.failed.iter().map(|(cause, status)| (cause.value.clone(), *status));
        Self {
            name: file.flow.value.clone(),
            version: file.version,
            digest: Sha256::digest(source.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
            start: Start {
                route: file.start.route.as_ref().map(|route| route.value.clone()),
                topic: file.start.topic.as_ref().map(|topic| topic.value.clone()),
                subject: file.start.subject.value.clone(),
                owner: file.start.owner.value.clone(),
                money: file
                    .start
                    .money
                    .as_ref()
                    .map(|money| (money.amount.value.clone(), money.currency.value.clone())),
                input: fields(&file.start.input),
            },
            pivot: place(&file.pivot),
            reach: match (&file.reach_pivot_within, &file.reach_answer_within) {
                (Some(limit), _) => Some(Reach::Pivot(limit.value)),
                (_, Some(limit)) => Some(Reach::Answer(limit.value)),
                _ => None,
            },
            cancel: file.cancel.as_ref().map(|cancel| Cancel {
                by_owner: cancel.by_owner,
                by_operator: cancel.by_operator,
                until: place(&cancel.until),
            }),
            repeat: file.repeat.unwrap_or(REPEAT),
            answer: Answer {
                after: place(&answer.after),
                is_final: answer.is_final,
                done: answer.done,
                otherwise: failed().find(|(cause, _)| cause == "otherwise").map_or(409, |(_, status)| status),
                failed: failed().filter(|(cause, _)| cause != "otherwise").collect(),
                body: answer.body.clone(),
            },
            steps: file.steps.iter().map(step).collect(),
            causes: causes(file).into_iter().map(Name::of).collect(),
            tests: file.tests.clone(),
        }
    }

    /// The topic that participants of this flow reply on, whatever the event.
    pub fn reply_topic(&self) -> String {
        reply_topic(&self.name)
    }

    /// The topics of its commands.
    pub fn command_topics(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().flat_map(Step::questions).filter_map(|question| match &question.ask.of {
            Asked::Topic(topic) => Some(topic.as_str()),
            Asked::Action(_) => None,
        })
    }

    /// The events that participants may answer its sagas by; one may come several times.
    pub fn events(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().flat_map(|step| {
            let done = step.done.iter().chain(step.undo.iter().flat_map(|undo| &undo.done)).map(|done| &done.event);
            let refused = step.refused.iter().map(|refused| &refused.event);
            done.chain(refused).chain(step.progress.iter().map(|progress| &progress.event)).map(String::as_str)
        })
    }

    /// Those of its commands to participants of its own: they begin with its name. Others belong to participants of the
    /// platform.
    pub fn own_command_topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = Vec::new();
        for topic in self.command_topics() {
            let is_own = topic.split('.').next() == Some(self.name.as_str());
            if is_own && !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Its waits for signals, with their steps' names.
    pub fn waits(&self) -> impl Iterator<Item = (&Name, &Wait)> {
        self.steps.iter().filter_map(|step| Some((&step.name, step.wait()?)))
    }

    /// Whether a saga of this flow may take days at a step: it waits for a signal, or a participant reports progress.
    pub fn may_wait(&self) -> bool {
        self.steps.iter().any(|step| step.wait().is_some() || !step.progress.is_empty())
    }

    /// Whether the client is answered before the last step is done.
    pub fn answers_early(&self) -> bool {
        self.answer.after + 1 < self.steps.len()
    }

    /// Whether the limit of the whole saga holds at this step. What waits for a signal is not counted up to the answer.
    pub fn is_limited(&self, step: usize) -> bool {
        match self.reach {
            None => false,
            Some(Reach::Pivot(_)) => step < self.pivot,
            Some(Reach::Answer(_)) => step <= self.answer.after && self.steps[step].wait().is_none(),
        }
    }

    /// How long a saga may take as a whole; `None` where only its steps have limits.
    pub fn limit(&self) -> Option<Duration> {
        match self.reach? {
            Reach::Pivot(limit) | Reach::Answer(limit) => Some(limit),
        }
    }

    /// The longest that a saga may take as far as its limits say it: its limit as a whole, and the limits of the steps at
    /// which that one does not hold. Each report of progress counts once.
    pub fn longest_life(&self) -> Duration {
        let beside = self.steps.iter().enumerate().map(|(place, step)| {
            let progress = step.progress.iter().map(|progress| progress.within);
            let progress = progress.fold(Duration::ZERO, Duration::saturating_add);
            match self.reach {
                Some(Reach::Pivot(_)) if self.is_limited(place) => Duration::ZERO,
                // Where it has reported progress, its whole stay is not counted.
                Some(Reach::Answer(_)) if self.is_limited(place) && progress.is_zero() => Duration::ZERO,
                _ => step.within.unwrap_or_default().saturating_add(progress),
            }
        });
        beside.fold(self.limit().unwrap_or_default(), Duration::saturating_add)
    }

    /// The status with which a client is answered whose saga failed for this cause.
    pub fn failed_status(&self, cause: &str) -> u16 {
        let own = self.answer.failed.iter().find(|(name, _)| name == cause);
        own.map_or(self.answer.otherwise, |(_, status)| *status)
    }
}

/// The topic that participants of the flow of this name reply on.
pub fn reply_topic(flow: &str) -> String {
    format!("{flow}.replies")
}

fn step(step: &file::Step) -> Step {
    Step {
        name: Name::of(&step.name),
        order_status: step.order.as_ref().map(|status| status.value.clone()),
        within: step.within.as_ref().map(|within| within.value),
        late: step.late.as_ref().map_or(Late::Undo(None), |late| late.value.clone()),
        action: match (&step.ask, &step.wait) {
            (_, Some(wait)) => Action::Wait(Wait {
                signal: wait.signal.value.clone(),
                matched: wait.matched.value.clone(),
                keep: fields(&wait.keep),
            }),
            (ask, None) => Action::Ask(ask.as_ref().map_or_else(nobody, |ask| self::ask(ask))),
        },
        done: done(&step.done),
        refused: step
            .refused
            .iter()
            .map(|(event, refusal)| Refused {
                event: event.value.clone(),
                cause: refusal.cause.value.clone(),
                reason: refusal.reason.as_ref().map(|slot| slot.value.clone()),
                undo_this_step: refusal.undo_this_step,
            })
            .collect(),
        progress: step
            .progress
            .iter()
            .map(|(event, progress)| Progress {
                event: event.value.clone(),
                fields: fields(&progress.fields),
                keep: words(&progress.keep),
                within: progress.within,
                is_answered: progress.is_answered,
            })
            .collect(),
        undo: match &step.undo {
            Undo::By(undo) => {
                Some(UndoStep { name: Name::of(&undo.name), ask: ask(&undo.ask), done: done(&undo.done) })
            }
            Undo::Unsaid | Undo::Nothing(_) => None,
        },
        words: step.words.iter().map(|(kind, text)| (*kind, text.value.clone())).collect(),
    }
}

fn ask(ask: &file::Ask) -> Ask {
    let of = match (&ask.topic, &ask.action) {
        (Some(topic), _) => Asked::Topic(topic.value.clone()),
        (None, action) => Asked::Action(action.as_ref().map(|action| action.value.clone()).unwrap_or_default()),
    };
    Ask { of, send: ask.send.clone() }
}

/// Stands for what the check has refused.
fn nobody() -> Ask {
    Ask { of: Asked::Action(String::new()), send: Payload::Object(Vec::new()) }
}

fn done(done: &[(At<String>, file::Reply)]) -> Vec<Done> {
    done.iter()
        .map(|(event, reply)| Done {
            event: event.value.clone(),
            money_agrees: reply.agrees.is_some(),
            fields: fields(&reply.fields),
            keep: words(&reply.keep),
        })
        .collect()
}

fn fields(fields: &file::Fields) -> Vec<(String, Shape)> {
    fields.iter().map(|(name, shape)| (name.value.clone(), shape.value.clone())).collect()
}

fn words(words: &[At<String>]) -> Vec<String> {
    words.iter().map(|word| word.value.clone()).collect()
}
