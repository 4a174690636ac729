//! What a rehearsal knows of a flow before a seed is run: requests that start its sagas, what its participants may answer,
//! and how long things take in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flow::sample::{NoSample, Samples, sample};
use flow::shape::{Shape, ShapeKind};
use flow::{Action, Asked, Flow, Reading, Refused, Request, Source, Step, Wait};
use serde_json::{Map, Value as Json, json};

use super::fault::Fault;
use crate::supported::{is_call, unsupported};

/// Different payloads of each reply and each signal.
const VARIANTS: u32 = 4;

/// A flow that can be rehearsed.
#[derive(Debug)]
pub struct Script {
    pub(super) flow: Arc<Flow>,
    not_run: Vec<String>,
    pub(super) requests: Vec<Request>,
    pub(super) parts: Vec<Part>,
    pub(super) times: Times,
    /// A defect that a test plants.
    pub(crate) fault: Option<Fault>,
}

/// Why a flow can't be rehearsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRehearsed(String);

impl fmt::Display for NotRehearsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the flow can't be simulated: {}", self.0)
    }
}

impl std::error::Error for NotRehearsed {}

impl From<NoSample> for NotRehearsed {
    fn from(none: NoSample) -> Self {
        Self(none.to_string())
    }
}

/// The participant of a step: what it may answer. Of a step that waits: what its signal may carry.
#[derive(Debug)]
pub(super) struct Part {
    pub done: Vec<Said>,
    pub refused: Vec<Said>,
    /// In the order of the step's own.
    pub progress: Vec<Said>,
    pub undone: Vec<Said>,
    pub signal: Option<Carried>,
}

/// Payloads of the signal that a step waits for.
#[derive(Debug)]
pub(super) struct Carried {
    pub fitting: Vec<String>,
    /// One that breaks the shapes of what is kept. `None` where none does.
    pub misfit: Option<String>,
}

/// An event, and payloads that it may come with. Where its money has to agree, it is added for each saga.
#[derive(Debug)]
pub(super) struct Said {
    pub event: String,
    pub money_agrees: bool,
    /// A refusal after which the step itself has to be undone as well.
    pub leaves_something: bool,
    /// Whether a payload without its fields breaks its shape.
    pub has_fields: bool,
    pub payloads: Vec<Map<String, Json>>,
}

/// How long things take, in ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The longest limit of a step; what it gets by a report of progress is one as well.
    pub longest: u64,
    /// Until a saga has to be past its pivot.
    pub reach: u64,
    /// The first pause before a repetition, and the longest.
    pub first: u64,
    pub most: u64,
    /// The pause where a saga waits for something outside.
    pub rest: u64,
    /// Repetitions after which a person is called.
    pub attention_after: u32,
}

impl Script {
    /// The flow.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// What of the flow this release does not run, so that it can't be published. Nothing of it is the core's: its sagas are
    /// simulated all the same.
    pub fn not_run(&self) -> &[String] {
        &self.not_run
    }

    /// Prepares a flow. `input`: a request in JSON that sagas start by. Without it, the request of a test in the file and
    /// a request made from the shapes are used.
    ///
    /// # Errors
    /// When the request does not fit the flow, or when no value fits a shape.
    pub fn of(flow: &Arc<Flow>, input: Option<&str>) -> Result<Self, NotRehearsed> {
        let requests = match input {
            Some(json) => vec![flow.read_start(json).map_err(|misfit| NotRehearsed(misfit.to_string()))?],
            None => {
                let Samples { usual, other, .. } = Samples::of(flow, None)?;
                vec![usual, other]
            }
        };
        let parts = flow.steps.iter().map(part).collect::<Result<_, _>>()?;
        let not_run = unsupported(flow).iter().map(ToString::to_string).collect();
        Ok(Self { flow: with_commands(flow), not_run, requests, parts, times: Times::of(flow), fault: None })
    }
}

/// The flow, with commands in place of the calls of the order service that this release does not make. To the core both are
/// questions.
fn with_commands(flow: &Arc<Flow>) -> Arc<Flow> {
    let mut flow = flow.clone();
    let is_there = |of: &Asked| matches!(of, Asked::Topic(_)) || matches!(of, Asked::Action(call) if is_call(call));
    if flow.steps.iter().flat_map(Step::questions).all(|question| is_there(&question.ask.of)) {
        return flow;
    }
    for step in &mut Arc::make_mut(&mut flow).steps {
        let own = if let Action::Ask(ask) = &mut step.action { Some(ask) } else { None };
        for ask in own.into_iter().chain(step.undo.as_mut().map(|undo| &mut undo.ask)) {
            if let Asked::Action(call) = &ask.of
                && !is_call(call)
            {
                ask.of = Asked::Topic(format!("{call}.command"));
            }
        }
    }
    flow
}

