//! Every legal move of a saga.

use std::borrow::Cow;
use std::sync::Arc;

use faults::Bug;
use flow::{Flow, Happened, Kept, Late, Meaning, Progress, Reach, Request, Role, State};
use messages::{EventId, OrderId, SagaId, Timestamp};
use uuid::Uuid;

use super::flow_outcome::FlowOutcome;
use super::input::{Input, Operator, OperatorAct, Reply};
use super::state::{Answered, Attention, Saga};

/// So many reports of progress count at one step: each gives it time.
const MOST_PROGRESS: usize = 100;

/// A move: what to store. What to do then is told by the stored state itself: see [`super::effect`].
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub saga: Saga,
    pub entry: HistoryEntry,
    /// The signal that it takes: no other move may have taken it.
    pub takes: Option<Uuid>,
    pub marked: Marked,
}

/// What a move does to the mark that a person should look at the saga. A move to another step always clears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// As the row has it: the sweeper sets it between moves.
    Unchanged,
    Set,
    Cleared,
}

/// A row of `saga_events`: one for each version of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The version that the move led to.
    pub seq: i64,
    pub input: Cow<'static, str>,
    pub event_id: Option<EventId>,
    /// Where it led to.
    pub state: State,
    pub reason: Option<String>,
    pub operator: Option<Operator>,
    pub at: Timestamp,
}

/// An input that does not fit the state: late, repeated, or nothing that the pending step waits for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{input} does not count in {state}")]
pub struct Ignored {
    pub state: String,
    pub input: Cow<'static, str>,
}

/// Why an input moves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMove {
    /// It is no fault: everything may come twice, or late.
    #[error(transparent)]
    Ignored(#[from] Ignored),
    /// A participant did something else than it was asked for, or what somebody else was. So it is in every state.
    #[error("it contradicts its saga: {0}")]
    Contradiction(String),
}

/// A new saga, at its first step.
pub fn start(
    flow: Arc<Flow>,
    saga_id: SagaId,
    order_id: OrderId,
    request: impl Into<Arc<Request>>,
    expires_at: Timestamp,
    traceparent: Option<String>,
    now: Timestamp,
) -> Transition {
    let saga = Saga {
        saga_id,
        order_id,
        flow,
        version: 0,
        state: State::START,
        reason: None,
        request: request.into(),
        kept: Kept::default(),
        progressed: Vec::new(),
        answered: None,
        deadline: None,
        expires_at,
        attention: None,
        resolved_by_hand: false,
        traceparent,
        created_at: now,
        updated_at: now,
    };
    let entry = entry(&saga, State::START, "started".into(), now);
    moved(&saga, entry)
}

/// The move that `input` makes, if it counts in the saga's present state.
///
/// # Errors
/// [`NoMove`] says why it does not count. It changes nothing.
pub fn advance(saga: &Saga, input: &Input, now: Timestamp) -> Result<Transition, NoMove> {
    if let Input::Reply(reply) = input
        && !faults::planted(Bug::UncheckedReply)
    {
        reply.agrees_with(saga).map_err(NoMove::Contradiction)?;
    }
    let next = next(saga, input, now).ok_or_else(|| Ignored { state: saga.to_string(), input: input.name() })?;
    let reason = match input {
        Input::Reply(reply) => reply.reason(&saga.flow),
        Input::Signal(_) => None,
        Input::DeadlinePassed => Some(too_late(saga)),
        Input::Operator(operator) => Some(operator.reason.clone()),
    };
    let entry = entry(saga, next, input.name(), now);
    let (event_id, operator) = (input.event_id(), input.operator().cloned());
    let entry = HistoryEntry { event_id, reason, operator, ..entry };
    let mut transition = if next == saga.state { stayed(saga, input, entry) } else { moved(saga, entry) };
    transition.takes = input.signal_id();
    if let Some(kept) = kept(saga, input) {
        transition.saga.kept = kept;
    }
    // Last: it is made of the row that is stored.
    if let Some(answered) = answered(saga, &transition.saga) {
        transition.saga.answered = Some(Arc::new(answered));
    }
    Ok(transition)
}

/// A move that stays at its step. The row's times stay as well: they are a part of the messages that it repeats.
fn stayed(saga: &Saga, input: &Input, entry: HistoryEntry) -> Transition {
    let (version, now) = (entry.seq, entry.at);
    let same = Saga { version, ..saga.clone() };
    let (saga, marked) = match (input, progress(saga, input)) {
        // The step has time again, from now on.
        (Input::Reply(Reply { message: Some(message), .. }), Some((place, Progress { within, .. }))) => {
            let step = &saga.flow.steps[place];
            let mut progressed = same.progressed.clone();
            progressed.push(message.event_id);
            // From the pivot on what is asked is repeated until it is done.
            let deadline = step.within.map(|_| match saga.flow.reach {
                Some(Reach::Answer(_)) => now + *within,
                _ => deadline(&saga.flow, place, now + *within, saga.expires_at),
            });
            (Saga { progressed, deadline, attention: None, ..same }, Marked::Cleared)
        }
        // It goes on waiting, and a person is called.
        (Input::DeadlinePassed, _) => {
            let attention = Attention { since: now, reason: entry.reason.clone().unwrap_or_default() };
            (Saga { deadline: None, attention: Some(attention), ..same }, Marked::Set)
        }
        _ => (same, Marked::Unchanged),
    };
    Transition { saga, entry, takes: None, marked }
}

