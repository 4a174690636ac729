//! A stored saga, as the columns of `sagas` and `saga_events` have it: all that is left of it after a crash.

use std::sync::Arc;

use flow::{Flow, Kept, State, WAITING};
use messages::{EventId, OrderId, SagaId, Timestamp};

use super::clock::ms_of;
use super::fault::Fault;
use crate::saga::{Answered, Attention, HistoryEntry, Marked, Saga, Transition};

/// A row with its history.
#[derive(Debug, Clone)]
pub struct Row {
    saga_id: SagaId,
    subject: OrderId,
    pub version: i64,
    status: String,
    pub step: String,
    cause: Option<String>,
    reason: Option<String>,
    input: String,
    kept: Option<String>,
    progressed: Vec<EventId>,
    /// The signal that is awaited: see [`crate::saga::Awaited::key`].
    pub awaits: Option<String>,
    pub deadline: Option<Timestamp>,
    pub expires_at: Timestamp,
    answered: Option<Arc<Answered>>,
    pub attention: Option<Attention>,
    resolved_by_hand: bool,
    traceparent: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    pub attempts: u32,
    /// When the sweeper repeats the effect, in ms.
    pub next_attempt_at: u64,
    pub history: Vec<HistoryEntry>,
}

impl Row {
    /// The row of a new saga.
    pub fn new(transition: &Transition, next_attempt_at: u64) -> Self {
        let saga = &transition.saga;
        let mut row = Self {
            saga_id: saga.saga_id,
            subject: saga.order_id,
            version: 0,
            status: String::new(),
            step: String::new(),
            cause: None,
            reason: None,
            input: saga.request.input.to_json(),
            kept: None,
            progressed: Vec::new(),
            awaits: None,
            deadline: None,
            expires_at: saga.expires_at,
            answered: None,
            attention: None,
            resolved_by_hand: false,
            traceparent: saga.traceparent.clone(),
            created_at: saga.created_at,
            updated_at: saga.updated_at,
            attempts: 0,
            next_attempt_at,
            history: Vec::new(),
        };
        row.set(transition, next_attempt_at);
        row
    }

    /// The conditional write of a move: whether the stored version was the one before. `is_checked`: as it should be.
    pub fn moved(&mut self, transition: &Transition, next_attempt_at: u64, is_checked: bool) -> bool {
        let is_next = !is_checked || self.version == transition.saga.version - 1;
        if is_next {
            self.set(transition, next_attempt_at);
        }
        is_next
    }

    fn set(&mut self, transition: &Transition, next_attempt_at: u64) {
        let saga = &transition.saga;
        // A move that stays where it is goes on counting.
        if self.step != saga.step_name() {
            self.attempts = 0;
        }
        match transition.marked {
            Marked::Unchanged => {}
            Marked::Set => {
                let since = self.attention.as_ref().map_or(transition.entry.at, |attention| attention.since);
                let reason = transition.entry.reason.clone().unwrap_or_default();
                self.attention = Some(Attention { since, reason });
            }
            Marked::Cleared => self.attention = None,
        }
        self.version = saga.version;
        saga.status().clone_into(&mut self.status);
        saga.step_name().clone_into(&mut self.step);
        self.cause = saga.cause().map(str::to_owned);
        self.reason.clone_from(&saga.reason);
        self.kept = (!saga.kept.is_empty()).then(|| saga.kept.to_json());
        self.progressed.clone_from(&saga.progressed);
        self.awaits = saga.awaited().map(|awaited| awaited.key());
        self.deadline = saga.deadline;
        self.expires_at = saga.expires_at;
        self.answered.clone_from(&saga.answered);
        self.resolved_by_hand = saga.resolved_by_hand;
        self.updated_at = saga.updated_at;
        self.next_attempt_at = next_attempt_at;
        self.history.push(transition.entry.clone());
    }

    /// The saga that the row describes: what a process reads that knows nothing else.
    ///
    /// # Errors
    /// What of it can't be read.
    pub fn saga(&self, flow: &Arc<Flow>, now: Timestamp, fault: Option<Fault>) -> Result<Saga, String> {
        let state = State::parse(flow, &self.status, &self.step, self.cause.as_deref());
        let kept = self.kept.as_deref().filter(|_| fault != Some(Fault::KeptNotRead)).map(Kept::parse).transpose();
        let request = flow.read_stored_start(&self.input);
        Ok(Saga {
            saga_id: self.saga_id,
            order_id: self.subject,
            flow: flow.clone(),
            version: self.version,
            state: state.map_err(|unknown| unknown.to_string())?,
            reason: self.reason.clone(),
            request: Arc::new(request.map_err(|misfit| format!("its stored input: {misfit}"))?),
            kept: kept.map_err(|misfit| format!("what it has kept: {misfit}"))?.unwrap_or_default(),
            progressed: self.progressed.clone(),
            answered: self.answered.clone(),
            deadline: self.deadline,
            expires_at: self.expires_at,
            attention: self.attention.clone(),
            resolved_by_hand: self.resolved_by_hand,
            traceparent: self.traceparent.clone(),
            created_at: self.created_at,
            updated_at: if fault == Some(Fault::CommandBytesChange) && !self.has_ended() {
                now
            } else {
                self.updated_at
            },
        })
    }

    pub fn has_ended(&self) -> bool {
        ["COMPLETED", "FAILED"].contains(&self.status.as_str())
    }

    pub fn status(&self) -> &str {
        &self.status
    }

    /// Whether nothing is expected of it soon.
    pub fn is_waiting(&self) -> bool {
        self.status == WAITING
    }

    /// Where it stands.
    pub fn state(&self) -> Option<State> {
        self.history.last().map(|entry| entry.state)
    }

    /// Since when it has stood there, in ms.
    pub fn since(&self) -> u64 {
        ms_of(self.updated_at)
    }

    /// When it began, in ms.
    pub fn began(&self) -> u64 {
        ms_of(self.created_at)
    }

    /// `RUNNING/HOTEL_BOOK`
    pub fn name(&self) -> String {
        format!("{}/{}", self.status, self.step)
    }
}
