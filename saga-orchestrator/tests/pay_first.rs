//! The commands of pay-first, byte for byte. Participants, and sagas that an earlier release began, rely on them.

#![expect(clippy::unwrap_used, reason = "tests")]

use chrono::DateTime;
use messages::{Currency, Money};
use saga_orchestrator::saga::definition::PAY_FIRST;
use saga_orchestrator::saga::{Checkout, Effect, InputKind, Saga, advance, start};

/// A saga at each place where it asks for something, each with other values.
fn sagas() -> Vec<Saga> {
    use InputKind::{
        InventoryFailed, InventoryReleased, InventoryReserved, OrderConfirmRefused, OrderCreated, PaymentCharged,
        PaymentFailed, PaymentRefunded,
    };
    let created = vec![OrderCreated];
    let charged = [&created[..], &[PaymentCharged]].concat();
    let reserved = [&charged[..], &[InventoryReserved]].concat();
    let refused = [&reserved[..], &[OrderConfirmRefused]].concat();
    let released = [&refused[..], &[InventoryReleased]].concat();
    let refunded = [&released[..], &[PaymentRefunded]].concat();
    let out_of_stock = [&charged[..], &[InventoryFailed]].concat();
    let declined = [&created[..], &[PaymentFailed]].concat();
    let timed_out = vec![InputKind::DeadlinePassed];
    let cancelled = [&charged[..], &[InputKind::Cancelled]].concat();
    [vec![], created, charged, reserved, refused, released, refunded, out_of_stock, declined, timed_out, cancelled]
        .iter()
        .enumerate()
        .map(|(place, inputs)| after(place, inputs))
        .collect()
}

fn after(place: usize, inputs: &[InputKind]) -> Saga {
    let users = ["u1", "ann \"the\" buyer\\", "übung/<&>", "a\u{200b}b"];
    let amounts = [("500", "USD"), ("19.90", "EUR"), ("1000000000000", "JPY"), ("0.001", "KWD")];
    let (amount, currency) = amounts[place % amounts.len()];
    let checkout = Checkout {
        user_id: users[place % users.len()].to_owned().try_into().unwrap(),
        money: Money::parse(amount, currency.parse::<Currency>().unwrap()).unwrap(),
        force_payment_fail: place % 3 == 1,
        force_inventory_fail: place % 2 == 0,
    };
    let id = |last: usize| format!("0198f5a0-0000-7000-8000-0000000000{:02x}", 2 * place + last);
    let now = DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap();
    let later = now + std::time::Duration::from_secs(70);
    let traceparent = (place % 5 != 4).then(|| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let (saga_id, order_id) = (id(0).parse().unwrap(), id(1).parse().unwrap());
    let new = start(&PAY_FIRST, saga_id, order_id, checkout, later, traceparent, now).saga;
    inputs.iter().fold(new, |saga, kind| advance(&saga, &(*kind).into(), later).unwrap().saga)
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
            Effect::Wake => panic!("{saga} asks for nothing"),
        }
    }
    insta::assert_snapshot!("commands-of-pay-first", text);
}
