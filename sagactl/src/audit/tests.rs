//! Every invariant has faults here that it finds, and others leave alone. (One order per key is a matter of several
//! sagas: its fault is planted end to end.)

mod goods;
mod placed;

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Invariant::{self, *};
use super::*;

fn usd(value: &str) -> Amount {
    Amount { value: value.parse().unwrap(), currency: "USD".to_owned() }
}

/// What a checkout leaves whose saga ended as `status`, at `step`, after `version` moves.
fn ended(status: &str, step: &str, version: i64, order: &str) -> Case {
    let (saga_id, order_id) = (Uuid::now_v7(), Uuid::now_v7());
    let (status, step) = (status.to_owned(), step.to_owned());
    let saga = Saga {
        saga_id,
        order_id,
        flow: "pay-first".to_owned(),
        status: status.clone(),
        step: step.clone(),
        version,
        amount: usd("5"),
        moved_lately: false,
        waits: false,
        attention: None,
        resolved_by_hand: false,
        history: History {
            entries: version,
            first: Some(1),
            last: Some(version),
            status: Some(status),
            step: Some(step),
            resolved: Vec::new(),
        },
    };
    let order = Order { saga_id: Some(saga_id), status: order.to_owned(), amount: Some(usd("5")), ..Order::default() };
    Case { order: Some(order), ..Case::of(saga) }
}

fn completed() -> Case {
    let mut case = ended("COMPLETED", "COMPLETED", 5, "CONFIRMED");
    paid(&mut case, "CHARGED");
    decided(&mut case, "CHARGE", "APPROVED");
    reserved(&mut case, "RESERVED");
    case
}

fn refunded() -> Case {
    let mut case = ended("FAILED", "INVENTORY_FAILED", 6, "CANCELLED");
    paid(&mut case, "REFUNDED");
    decided(&mut case, "CHARGE", "APPROVED");
    decided(&mut case, "REFUND", "APPROVED");
    reserved(&mut case, "FAILED");
    case
}

fn declined() -> Case {
    let mut case = ended("FAILED", "PAYMENT_FAILED", 4, "CANCELLED");
    paid(&mut case, "FAILED");
    decided(&mut case, "CHARGE", "DECLINED");
    case
}

fn refused() -> Case {
    ended("FAILED", "ORDER_REFUSED", 3, "CANCELLED")
}

/// It timed out before anybody answered, and the compensations came first.
fn voided() -> Case {
    let mut case = ended("FAILED", "TIMED_OUT", 6, "CANCELLED");
    paid(&mut case, "VOIDED");
    reserved(&mut case, "VOIDED");
    case
}

fn saga(case: &mut Case) -> &mut Saga {
    case.saga.as_mut().unwrap()
}

fn paid(case: &mut Case, status: &str) {
    let saga_id = saga(case).saga_id;
    case.payment = Some(Payment { saga_id, status: status.to_owned(), amount: usd("5") });
}

fn reserved(case: &mut Case, status: &str) {
    let saga_id = saga(case).saga_id;
    case.reservation = Some(Reservation { saga_id, status: status.to_owned(), handed_over: BTreeMap::new() });
}

fn decided(case: &mut Case, kind: &str, outcome: &str) {
    let (kind, outcome) = (kind.to_owned(), outcome.to_owned());
    let key = format!("{}:{}", case.order_id, kind.to_lowercase());
    if outcome == "APPROVED" {
        case.ledger.push(Movement { key: key.clone(), kind: kind.clone(), amount: usd("5") });
    }
    case.decisions.push(Decision { key, kind, outcome, amount: usd("5") });
}

fn charged_again(case: &mut Case) {
    let key = format!("{}:again", case.ledger[0].key);
    case.ledger.push(Movement { key: key.clone(), ..case.ledger[0].clone() });
    case.decisions.push(Decision { key, ..case.decisions[0].clone() });
}

/// A saga that does not move, in the middle of it all.
fn standing(status: &str, step: &str) -> Case {
    let mut case = completed();
    case.order.as_mut().unwrap().status = "PENDING".to_owned();
    moved_to(&mut case, status, step);
    case
}

fn moved_to(case: &mut Case, status: &str, step: &str) {
    let saga = saga(case);
    (saga.status, saga.step) = (status.to_owned(), step.to_owned());
    (saga.history.status, saga.history.step) = (Some(status.to_owned()), Some(step.to_owned()));
}

