//! The commands of pay-first, byte for byte. Participants, and sagas that an earlier release began, rely on them.

#![expect(clippy::unwrap_used, reason = "tests")]

use chrono::DateTime;
use messages::{
    ChargePayment, Currency, Envelope, Event, InventoryFailed, InventoryReleased, InventoryReserved, Items, Message,
    Money, OutgoingRecord, PaymentCharged, PaymentFailed, PaymentRefunded, RefundPayment, ReleaseInventory,
    ReserveInventory,
};
use saga_orchestrator::saga::{
    Checkout, Effect, Input, Operator, OperatorAct, Reply, Role, Saga, advance, flows, start,
};

/// An input by the name that the history has for it. What settles a compensation has no such short form.
fn named(name: &'static str) -> Input {
    match name {
        "deadline.passed" => Input::DeadlinePassed,
        "operator.cancelled" => operator(OperatorAct::Cancel(Role::Operator)),
        event => Reply::named(event).into(),
    }
}

/// What a person does to a saga.
fn operator(act: OperatorAct) -> Input {
    Operator { by: "ann".to_owned(), reason: "the customer called".to_owned(), act }.into()
}

/// A saga at each place where it asks for something, each with other values.
fn sagas() -> Vec<Saga> {
    let created = vec!["order.created"];
    let charged = [&created[..], &["payment.charged"]].concat();
    let reserved = [&charged[..], &["inventory.reserved"]].concat();
    let refused = [&reserved[..], &["order.confirm-refused"]].concat();
    let released = [&refused[..], &["inventory.released"]].concat();
    let refunded = [&released[..], &["payment.refunded"]].concat();
    let out_of_stock = [&charged[..], &["inventory.failed"]].concat();
    let declined = [&created[..], &["payment.failed"]].concat();
    let timed_out = vec!["deadline.passed"];
    let cancelled = [&charged[..], &["operator.cancelled"]].concat();
    [vec![], created, charged, reserved, refused, released, refunded, out_of_stock, declined, timed_out, cancelled]
        .iter()
        .enumerate()
        .map(|(place, inputs)| after(place, inputs))
        .collect()
}

fn after(place: usize, inputs: &[&'static str]) -> Saga {
    let users = ["u1", "ann \"the\" buyer\\", "übung/<&>", "a\u{200b}b"];
    let amounts = [("500", "USD"), ("19.90", "EUR"), ("1000000000000", "JPY"), ("0.001", "KWD")];
    let (amount, currency) = amounts[place % amounts.len()];
    let checkout = Checkout {
        items: Items::default(),
        user_id: users[place % users.len()].to_owned().try_into().unwrap(),
        money: Money::parse(amount, currency.parse::<Currency>().unwrap()).unwrap(),
        force_payment_fail: place % 3 == 1,
        force_inventory_fail: place.is_multiple_of(2),
    };
    let id = |last: usize| format!("0198f5a0-0000-7000-8000-0000000000{:02x}", 2 * place + last);
    let now = DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap();
    let later = now + std::time::Duration::from_secs(70);
    let traceparent = (place % 5 != 4).then(|| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let (saga_id, order_id) = (id(0).parse().unwrap(), id(1).parse().unwrap());
    let new = start(flows::pay_first(), saga_id, order_id, checkout, later, traceparent, now).saga;
    inputs.iter().fold(new, |saga, &name| advance(&saga, &named(name), later).unwrap().saga)
}

#[test]
fn the_commands_and_calls_of_pay_first_are_what_they_were_byte_for_byte() {
    let mut text = String::new();
    for saga in sagas() {
        match saga.effect() {
            Effect::Send(record) => {
                text += &format!("{saga}: {} {}\n", record.topic, record.key);
                for (name, value) in &record.headers {
                    text += &format!("{name}: {value}\n");
                }
                text += &format!("{}\n\n", String::from_utf8(record.body).unwrap());
            }
            Effect::Call(call) => text += &format!("{saga}: {call:?}\n\n"),
            Effect::Await | Effect::Wake => panic!("{saga} asks for nothing"),
        }
    }
    insta::assert_snapshot!("commands-of-pay-first", text);
}

/// The command as the type of `messages` writes it.
fn typed<T: Message>(saga: &Saga, payload: T) -> OutgoingRecord {
    let event_id = messages::EventId::derived(saga.saga_id, T::TOPIC.name());
    let (saga_id, order_id, timestamp) = (saga.saga_id, saga.order_id, saga.updated_at);
    let envelope = Envelope { event_id, causation_id: None, saga_id, order_id, timestamp, payload };
    envelope.to_record("saga-orchestrator", saga.traceparent.as_deref())
}

#[test]
fn a_command_that_the_flow_file_describes_has_the_bytes_of_its_type() {
    let mut seen = 0;
    for saga in sagas() {
        let Effect::Send(record) = saga.effect() else { continue };
        let (user_id, money) = (saga.request.owner.clone(), saga.request.money.unwrap());
        let forced = |field| saga.request.input.is_set(field);
        let reason = || saga.cause().unwrap().to_owned();
        let expected = match saga.step_name() {
            "PAYMENT_CHARGE" => typed(&saga, ChargePayment { user_id, money, force_fail: forced("forcePaymentFail") }),
            "PAYMENT_REFUND" => typed(&saga, RefundPayment { money, reason: reason() }),
            "INVENTORY_RESERVE" => typed(
                &saga,
                ReserveInventory { force_fail: forced("forceInventoryFail"), items: Items::default(), hold_for: None },
            ),
            "INVENTORY_RELEASE" => typed(&saga, ReleaseInventory { reason: reason() }),
            other => panic!("{other} sends a command that has no type here"),
        };
        assert_eq!(record, expected, "{saga}");
        seen += 1;
    }
    assert!(seen > 5);
}

#[test]
fn a_reply_is_read_alike_by_its_type_and_by_the_flow_file() {
    fn check<T: Message>(payload: T) {
        let flow = flows::pay_first();
        let saga = &sagas()[0];
        let (event_id, timestamp) = (messages::EventId::new(), saga.updated_at);
        let (saga_id, order_id) = (saga.saga_id, saga.order_id);
        let envelope = Envelope { event_id, causation_id: None, saga_id, order_id, timestamp, payload };
        let json = serde_json::to_string(&envelope.payload).unwrap();
        let record = envelope.to_record("test", None);
        let typed = Reply::from(Event::decode(&record.topic, &record.body).unwrap());
        let (_, meaning) = flow.answered_by(&typed.event).next().unwrap();
        for (field, value) in meaning.read(&json).unwrap().0 {
            assert_eq!(typed.values.get(&field), Some(&value), "{field} of {}", record.topic);
        }
        assert_eq!(typed.event, record.topic);
    }
    let money = Money::parse("19.90", Currency::USD).unwrap();
    check(PaymentCharged { money });
    check(PaymentFailed { reason: "no funds".to_owned() });
    check(PaymentRefunded { money, money_returned: true });
    check(InventoryReserved { expires_at: None });
    check(InventoryFailed { reason: "out of stock".to_owned(), short: Vec::new() });
    check(InventoryReleased {});
}
