//! Defects that tests plant around the core and into its moves, to show that the rules see them.

use std::sync::Arc;

use flow::{Flow, State};
use messages::Timestamp;

use super::participant::Status;
use super::world::World;
use crate::saga::{Input, Marked, NoMove, Saga, Signal, Transition, advance};

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "tests plant them"))]
pub enum Fault {
    /// What was kept is not read back, so a repetition lacks it.
    KeptNotRead,
    /// A reply is matched by its event alone, whatever command it answers.
    ReplyByEventAlone,
    /// A reply of success moves its saga by two steps.
    ReplyCountedTwice,
    /// A saga that turns back leaves out the first undo.
    UndoSkipped,
    /// A saga that turns back undoes its first step first.
    UndoOrder,
    /// A row is replaced whatever version is stored.
    NoVersionCheck,
    /// A participant forgets an undo that came before its action.
    NoTombstone,
    /// A participant refuses what it has done, when it is asked again.
    RefusalAfterDone,
    /// A participant's repeated reply has another `eventId`.
    NewEventId,
    /// A repeated command has the time of the repetition.
    CommandBytesChange,
    /// A participant replies, and dies before its row is stored.
    ReplyBeforeRow,
    /// A participant ignores what it was asked before.
    SilentDuplicate,
    /// Nothing looks for overdue sagas.
    SweeperOff,
    /// A command leaves before the row that asks for it is stored.
    EffectBeforeRow,
    /// A saga that waits does not look for a signal that came before.
    SignalLostWhenEarly,
    /// A move by a signal takes place whoever has taken the signal.
    SignalTakenTwice,
    /// A signal is for any saga that waits for its kind, whatever it names.
    SignalByKindAlone,
    /// A signal is read by the saga that a process has in memory, and passed over on its word.
    SignalReadByGuess,
    /// Nothing looks at the limits of sagas that wait.
    LateIgnored,
    /// A report of progress counts each time that it comes.
    ProgressCountsTwice,
    /// An operator may cancel until the pivot, whatever the flow says.
    CancelBehindLimit,
    /// A limit after which a person is to be called calls nobody.
    AttentionForgotten,
    /// The answer is not kept beyond the end, so that the client gets another one.
    AnswerGivenTwice,
    /// Time that a saga waits counts to its limit up to the answer.
    WaitingCounts,
}

impl Fault {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Self; 24] = [
        Self::KeptNotRead,
        Self::ReplyByEventAlone,
        Self::ReplyCountedTwice,
        Self::UndoSkipped,
        Self::UndoOrder,
        Self::NoVersionCheck,
        Self::NoTombstone,
        Self::RefusalAfterDone,
        Self::NewEventId,
        Self::CommandBytesChange,
        Self::ReplyBeforeRow,
        Self::SilentDuplicate,
        Self::SweeperOff,
        Self::EffectBeforeRow,
        Self::SignalLostWhenEarly,
        Self::SignalTakenTwice,
        Self::SignalByKindAlone,
        Self::SignalReadByGuess,
        Self::LateIgnored,
        Self::ProgressCountsTwice,
        Self::CancelBehindLimit,
        Self::AttentionForgotten,
        Self::AnswerGivenTwice,
        Self::WaitingCounts,
    ];
}

impl World<'_> {
    /// What the core makes of an input, or would make of it with a planted defect.
    pub fn advanced(&self, saga: &Saga, input: &Input, now: Timestamp) -> Result<Transition, NoMove> {
        match (self.fault, input) {
            (Some(Fault::ProgressCountsTwice), Input::Reply(_)) => {
                advance(&Saga { progressed: Vec::new(), ..saga.clone() }, input, now)
            }
            (Some(Fault::SignalByKindAlone), Input::Signal(signal)) => {
                let matched = saga.awaited().map_or_else(|| signal.matched.clone(), |awaited| awaited.matched);
                advance(saga, &Input::Signal(Signal { matched, ..signal.clone() }), now)
            }
            (Some(Fault::CancelBehindLimit), Input::Operator(_)) => {
                let mut flow = Flow::clone(&saga.flow);
                let until = flow.pivot;
                flow.cancel.iter_mut().for_each(|cancel| cancel.until = until);
                let of_it = Saga { flow: Arc::new(flow), ..saga.clone() };
                let Transition { saga: moved, entry, takes, marked } = advance(&of_it, input, now)?;
                Ok(Transition { saga: Saga { flow: saga.flow.clone(), ..moved }, entry, takes, marked })
            }
            (Some(Fault::WaitingCounts), _) => {
                let Transition { saga: moved, entry, takes, marked } = advance(saga, input, now)?;
                Ok(Transition { saga: Saga { expires_at: saga.expires_at, ..moved }, entry, takes, marked })
            }
            _ => advance(saga, input, now),
        }
    }

    /// Changes where a move leads, if a defect of the moves is planted.
    pub fn plant(&self, saga: usize, before: State, transition: &mut Transition) {
        let flow = &self.script.flow;
        if self.fault == Some(Fault::AttentionForgotten) && transition.marked == Marked::Set {
            transition.marked = Marked::Unchanged;
        }
        let after = transition.saga.state;
        if self.fault == Some(Fault::AnswerGivenTwice) && after.has_ended() {
            transition.saga.answered = None;
        }
        let wrong = match (self.fault, before, after) {
            (Some(Fault::UndoSkipped), _, State::Compensating { step, cause }) => flow.unwind(step, cause),
            (Some(Fault::ReplyCountedTwice), State::Running { step: from }, State::Running { step: to })
                if from < to && to + 1 < flow.steps.len() =>
            {
                State::Running { step: to + 1 }
            }
            (Some(Fault::UndoOrder), State::Running { .. }, State::Compensating { cause, .. }) => {
                self.undo_from(saga, 0, cause)
            }
            (Some(Fault::UndoOrder), State::Compensating { step, cause }, _) if before != after => {
                self.undo_from(saga, step + 1, cause)
            }
            _ => after,
        };
        (transition.saga.state, transition.entry.state) = (wrong, wrong);
    }

    /// The undo of the first step from here on that has had an effect.
    fn undo_from(&self, saga: usize, from: usize, cause: usize) -> State {
        let is_done = |step: &usize| {
            let status = self.held[saga][*step].as_ref().map(|held| held.status);
            status == Some(Status::Done) && self.script.flow.steps[*step].undo.is_some()
        };
        let first = (from..self.script.flow.steps.len()).find(is_done);
        first.map_or(State::Failed { cause }, |step| State::Compensating { step, cause })
    }
}
