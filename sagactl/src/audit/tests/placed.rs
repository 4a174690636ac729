//! Orders that were placed directly.

use super::*;

fn placed(status: &str) -> Order {
    Order { placed: true, status: status.to_owned(), amount: Some(usd("7")), ..Order::default() }
}

#[test]
fn an_order_that_awaits_its_saga_violates_nothing() {
    let mut case = Case::new(Uuid::now_v7());
    case.order = Some(placed("PENDING"));
    assert_eq!(violations(&case), []);
    is_found(
        case,
        |case| case.order = Some(placed("CONFIRMED")),
        &[AllKnowTheSaga],
        "its order was confirmed, and no saga has taken it up",
        "no money",
    );
}

#[test]
fn neither_does_one_that_its_client_cancels_before_its_saga_begins() {
    let mut case = refused();
    let order = case.order.as_mut().unwrap();
    (order.saga_id, order.placed) = (None, true);
    assert_eq!(violations(&case), []);
}
