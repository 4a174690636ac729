//! The protocol, as tests. The first part reads as the ways through a checkout; the second holds every pair of
//! state and input against one table.

use std::time::Duration;

use chrono::{DateTime, Utc};
use messages::{ChargePayment, Currency, Envelope, Message as _, Money, OrderId, RefundPayment, SagaId};

use super::definition::PAY_FIRST;
use super::{
    About, Attention, Cause, Checkout, Effect, Input, InputKind, Operator, OrderCall, Saga, Settled, State, advance,
    start,
};
use InputKind::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn new_saga() -> Saga {
    let checkout = Checkout {
        user_id: "u1".to_owned().try_into().unwrap(),
        money: Money::parse("500", Currency::USD).unwrap(),
        force_payment_fail: false,
        force_inventory_fail: false,
    };
    start(&PAY_FIRST, SagaId::new(), OrderId::new(), checkout, at(90), Some("trace".into()), at(0)).saga
}

fn after(inputs: &[InputKind]) -> Saga {
    inputs.iter().fold(new_saga(), |saga, kind| {
        // A deadline passes when it has passed.
        let now = saga.deadline.unwrap_or(at(1));
        advance(&saga, &(*kind).into(), now).unwrap().saga
    })
}

/// "STATUS/STEP" after each input in turn.
fn path(inputs: &[InputKind]) -> Vec<String> {
    (0..=inputs.len()).map(|n| after(&inputs[..n]).to_string()).collect()
}

#[test]
fn a_checkout_that_succeeds() {
    assert_eq!(
        path(&[OrderCreated, PaymentCharged, InventoryReserved, OrderConfirmed]),
        [
            "RUNNING/ORDER_CREATE",
            "RUNNING/PAYMENT_CHARGE",
            "RUNNING/INVENTORY_RESERVE",
            "RUNNING/ORDER_CONFIRM",
            "COMPLETED/COMPLETED"
        ]
    );
}

#[test]
fn a_reply_that_tells_of_another_amount_or_order_is_not_what_was_asked_for() {
    let saga = new_saga();
    let about = |money: Option<&str>| About {
        order_id: saga.order_id,
        money: money.map(|amount| Money::parse(amount, Currency::USD).unwrap()),
    };
    assert_eq!(about(None).agrees_with(&saga), Ok(()));
    assert_eq!(about(Some("500.00")).agrees_with(&saga), Ok(()), "the same, written otherwise");
    let other = about(Some("5")).agrees_with(&saga).unwrap_err();
    assert_eq!(other, "it is about 5 USD, its saga about 500 USD");
    let euros = About { money: Some(Money::parse("500", "EUR".parse().unwrap()).unwrap()), ..about(None) };
    assert!(euros.agrees_with(&saga).unwrap_err().contains("500 EUR"));
    let order_id = OrderId::new();
    let other = About { order_id, ..about(None) }.agrees_with(&saga).unwrap_err();
    assert_eq!(other, format!("it is about order {order_id}, its saga about order {}", saga.order_id));
}

#[test]
fn a_declined_payment_cancels_the_order() {
    assert_eq!(
        path(&[OrderCreated, PaymentFailed, OrderCancelled])[2..],
        ["COMPENSATING/ORDER_CANCEL", "FAILED/PAYMENT_FAILED"]
    );
}

#[test]
fn a_failed_reservation_refunds_then_cancels() {
    assert_eq!(
        path(&[OrderCreated, PaymentCharged, InventoryFailed, PaymentRefunded, OrderCancelled])[3..],
        ["COMPENSATING/PAYMENT_REFUND", "COMPENSATING/ORDER_CANCEL", "FAILED/INVENTORY_FAILED"]
    );
}

