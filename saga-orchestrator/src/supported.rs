//! What a flow file may say and this release does not do yet: such a flow is not published, and one that a newer release
//! has published is left to that one.

use std::fmt;

use flow::{Asked, Flow, Step};
use messages::MESSAGE_TOPICS;

/// Something in a flow that this release does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotYet {
    /// At which step, or the key at the top of the file.
    pub place: String,
    pub what: &'static str,
}

/// Why this release does not run a flow. A built-in one may have been written before the topics that it asks by: those
/// of users' flows are created when they are published.
pub fn obstacles(flow: &Flow, built_in: bool) -> Vec<String> {
    let not_yet = unsupported(flow).into_iter().map(|NotYet { place, what }| format!("{place}: {what}"));
    let missing = flow.command_topics().filter(|topic| built_in && !MESSAGE_TOPICS.contains(topic));
    let starts = flow.start.topic.iter().filter(|_| built_in);
    let starts = starts.map(|topic| format!("start: no built-in flow is started by an event, as by {topic}"));
    not_yet.chain(missing.map(|topic| format!("there is no topic {topic}"))).chain(starts).collect()
}

/// The calls of the order service that there are.
const CALLS: [&str; 3] = ["order.create", "order.confirm", "order.cancel"];

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what } = self;
        write!(f, "{place}: this release does not run {what}")
    }
}

/// All that this release does not do of a flow.
pub fn unsupported(flow: &Flow) -> Vec<NotYet> {
    let mut found = Vec::new();
    let mut note = |is_there: bool, place: &str, what| {
        if is_there {
            found.push(NotYet { place: place.to_owned(), what });
        }
    };
    for step in &flow.steps {
        steps(step, &mut note);
    }
    found
}

/// Whether the order service can be called so.
pub fn is_call(action: &str) -> bool {
    CALLS.contains(&action)
}

fn steps(step: &Step, note: &mut impl FnMut(bool, &str, &'static str)) {
    let name = step.name.as_str();
    note(step.order_status.is_some(), name, "`order`, a status that travels with the step");
    for question in step.questions() {
        if let Asked::Action(action) = &question.ask.of {
            note(!is_call(action), name, "this call of the order service");
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;
    use crate::saga::flows;

    const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

    fn found(text: &str) -> Vec<String> {
        let flow = check(text, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
        unsupported(&flow).into_iter().map(|NotYet { place, what }| format!("{place}: {what}")).collect()
    }

    #[test]
    fn what_this_release_runs_has_no_finding() {
        for built_in in flows::built_in() {
            assert_eq!(obstacles(&built_in.flow, true), [""; 0]);
        }
        assert_eq!(found(TRIP), [""; 0]);
    }

    #[test]
    fn a_built_in_flow_is_not_run_before_its_topics_are_there() {
        let topics = |flow: &str| flow.replace("topic: trip.", "topic: payment.");
        let flow = check(topics(TRIP).split("\ntests:").next().unwrap(), Origin::BuiltIn).unwrap();
        let found = obstacles(&flow, true);
        assert_eq!(found[0], "there is no topic payment.hotel.book.command");
        assert_eq!((found.len(), obstacles(&flow, false).len()), (5, 0));
    }

    #[test]
    fn what_it_does_not_do_is_named_with_its_step() {
        let order = check(include_str!("../../flow/tests/flows/order.v1.yaml"), Origin::BuiltIn).unwrap();
        let found = Vec::from_iter(unsupported(&order).iter().map(ToString::to_string));
        let status = "ORDER_CREATE: this release does not run `order`, a status that travels with the step";
        assert!(found.iter().any(|line| line == status), "{found:#?}");
    }
}
