//! A record of Kafka, from raw bytes: `<topic's number> <traceparent> 0 <body>`. What decodes is the same after it was
//! encoded and decoded again, and its money keeps the rules of money.

#![no_main]

use libfuzzer_sys::fuzz_target;
use messages::{
    Envelope, Event, InventoryCommand, MAX_AMOUNT, MESSAGE_TOPICS, Message, Money, PaymentCommand, TraceContext,
};

fuzz_target!(|data: &[u8]| {
    let Some((number, rest)) = data.split_first() else { return };
    let topic = MESSAGE_TOPICS[usize::from(*number) % MESSAGE_TOPICS.len()];
    let at = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (header, body) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());

    if let Ok(context) = String::from_utf8_lossy(header).parse::<TraceContext>() {
        assert_eq!(context.to_string().parse(), Ok(context));
    }
    match Event::decode(topic, body) {
        Ok(Event::PaymentCharged(event)) => keeps(event.payload.money, &event),
        Ok(Event::PaymentFailed(event)) => is_the_same_again(&event),
        Ok(Event::PaymentRefunded(event)) => keeps(event.payload.money, &event),
        Ok(Event::InventoryReserved(event)) => is_the_same_again(&event),
        Ok(Event::InventoryFailed(event)) => is_the_same_again(&event),
        Ok(Event::InventoryReleased(event)) => is_the_same_again(&event),
        Ok(Event::InventoryCommitted(event)) => is_the_same_again(&event),
        Ok(Event::InventoryKept(event)) => is_the_same_again(&event),
        Err(error) => drop(error.to_string()),
    }
    match PaymentCommand::decode(topic, body) {
        Ok(PaymentCommand::Charge(command)) => keeps(command.payload.money, &command),
        Ok(PaymentCommand::Refund(command)) => keeps(command.payload.money, &command),
        Err(error) => drop(error.to_string()),
    }
    match InventoryCommand::decode(topic, body) {
        Ok(InventoryCommand::Reserve(command)) => is_the_same_again(&command),
        Ok(InventoryCommand::Release(command)) => is_the_same_again(&command),
        Ok(InventoryCommand::Commit(command)) => is_the_same_again(&command),
        Ok(InventoryCommand::Keep(command)) => is_the_same_again(&command),
        Err(error) => drop(error.to_string()),
    }
});

fn keeps<T: Message + PartialEq + std::fmt::Debug>(money: Money, message: &Envelope<T>) {
    assert!(money.amount() > 0.into() && money.amount() <= MAX_AMOUNT, "{money}");
    assert!(money.amount().scale() <= money.currency().decimals(), "{money}");
    is_the_same_again(message);
}

fn is_the_same_again<T: Message + PartialEq + std::fmt::Debug>(message: &Envelope<T>) {
    let record = message.to_record("fuzz", None);
    let again = Envelope::<T>::decode(&record.body);
    assert_eq!(again.as_ref().ok(), Some(message), "{}", String::from_utf8_lossy(&record.body));
}
