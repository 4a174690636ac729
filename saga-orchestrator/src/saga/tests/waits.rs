//! Waits for signals, progress, and limits that do not turn a saga back.

use flow::{Late, Origin, RawEvent, Record, Value, check};
use messages::Timestamp;
use uuid::Uuid;

use super::*;
use crate::saga::FlowOutcome;

const PERMIT: &str = include_str!("../../../../e2e-tests/tests/it/permit.v1.yaml");

/// A permit that was filed: it waits for its approval.
fn filed() -> Saga {
    filed_by(PERMIT, 100_000)
}

/// The same by another file. As a whole it has so many seconds.
fn filed_by(text: &str, limit: i64) -> Saga {
    let flow = check(text, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
    let request = flow.read_start(r#"{"applicant":"ann","fee":30}"#).unwrap();
    let saga = start(flow, SagaId::new(), OrderId::new(), request, at(limit), None, at(0)).saga;
    replied(&saga, "permit.filed", r#"{"number":"P-1"}"#, at(1)).unwrap().saga
}

fn reply(saga: &Saga, event: &str, payload: &str) -> Input {
    let (id, command) = (EventId::new(), saga.command_id().unwrap());
    let (saga_id, permit) = (saga.saga_id, saga.order_id);
    let body = format!(
        r#"{{"eventId":"{id}","causationId":"{command}","sagaId":"{saga_id}","permitId":"{permit}","timestamp":"2027-01-01T00:00:00Z","payload":{payload}}}"#
    );
    Reply::read(saga, event, &RawEvent::read(body.as_bytes()).unwrap()).unwrap().into()
}

fn replied(saga: &Saga, event: &str, payload: &str, now: Timestamp) -> Result<Transition, NoMove> {
    advance(saga, &reply(saga, event, payload), now)
}

fn signal(kind: &str, matched: &str) -> Input {
    let by = Record(vec![("by".into(), Value::Text("eve".to_owned()))]);
    Input::Signal(Signal {
        signal_id: Uuid::from_u128(7),
        kind: kind.to_owned(),
        matched: matched.to_owned(),
        values: by,
    })
}

fn late_means(saga: Saga, step: usize, late: Late) -> Saga {
    let mut flow = (*saga.flow).clone();
    flow.steps[step].late = late;
    Saga { flow: flow.into(), ..saga }
}

#[test]
fn a_saga_waits_for_one_kind_of_signal_with_one_match_and_keeps_what_it_brings() {
    let saga = filed();
    assert_eq!((saga.to_string().as_str(), saga.effect()), ("WAITING/APPROVAL", Effect::Await));
    assert_eq!(saga.awaited().unwrap().key(), "permit.approved P-1");
    assert_eq!(saga.deadline, Some(at(3601)), "its own limit, an hour");
    for (kind, matched) in [("permit.approved", "P-2"), ("permit.collected", "P-1")] {
        let ignored = advance(&saga, &signal(kind, matched), at(2)).unwrap_err();
        assert!(matches!(ignored, NoMove::Ignored(_)), "{kind} {matched}: {ignored}");
    }

    let Transition { saga, entry, takes, .. } = advance(&saga, &signal("permit.approved", "P-1"), at(2)).unwrap();

    assert_eq!((saga.to_string().as_str(), saga.awaited()), ("RUNNING/CHECK", None));
    assert_eq!(saga.kept.to_json(), r#"{"FILE":{"number":"P-1"},"APPROVAL":{"by":"eve"}}"#);
    assert_eq!((takes, entry.event_id), (Some(Uuid::from_u128(7)), Some(Uuid::from_u128(7).into())));
    assert_eq!(entry.input, "permit.approved");
    assert!(advance(&saga, &signal("permit.approved", "P-1"), at(3)).is_err(), "it waits no more");
}

#[test]
fn progress_gives_time_once_and_leaves_the_command_as_it_is() {
    let saga = advance(&filed(), &signal("permit.approved", "P-1"), at(2)).unwrap().saga;
    let (command, report) = (saga.effect(), reply(&saga, "permit.checking", r#"{"desk":"12"}"#));

    let moved = advance(&saga, &report, at(10)).unwrap();

    assert_eq!((moved.saga.to_string().as_str(), moved.marked), ("WAITING/CHECK", Marked::Cleared));
    assert_eq!((moved.saga.deadline, moved.saga.effect()), (Some(at(10 + 7200)), command.clone()));
    assert!(moved.saga.kept.to_json().contains(r#""CHECK":{"desk":"12"}"#));
    assert!(matches!(advance(&moved.saga, &report, at(11)), Err(NoMove::Ignored(_))), "the same report");
    let again = replied(&moved.saga, "permit.checking", r#"{"desk":"13"}"#, at(20)).unwrap().saga;
    assert_eq!((again.deadline, again.progressed.len(), again.effect()), (Some(at(20 + 7200)), 2, command));

    // A participant that reports for ever is not believed for ever.
    let mut many = again;
    while let Ok(moved) = replied(&many, "permit.checking", "{\"desk\":\"1\"}", at(30)) {
        many = moved.saga;
    }
    assert_eq!(many.progressed.len(), 100);
    let done = replied(&many, "permit.checked", "{}", at(31)).unwrap().saga;
    assert_eq!((done.to_string().as_str(), done.progressed.len()), ("RUNNING/ISSUE", 0));
}

#[test]
fn a_limit_up_to_the_pivot_is_never_behind_that_of_the_saga_and_behind_the_pivot_it_is_the_steps_own() {
    let saga = filed_by(&PERMIT.replacen("pivot: ISSUE", "pivot: ISSUE\nreach_pivot_within: 50s", 1), 50);
    let saga = advance(&saga, &signal("permit.approved", "P-1"), at(2)).unwrap().saga;
    let saga = replied(&saga, "permit.checking", r#"{"desk":"12"}"#, at(10)).unwrap().saga;
    assert_eq!(saga.deadline, Some(at(50)));
    let saga = replied(&saga, "permit.checked", "{}", at(49)).unwrap().saga;
    let saga = replied(&saga, "permit.issued", "{}", at(60)).unwrap().saga;
    assert_eq!((saga.to_string().as_str(), saga.deadline), ("WAITING/PICKUP", Some(at(60 + 3600))));
}

#[test]
fn a_late_wait_turns_back_calls_a_person_or_goes_on_as_its_flow_has_it() {
    let saga = filed();
    let (late, limit) = (Input::DeadlinePassed, saga.deadline.unwrap());
    assert!(advance(&saga, &late, at(100)).is_err(), "not yet");

    let undone = advance(&saga, &late, limit).unwrap().saga;
    assert_eq!((undone.to_string().as_str(), undone.cause()), ("COMPENSATING/WITHDRAW", Some("NOT_APPROVED")));
    assert_eq!(undone.reason.as_deref(), Some("no permit.approved in time"));

    let called = advance(&late_means(saga.clone(), 1, Late::Attention), &late, limit).unwrap();
    assert_eq!((called.marked, called.saga.deadline, called.takes), (Marked::Set, None, None));
    assert_eq!(called.saga.attention.as_ref().unwrap().reason, "no permit.approved in time");
    assert_eq!((called.saga.to_string().as_str(), called.saga.version), ("WAITING/APPROVAL", saga.version + 1));
    assert!(advance(&called.saga, &late, at(99_999)).is_err(), "a person is called once");
    let moved = advance(&called.saga, &signal("permit.approved", "P-1"), at(99_999)).unwrap();
    assert_eq!((moved.saga.to_string().as_str(), moved.saga.attention), ("RUNNING/CHECK", None));

    let went_on = advance(&late_means(saga, 1, Late::GoOn), &late, limit).unwrap();
    assert_eq!(went_on.saga.to_string(), "RUNNING/CHECK");
    assert_eq!(went_on.entry.reason.as_deref(), Some("no permit.approved in time: it goes on without"));
}

/// A permit whose applicant is answered before it is issued, and may be disappointed.
fn early() -> String {
    let changes = [
        ("pivot: ISSUE", "pivot: ISSUE\nreach_answer_within: 100s"),
        ("  after: PICKUP\n", "  after: CHECK\n  final: false\n"),
        (", collectedAt: \"$PICKUP.office?\"", ""),
        ("    done: permit.issued\n", "    done: permit.issued\n    refused: { permit.refused: { cause: REFUSED } }\n"),
    ];
    changes.into_iter().fold(PERMIT.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    })
}

#[test]
fn an_answer_before_the_end_stands_whatever_becomes_of_the_saga() {
    let saga = advance(&filed_by(&early(), 100), &signal("permit.approved", "P-1"), at(2)).unwrap().saga;
    assert_eq!((saga.answered.clone(), saga.has_news()), (None, false));

    let issuing = replied(&saga, "permit.checked", "{}", at(5)).unwrap().saga;

    let answered = issuing.answered.clone().unwrap();
    assert_eq!((answered.at, answered.status, issuing.has_news()), (at(5), 200, true));
    for part in
        [r#""status":"RUNNING","step":"ISSUE","#, r#""result":{"number":"P-1","approvedBy":"eve"},"final":false,"#]
    {
        assert!(answered.body.contains(part), "{}", answered.body);
    }
    let undoing = replied(&issuing, "permit.refused", "{}", at(6)).unwrap().saga;
    let failed = replied(&undoing, "permit.withdrawn", "{}", at(7)).unwrap().saga;
    assert_eq!((failed.to_string().as_str(), failed.answered), ("FAILED/REFUSED", Some(answered)));

    // A failure before the answer is the answer.
    let undoing = advance(&saga, &Input::DeadlinePassed, at(200)).unwrap().saga;
    let failed = replied(&undoing, "permit.withdrawn", "{}", at(201)).unwrap().saga;
    assert_eq!((failed.to_string().as_str(), failed.answered.is_none()), ("FAILED/TIMED_OUT", true));
    let body = serde_json::to_string(&FlowOutcome(&failed)).unwrap();
    assert!(body.contains(r#""result":null,"final":true,"#), "{body}");
}

#[test]
fn what_a_saga_waits_is_not_counted_to_its_limit_up_to_the_answer() {
    let saga = filed_by(&early(), 100);
    assert_eq!((saga.deadline, saga.expires_at), (Some(at(3601)), at(100)), "a wait has its own limit");
    let checking = advance(&saga, &signal("permit.approved", "P-1"), at(1001)).unwrap().saga;
    assert_eq!((checking.deadline, checking.expires_at), (Some(at(1061)), at(1100)));
    let longer = replied(&checking, "permit.checking", r#"{"desk":"12"}"#, at(1010)).unwrap().saga;
    assert_eq!((longer.deadline, longer.expires_at), (Some(at(1010 + 7200)), at(1100)));
    let issuing = replied(&longer, "permit.checked", "{}", at(1501)).unwrap().saga;
    assert_eq!((issuing.deadline, issuing.expires_at), (None, at(1600)));

    let checking = advance(&filed_by(&early(), 20), &signal("permit.approved", "P-1"), at(1001)).unwrap().saga;
    assert_eq!(checking.deadline, Some(at(1020)), "what is left of the whole");
}

#[test]
fn a_report_that_is_answered_says_what_the_client_has_to_do() {
    let asked = PERMIT
        .replace("keep: [desk], within: 2h }", "keep: [desk], within: 2h, answer: 202 }")
        .replace("body: { number:", "body: { desk: \"$CHECK.desk?\", number:");
    for (text, result) in [
        (&*asked, r#""result":{"desk":"12","number":"P-1","approvedBy":"eve","collectedAt":null}"#),
        (PERMIT, r#""result":null"#),
    ] {
        let saga = advance(&filed_by(text, 100_000), &signal("permit.approved", "P-1"), at(2)).unwrap().saga;
        let body = |saga: &Saga| serde_json::to_string(&FlowOutcome(saga)).unwrap();
        assert!(body(&saga).contains(r#""result":null"#), "nothing is reported yet: {}", body(&saga));
        let reported = replied(&saga, "permit.checking", r#"{"desk":"12"}"#, at(3)).unwrap().saga;
        assert!(body(&reported).contains(result), "{}", body(&reported));
        let issuing = replied(&reported, "permit.checked", "{}", at(4)).unwrap().saga;
        assert!(body(&issuing).contains(r#""result":null"#), "it has done so: {}", body(&issuing));
    }
}
