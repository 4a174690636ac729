//! Runs the tests that stand in a flow file: the path that a saga takes when these things happen to it in this order.

use crate::file::{At, Test};
use crate::finding::Position;
use crate::flow::{Flow, Role};
use crate::state::{Happened, State};

/// Words among a test's `replies` that are no events.
const LATE: &str = "late";
const CANCEL: &str = "cancel";

/// Why a test failed, and at which of its lines.
pub struct Failure {
    pub at: Position,
    pub why: String,
}

/// Runs one test.
pub fn run(flow: &Flow, test: &Test) -> Result<(), Failure> {
    let mut state = State::START;
    let mut path = vec![state.name(flow)];
    let mut answer = None;
    for happened in &test.replies {
        let next = next(flow, state, happened)?;
        answer = answer.or_else(|| state.answer(flow, next));
        if next != state {
            path.push(next.name(flow));
        }
        state = next;
    }
    let wanted: Vec<_> = test.path.iter().map(|name| name.value.as_str()).collect();
    if path != wanted {
        let at = test.path.first().map_or(test.name.at, |first| first.at);
        let why = format!("the path is [{}]; [{}] was expected", path.join(", "), wanted.join(", "));
        return Err(Failure { at, why });
    }
    match test.answer {
        Some(status) if answer != Some(status) => {
            let got = answer.map_or("none".to_owned(), |status| status.to_string());
            Err(Failure { at: test.name.at, why: format!("the client's answer is {got}; {status} was expected") })
        }
        _ => Ok(()),
    }
}

fn next(flow: &Flow, state: State, happened: &At<String>) -> Result<State, Failure> {
    let word = happened.value.as_str();
    let moved = match word {
        LATE => state.next(flow, Happened::Late),
        // Whoever may.
        CANCEL => Role::ALL.into_iter().find_map(|role| state.next(flow, Happened::Cancelled(role))),
        _ => state.next(flow, Happened::Replied(word)).or_else(|| state.next(flow, Happened::Signalled(word))),
    };
    moved.ok_or_else(|| Failure { at: happened.at, why: format!("`{word}` does not count at {}", state.name(flow)) })
}
