//! Orders of counted goods.

use super::*;

/// A completed checkout with items.
fn handed_over() -> Case {
    let mut case = completed();
    saga(&mut case).flow = "reserve-first".to_owned();
    let pieces = BTreeMap::from([("mug".to_owned(), 2)]);
    case.order.as_mut().unwrap().items = pieces.clone();
    let reservation = case.reservation.as_mut().unwrap();
    (reservation.status, reservation.handed_over) = ("COMMITTED".to_owned(), pieces);
    case
}

#[test]
fn goods_that_were_ordered_and_not_handed_over_are_found() {
    let reservation = |case: &mut Case| case.reservation.clone().unwrap();
    let none_left = |case: &mut Case| case.reservation.as_mut().unwrap().handed_over.clear();
    let words = "its order is of 2 x mug, handed over were nothing";
    is_found(handed_over(), none_left, &[EndsAgree], words, "5 USD");
    let others = |case: &mut Case| {
        case.reservation.as_mut().unwrap().handed_over = BTreeMap::from([("cup".to_owned(), 1), ("mug".to_owned(), 2)]);
    };
    is_found(handed_over(), others, &[EndsAgree], "handed over were 1 x cup, 2 x mug", "5 USD");
    let still_held = |case: &mut Case| {
        let held = Reservation { status: "RESERVED".to_owned(), ..reservation(case) };
        case.reservation = Some(held);
    };
    is_found(handed_over(), still_held, &[EndsAgree], "its reservation is RESERVED", "5 USD");
}

#[test]
fn a_failed_checkout_has_handed_nothing_over() {
    let committed = |case: &mut Case| reserved(case, "COMMITTED");
    is_found(refused(), committed, &[EndsAgree], "its reservation is COMMITTED", "no money");
    let expired = |case: &mut Case| reserved(case, "EXPIRED");
    is_found(refused(), expired, &[], "", "no money");
}
