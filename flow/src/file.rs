//! A flow file as it is written: typed, and each value with its place. Made of a tree that has the format's form
//! ([`crate::format`]), so that reading it can't fail; whether it makes sense is decided by [`crate::check`].

use std::time::Duration;

use messages::duration;

use crate::finding::Position;
use crate::format::integer;
use crate::payload::Payload;
use crate::shape::Shape;
use crate::slot::Slot;
use crate::yaml::{Node, Value};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    pub at: Position,
    pub value: T,
}

impl<T> std::ops::Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

type Word = At<String>;
/// Fields and their shapes, in the order of the file.
pub type Fields = Vec<(Word, At<Shape>)>;

#[derive(Debug, Clone)]
pub struct FlowFile {
    pub flow: Word,
    pub version: i32,
    pub start: Start,
    pub pivot: Word,
    pub reach_pivot_within: Option<At<Duration>>,
    pub reach_answer_within: Option<At<Duration>>,
    pub cancel: Option<Cancel>,
    pub repeat: Option<Repeat>,
    pub answer: Answer,
    pub steps: Vec<Step>,
    pub tests: Vec<Test>,
}

#[derive(Debug, Clone)]
pub struct Start {
    pub route: Option<Word>,
    pub topic: Option<Word>,
    pub subject: Word,
    pub owner: At<Slot>,
    pub money: Option<Money>,
    pub input: Fields,
}

#[derive(Debug, Clone)]
pub struct Money {
    pub amount: At<Slot>,
    pub currency: At<Slot>,
}

#[derive(Debug, Clone)]
pub struct Cancel {
    pub by_owner: bool,
    pub by_operator: bool,
    pub until: Word,
}

/// How an effect is repeated that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    pub first: Duration,
    pub most: Duration,
    pub attention_after: u32,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub at: Position,
    pub after: Word,
    pub is_final: bool,
    pub done: u16,
    /// By cause, `otherwise` among them.
    pub failed: Vec<(Word, u16)>,
    pub body: Option<Payload>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub name: Word,
    pub order: Option<Word>,
    pub within: Option<At<Duration>>,
    pub late: Option<At<Late>>,
    pub ask: Option<At<Ask>>,
    pub wait: Option<At<Wait>>,
    pub done: Vec<(Word, Reply)>,
    pub refused: Vec<(Word, Refusal)>,
    pub progress: Vec<(Word, Progress)>,
    pub undo: Undo,
    pub words: Vec<(&'static str, Word)>,
}

impl Step {
    /// The fields of what its replies and its signal bring, by all that may bring them.
    pub fn fields(&self) -> impl Iterator<Item = &(Word, At<Shape>)> {
        let waited = self.wait.iter().flat_map(|wait| &wait.keep);
        let replied = self.done.iter().flat_map(|(_, reply)| &reply.fields);
        let progress = self.progress.iter().flat_map(|(_, progress)| &progress.fields);
        waited.chain(replied).chain(progress)
    }
}

/// What a passed limit means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Late {
    /// Turn back; for `TIMED_OUT` unless another cause is given.
    Undo(Option<String>),
    Attention,
    GoOn,
}

#[derive(Debug, Clone)]
pub struct Ask {
    pub topic: Option<Word>,
    pub action: Option<Word>,
    pub send: Payload,
}

#[derive(Debug, Clone)]
pub struct Wait {
    pub signal: Word,
    pub matched: At<Slot>,
    pub keep: Fields,
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub agrees: Option<At<Slot>>,
    pub fields: Fields,
    pub keep: Vec<Word>,
}

#[derive(Debug, Clone)]
pub struct Refusal {
    pub cause: Word,
    pub reason: Option<At<Slot>>,
    pub undo_this_step: bool,
}

#[derive(Debug, Clone)]
pub struct Progress {
    pub fields: Fields,
    pub keep: Vec<Word>,
    pub within: Duration,
    pub is_answered: bool,
}

#[derive(Debug, Clone)]
pub enum Undo {
    /// The file says nothing.
    Unsaid,
    /// `undo: none`
    Nothing(Position),
    By(Box<UndoStep>),
}

#[derive(Debug, Clone)]
pub struct UndoStep {
    pub name: Word,
    pub ask: At<Ask>,
    pub done: Vec<(Word, Reply)>,
}

#[derive(Debug, Clone)]
pub struct Test {
    pub name: Word,
    pub input: Payload,
    pub replies: Vec<Word>,
    pub path: Vec<Word>,
    pub answer: Option<u16>,
}

impl FlowFile {
    /// Reads a tree that has the format's form.
    pub(crate) fn of(root: &Node) -> Self {
        let start = root.sub("start");
        let answer = root.sub("answer");
        Self {
            flow: root.sub("flow").word(),
            version: root.sub("version").number(),
            start: Start {
                route: start.get("route").map(Node::word),
                topic: start.get("topic").map(Node::word),
                subject: start.sub("subject").word(),
                owner: start.sub("owner").slot(),
                money: start
                    .get("money")
                    .map(|money| Money { amount: money.sub("amount").slot(), currency: money.sub("currency").slot() }),
                input: start.sub("input").fields(),
            },
            pivot: root.sub("pivot").word(),
            reach_pivot_within: root.get("reach_pivot_within").map(Node::limit),
            reach_answer_within: root.get("reach_answer_within").map(Node::limit),
            cancel: root.get("cancel").map(|cancel| {
                let by = |who: &str| cancel.sub("by").items().iter().any(|item| item.text() == who);
                Cancel { by_owner: by("owner"), by_operator: by("operator"), until: cancel.sub("until").word() }
            }),
            repeat: root.get("repeat").map(|repeat| Repeat {
                first: repeat.sub("first").limit().value,
                most: repeat.sub("most").limit().value,
                attention_after: repeat.sub("attention_after").number(),
            }),
            answer: Answer {
                at: answer.at,
                after: answer.sub("after").word(),
                is_final: answer.get("final").is_none_or(Node::flag),
                done: answer.sub("done").number(),
                failed: answer.sub("failed").entries().map(|(key, code)| (key.word(), code.number())).collect(),
                body: answer.get("body").map(Payload::of),
            },
            steps: root.sub("steps").items().iter().map(step).collect(),
            tests: root.get("tests").map(Node::items).unwrap_or_default().iter().map(test).collect(),
        }
    }
}

