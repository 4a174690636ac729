//! The protocol, as tests. The first part reads as the ways through a checkout; the second holds every pair of
//! state and input against one table.

use std::time::Duration;

use chrono::{DateTime, Utc};
use messages::{ChargePayment, Currency, Envelope, EventId, Message as _, Money, OrderId, RefundPayment, SagaId};

use super::definition::PAY_FIRST;
use super::{
    About, Attention, Cause, Checkout, Effect, Input, InputKind, NoMove, Operator, OrderCall, Saga, Settled, State,
    advance, start,
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

/// A participant's reply that is about this, to a saga whose charge is pending, and to the same saga at its end.
fn answered(saga: &Saga, about: About) -> Result<String, String> {
    let input = Input { about: Some(about), ..PaymentCharged.into() };
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
fn as_asked(saga: &Saga) -> About {
    let Effect::Send(record) = saga.effect() else { panic!("a charge is a command") };
    let command: Envelope<ChargePayment> = Envelope::decode(&record.body).unwrap();
    About { order_id: saga.order_id, money: Some(saga.checkout.money), command: Some(command.event_id) }
}

#[test]
fn a_reply_that_tells_of_another_amount_or_order_is_not_what_was_asked_for() {
    let saga = after(&[OrderCreated]);
    let money = |text: &str, currency: &str| Some(Money::parse(text, currency.parse().unwrap()).unwrap());
    let asked = as_asked(&saga);
    let moved = Ok("RUNNING/INVENTORY_RESERVE".to_owned());
    assert_eq!(answered(&saga, asked.clone()), moved);
    assert_eq!(answered(&saga, About { money: None, ..asked.clone() }), moved, "a reservation tells of no money");
    assert_eq!(answered(&saga, About { money: money("500.00", "USD"), ..asked.clone() }), moved, "written otherwise");
    let other = answered(&saga, About { money: money("5", "USD"), ..asked.clone() }).unwrap_err();
    assert_eq!(other, "it contradicts its saga: it is about 5 USD, its saga about 500 USD");
    assert!(answered(&saga, About { money: money("500", "EUR"), ..asked.clone() }).unwrap_err().contains("500 EUR"));
    let order_id = OrderId::new();
    let other = answered(&saga, About { order_id, ..asked }).unwrap_err();
    assert!(other.contains(&format!("about order {order_id}, its saga about order {}", saga.order_id)), "{other}");
}

#[test]
fn a_reply_to_a_command_that_its_saga_did_not_send_is_not_what_was_asked_for() {
    let saga = after(&[OrderCreated]);
    let asked = as_asked(&saga);
    let (own, foreign) = (asked.command.unwrap(), EventId::derived(SagaId::new(), ChargePayment::TOPIC.name()));
    let other = answered(&saga, About { command: Some(foreign), ..asked.clone() }).unwrap_err();
    assert!(other.contains(&format!("it answers command {foreign}, its saga sends {own}")), "{other}");
    let refund = Some(EventId::derived(saga.saga_id, RefundPayment::TOPIC.name()));
    assert!(answered(&saga, About { command: refund, ..asked.clone() }).is_err(), "of another step");
    let unnamed = answered(&saga, About { command: None, ..asked.clone() }).unwrap_err();
    assert!(unnamed.contains("no causationId"), "{unnamed}");

    // A command that is sent again has the same id, after a retry too, so its reply counts.
    let retried = advance(&saga, &Retried.into(), at(2)).unwrap().saga;
    assert_eq!(as_asked(&retried), asked);
    assert!(answered(&retried, asked).is_ok());
}

#[test]
fn every_reply_of_a_participant_answers_a_command_of_the_flow_and_no_other_input_does() {
    let saga = new_saga();
    let commanded = InputKind::ALL.map(|kind| saga.command_answered_by(kind).map(|id| (kind, id)));
    let commanded: Vec<_> = commanded.into_iter().flatten().collect();
    let kinds: Vec<_> = commanded.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(
        kinds,
        [PaymentCharged, PaymentFailed, PaymentRefunded, InventoryReserved, InventoryFailed, InventoryReleased]
    );
    assert_eq!(commanded[0].1, commanded[1].1, "charged and failed answer one command");
    assert_ne!(commanded[0].1, commanded[2].1);
}

#[test]
fn the_flow_is_what_it_was() {
    // What is stored of it. A change needs a new version, beside this one.
    assert_eq!(
        PAY_FIRST.describe(),
        "ORDER_CREATE: create-order, 60 s; done by order.created; refused by order.create-refused as ORDER_REFUSED, undoing this step; undone by ORDER_CANCEL: cancel-order, done by order.cancelled
PAYMENT_CHARGE: charge-payment, 60 s; done by payment.charged; refused by payment.failed as PAYMENT_FAILED; undone by PAYMENT_REFUND: refund-payment, done by payment.refunded
INVENTORY_RESERVE: reserve-inventory, 60 s; done by inventory.reserved; refused by inventory.failed as INVENTORY_FAILED; undone by INVENTORY_RELEASE: release-inventory, done by inventory.released
ORDER_CONFIRM: confirm-order, no limit; done by order.confirmed; refused by order.confirm-refused as ORDER_REFUSED; never undone"
    );
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
                (Err(NoMove::Ignored(ignored)), None) => assert_eq!(ignored.state, from),
                (Err(error @ NoMove::Contradiction(_)), _) => panic!("{from} + {kind:?}: {error}"),
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