fn found(case: &Case) -> Vec<Invariant> {
    let mut found: Vec<Invariant> = violations(case).into_iter().map(|violation| violation.invariant).collect();
    found.dedup();
    found
}

/// Checks that a fault is found as just these, that the words say what is wrong, and how much money is at risk.
fn is_found(mut case: Case, plant: impl Fn(&mut Case), expected: &[Invariant], words: &str, at_risk: &str) {
    assert_eq!(violations(&case), [], "before the fault {words:?}");
    plant(&mut case);
    let violations = violations(&case);
    assert_eq!(found(&case), expected, "{violations:?}");
    let most = violations.iter().fold(Sums::default(), |most, violation| most.most(&violation.at_risk));
    assert_eq!(most.to_string(), at_risk, "{violations:?}");
    let told = violations.iter().any(|violation| violation.what.contains(words));
    assert!(told || expected.is_empty(), "no {words:?} in {violations:?}");
}

#[test]
fn whatever_a_checkout_may_rightly_leave_behind_violates_nothing() {
    for case in [completed(), refunded(), declined(), refused(), voided()] {
        assert_eq!(violations(&case), [], "{case:?}");
    }
}

/// What a saga of a user's flow leaves here: its participants keep their own tables.
fn trip(status: &str, step: &str) -> Case {
    let mut case = ended(status, step, 4, "");
    case.order = None;
    saga(&mut case).flow = "trip".to_owned();
    case
}

#[test]
fn a_saga_of_a_users_flow_has_no_order() {
    for case in [trip("COMPLETED", "COMPLETED"), trip("FAILED", "NO_SEAT")] {
        assert_eq!(violations(&case), [], "{case:?}");
    }
    let stands = |case: &mut Case| moved_to(case, "RUNNING", "HOTEL_BOOK");
    is_found(trip("COMPLETED", "COMPLETED"), stands, &[EverySagaEnds], "stands at RUNNING/HOTEL_BOOK", "no money");
    // It may ask the platform's own participants as well.
    let charged = |case: &mut Case| {
        paid(case, "CHARGED");
        decided(case, "CHARGE", "APPROVED");
    };
    is_found(trip("FAILED", "NO_SEAT"), charged, &[EndsAgree], "its payment is CHARGED", "5 USD");
    let goods = |case: &mut Case| reserved(case, "RESERVED");
    is_found(trip("FAILED", "NO_SEAT"), goods, &[EndsAgree], "its reservation is RESERVED", "no money");
}

#[test]
fn a_saga_that_stands_still_is_found_with_the_money_that_it_holds() {
    let stands = |case: &mut Case| {
        case.order.as_mut().unwrap().status = "PENDING".to_owned();
        moved_to(case, "RUNNING", "ORDER_CONFIRM");
    };
    is_found(completed(), stands, &[EverySagaEnds], "stands at RUNNING/ORDER_CONFIRM", "5 USD");
    let waits_past_its_limit = |case: &mut Case| moved_to(case, "WAITING", "HANDED_OVER");
    is_found(completed(), waits_past_its_limit, &[EverySagaEnds], "stands at WAITING/HANDED_OVER", "5 USD");
}

#[test]
fn a_saga_that_has_moved_lately_or_waits_need_not_have_ended() {
    for (status, step) in [("RUNNING", "ORDER_CONFIRM"), ("COMPENSATING", "PAYMENT_REFUND")] {
        let mut case = standing(status, step);
        saga(&mut case).moved_lately = true;
        assert_eq!(violations(&case), []);
        let mut case = standing(status, step);
        saga(&mut case).attention = Some("the gateway declines".to_owned());
        assert_eq!(violations(&case), []);
    }
    let mut case = standing("WAITING", "HANDED_OVER");
    saga(&mut case).waits = true;
    assert_eq!(violations(&case), []);
}

/// An operator has settled this compensation.
fn resolved(case: &mut Case, compensation: &str) {
    let saga = saga(case);
    saga.resolved_by_hand = true;
    saga.history.resolved.push(compensation.to_owned());
}

/// A saga that ended after its refund, which the gateway had refused for good, was settled by hand.
fn paid_by_bank() -> Case {
    let mut case = refunded();
    paid(&mut case, "REFUNDING");
    case.ledger.pop();
    case.decisions[1].outcome = "DECLINED".to_owned();
    resolved(&mut case, "PAYMENT_REFUND");
    case
}