/// When a step counts as late that has time until then. The saga may have a limit as a whole.
fn deadline(flow: &Flow, step: usize, until: Timestamp, expires_at: Timestamp) -> Timestamp {
    if flow.is_limited(step) { until.min(expires_at) } else { until }
}

/// When the saga as a whole is late, once it leaves the step at which it stands. Up to an answer, time that it waits is not
/// counted.
fn expires_at(saga: &Saga, now: Timestamp) -> Timestamp {
    match (saga.flow.reach, saga.state) {
        (Some(Reach::Answer(_)), State::Running { step }) if saga.is_waiting() && step <= saga.flow.answer.after => {
            saga.expires_at + (now - saga.updated_at)
        }
        _ => saga.expires_at,
    }
}

/// The client's answer, where this move gives it and the saga goes on.
fn answered(before: &Saga, after: &Saga) -> Option<Answered> {
    let is_early = matches!(after.state, State::Running { .. });
    let status = before.state.answer(&before.flow, after.state).filter(|_| is_early)?;
    let body = serde_json::to_string(&FlowOutcome(after)).unwrap_or_default();
    Some(Answered { at: after.updated_at, status, body })
}

/// The progress that a reply reports, and the pending step's place.
fn progress<'a>(saga: &'a Saga, input: &Input) -> Option<(usize, &'a Progress)> {
    let (Input::Reply(reply), State::Running { step }) = (input, saga.state) else { return None };
    match saga.flow.steps[step].means(&reply.event)? {
        Meaning::Progress(progress) => Some((step, progress)),
        Meaning::Done(_) | Meaning::Refused(_) => None,
    }
}

/// What the history says of a limit that has passed.
fn too_late(saga: &Saga) -> String {
    let (name, step) = (
        saga.step_name(),
        match saga.state {
            State::Running { step } => Some(&saga.flow.steps[step]),
            _ => None,
        },
    );
    let goes_on = step.is_some_and(|step| step.late == Late::GoOn);
    match saga.wait() {
        Some(wait) if goes_on => format!("no {} in time: it goes on without", wait.signal),
        Some(wait) => format!("no {} in time", wait.signal),
        None if goes_on => format!("no answer to {name} in time: it goes on without, and its outcome is unknown"),
        None => format!("no answer to {name} in time: its outcome is unknown"),
    }
}

/// What the saga has kept once this input has moved it; `None`: as before.
fn kept(saga: &Saga, input: &Input) -> Option<Kept> {
    let State::Running { step } = saga.state else { return None };
    let step = &saga.flow.steps[step];
    match input {
        Input::Reply(reply) => {
            let fields = step.means(&reply.event)?.keep();
            (!fields.is_empty()).then(|| saga.kept.with(&step.name, fields, &reply.values))
        }
        Input::Signal(signal) => Some(saga.kept.with(&step.name, &step.wait()?.kept(), &signal.values)),
        Input::DeadlinePassed | Input::Operator(_) => None,
    }
}

/// Where an input leads. `None`: it does not count here.
fn next(saga: &Saga, input: &Input, now: Timestamp) -> Option<State> {
    let (flow, state) = (&*saga.flow, saga.state);
    match input {
        Input::Reply(reply) => replied(saga, reply),
        Input::Signal(signal) => {
            let awaited = saga.awaited().filter(|awaited| awaited.matched == signal.matched);
            awaited.and_then(|_| state.next(flow, Happened::Signalled(&signal.kind)))
        }
        // What was asked may have had its effect.
        Input::DeadlinePassed => {
            let late = saga.deadline.filter(|limit| *limit <= now);
            late.and_then(|_| state.next(flow, Happened::Late))
        }
        Input::Operator(Operator { act, .. }) => match (act, state) {
            (_, State::Completed | State::Failed { .. }) => None,
            (OperatorAct::Cancel(role), State::Running { .. }) => state.next(flow, Happened::Cancelled(*role)),
            // It stays, and does its effect again. A cancel of what goes back already: the first cause stays.
            (OperatorAct::Retry, _) => Some(state),
            (OperatorAct::Cancel(Role::Operator), State::Compensating { .. }) => {
                let is_permitted = flow.cancel.as_ref().is_some_and(|cancel| cancel.permits(Role::Operator));
                is_permitted.then_some(state)
            }
            // A customer who asks once more changes nothing, and fills no history.
            (OperatorAct::Cancel(Role::Owner), State::Compensating { .. }) => None,
            // It could not be undone, and a person has done it otherwise.
            (OperatorAct::Resolve(settled), State::Compensating { step, cause }) => {
                let is_it = saga.attention.is_some() && settled.step == saga.step_name();
                is_it.then(|| flow.unwind(step, cause))
            }
            (OperatorAct::Resolve(_), State::Running { .. }) => None,
        },
    }
}

