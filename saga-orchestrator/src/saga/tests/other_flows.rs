//! Flows that are not built in, by the same core.

use flow::{Kept, Origin, RawEvent, check};

use super::*;

const TRIP: &str = include_str!("../../../../examples/trip/trip.v1.yaml");

/// A saga of a flow that is not built in, at its first step.
fn other_saga(text: &str) -> Saga {
    let flow = check(text, Origin::BuiltIn).unwrap_or_else(|findings| panic!("{findings:?}"));
    Saga { flow, ..new_saga() }
}

/// A trip, at its first step.
fn trip() -> Saga {
    let flow = check(TRIP, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
    let json =
        r#"{"traveller":"ann","budget":"900.00","from":"BER","to":"LIS","out":"2027-05-01","back":"2027-05-08"}"#;
    let request = flow.read_start(json).unwrap();
    start(flow, SagaId::new(), OrderId::new(), request, at(90), None, at(0)).saga
}

/// The body of a reply to what the saga asks for now.
fn reply_body(saga: &Saga, payload: &str) -> String {
    let (event, command) = (EventId::new(), saga.command_id().unwrap());
    let (saga_id, trip) = (saga.saga_id, saga.order_id);
    format!(
        r#"{{"eventId":"{event}","causationId":"{command}","sagaId":"{saga_id}","tripId":"{trip}","timestamp":"2027-01-01T00:00:00Z","payload":{payload}}}"#
    )
}

/// What becomes of a saga that gets this reply.
fn replied(saga: &Saga, event: &str, payload: &str) -> Saga {
    let body = reply_body(saga, payload);
    let reply = Reply::read(saga, event, &RawEvent::read(body.as_bytes()).unwrap()).unwrap();
    advance(saga, &reply.into(), at(1)).unwrap().saga
}

fn command(saga: &Saga) -> String {
    let Effect::Send(record) = saga.effect() else { panic!("{saga} sends nothing") };
    let body = String::from_utf8(record.body).unwrap();
    let (_, payload) = body.split_once(r#","payload":"#).unwrap();
    format!("{} {}", record.topic, payload.strip_suffix('}').unwrap())
}

#[test]
fn a_trip_keeps_what_its_flow_keeps_and_undoes_with_it() {
    let saga = trip();
    assert_eq!(
        command(&saga),
        r#"trip.hotel.book.command {"guest":"ann","city":"LIS","arrive":"2027-05-01","leave":"2027-05-08"}"#
    );
    let price = r#""price":{"amount":90.50,"currency":"EUR"}"#;
    let saga = replied(&saga, "trip.hotel.booked", &format!(r#"{{"bookingRef":"H-\"1\"",{price},"more":[1]}}"#));
    assert_eq!(saga.kept.to_json(), r#"{"HOTEL_BOOK":{"bookingRef":"H-\"1\""}}"#);
    let saga = replied(&saga, "trip.car.rented", r#"{"bookingRef":"C1"}"#);
    let ticketed = replied(&saga, "trip.flight.ticketed", r#"{"ticketNumber":"T1"}"#);
    assert_eq!(ticketed.state, State::Completed);
    assert_eq!(
        ticketed.kept.to_json(),
        r#"{"HOTEL_BOOK":{"bookingRef":"H-\"1\""},"CAR_RENT":{"bookingRef":"C1"},"FLIGHT_TICKET":{"ticketNumber":"T1"}}"#
    );

    let saga = replied(&saga, "trip.flight.refused", r#"{"reason":"no seat"}"#);
    assert_eq!(command(&saga), r#"trip.car.return.command {"reason":"NO_SEAT"}"#);
    let saga = replied(&saga, "trip.car.returned", "{}");
    assert_eq!(command(&saga), r#"trip.hotel.cancel.command {"bookingRef":"H-\"1\"","reason":"NO_SEAT"}"#);
    // From the row the same: that is all a process knows that finds it.
    let stored = Saga { kept: Kept::parse(&saga.kept.to_json()).unwrap(), ..saga.clone() };
    assert_eq!(stored.effect(), saga.effect());
    let saga = replied(&saga, "trip.hotel.cancelled", "{}");
    assert_eq!((saga.to_string().as_str(), saga.reason.as_deref()), ("FAILED/NO_SEAT", Some("no seat")));
}

#[test]
fn an_undo_of_what_was_not_answered_has_null_for_what_would_have_been_kept() {
    let saga = trip();
    let deadline = saga.deadline.unwrap();
    let saga = advance(&saga, &Input::DeadlinePassed, deadline).unwrap().saga;
    assert_eq!(command(&saga), r#"trip.hotel.cancel.command {"bookingRef":null,"reason":"TIMED_OUT"}"#);
}

#[test]
fn a_reply_that_breaks_its_shape_or_is_about_something_else_is_refused_in_words() {
    let saga = trip();
    let read = |body: &str, event: &str| {
        let reply = Reply::read(&saga, event, &RawEvent::read(body.as_bytes()).unwrap())?;
        advance(&saga, &reply.into(), at(1)).map(|moved| moved.saga.to_string()).map_err(|error| error.to_string())
    };
    let good = reply_body(&saga, r#"{"bookingRef":"H1","price":{"amount":5,"currency":"EUR"}}"#);
    assert_eq!(read(&good, "trip.hotel.booked").unwrap(), "RUNNING/CAR_RENT");
    let (command, other) = (saga.command_id().unwrap().to_string(), EventId::new().to_string());
    for (body, event, why) in [
        (good.replace("bookingRef", "ref"), "trip.hotel.booked", "`bookingRef` is missing"),
        (good.replace(r#""H1""#, "7"), "trip.hotel.booked", "`bookingRef` must be a text"),
        (good.replace("tripId", "orderId"), "trip.hotel.booked", "`tripId` is missing"),
        (good.replace(&saga.order_id.to_string(), &other), "trip.hotel.booked", "it is about order"),
        (good.replace(&command, &other), "trip.hotel.booked", "it answers command"),
        (good.clone(), "trip.hotel.burnt", "it is a trip.hotel.burnt, which nothing in its saga asks for"),
    ] {
        let error = read(&body, event).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn another_flows_commands_have_ids_by_their_step_and_name_the_subject_as_the_flow_does() {
    let saga = other_saga(TRIP);
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

fn cancel(role: Role) -> Input {
    operator(OperatorAct::Cancel(role))
}

#[test]
fn the_owner_cancels_where_the_flow_says_so_until_the_step_that_it_names() {
    let (hotel, by_owner) = (trip(), cancel(Role::Owner));
    let car = replied(&hotel, "trip.hotel.booked", r#"{"bookingRef":"H1","price":{"amount":90,"currency":"EUR"}}"#);
    let turned = advance(&car, &by_owner, at(1)).unwrap();
    assert_eq!(turned.saga.to_string(), "COMPENSATING/CAR_RETURN");
    assert_eq!((&*turned.entry.input, turned.saga.cause()), ("owner.cancelled", Some("CANCELLED")));
    assert_eq!(turned.saga.reason.as_deref(), Some("cancelled by its owner"));
    // Once more: nothing moves, and nothing is written.
    assert!(advance(&turned.saga, &by_owner, at(2)).is_err());

    let flight = replied(&car, "trip.car.rented", r#"{"bookingRef":"C1"}"#);
    assert!(advance(&flight, &by_owner, at(1)).is_err(), "it is too late at FLIGHT_TICKET");
    assert!(advance(&new_saga(), &by_owner, at(1)).is_err(), "a checkout is cancelled by operators only");
    let operators_only = TRIP.replace("by: [owner, operator]", "by: [operator]");
    let flow = check(&operators_only, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
    let theirs = Saga { flow, ..hotel.clone() };
    assert!(advance(&theirs, &by_owner, at(1)).is_err());
    assert!(advance(&theirs, &cancel(Role::Operator), at(1)).is_ok());
    let owners_only = TRIP.replace("by: [owner, operator]", "by: [owner]");
    let flow = check(&owners_only, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
    assert!(advance(&Saga { flow, ..hotel }, &cancel(Role::Operator), at(1)).is_err());
}
