//! What holds for the moves of every flow: all states that can be reached are walked, with what has been done on the way.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use flow::{Flow, Happened, Origin, Role, State, check};

/// Every flow file of the repository.
fn flows() -> Vec<Arc<Flow>> {
    let texts = [
        include_str!("flows/order.v1.yaml"),
        include_str!("../../flows/pay-first.v1.yaml"),
        include_str!("flows/reserve-first-draft.v1.yaml"),
        include_str!("../../examples/trip/trip.v1.yaml"),
    ];
    texts.map(|text| check(text, Origin::BuiltIn).unwrap_or_else(|findings| panic!("{findings:?}"))).into()
}

/// All that may happen to any saga of a flow.
fn all_that_happens(flow: &Flow) -> Vec<Happened<'_>> {
    let mut all = vec![Happened::Late];
    all.extend(Role::ALL.map(Happened::Cancelled));
    for step in &flow.steps {
        if let Some(wait) = step.wait() {
            all.push(Happened::Signalled(&wait.signal));
        }
        let undone = step.undo.iter().flat_map(|undo| &undo.done).map(|done| &done.event);
        let events = step.done.iter().map(|done| &done.event).chain(step.refused.iter().map(|refused| &refused.event));
        let events = events.chain(step.progress.iter().map(|progress| &progress.event)).chain(undone);
        all.extend(events.map(|event| Happened::Replied(event)));
    }
    all
}

/// Every state that a saga of the flow can reach, each with every move out of it.
fn reachable(flow: &Flow) -> HashMap<State, Vec<(Happened<'_>, State)>> {
    let all = all_that_happens(flow);
    let mut states = HashMap::new();
    let mut open = VecDeque::from([State::START]);
    while let Some(state) = open.pop_front() {
        if states.contains_key(&state) {
            continue;
        }
        let moves: Vec<_> = all.iter().filter_map(|happened| Some((*happened, state.next(flow, *happened)?))).collect();
        open.extend(moves.iter().map(|(_, next)| *next));
        states.insert(state, moves);
    }
    states
}

#[test]
fn every_step_every_undo_and_every_end_can_be_reached() {
    for flow in flows() {
        let names: HashSet<_> = reachable(&flow).keys().map(|state| state.name(&flow)).collect();
        for step in &flow.steps {
            assert!(names.contains(step.name.as_str()), "{} of {}", step.name, flow.name);
            if let Some(undo) = &step.undo {
                assert!(names.contains(undo.name.as_str()), "{} of {}", undo.name, flow.name);
            }
        }
        for cause in &flow.causes {
            assert!(names.contains(&format!("FAILED/{cause}")), "{cause} of {}", flow.name);
        }
        assert!(names.contains("COMPLETED"));
    }
}

#[test]
fn from_every_state_an_end_can_be_reached_and_no_end_is_left() {
    for flow in flows() {
        let states = reachable(&flow);
        let mut ending: HashSet<_> = states.keys().copied().filter(|state| state.has_ended()).collect();
        loop {
            let more: Vec<_> = states
                .iter()
                .filter(|(state, moves)| !ending.contains(state) && moves.iter().any(|(_, next)| ending.contains(next)))
                .map(|(state, _)| *state)
                .collect();
            if more.is_empty() {
                break;
            }
            ending.extend(more);
        }
        for (state, moves) in &states {
            assert!(ending.contains(state), "{} of {} has no way to an end", state.name(&flow), flow.name);
            assert!(!state.has_ended() || moves.is_empty(), "{} of {} is left", state.name(&flow), flow.name);
        }
    }
}

/// The steps that may have had an effect and are not undone. A step may have had one from the moment that it is pending.
#[test]
fn a_saga_fails_only_when_all_that_may_have_been_done_is_undone() {
    for flow in flows() {
        let mut seen = HashSet::new();
        let mut open = VecDeque::from([(State::START, BTreeSet::from([0_usize]))]);
        while let Some((state, done)) = open.pop_front() {
            if !seen.insert((state, done.clone())) {
                continue;
            }
            if let State::Failed { .. } = state {
                let left: Vec<_> = done.iter().filter(|step| flow.steps[**step].undo.is_some()).collect();
                assert!(left.is_empty(), "{}: {} leaves {left:?}", flow.name, state.name(&flow));
            }
            for happened in all_that_happens(&flow) {
                let Some(next) = state.next(&flow, happened) else { continue };
                let mut done = done.clone();
                match (state, next) {
                    // Its undo was confirmed.
                    (State::Compensating { step, .. }, _) if next != state => drop(done.remove(&step)),
                    // A refusal leaves nothing behind, unless the flow says so.
                    (State::Running { step }, State::Compensating { .. } | State::Failed { .. }) => {
                        let refusal = flow.steps[step]
                            .refused
                            .iter()
                            .find(|refused| happened == Happened::Replied(refused.event.as_str()));
                        if refusal.is_some_and(|refused| !refused.undo_this_step) {
                            done.remove(&step);
                        }
                    }
                    _ => {}
                }
                if let State::Running { step } = next {
                    done.insert(step);
                }
                open.push_back((next, done));
            }
        }
    }
}

#[test]
fn from_the_pivot_on_only_its_own_refusal_turns_back() {
    for flow in flows() {
        for (state, moves) in reachable(&flow) {
            let State::Running { step } = state else { continue };
            for (happened, next) in moves {
                let turns_back = matches!(next, State::Compensating { .. } | State::Failed { .. });
                let refusals = &flow.steps[flow.pivot].refused;
                let is_its_refusal = step == flow.pivot
                    && refusals.iter().any(|refused| happened == Happened::Replied(refused.event.as_str()));
                assert!(
                    step < flow.pivot || !turns_back || is_its_refusal,
                    "{happened:?} turns {} of {} back",
                    state.name(&flow),
                    flow.name
                );
            }
        }
    }
}

/// What a person reads before a change of the core, or of a flow, is let in.
#[test]
fn the_legal_moves_of_each_flow() {
    for flow in flows() {
        let mut lines: Vec<_> = reachable(&flow)
            .into_iter()
            .flat_map(|(state, moves)| {
                let (flow, from) = (flow.clone(), state.name(&flow));
                let with_cause = |state: State| match state {
                    State::Compensating { cause, .. } => format!("{} ({})", state.name(&flow), flow.causes[cause]),
                    _ => state.name(&flow),
                };
                let from_with_cause = with_cause(state);
                let place = flow
                    .steps
                    .iter()
                    .position(|step| step.name == from || step.undo.as_ref().is_some_and(|undo| undo.name == from));
                let lines: Vec<_> = moves
                    .iter()
                    .map(|(happened, next)| {
                        let what = match happened {
                            Happened::Replied(event) => (*event).to_owned(),
                            Happened::Signalled(kind) => format!("signal {kind}"),
                            Happened::Late => "its limit passes".to_owned(),
                            Happened::Cancelled(_) => "cancelled".to_owned(),
                        };
                        (
                            matches!(state, State::Compensating { .. }),
                            place,
                            format!("{from_with_cause}: {what} -> {}", with_cause(*next)),
                        )
                    })
                    .collect();
                lines
            })
            .collect();
        lines.sort();
        lines.dedup();
        let text: Vec<_> = lines.into_iter().map(|(_, _, line)| line).collect();
        insta::assert_snapshot!(format!("moves-{}", flow.name), text.join("\n"));
    }
}
