//! The protocol, as tests. The first part reads as the ways through a checkout; the second holds every pair of state and
//! input against one table. What pay-first does not need stands in files of its own.

mod other_flows;
mod waits;

use std::time::Duration;

use chrono::{DateTime, Utc};
use flow::{Record, Role, Value};
use messages::{
    ChargePayment, Currency, Envelope, Event, EventId, Message, Money, OrderId, PaymentCharged, RefundPayment, SagaId,
};

use super::{
    Attention, Checkout, Effect, Input, Marked, MessageIds, NoMove, Operator, OperatorAct, OrderCall, Reply, Saga,
    Settled, Signal, State, Transition, advance, flows, start,
};

/// All that may happen to a saga of pay-first, as the history names it.
const INPUTS: [&str; 15] = [
    "order.created",
    "order.create-refused",
    "order.confirmed",
    "order.confirm-refused",
    "order.cancelled",
    "payment.charged",
    "payment.failed",
    "payment.refunded",
    "inventory.reserved",
    "inventory.failed",
    "inventory.released",
    "deadline.passed",
    "operator.cancelled",
    "operator.retried",
    "operator.resolved",
];

/// An input by the name that the history has for it. What settles a compensation has no such short form.
pub fn named(name: &'static str) -> Input {
    match name {
        "deadline.passed" => Input::DeadlinePassed,
        "operator.cancelled" => operator(OperatorAct::Cancel(Role::Operator)),
        "operator.retried" => operator(OperatorAct::Retry),
        event => Reply::named(event).into(),
    }
}