fn step(node: &Node) -> Step {
    let each = |name: &str| node.get(name).into_iter().flat_map(Node::entries);
    Step {
        name: node.sub("step").word(),
        order: node.get("order").map(Node::word),
        within: node.get("within").map(Node::limit),
        late: node.get("late").map(|late| At { at: late.at, value: self::late(late) }),
        ask: node.get("ask").map(ask),
        wait: node.get("wait").map(|wait| At {
            at: wait.at,
            value: Wait {
                signal: wait.sub("signal").word(),
                matched: wait.sub("match").slot(),
                keep: wait.get("keep").map(Node::fields).unwrap_or_default(),
            },
        }),
        done: node.get("done").map(done).unwrap_or_default(),
        refused: each("refused")
            .map(|(event, refusal)| {
                let refusal = Refusal {
                    cause: refusal.sub("cause").word(),
                    reason: refusal.get("reason").map(Node::slot),
                    undo_this_step: refusal.get("undo_this_step").is_some_and(Node::flag),
                };
                (event.word(), refusal)
            })
            .collect(),
        progress: each("progress")
            .map(|(event, progress)| {
                let Reply { fields, keep, .. } = reply(progress);
                let within = progress.sub("within").limit().value;
                let is_answered = progress.get("answer").is_some();
                (event.word(), Progress { fields, keep, within, is_answered })
            })
            .collect(),
        undo: match node.get("undo") {
            None => Undo::Unsaid,
            Some(undo) if undo.get("step").is_none() => Undo::Nothing(undo.at),
            Some(undo) => Undo::By(Box::new(UndoStep {
                name: undo.sub("step").word(),
                ask: ask(undo.sub("ask")),
                done: done(undo.sub("done")),
            })),
        },
        words: ["done", "refused", "undone", "undone_unknown"]
            .into_iter()
            .filter_map(|kind| Some((kind, node.get("words")?.get(kind)?.word())))
            .collect(),
    }
}

fn late(node: &Node) -> Late {
    match node.text() {
        "attention" => Late::Attention,
        "go_on" => Late::GoOn,
        _ => Late::Undo(node.get("undo").map(|cause| cause.text().to_owned())),
    }
}

fn ask(node: &Node) -> At<Ask> {
    let send = node.get("send").map_or_else(|| Payload::Object(Vec::new()), Payload::of);
    let ask = Ask { topic: node.get("topic").map(Node::word), action: node.get("action").map(Node::word), send };
    At { at: node.at, value: ask }
}

/// One event, or a mapping of events.
fn done(node: &Node) -> Vec<(Word, Reply)> {
    match &node.value {
        Value::Map(_) => node.entries().map(|(event, node)| (event.word(), reply(node))).collect(),
        _ => vec![(node.word(), Reply::default())],
    }
}

fn reply(node: &Node) -> Reply {
    Reply {
        agrees: node.get("agrees").map(|agrees| agrees.sub("money").slot()),
        fields: node.get("reply").map(Node::fields).unwrap_or_default(),
        keep: node.get("keep").map(Node::items).unwrap_or_default().iter().map(Node::word).collect(),
    }
}

fn test(node: &Node) -> Test {
    let words = |name: &str| node.sub(name).items().iter().map(Node::word).collect();
    Test {
        name: node.sub("name").word(),
        input: Payload::of(node.sub("input")),
        replies: words("replies"),
        path: words("path"),
        answer: node.get("answer").map(Node::number),
    }
}

/// Readings of a node that has the form; of another one they make a value that is never used.
impl Node {
    fn sub(&self, name: &str) -> &Self {
        const NOTHING: &Node = &Node { at: Position { line: 1, column: 1 }, value: Value::Empty };
        self.get(name).unwrap_or(NOTHING)
    }

    fn word(&self) -> Word {
        At { at: self.at, value: self.text().to_owned() }
    }

    fn number<T: TryFrom<i64> + Default>(&self) -> T {
        integer(self.text()).and_then(|number| number.try_into().ok()).unwrap_or_default()
    }

    fn flag(&self) -> bool {
        self.text() == "true"
    }

    fn limit(&self) -> At<Duration> {
        At { at: self.at, value: duration(self.text()).unwrap_or_default() }
    }

    fn slot(&self) -> At<Slot> {
        At { at: self.at, value: self.text().parse().unwrap_or(Slot::NOTHING) }
    }

    fn fields(&self) -> Fields {
        self.entries().map(|(name, shape)| (name.word(), At { at: shape.at, value: Shape::of(shape) })).collect()
    }
}

impl crate::yaml::Key {
    fn word(&self) -> Word {
        At { at: self.at, value: self.name.clone() }
    }
}