/// Where a reply leads that agrees with its saga.
fn replied(saga: &Saga, reply: &Reply) -> Option<State> {
    let (flow, state) = (&*saga.flow, saga.state);
    let event = match state {
        State::Running { step } if another_steps_reply(flow, &reply.event) => &flow.steps[step].done.first()?.event,
        // It answers the pending command, and no earlier one that the same event answers.
        _ if !reply.answers(saga.command_id()) => return None,
        _ => &*reply.event,
    };
    let next = state.next(flow, Happened::Replied(event))?;
    // A participant repeats its reports, with their ids.
    let is_report = next == state;
    if is_report && reply.message.is_none_or(|message| saga.progressed.contains(&message.event_id)) {
        return None;
    }
    if is_report && saga.progressed.len() >= MOST_PROGRESS {
        return None;
    }
    Some(match (state, next) {
        (State::Running { .. }, State::Compensating { cause, .. }) if faults::planted(Bug::CancelWithoutRefund) => {
            flow.unwind(1, cause)
        }
        _ => next,
    })
}

/// A planted defect: whatever reply of success comes, it counts.
fn another_steps_reply(flow: &Flow, event: &str) -> bool {
    let mut done = flow.steps.iter().flat_map(|step| &step.done);
    faults::planted(Bug::ReplyOfAnotherStep) && done.any(|done| done.event == event)
}

impl Reply {
    /// How it differs from what the saga asked for, or ever asks for. Such a reply must not move the saga: less may have
    /// been charged, or somebody else's order, or for a command that the saga did not send.
    fn agrees_with(&self, saga: &Saga) -> Result<(), String> {
        let Some(message) = &self.message else { return Ok(()) };
        let (order_id, money) = (saga.order_id, saga.request.money);
        if message.order_id != order_id {
            return Err(format!("it is about order {}, its saga about order {order_id}", message.order_id));
        }
        let mut asked = saga.flow.answered_by(&self.event).filter_map(|(question, meaning)| {
            let command = saga.command_id_of(question)?;
            Some((command, meaning))
        });
        let Some(first) = asked.next() else {
            return Err(format!("it is a {}, which nothing in its saga asks for", self.event));
        };
        let is_answered = |(command, _): &(EventId, _)| message.causation_id == Some(*command);
        let answered = std::iter::once(first).chain(asked).find(is_answered);
        let (command, meaning) = answered.unwrap_or(first);
        if let Err(other) = meaning.agrees(&self.values, money) {
            let money = money.map_or_else(|| "no money".to_owned(), |money| money.to_string());
            return Err(format!("it is about {other}, its saga about {money}"));
        }
        match message.causation_id {
            _ if answered.is_some() => Ok(()),
            Some(other) => Err(format!("it answers command {other}, its saga sends {command}")),
            None => Err(format!("it has no causationId, its saga sends command {command}")),
        }
    }

    /// Whether it answers this command, which is pending. An answer to a call is named by what it answers.
    fn answers(&self, pending: Option<EventId>) -> bool {
        let is_unchecked = faults::planted(Bug::UncheckedReply);
        is_unchecked || self.message.as_ref().is_none_or(|message| message.causation_id == pending)
    }

    /// A refusal in words.
    fn reason(&self, flow: &Flow) -> Option<String> {
        let (_, meaning) = flow.answered_by(&self.event).next()?;
        meaning.reason(&self.values).map(str::to_owned)
    }
}

/// The history's next entry, which leads to `state`.
fn entry(saga: &Saga, state: State, input: Cow<'static, str>, at: Timestamp) -> HistoryEntry {
    HistoryEntry { seq: saga.version + 1, input, event_id: None, state, reason: None, operator: None, at }
}

fn moved(saga: &Saga, entry: HistoryEntry) -> Transition {
    let (state, now) = (entry.state, entry.at);
    let expires_at = expires_at(saga, now);
    let deadline = match state {
        State::Running { step } => {
            saga.flow.steps[step].within.map(|within| deadline(&saga.flow, step, now + within, expires_at))
        }
        _ => None,
    };
    // The first reason stays: it belongs to the cause.
    let reason = saga.reason.clone().or_else(|| match (&entry.operator, state) {
        (_, State::Running { .. } | State::Completed) => None,
        // The client sees it; an operator's own words are for the history.
        (Some(person), _) => Some(person.act.reason().to_owned()),
        (None, _) => entry.reason.clone(),
    });
    let is_settled = entry.operator.as_ref().is_some_and(|operator| operator.act.settled().is_some());
    let (version, updated_at, resolved_by_hand) = (entry.seq, now, saga.resolved_by_hand || is_settled);
    let progressed = Vec::new();
    let saga = Saga {
        version,
        state,
        reason,
        deadline,
        progressed,
        expires_at,
        attention: None,
        updated_at,
        resolved_by_hand,
        ..saga.clone()
    };
    Transition { saga, entry, takes: None, marked: Marked::Cleared }
}