/// A saga that ended after its release was settled by hand. What came before it was undone.
fn goods_fetched_back() -> Case {
    let mut case = refunded();
    reserved(&mut case, "RESERVED");
    resolved(&mut case, "INVENTORY_RELEASE");
    case
}

/// A saga that ended after the cancellation of its order was settled by hand.
fn order_left_alone() -> Case {
    let mut case = refunded();
    case.order.as_mut().unwrap().status = "PENDING".to_owned();
    resolved(&mut case, "ORDER_CANCEL");
    case
}

fn listed_as_resolved(case: &Case) -> (u64, String) {
    let mut report = Report::default();
    report.count(case, case.saga.as_ref().unwrap());
    (report.resolved_by_hand.count, report.resolved_by_hand.at_risk.to_string())
}

#[test]
fn what_a_compensation_would_have_undone_that_was_resolved_by_hand_is_no_violation() {
    for (mut case, held) in
        [(paid_by_bank(), "5 USD"), (goods_fetched_back(), "no money"), (order_left_alone(), "no money")]
    {
        assert_eq!(violations(&case), []);
        // Listed with what is still held, not with what it was about.
        assert_eq!(listed_as_resolved(&case), (1, held.to_owned()));
        // It is the history that tells what was resolved.
        saga(&mut case).history.resolved.clear();
        assert_eq!(found(&case), [EndsAgree], "{case:?}");
    }
    // Whatever became of the payment: the gateway may never have been asked, or have paid back in the end.
    let mut charged = paid_by_bank();
    paid(&mut charged, "CHARGED");
    charged.decisions.pop();
    let mut charging = charged.clone();
    paid(&mut charging, "CHARGING");
    let mut refunded = refunded();
    resolved(&mut refunded, "PAYMENT_REFUND");
    for (case, held) in [(charged, "5 USD"), (charging, "5 USD"), (refunded, "no money")] {
        assert_eq!(violations(&case), []);
        assert_eq!(listed_as_resolved(&case), (1, held.to_owned()));
    }
    // Several at once.
    let mut both = paid_by_bank();
    reserved(&mut both, "RESERVED");
    resolved(&mut both, "INVENTORY_RELEASE");
    assert_eq!(violations(&both), []);
}

#[test]
fn what_else_is_held_by_a_saga_that_was_resolved_by_hand_is_found() {
    let order = |status: &'static str| move |case: &mut Case| case.order.as_mut().unwrap().status = status.to_owned();
    let goods = |case: &mut Case| reserved(case, "RESERVED");
    let charged = |case: &mut Case| {
        paid(case, "CHARGED");
        case.ledger.pop();
        case.decisions.pop();
    };
    // Money that was paid back otherwise cancels no order and releases no goods.
    is_found(paid_by_bank(), order("PENDING"), &[EndsAgree], "its order is PENDING", "no money");
    is_found(paid_by_bank(), order("CONFIRMED"), &[EndsAgree], "its order is CONFIRMED", "no money");
    is_found(paid_by_bank(), goods, &[EndsAgree], "its reservation is RESERVED", "no money");
    is_found(goods_fetched_back(), charged, &[EndsAgree], "its payment is CHARGED", "5 USD");
    is_found(goods_fetched_back(), order("PENDING"), &[EndsAgree], "its order is PENDING", "no money");
    is_found(order_left_alone(), charged, &[EndsAgree], "its payment is CHARGED", "5 USD");
    is_found(order_left_alone(), goods, &[EndsAgree], "its reservation is RESERVED", "no money");
    // What a compensation is never faced with is not excused by its name.
    is_found(order_left_alone(), order("CONFIRMED"), &[EndsAgree], "its order is CONFIRMED", "no money");
    let lost = |case: &mut Case| reserved(case, "LOST");
    is_found(goods_fetched_back(), lost, &[EndsAgree], "its reservation is LOST", "no money");
    // The one amount may be held, and no other.
    let twice = [MoneyMovesOnce, GatewayAgrees, EndsAgree];
    is_found(paid_by_bank(), charged_again, &twice, "the gateway holds 10 USD", "10 USD");
    // A saga that goes on afterwards has to end; and COMPLETED means what it always does.
    let cancelling = |case: &mut Case| moved_to(case, "COMPENSATING", "ORDER_CANCEL");
    is_found(paid_by_bank(), cancelling, &[EverySagaEnds], "stands at COMPENSATING/ORDER_CANCEL", "5 USD");
    let completed = |case: &mut Case| moved_to(case, "COMPLETED", "COMPLETED");
    is_found(paid_by_bank(), completed, &[EndsAgree], "its payment is REFUNDING", "5 USD");
}