#[test]
fn a_refused_confirmation_releases_refunds_and_cancels() {
    let inputs = [
        OrderCreated,
        PaymentCharged,
        InventoryReserved,
        OrderConfirmRefused,
        InventoryReleased,
        PaymentRefunded,
        OrderCancelled,
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
    assert_eq!(path(&[OrderCreateRefused, OrderCancelled])[1..], ["COMPENSATING/ORDER_CANCEL", "FAILED/ORDER_REFUSED"]);
}

#[test]
fn a_step_that_timed_out_may_have_happened_so_it_is_undone_too() {
    assert_eq!(after(&[DeadlinePassed]).to_string(), "COMPENSATING/ORDER_CANCEL");
    assert_eq!(after(&[OrderCreated, DeadlinePassed]).to_string(), "COMPENSATING/PAYMENT_REFUND");
    assert_eq!(after(&[OrderCreated, PaymentCharged, DeadlinePassed]).to_string(), "COMPENSATING/INVENTORY_RELEASE");
}

#[test]
fn a_deadline_counts_only_once_it_has_passed() {
    let saga = new_saga();
    assert!(advance(&saga, &DeadlinePassed.into(), at(59)).is_err());
    assert!(advance(&saga, &DeadlinePassed.into(), at(60)).is_ok());
}

#[test]
fn a_step_has_60_seconds_and_the_saga_90() {
    let first = new_saga();
    assert_eq!(first.deadline, Some(at(60)));
    let second = advance(&first, &OrderCreated.into(), at(50)).unwrap().saga;
    assert_eq!(second.deadline, Some(at(90)), "not 110: the saga's own limit comes first");
}

#[test]
fn nothing_times_out_from_the_pivot_on() {
    let pivot = after(&[OrderCreated, PaymentCharged, InventoryReserved]);
    assert_eq!(pivot.deadline, None);
    assert!(advance(&pivot, &DeadlinePassed.into(), at(1_000_000)).is_err());
}

#[test]
fn the_first_cause_and_its_reason_stay() {
    let charging = after(&[OrderCreated]);
    let declined = Input { reason: Some("no funds".into()), ..PaymentFailed.into() };
    let turned = advance(&charging, &declined, at(1)).unwrap().saga;
    let ended = advance(&turned, &OrderCancelled.into(), at(2)).unwrap().saga;
    assert_eq!(ended.state, State::Failed { cause: Cause::PaymentFailed });
    assert_eq!(ended.reason.as_deref(), Some("no funds"));
}

#[test]
fn a_cancelled_saga_undoes_the_pending_step_too() {
    assert_eq!(path(&[Cancelled])[1..], ["COMPENSATING/ORDER_CANCEL"]);
    assert_eq!(
        path(&[OrderCreated, Cancelled, PaymentRefunded, OrderCancelled])[2..],
        ["COMPENSATING/PAYMENT_REFUND", "COMPENSATING/ORDER_CANCEL", "FAILED/CANCELLED"]
    );
    assert_eq!(after(&[OrderCreated, PaymentCharged, Cancelled]).to_string(), "COMPENSATING/INVENTORY_RELEASE");
}

#[test]
fn nothing_is_cancelled_from_the_pivot_on() {
    let pivot = after(&[OrderCreated, PaymentCharged, InventoryReserved]);
    assert!(advance(&pivot, &Cancelled.into(), at(1)).is_err());
}

#[test]
fn a_cancel_of_what_goes_back_is_noted_and_the_first_cause_and_reason_stay() {
    let timed_out = after(&[OrderCreated, DeadlinePassed]);
    let cancel = Input { reason: Some("the customer called".into()), ..Cancelled.into() };
    let transition = advance(&timed_out, &cancel, at(99)).unwrap();
    assert_eq!(transition.entry.reason.as_deref(), Some("the customer called"));
    assert_eq!(transition.saga, Saga { version: 4, ..timed_out });
}

#[test]
fn a_retry_changes_nothing_but_the_history_so_the_message_is_the_same() {
    let charging = after(&[OrderCreated]);
    let by = Operator { by: "ann".into(), settled: None };
    let retry = Input { reason: Some("the service is back".into()), operator: Some(by.clone()), ..Retried.into() };
    let transition = advance(&charging, &retry, at(99)).unwrap();
    assert_eq!(transition.saga.effect(), charging.effect());
    assert_eq!(transition.saga.reason, None, "it is not why the saga turned back");
    assert_eq!((transition.entry.seq, transition.entry.operator), (3, Some(by)));
    assert_eq!(transition.entry.at, at(99));
}

#[test]
fn only_what_needs_attention_is_resolved_by_hand_and_the_rest_is_still_undone() {
    let refunding = after(&[OrderCreated, PaymentCharged, InventoryFailed]);
    assert!(advance(&refunding, &resolved("PAYMENT_REFUND"), at(1)).is_err());
    let stuck = Saga { attention: attention(), ..refunding };
    assert!(advance(&stuck, &resolved("INVENTORY_RELEASE"), at(1)).is_err(), "that is not what is pending");
    let settled = advance(&stuck, &resolved("PAYMENT_REFUND"), at(1)).unwrap().saga;
    assert_eq!((settled.to_string(), &settled.attention), ("COMPENSATING/ORDER_CANCEL".to_owned(), &None));
    let ended = advance(&settled, &OrderCancelled.into(), at(2)).unwrap().saga;
    assert_eq!((ended.to_string(), ended.resolved_by_hand), ("FAILED/INVENTORY_FAILED".to_owned(), true));
}

#[test]
fn the_history_has_one_entry_for_each_version_and_the_last_is_the_state() {
    let saga = after(&[OrderCreated]);
    let transition = advance(&saga, &PaymentCharged.into(), at(3)).unwrap();
    let (entry, next) = (transition.entry, transition.saga);
    assert_eq!((entry.seq, next.version), (3, 3));
    assert_eq!((entry.status, entry.step), (next.state.status(), next.step_name()));
    assert_eq!(entry.input, "payment.charged");
}

#[test]
fn an_ignored_pair_is_named() {
    let ignored = advance(&new_saga(), &PaymentCharged.into(), at(1)).unwrap_err();
    assert_eq!(ignored.to_string(), "payment.charged does not count in RUNNING/ORDER_CREATE");
}

#[test]
fn a_state_asks_for_the_same_record_each_time() {
    let saga = after(&[OrderCreated]);
    let Effect::Send(record) = saga.effect() else { panic!("a charge is a command") };
    assert_eq!(Effect::Send(record.clone()), saga.effect());
    assert_eq!(record.topic, ChargePayment::TOPIC.name());
    assert_eq!(record.key, saga.saga_id.to_string());
    let envelope: Envelope<ChargePayment> = Envelope::decode(&record.body).unwrap();
    assert_eq!(envelope.payload.money, saga.checkout.money);
}

#[test]
fn a_refund_names_the_cause() {
    let saga = after(&[OrderCreated, PaymentCharged, InventoryFailed]);
    let Effect::Send(record) = saga.effect() else { panic!("a refund is a command") };
    let envelope: Envelope<RefundPayment> = Envelope::decode(&record.body).unwrap();
    assert_eq!(envelope.payload.reason, "INVENTORY_FAILED");
}

#[test]
fn the_order_is_created_confirmed_and_cancelled_by_calls() {
    assert!(matches!(new_saga().effect(), Effect::Call(OrderCall::Create { .. })));
    let pivot = after(&[OrderCreated, PaymentCharged, InventoryReserved]);
    assert!(matches!(pivot.effect(), Effect::Call(OrderCall::Confirm { .. })));
    assert!(matches!(after(&[DeadlinePassed]).effect(), Effect::Call(OrderCall::Cancel { .. })));
}

#[test]
fn an_ended_saga_asks_only_to_wake_those_who_wait() {
    assert_eq!(after(&[OrderCreated, PaymentFailed, OrderCancelled]).effect(), Effect::Wake);
}

#[test]
fn a_state_is_read_back_from_the_columns_that_it_was_written_to() {
    for state in states() {
        let (status, step) = (state.status(), state.step_name(&PAY_FIRST));
        let cause = state.cause().map(Cause::as_str);
        assert_eq!(State::parse(&PAY_FIRST, status, step, cause).unwrap(), state);
    }
    assert!(State::parse(&PAY_FIRST, "RUNNING", "PAYMENT_REFUND", None).is_err());
    assert!(State::parse(&PAY_FIRST, "COMPENSATING", "PAYMENT_REFUND", None).is_err(), "a cause is missing");
}

// ---- every pair --------------------------------------------------------------------------------------------

fn resolved(step: &str) -> Input {
    let settled = Some(Settled { step: step.into(), evidence: "bank transfer 4711".into() });
    Input { operator: Some(Operator { by: "ann".into(), settled }), ..Resolved.into() }
}

fn attention() -> Option<Attention> {
    Some(Attention { since: at(0), reason: "the card is closed".into() })
}

/// Every state there is, with one cause for all that have one.
fn states() -> Vec<State> {
    let cause = Cause::InventoryFailed;
    let forward = (0..PAY_FIRST.steps.len()).map(|step| State::Running { step });
    let undone = |step: &usize| PAY_FIRST.steps[*step].compensation.is_some();
    let back = (0..PAY_FIRST.steps.len()).filter(undone).map(|step| State::Compensating { step, cause });
    forward.chain(back).chain([State::Completed, State::Failed { cause }]).collect()
}

/// The whole protocol: whatever is not in this table is ignored.
const LEGAL: [(&str, InputKind, &str); 30] = [
    ("RUNNING/ORDER_CREATE", OrderCreated, "RUNNING/PAYMENT_CHARGE"),
    ("RUNNING/ORDER_CREATE", OrderCreateRefused, "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/ORDER_CREATE", DeadlinePassed, "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", PaymentCharged, "RUNNING/INVENTORY_RESERVE"),
    ("RUNNING/PAYMENT_CHARGE", PaymentFailed, "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", DeadlinePassed, "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", InventoryReserved, "RUNNING/ORDER_CONFIRM"),
    ("RUNNING/INVENTORY_RESERVE", InventoryFailed, "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", DeadlinePassed, "COMPENSATING/INVENTORY_RELEASE"),
    ("RUNNING/ORDER_CONFIRM", OrderConfirmed, "COMPLETED/COMPLETED"),
    ("RUNNING/ORDER_CONFIRM", OrderConfirmRefused, "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/INVENTORY_RELEASE", InventoryReleased, "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/PAYMENT_REFUND", PaymentRefunded, "COMPENSATING/ORDER_CANCEL"),
    ("COMPENSATING/ORDER_CANCEL", OrderCancelled, "FAILED/INVENTORY_FAILED"),
    // An operator's hand.
    ("RUNNING/ORDER_CREATE", Cancelled, "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/PAYMENT_CHARGE", Cancelled, "COMPENSATING/PAYMENT_REFUND"),
    ("RUNNING/INVENTORY_RESERVE", Cancelled, "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/INVENTORY_RELEASE", Cancelled, "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/PAYMENT_REFUND", Cancelled, "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/ORDER_CANCEL", Cancelled, "COMPENSATING/ORDER_CANCEL"),
    ("RUNNING/ORDER_CREATE", Retried, "RUNNING/ORDER_CREATE"),
    ("RUNNING/PAYMENT_CHARGE", Retried, "RUNNING/PAYMENT_CHARGE"),
    ("RUNNING/INVENTORY_RESERVE", Retried, "RUNNING/INVENTORY_RESERVE"),
    ("RUNNING/ORDER_CONFIRM", Retried, "RUNNING/ORDER_CONFIRM"),
    ("COMPENSATING/INVENTORY_RELEASE", Retried, "COMPENSATING/INVENTORY_RELEASE"),
    ("COMPENSATING/PAYMENT_REFUND", Retried, "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/ORDER_CANCEL", Retried, "COMPENSATING/ORDER_CANCEL"),
    // Where it needs attention.
    ("COMPENSATING/INVENTORY_RELEASE", Resolved, "COMPENSATING/PAYMENT_REFUND"),
    ("COMPENSATING/PAYMENT_REFUND", Resolved, "COMPENSATING/ORDER_CANCEL"),
    ("COMPENSATING/ORDER_CANCEL", Resolved, "FAILED/INVENTORY_FAILED"),
];

#[test]
fn every_pair_of_state_and_input_is_legal_by_the_table_or_ignored() {
    let mut seen = 0;
    for state in states() {
        for kind in InputKind::ALL {
            // Any deadline has passed: whether it counts is then the state's own matter.
            let deadline = matches!(state, State::Running { step } if PAY_FIRST.steps[step].deadline.is_some());
            let saga = Saga { state, deadline: deadline.then_some(at(0)), attention: attention(), ..new_saga() };
            let from = saga.to_string();
            let input = if kind == Resolved { resolved(saga.step_name()) } else { kind.into() };
            let legal = LEGAL.iter().find(|(f, k, _)| *f == from && *k == kind);
            match (advance(&saga, &input, at(0) + Duration::from_secs(1)), legal) {
                (Ok(transition), Some((_, _, to))) => assert_eq!(transition.saga.to_string(), *to, "{from} + {kind:?}"),
                (Err(ignored), None) => assert_eq!(ignored.state, from),
                (Ok(transition), None) => {
                    panic!("{from} + {kind:?} is not in the table, but led to {}", transition.saga)
                }
                (Err(ignored), Some(row)) => panic!("{row:?} is in the table, but: {ignored}"),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 9 * 15);
}