/// What a person does to a saga.
fn operator(act: OperatorAct) -> Input {
    Operator { by: "ann".to_owned(), reason: "the customer called".to_owned(), act }.into()
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

pub fn new_saga() -> Saga {
    let user_id = "u1".to_owned().try_into().unwrap();
    let (money, items) = (Money::parse("500", Currency::USD).unwrap(), messages::Items::default());
    let checkout = Checkout { user_id, money, items, force_payment_fail: false, force_inventory_fail: false };
    start(flows::pay_first(), SagaId::new(), OrderId::new(), checkout, at(90), Some("trace".into()), at(0)).saga
}

fn after(inputs: &[&'static str]) -> Saga {
    inputs.iter().fold(new_saga(), |saga, &name| {
        // A deadline passes when it has passed.
        let now = saga.deadline.unwrap_or(at(1));
        advance(&saga, &named(name), now).unwrap().saga
    })
}

/// "STATUS/STEP" after each input in turn.
fn path(inputs: &[&'static str]) -> Vec<String> {
    (0..=inputs.len()).map(|n| after(&inputs[..n]).to_string()).collect()
}

#[test]
fn a_checkout_that_succeeds() {
    assert_eq!(
        path(&["order.created", "payment.charged", "inventory.reserved", "order.confirmed"]),
        [
            "RUNNING/ORDER_CREATE",
            "RUNNING/PAYMENT_CHARGE",
            "RUNNING/INVENTORY_RESERVE",
            "RUNNING/ORDER_CONFIRM",
            "COMPLETED/COMPLETED"
        ]
    );
}

/// A participant's reply, to a saga whose charge is pending, and to the same saga at its end.
fn answered(saga: &Saga, reply: Reply) -> Result<String, String> {
    let input = Input::from(reply);
    let ended = Saga { state: State::Completed, ..saga.clone() };
    let [pending, late] = [saga, &ended].map(|saga| advance(saga, &input, at(1)).map_err(|error| error.to_string()));
    match pending {
        Ok(transition) => Ok(transition.saga.to_string()),
        Err(error) => {
            assert_eq!(late.unwrap_err(), error, "a contradiction is one in every state");
            Err(error)
        }
    }
}

/// What a participant says that does what it was asked for.
fn as_asked(saga: &Saga) -> Reply {
    let Effect::Send(record) = saga.effect() else { panic!("a charge is a command") };
    let command: Envelope<ChargePayment> = Envelope::decode(&record.body).unwrap();
    let charged = PaymentCharged { money: saga.request.money.unwrap() };
    Event::PaymentCharged(command.reply(charged, saga.updated_at)).into()
}

/// The same, and its message says something else of itself.
fn but(reply: &Reply, change: impl FnOnce(&mut MessageIds)) -> Reply {
    let mut ids = reply.message.unwrap();
    change(&mut ids);
    Reply { message: Some(ids), ..reply.clone() }
}

#[test]
fn a_reply_that_tells_of_another_amount_or_order_is_not_what_was_asked_for() {
    let saga = after(&["order.created"]);
    let asked = as_asked(&saga);
    let about = |text: &str, currency: &str| {
        let money = Money::parse(text, currency.parse().unwrap()).unwrap();
        Reply { values: Record(vec![("money".into(), Value::Money(money))]), ..asked.clone() }
    };
    let moved = Ok("RUNNING/INVENTORY_RESERVE".to_owned());
    assert_eq!(answered(&saga, asked.clone()), moved);
    assert_eq!(answered(&saga, about("500.00", "USD")), moved, "written otherwise");
    let other = answered(&saga, about("5", "USD")).unwrap_err();
    assert_eq!(other, "it contradicts its saga: it is about 5 USD, its saga about 500 USD");
    assert!(answered(&saga, about("500", "EUR")).unwrap_err().contains("500 EUR"));
    let order_id = OrderId::new();
    let other = answered(&saga, but(&asked, |ids| ids.order_id = order_id)).unwrap_err();
    assert!(other.contains(&format!("about order {order_id}, its saga about order {}", saga.order_id)), "{other}");
}

#[test]
fn a_reply_to_a_command_that_its_saga_did_not_send_is_not_what_was_asked_for() {
    let saga = after(&["order.created"]);
    let asked = as_asked(&saga);
    let (own, foreign) = (saga.command_id().unwrap(), EventId::derived(SagaId::new(), ChargePayment::TOPIC.name()));
    let other = answered(&saga, but(&asked, |ids| ids.causation_id = Some(foreign))).unwrap_err();
    assert!(other.contains(&format!("it answers command {foreign}, its saga sends {own}")), "{other}");
    let refund = Some(EventId::derived(saga.saga_id, RefundPayment::TOPIC.name()));
    assert!(answered(&saga, but(&asked, |ids| ids.causation_id = refund)).is_err(), "of another step");
    let unnamed = answered(&saga, but(&asked, |ids| ids.causation_id = None)).unwrap_err();
    assert!(unnamed.contains("no causationId"), "{unnamed}");

    // A command that is sent again has the same id, after a retry too, so its reply counts.
    let retried = advance(&saga, &named("operator.retried"), at(2)).unwrap().saga;
    assert_eq!(as_asked(&retried), asked);
    assert!(answered(&retried, asked).is_ok());
}

#[test]
fn an_event_that_nothing_in_the_flow_asks_for_is_a_contradiction() {
    let saga = after(&["order.created"]);
    let foreign = Reply { event: "order.created".into(), ..as_asked(&saga) };
    let error = answered(&saga, foreign).unwrap_err();
    assert!(error.contains("it is a order.created, which nothing in its saga asks for"), "{error}");
}

#[test]
fn a_declined_payment_cancels_the_order() {
    assert_eq!(
        path(&["order.created", "payment.failed", "order.cancelled"])[2..],
        ["COMPENSATING/ORDER_CANCEL", "FAILED/PAYMENT_FAILED"]
    );
}

#[test]
fn a_failed_reservation_refunds_then_cancels() {
    assert_eq!(
        path(&["order.created", "payment.charged", "inventory.failed", "payment.refunded", "order.cancelled"])[3..],
        ["COMPENSATING/PAYMENT_REFUND", "COMPENSATING/ORDER_CANCEL", "FAILED/INVENTORY_FAILED"]
    );
}

#[test]
fn a_refused_confirmation_releases_refunds_and_cancels() {
    let inputs = [
        "order.created",
        "payment.charged",
        "inventory.reserved",
        "order.confirm-refused",
        "inventory.released",
        "payment.refunded",
        "order.cancelled",
    ];
    assert_eq!(
        path(&inputs)[4..],
        [
            "COMPENSATING/INVENTORY_RELEASE",
            "COMPENSATING/PAYMENT_REFUND",
            "COMPENSATING/ORDER_CANCEL",
            "FAILED/ORDER_REFUSED"
        ]
    );
}

#[test]
fn a_refused_create_leaves_a_cancelled_order() {
    assert_eq!(
        path(&["order.create-refused", "order.cancelled"])[1..],
        ["COMPENSATING/ORDER_CANCEL", "FAILED/ORDER_REFUSED"]
    );
}

#[test]
fn a_step_that_timed_out_may_have_happened_so_it_is_undone_too() {
    assert_eq!(after(&["deadline.passed"]).to_string(), "COMPENSATING/ORDER_CANCEL");
    assert_eq!(after(&["order.created", "deadline.passed"]).to_string(), "COMPENSATING/PAYMENT_REFUND");
    assert_eq!(
        after(&["order.created", "payment.charged", "deadline.passed"]).to_string(),
        "COMPENSATING/INVENTORY_RELEASE"
    );
}

#[test]
fn a_deadline_counts_only_once_it_has_passed() {
    let saga = new_saga();
    assert!(advance(&saga, &named("deadline.passed"), at(59)).is_err());
    assert!(advance(&saga, &named("deadline.passed"), at(60)).is_ok());
}

#[test]
fn a_step_has_60_seconds_and_the_saga_90() {
    let first = new_saga();
    assert_eq!(first.deadline, Some(at(60)));
    let second = advance(&first, &named("order.created"), at(50)).unwrap().saga;
    assert_eq!(second.deadline, Some(at(90)), "not 110: the saga's own limit comes first");
}

#[test]
fn nothing_times_out_from_the_pivot_on() {
    let pivot = after(&["order.created", "payment.charged", "inventory.reserved"]);
    assert_eq!(pivot.deadline, None);
    assert!(advance(&pivot, &named("deadline.passed"), at(1_000_000)).is_err());
}

#[test]
fn the_first_cause_and_its_reason_stay() {
    let charging = after(&["order.created"]);
    let values = Record(vec![("reason".into(), Value::Text("no funds".into()))]);
    let declined = Input::from(Reply { values, ..Reply::named("payment.failed") });
    let turned = advance(&charging, &declined, at(1)).unwrap().saga;
    let ended = advance(&turned, &named("order.cancelled"), at(2)).unwrap().saga;
    assert_eq!(ended.to_string(), "FAILED/PAYMENT_FAILED");
    assert_eq!(ended.reason.as_deref(), Some("no funds"));
}

#[test]
fn a_cancelled_saga_undoes_the_pending_step_too() {
    assert_eq!(path(&["operator.cancelled"])[1..], ["COMPENSATING/ORDER_CANCEL"]);
    assert_eq!(
        path(&["order.created", "operator.cancelled", "payment.refunded", "order.cancelled"])[2..],
        ["COMPENSATING/PAYMENT_REFUND", "COMPENSATING/ORDER_CANCEL", "FAILED/CANCELLED"]
    );
    assert_eq!(
        after(&["order.created", "payment.charged", "operator.cancelled"]).to_string(),
        "COMPENSATING/INVENTORY_RELEASE"
    );
}

#[test]
fn nothing_is_cancelled_from_the_pivot_on() {
    let pivot = after(&["order.created", "payment.charged", "inventory.reserved"]);
    assert!(advance(&pivot, &named("operator.cancelled"), at(1)).is_err());
}

#[test]
fn a_cancel_of_what_goes_back_is_noted_and_the_first_cause_and_reason_stay() {
    let timed_out = after(&["order.created", "deadline.passed"]);
    let transition = advance(&timed_out, &operator(OperatorAct::Cancel(Role::Operator)), at(99)).unwrap();
    assert_eq!(transition.entry.reason.as_deref(), Some("the customer called"));
    assert_eq!(transition.saga, Saga { version: 4, ..timed_out });
}

#[test]
fn a_retry_changes_nothing_but_the_history_so_the_message_is_the_same() {
    let charging = after(&["order.created"]);
    let retry = operator(OperatorAct::Retry);
    let transition = advance(&charging, &retry, at(99)).unwrap();
    assert_eq!(transition.saga.effect(), charging.effect());
    assert_eq!(transition.saga.reason, None, "it is not why the saga turned back");
    assert_eq!((transition.entry.seq, transition.entry.operator.as_ref()), (3, retry.operator()));
    assert_eq!(transition.entry.at, at(99));
}

#[test]
fn only_what_needs_attention_is_resolved_by_hand_and_the_rest_is_still_undone() {
    let refunding = after(&["order.created", "payment.charged", "inventory.failed"]);
    assert!(advance(&refunding, &resolved("PAYMENT_REFUND"), at(1)).is_err());
    let stuck = Saga { attention: attention(), ..refunding };
    assert!(advance(&stuck, &resolved("INVENTORY_RELEASE"), at(1)).is_err(), "that is not what is pending");
    let settled = advance(&stuck, &resolved("PAYMENT_REFUND"), at(1)).unwrap().saga;
    assert_eq!((settled.to_string(), &settled.attention), ("COMPENSATING/ORDER_CANCEL".to_owned(), &None));
    let ended = advance(&settled, &named("order.cancelled"), at(2)).unwrap().saga;
    assert_eq!((ended.to_string(), ended.resolved_by_hand), ("FAILED/INVENTORY_FAILED".to_owned(), true));
}

#[test]
fn the_history_has_one_entry_for_each_version_and_the_last_is_the_state() {
    let saga = after(&["order.created"]);
    let transition = advance(&saga, &named("payment.charged"), at(3)).unwrap();
    let (entry, next) = (transition.entry, transition.saga);
    assert_eq!((entry.seq, next.version), (3, 3));
    assert_eq!(entry.state, next.state);
    assert_eq!(entry.input, "payment.charged");
}

#[test]
fn an_ignored_pair_is_named() {
    let ignored = advance(&new_saga(), &named("payment.charged"), at(1)).unwrap_err();
    assert_eq!(ignored.to_string(), "payment.charged does not count in RUNNING/ORDER_CREATE");
}

#[test]
fn a_state_asks_for_the_same_record_each_time() {
    let saga = after(&["order.created"]);
    let Effect::Send(record) = saga.effect() else { panic!("a charge is a command") };
    assert_eq!(Effect::Send(record.clone()), saga.effect());
    assert_eq!(record.topic, ChargePayment::TOPIC.name());
    assert_eq!(record.key, saga.saga_id.to_string());
    let envelope: Envelope<ChargePayment> = Envelope::decode(&record.body).unwrap();
    assert_eq!(envelope.payload.money, saga.request.money.unwrap());
}

#[test]
fn a_refund_names_the_cause() {
    let saga = after(&["order.created", "payment.charged", "inventory.failed"]);
    let Effect::Send(record) = saga.effect() else { panic!("a refund is a command") };
    let envelope: Envelope<RefundPayment> = Envelope::decode(&record.body).unwrap();
    assert_eq!(envelope.payload.reason, "INVENTORY_FAILED");
}

#[test]
fn the_order_is_created_confirmed_and_cancelled_by_calls() {
    assert!(matches!(new_saga().effect(), Effect::Call(OrderCall::Create { .. })));
    let pivot = after(&["order.created", "payment.charged", "inventory.reserved"]);
    assert!(matches!(pivot.effect(), Effect::Call(OrderCall::Confirm { .. })));
    assert!(matches!(after(&["deadline.passed"]).effect(), Effect::Call(OrderCall::Cancel { .. })));
}

#[test]
fn an_ended_saga_asks_only_to_wake_those_who_wait() {
    assert_eq!(after(&["order.created", "payment.failed", "order.cancelled"]).effect(), Effect::Wake);
}

#[test]
fn a_state_is_read_back_from_the_columns_that_it_was_written_to() {
    for state in states() {
        let flow = flows::pay_first();
        let (status, step, cause) = (state.status(), state.step_name(&flow), state.cause(&flow));
        assert_eq!(State::parse(&flow, status, step, cause).unwrap(), state);
    }
    let parse = |status, step, cause| State::parse(&flows::pay_first(), status, step, cause);
    assert!(parse("RUNNING", "PAYMENT_REFUND", None).is_err());
    assert!(parse("COMPENSATING", "PAYMENT_REFUND", None).is_err(), "a cause is missing");
    let error = parse("FAILED", "SOLD_OUT", Some("SOLD_OUT")).unwrap_err().to_string();
    assert_eq!(error, "a stored saga has an unknown cause \"SOLD_OUT\" in pay-first");
}

// ---- every pair --------------------------------------------------------------------------------------------

fn resolved(step: &str) -> Input {
    operator(OperatorAct::Resolve(Settled { step: step.into(), evidence: "bank transfer 4711".into() }))
}

fn attention() -> Option<Attention> {
    Some(Attention { since: at(0), reason: "the card is closed".into() })
}

/// Every state there is, with one cause for all that have one.
fn states() -> Vec<State> {
    let flow = flows::pay_first();
    let cause = flow.cause("INVENTORY_FAILED").unwrap();
    let forward = (0..flow.steps.len()).map(|step| State::Running { step });
    let undone = |step: &usize| flow.steps[*step].undo.is_some();
    let back = (0..flow.steps.len()).filter(undone).map(|step| State::Compensating { step, cause });
    forward.chain(back).chain([State::Completed, State::Failed { cause }]).collect()
}

/// The whole protocol: whatever is not in this table is ignored.
const LEGAL: [(&str, &str, &str); 30] = [
    ("RUNNING/ORDER_CREATE", "order.created", "RUNNING/PAYMENT_CHARGE"),
    ("RUNNING/ORDER_CREATE", "order.create-refused", "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/ORDER_CREATE", "deadline.passed", "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", "payment.charged", "RUNNING/INVENTORY_RESERVE"),
    ("RUNNING/PAYMENT_CHARGE", "payment.failed", "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", "deadline.passed", "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", "inventory.reserved", "RUNNING/ORDER_CONFIRM"),
    ("RUNNING/INVENTORY_RESERVE", "inventory.failed", "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", "deadline.passed", "COMPENSATING/INVENTORY_RELEASE"),
    ("RUNNING/ORDER_CONFIRM", "order.confirmed", "COMPLETED/COMPLETED"),
    ("RUNNING/ORDER_CONFIRM", "order.confirm-refused", "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/INVENTORY_RELEASE", "inventory.released", "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/PAYMENT_REFUND", "payment.refunded", "COMPENSATING/ORDER_CANCEL"),
    ("COMPENSATING/ORDER_CANCEL", "order.cancelled", "FAILED/INVENTORY_FAILED"),
    // An operator's hand.
    ("RUNNING/ORDER_CREATE", "operator.cancelled", "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", "operator.cancelled", "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", "operator.cancelled", "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/INVENTORY_RELEASE", "operator.cancelled", "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/PAYMENT_REFUND", "operator.cancelled", "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/ORDER_CANCEL", "operator.cancelled", "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/ORDER_CREATE", "operator.retried", "RUNNING/ORDER_CREATE"),
    ("RUNNING/PAYMENT_CHARGE", "operator.retried", "RUNNING/PAYMENT_CHARGE"),
    ("RUNNING/INVENTORY_RESERVE", "operator.retried", "RUNNING/INVENTORY_RESERVE"),
    ("RUNNING/ORDER_CONFIRM", "operator.retried", "RUNNING/ORDER_CONFIRM"),
    ("COMPENSATING/INVENTORY_RELEASE", "operator.retried", "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/PAYMENT_REFUND", "operator.retried", "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/ORDER_CANCEL", "operator.retried", "COMPENSATING/ORDER_CANCEL"),
    // Where it needs attention.
    ("COMPENSATING/INVENTORY_RELEASE", "operator.resolved", "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/PAYMENT_REFUND", "operator.resolved", "COMPENSATING/ORDER_CANCEL"),
    ("COMPENSATING/ORDER_CANCEL", "operator.resolved", "FAILED/INVENTORY_FAILED"),
];

#[test]
fn every_pair_of_state_and_input_is_legal_by_the_table_or_ignored() {
    let mut seen = 0;
    for state in states() {
        for name in INPUTS {
            // Any deadline has passed: whether it counts is then the state's own matter.
            let deadline = matches!(state, State::Running { step } if flows::pay_first().steps[step].within.is_some());
            let saga = Saga { state, deadline: deadline.then_some(at(0)), attention: attention(), ..new_saga() };
            let from = saga.to_string();
            let input = if name == "operator.resolved" { resolved(saga.step_name()) } else { named(name) };
            let legal = LEGAL.iter().find(|(f, n, _)| *f == from && *n == name);
            match (advance(&saga, &input, at(0) + Duration::from_secs(1)), legal) {
                (Ok(transition), Some((_, _, to))) => assert_eq!(transition.saga.to_string(), *to, "{from} + {name}"),
                (Err(NoMove::Ignored(ignored)), None) => assert_eq!(ignored.state, from),
                (Err(error @ NoMove::Contradiction(_)), _) => panic!("{from} + {name}: {error}"),
                (Ok(transition), None) => {
                    panic!("{from} + {name} is not in the table, but led to {}", transition.saga)
                }
                (Err(ignored), Some(row)) => panic!("{row:?} is in the table, but: {ignored}"),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 9 * 15);
}
