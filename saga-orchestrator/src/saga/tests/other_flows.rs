//! Flows that are not built in, by the same core.

use flow::{Origin, check};

use super::*;

/// A saga of a flow that is not built in, at its first step.
fn other_saga(text: &str) -> Saga {
    let flow = check(text, Origin::BuiltIn).unwrap_or_else(|findings| panic!("{findings:?}"));
    Saga { flow, ..new_saga() }
}

#[test]
fn another_flows_commands_have_ids_by_their_step_and_name_the_subject_as_the_flow_does() {
    let saga = other_saga(include_str!("../../../../examples/trip/trip.v1.yaml"));
    assert_eq!(saga.command_id(), Some(EventId::derived(saga.saga_id, "HOTEL_BOOK")));
    let Effect::Send(record) = saga.effect() else { panic!("a hotel is asked for by a command") };
    assert_eq!(record.topic, "trip.hotel.book.command");
    let body = String::from_utf8(record.body).unwrap();
    assert!(body.contains(&format!(r#""sagaId":"{}","tripId":"{}""#, saga.saga_id, saga.order_id)), "{body}");
}

#[test]
fn of_two_steps_that_one_event_answers_only_the_pending_one_is_moved() {
    let text = include_str!("../../../../flows/pay-first.v1.yaml");
    let (text, _its_tests) = text.split_once("\ntests:").unwrap();
    let text = text
        .replace("flow: pay-first", "flow: other")
        .replace("done: { payment.refunded: { agrees: { money: $start.money } } }", "done: stock.free")
        .replace("done: inventory.released", "done: stock.free");
    let saga = other_saga(&text);
    let cause = saga.flow.cause("ORDER_REFUSED").unwrap();
    let saga = Saga { state: State::Compensating { step: 1, cause }, ..saga };
    let reply = |step: &str| {
        let causation_id = Some(EventId::derived(saga.saga_id, step));
        let message = Some(MessageIds { event_id: EventId::new(), order_id: saga.order_id, causation_id });
        Input::from(Reply { message, ..Reply::named("stock.free") })
    };
    let late = advance(&saga, &reply("INVENTORY_RELEASE"), at(1)).unwrap_err();
    assert_eq!(late.to_string(), "stock.free does not count in COMPENSATING/PAYMENT_REFUND");
    let moved = advance(&saga, &reply("PAYMENT_REFUND"), at(1)).unwrap();
    assert_eq!(moved.saga.to_string(), "COMPENSATING/ORDER_CANCEL");
    let foreign = advance(&saga, &reply("PAYMENT_CHARGE"), at(1)).unwrap_err();
    assert!(matches!(foreign, NoMove::Contradiction(_)), "{foreign}");
}