#[test]
fn money_that_moved_twice_or_back_without_a_charge_is_found_however_lately_it_was() {
    let lately = |mut case: Case| {
        saga(&mut case).moved_lately = true;
        case
    };
    is_found(lately(completed()), charged_again, &[MoneyMovesOnce], "2 charges and 0 refunds", "5 USD");
    let refunded_again = |case: &mut Case| {
        let again = Movement { key: "again".to_owned(), ..case.ledger[1].clone() };
        case.ledger.push(again);
    };
    is_found(lately(refunded()), refunded_again, &[MoneyMovesOnce], "1 charges and 2 refunds", "5 USD");
    let refund_only = |case: &mut Case| drop(case.ledger.remove(0));
    is_found(lately(refunded()), refund_only, &[MoneyMovesOnce], "refunded 5 USD, but charged no money", "5 USD");
    let too_much = |case: &mut Case| {
        case.ledger[1].amount = usd("7");
        case.decisions[1].amount = usd("7");
    };
    is_found(lately(refunded()), too_much, &[MoneyMovesOnce, AmountsAgree], "refunded 7 USD", "2 USD");
}

#[test]
fn a_row_of_no_saga_or_of_another_one_is_found() {
    let another = Uuid::now_v7();
    let words = format!("belongs to saga {another}");
    let of_another: [fn(&mut Case, Uuid); 3] = [
        |case, another| case.order.as_mut().unwrap().saga_id = Some(another),
        |case, another| case.payment.as_mut().unwrap().saga_id = another,
        |case, another| case.reservation.as_mut().unwrap().saga_id = another,
    ];
    for plant in of_another {
        is_found(completed(), |case| plant(case, another), &[AllKnowTheSaga], &words, "5 USD");
    }
    let by_hand = |case: &mut Case| case.order.as_mut().unwrap().saga_id = None;
    is_found(completed(), by_hand, &[AllKnowTheSaga], "its order belongs to no saga", "5 USD");
    let unknown = |case: &mut Case| case.saga = None;
    is_found(completed(), unknown, &[AllKnowTheSaga], "which does not exist", "5 USD");
    is_found(refused(), unknown, &[AllKnowTheSaga], "its order belongs to saga", "no money");
    let only_the_gateway = |case: &mut Case| (case.saga, case.order, case.payment) = (None, None, None);
    is_found(declined(), only_the_gateway, &[AllKnowTheSaga], "1 requests and 0 ledger entries", "no money");
}

#[test]
fn an_order_that_was_made_by_hand_is_no_sagas_concern() {
    let mut case = Case::new(Uuid::now_v7());
    case.order = Some(Order { status: "PENDING".to_owned(), amount: Some(usd("7")), ..Order::default() });
    assert_eq!(violations(&case), []);
}

#[test]
fn a_payment_that_says_otherwise_than_the_gateway_is_found() {
    let status =
        |status: &'static str| move |case: &mut Case| case.payment.as_mut().unwrap().status = status.to_owned();
    is_found(completed(), |case| case.ledger.clear(), &[GatewayAgrees, EndsAgree], "0 charges", "5 USD");
    is_found(completed(), status("CHARGING"), &[EndsAgree], "its payment is CHARGING", "5 USD");
    is_found(declined(), status("REFUNDED"), &[GatewayAgrees], "its payment is REFUNDED", "no money");
    is_found(voided(), status("FAILED"), &[GatewayAgrees], "declined no charge", "no money");
    let undecided = |case: &mut Case| case.decisions.clear();
    is_found(completed(), undecided, &[GatewayAgrees], "never decided", "no money");
    let unmoved = |case: &mut Case| case.decisions[0].outcome = "APPROVED".to_owned();
    is_found(declined(), unmoved, &[GatewayAgrees], "APPROVED", "no money");
}

#[test]
fn an_announced_call_whose_answer_is_not_stored_yet_agrees_with_the_gateway() {
    for (payment, kinds) in [("CHARGING", vec!["CHARGE"]), ("REFUNDING", vec!["CHARGE", "REFUND"])] {
        let mut case = ended("COMPENSATING", "PAYMENT_REFUND", 4, "PENDING");
        saga(&mut case).attention = Some("the gateway declines".to_owned());
        paid(&mut case, payment);
        kinds.into_iter().for_each(|kind| decided(&mut case, kind, "APPROVED"));
        assert_eq!(violations(&case), [], "{payment}");
    }
}