fn part(step: &Step) -> Result<Part, NoSample> {
    let done = step.done.iter().map(|done| said(&done.event, &done.fields, done.money_agrees));
    let progress = step.progress.iter().map(|progress| said(&progress.event, &progress.fields, false));
    let undone = step.undo.iter().flat_map(|undo| &undo.done);
    let undone = undone.map(|done| said(&done.event, &done.fields, done.money_agrees));
    Ok(Part {
        done: done.collect::<Result<_, _>>()?,
        refused: step.refused.iter().map(refused).collect(),
        progress: progress.collect::<Result<_, _>>()?,
        undone: undone.collect::<Result<_, _>>()?,
        signal: step.wait().map(carried).transpose()?,
    })
}

fn said(event: &str, shapes: &[(String, Shape)], money_agrees: bool) -> Result<Said, NoSample> {
    Ok(Said {
        event: event.to_owned(),
        money_agrees,
        leaves_something: false,
        has_fields: money_agrees || shapes.iter().any(|(_, shape)| !may_be_missing(shape)),
        payloads: payloads(shapes)?,
    })
}

fn carried(wait: &Wait) -> Result<Carried, NoSample> {
    let text = |payload| Json::Object(payload).to_string();
    let wrong = wait.keep.iter().map(|(name, _)| Map::from_iter([(name.clone(), json!([7]))]));
    let mut wrong = std::iter::once(Map::new()).chain(wrong).map(text);
    Ok(Carried {
        fitting: payloads(&wait.keep)?.into_iter().map(text).collect(),
        misfit: wrong.find(|payload| wait.read(payload).is_err()),
    })
}

fn payloads(shapes: &[(String, Shape)]) -> Result<Vec<Map<String, Json>>, NoSample> {
    (0..VARIANTS).map(|variant| fields(shapes, variant)).collect()
}

/// The fields of a reply or a signal: of the even variants all, of the others those that have to be there.
fn fields(fields: &[(String, Shape)], variant: u32) -> Result<Map<String, Json>, NoSample> {
    let mut payload = Map::new();
    for (place, (name, shape)) in (variant..).zip(fields) {
        if variant.is_multiple_of(2) || !may_be_missing(shape) {
            payload.insert(name.clone(), unusual(shape, variant).map_or_else(|| sample(shape, place), Ok)?);
        }
    }
    if variant == 1 {
        payload.insert("unknownToTheFlow".to_owned(), json!([{ "more": 1 }]));
    }
    Ok(payload)
}

fn may_be_missing(shape: &Shape) -> bool {
    shape.is_optional || shape.default.is_some()
}

/// A value whose bytes are easily changed by who reads and writes it again.
fn unusual(shape: &Shape, variant: u32) -> Option<Json> {
    let json = match (shape.kind, variant) {
        (ShapeKind::Text, 2) => json!("Ref \"7\" \\ é"),
        (ShapeKind::Amount, 2) => serde_json::from_str("90.50").ok()?,
        (ShapeKind::Money, 2) => serde_json::from_str(r#"{"amount":90.50,"currency":"EUR"}"#).ok()?,
        (ShapeKind::Json, 2) => serde_json::from_str(r#"{"b":1.10,"a":[null,"x"]}"#).ok()?,
        _ => return None,
    };
    shape.read(&json.to_string(), Reading::Reply).ok().map(|_| json)
}

/// A refusal with its reason, and without it.
fn refused(refused: &Refused) -> Said {
    let reason = refused.reason.as_ref().and_then(|slot| match &slot.source {
        Source::Reply(field) => Some(field.clone()),
        _ => None,
    });
    let with = |text: &str| reason.iter().map(|field| (field.clone(), json!(text))).collect();
    Said {
        event: refused.event.clone(),
        money_agrees: false,
        leaves_something: refused.undo_this_step,
        has_fields: false,
        payloads: vec![with("it is not possible"), with("sold \"out\""), Map::new()],
    }
}

impl Times {
    fn of(flow: &Flow) -> Self {
        let limits = flow.steps.iter().flat_map(|step| {
            let progress = step.progress.iter().map(|progress| progress.within);
            step.within.into_iter().chain(progress)
        });
        let longest = limits.map(ms).max().unwrap_or(10_000);
        // A step that may take days is not repeated each half a minute here: nothing new would be seen.
        let most = ms(flow.repeat.most).max(longest / 16).max(100);
        Self {
            longest,
            reach: flow.limit().map_or(100 * longest, ms),
            first: ms(flow.repeat.first).max(100),
            most,
            rest: most.max(longest / 4),
            attention_after: flow.repeat.attention_after.min(10),
        }
    }
}

/// A limit in ms.
pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 1_000)
}
