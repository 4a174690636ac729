//! Each check is shown to find what it is for: a planted wrong answer, or a planted wrong row.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::json;

use super::*;
use crate::clients::{Request, Try};

const SAGA: &str = "01a1fcfc-71e1-7774-8bfb-889f9eb14880";

/// A client with a key whose plain checkout was completed.
fn completed() -> (Sent, Vec<Saga>) {
    let mut dice = StdRng::seed_from_u64(1);
    let mut requests = (0..).map(|index| Request::drawn("checks", index, 1, &mut dice));
    let request = requests.find(|r| r.scenario == Scenario::Plain && r.key.is_some()).unwrap();
    let saga = Saga {
        saga_id: SAGA.to_owned(),
        user_id: request.user_id.clone(),
        idempotency_key: request.key.clone(),
        status: "COMPLETED".to_owned(),
        step: "COMPLETED".to_owned(),
        amount: request.amount().to_string(),
    };
    let mut sent = Sent { request, tries: Vec::new(), undecided: false };
    sent.tries.push(Try { own_body: true, got: Got::ConnectionLost });
    sent.tries.push(Try { own_body: true, got: Got::Answer(outcome(&sent.request, 200, "COMPLETED", "COMPLETED")) });
    (sent, vec![saga])
}

fn answer(status: u16, headers: &[(&'static str, &str)], text: &str) -> Answer {
    let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    Answer { status, headers: headers.collect::<HeaderMap>(), text: text.to_owned() }
}

fn outcome(request: &Request, code: u16, status: &str, step: &str) -> Answer {
    let body = json!({"sagaId": SAGA, "orderId": "o", "status": status, "step": step, "reason": null,
        "userId": request.user_id, "totalAmount": request.amount(), "currency": "USD"});
    answer(code, &[("location", &format!("/sagas/{SAGA}"))], &body.to_string())
}

fn got(sent: &mut Sent, answer: Answer) {
    sent.tries.push(Try { own_body: true, got: Got::Answer(answer) });
}

fn told(sent: &mut Sent, code: u16, status: &str, step: &str) {
    let answer = outcome(&sent.request, code, status, step);
    got(sent, answer);
}

fn replayed(sent: &mut Sent, code: u16, status: &str, step: &str) {
    let mut answer = outcome(&sent.request, code, status, step);
    answer.headers.insert("idempotent-replayed", "true".parse().unwrap());
    got(sent, answer);
}

fn not_stored() -> Answer {
    answer(503, &[("retry-after", "1")], "{}")
}

#[test]
fn a_client_that_was_told_the_truth_is_content() {
    let (mut sent, sagas) = completed();
    replayed(&mut sent, 200, "COMPLETED", "COMPLETED");
    replayed(&mut sent, 202, "RUNNING", "PAYMENT_CHARGE");
    got(&mut sent, not_stored());
    got(&mut sent, answer(503, &[("location", "/sagas/whatever")], "{}"));
    sent.tries.push(Try { own_body: false, got: Got::Answer(answer(422, &[], "{}")) });
    let findings = check(&[sent], &sagas);
    assert_eq!((findings.violations, findings.lost), (Vec::<String>::new(), Vec::<String>::new()));
    assert_eq!((findings.answers, findings.acknowledged), (6, 1));
}

#[test]
fn each_wrong_answer_is_found() {
    type Plant = fn(&mut Sent, &mut Vec<Saga>);
    let plants: [(&str, Plant); 19] = [
        ("and no replay", |sent, _| told(sent, 200, "COMPLETED", "COMPLETED")),
        ("the row says otherwise", |_, sagas| {
            (sagas[0].status, sagas[0].step) = ("FAILED".to_owned(), "PAYMENT_FAILED".to_owned());
        }),
        ("status and body differ", |sent, _| told(sent, 402, "FAILED", "INVENTORY_FAILED")),
        ("different ends", |sent, _| told(sent, 402, "FAILED", "PAYMENT_FAILED")),
        ("different ends", |sent, _| {
            let mut replay = outcome(&sent.request, 200, "COMPLETED", "COMPLETED");
            replay.text = replay.text.replace("null", "\"replayed\"");
            got(sent, replay);
        }),
        ("different sagas", |sent, _| {
            let mut other = outcome(&sent.request, 202, "RUNNING", "ORDER_CREATE");
            other.text = other.text.replace(SAGA, "0");
            other.headers.insert("location", "/sagas/0".parse().unwrap());
            got(sent, other);
        }),
        ("Location is another saga", |sent, _| {
            let mut other = outcome(&sent.request, 202, "RUNNING", "ORDER_CREATE");
            other.headers.insert("location", "/sagas/0".parse().unwrap());
            got(sent, other);
        }),
        ("another user", |sent, _| {
            let mut other = outcome(&sent.request, 200, "COMPLETED", "COMPLETED");
            other.text = other.text.replace("checks-", "mallory-");
            got(sent, other);
        }),
        ("another amount", |sent, _| {
            let amount = format!("\"totalAmount\":{}", sent.request.amount());
            let mut other = outcome(&sent.request, 200, "COMPLETED", "COMPLETED");
            other.text = other.text.replace(&amount, "\"totalAmount\":0.1");
            got(sent, other);
        }),
        ("that nothing was stored", |sent, _| {
            sent.tries = vec![
                Try { own_body: true, got: Got::NoConnection },
                Try { own_body: true, got: Got::Answer(not_stored()) },
            ];
        }),
        ("when to try again", |sent, _| got(sent, answer(429, &[], "{}"))),
        ("does not have", |sent, _| got(sent, answer(500, &[], "{}"))),
        ("own request is refused", |sent, _| got(sent, answer(422, &[], "{}"))),
        ("is not refused", |sent, _| {
            let body = outcome(&sent.request, 200, "COMPLETED", "COMPLETED");
            sent.tries.push(Try { own_body: false, got: Got::Answer(body) });
        }),
        ("one request, and sagas", |_, sagas| {
            let twin = Saga { saga_id: "0".to_owned(), ..sagas[0].clone() };
            sagas.push(twin);
        }),
        ("belongs to no request", |_, sagas| {
            let strange = Saga { user_id: "mallory".to_owned(), ..sagas[0].clone() };
            sagas.push(strange);
        }),
        ("about something else", |_, sagas| sagas[0].amount = "0.1".to_owned()),
        ("can't end so", |sent, _| sent.request.scenario = Scenario::PaymentFails),
        ("never got a definite answer", |sent, _| sent.undecided = true),
    ];
    for (expected, plant) in plants {
        let (mut sent, mut sagas) = completed();
        plant(&mut sent, &mut sagas);
        let violations = check(&[sent], &sagas).violations;
        assert!(violations.iter().any(|violation| violation.contains(expected)), "{expected}: {violations:?}");
    }
}

#[test]
fn a_saga_that_a_client_was_told_of_and_that_is_not_there_or_has_not_ended_is_lost() {
    let (sent, mut sagas) = completed();
    assert_eq!(check(std::slice::from_ref(&sent), &[]).lost.len(), 1);
    sagas[0].status = "RUNNING".to_owned();
    assert_eq!(check(&[sent], &sagas).lost.len(), 1);
}