#[test]
fn a_gap_in_a_history_or_one_that_ends_elsewhere_is_found() {
    type Fault = (fn(&mut History), &'static str);
    let faults: [Fault; 5] = [
        (|history| history.entries -= 1, "version 5, but a history of 4 entries, from 1 to 5"),
        (|history| (history.entries, history.first) = (4, Some(2)), "from 2 to 5"),
        (|history| (history.entries, history.last) = (6, Some(6)), "from 1 to 6"),
        (|history| history.step = Some("ORDER_CONFIRM".to_owned()), "its history ends at COMPLETED/ORDER_CONFIRM"),
        (|history| history.status = None, "its history ends at nowhere/COMPLETED"),
    ];
    for (plant, words) in faults {
        is_found(completed(), |case| plant(&mut saga(case).history), &[HistoryIsWhole], words, "no money");
    }
}

#[test]
fn a_charge_or_a_reservation_after_its_tombstone_is_found() {
    let charged = |case: &mut Case| decided(case, "CHARGE", "APPROVED");
    let expected = [TombstonesHold, GatewayAgrees, EndsAgree];
    is_found(voided(), charged, &expected, "its payment is VOIDED, and yet", "5 USD");
    let cancelled_first = |mut case: Case| {
        case.order.as_mut().unwrap().amount = None;
        case
    };
    let paid_and_charged = |case: &mut Case| {
        paid(case, "CHARGED");
        decided(case, "CHARGE", "APPROVED");
    };
    let expected = [TombstonesHold, EndsAgree];
    is_found(cancelled_first(refused()), paid_and_charged, &expected, "cancelled before it was created", "5 USD");
    let set_aside = |case: &mut Case| reserved(case, "RESERVED");
    is_found(cancelled_first(refused()), set_aside, &expected, "goods are RESERVED for it", "no money");
}

#[test]
fn an_end_that_its_services_do_not_share_is_found() {
    let order = |status: &'static str| move |case: &mut Case| case.order.as_mut().unwrap().status = status.to_owned();
    is_found(completed(), order("PENDING"), &[EndsAgree], "its order is PENDING", "5 USD");
    is_found(completed(), |case| case.order = None, &[EndsAgree], "it has no order", "5 USD");
    is_found(completed(), |case| case.reservation = None, &[EndsAgree], "it has no reservation", "5 USD");
    is_found(refunded(), order("PENDING"), &[EndsAgree], "its order is PENDING", "no money");
    is_found(refused(), |case| case.order = None, &[EndsAgree], "it has no order", "no money");
    let no_payment = |case: &mut Case| case.payment = None;
    is_found(completed(), no_payment, &[AllKnowTheSaga, EndsAgree], "it has no payment", "5 USD");
    let failed = |case: &mut Case| {
        moved_to(case, "FAILED", "TIMED_OUT");
        case.order.as_mut().unwrap().status = "CANCELLED".to_owned();
    };
    is_found(completed(), failed, &[EndsAgree], "its payment is CHARGED, its reservation is RESERVED", "5 USD");
}

#[test]
fn another_amount_or_currency_is_found_wherever_it_stands() {
    let other: [fn(&mut Case) -> &mut Amount; 4] = [
        |case| case.order.as_mut().unwrap().amount.as_mut().unwrap(),
        |case| &mut case.payment.as_mut().unwrap().amount,
        |case| &mut case.decisions[0].amount,
        |case| &mut case.ledger[0].amount,
    ];
    for (n, amount) in other.into_iter().enumerate() {
        // The ledger is also what is held at the end.
        let expected = if n == 3 { vec![AmountsAgree, EndsAgree] } else { vec![AmountsAgree] };
        is_found(completed(), |case| *amount(case) = usd("5.01"), &expected, "5.01 USD", "0.01 USD");
        let euros = |case: &mut Case| amount(case).currency = "EUR".to_owned();
        is_found(completed(), euros, &expected, "about 5 EUR", "5 EUR + 5 USD");
        let more_digits = |case: &mut Case| *amount(case) = usd("5.00");
        is_found(completed(), more_digits, &[], "", "no money");
    }
}
