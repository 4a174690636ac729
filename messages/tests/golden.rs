//! The JSON and the headers of every message, as other languages read them. A change here is a change of the
//! contract: readers of the old form must still understand the new one.

#![expect(clippy::unwrap_used, reason = "tests")]

use chrono::{TimeZone, Utc};
use messages::{
    ChargePayment, CommitInventory, Currency, Envelope, Event, EventId, InventoryCommand, InventoryCommitted,
    InventoryFailed, InventoryKept, InventoryReleased, InventoryReserved, Items, KeepInventory, Message, Money,
    PaymentCharged, PaymentCommand, PaymentFailed, PaymentRefunded, RefundPayment, ReleaseInventory, ReserveInventory,
    TOPICS,
};

const SAGA: &str = "0198f5a0-0000-7000-8000-000000000001";
const ORDER: &str = "0198f5a0-0000-7000-8000-000000000002";

fn command<T: Message>(payload: T) -> Envelope<T> {
    let saga_id = SAGA.parse().unwrap();
    Envelope {
        event_id: EventId::derived(saga_id, T::TOPIC.name()),
        causation_id: None,
        saga_id,
        order_id: ORDER.parse().unwrap(),
        timestamp: Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap(),
        payload,
    }
}

fn event<T: Message>(payload: T) -> Envelope<T> {
    let cause = command(ReserveInventory { force_fail: false, items: Items::default(), hold_for: None });
    cause.reply(payload, cause.timestamp)
}

fn golden<T: Message>(message: Envelope<T>) {
    let record = message.to_record("golden-test", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    let mut text = format!("topic: {}\nkey: {}\n", record.topic, record.key);
    for (name, value) in &record.headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push_str(std::str::from_utf8(&record.body).unwrap());
    insta::assert_snapshot!(T::TOPIC.name(), text);
    assert!(TOPICS.contains(&&*record.topic));
    let body = &record.body;
    assert!(
        PaymentCommand::decode(&record.topic, body).is_ok()
            || InventoryCommand::decode(&record.topic, body).is_ok()
            || Event::decode(&record.topic, body).is_ok(),
        "what is written can be read"
    );
}

fn money() -> Money {
    Money::parse("19.90", Currency::USD).unwrap()
}

#[test]
fn payment_commands() {
    golden(command(ChargePayment { user_id: "u1".to_owned().try_into().unwrap(), money: money(), force_fail: false }));
    golden(command(RefundPayment { money: money(), reason: "INVENTORY_FAILED".into() }));
}

#[test]
fn inventory_commands() {
    golden(command(ReserveInventory { force_fail: true, items: Items::default(), hold_for: None }));
    golden(command(ReleaseInventory { reason: "TIMED_OUT".into() }));
    golden(command(CommitInventory {}));
    golden(command(KeepInventory {}));
}

#[test]
fn payment_events() {
    golden(event(PaymentCharged { money: money() }));
    golden(event(PaymentFailed { reason: "declined".into() }));
    golden(event(PaymentRefunded { money: money(), money_returned: true }));
}

#[test]
fn inventory_events() {
    golden(event(InventoryReserved { expires_at: None }));
    golden(event(InventoryFailed { reason: "out of stock".into(), short: Vec::new() }));
    golden(event(InventoryReleased {}));
    golden(event(InventoryCommitted {}));
    golden(event(InventoryKept {}));
}

#[test]
fn a_hold_keeps_the_words_it_was_asked_for_in_and_ends_at_a_point_in_time() {
    let payload = r#"{"forceFail":false,"items":[{"sku":"A-1","qty":2}],"holdFor":"120m"}"#;
    let asked: ReserveInventory = serde_json::from_str(payload).unwrap();
    assert_eq!(serde_json::to_string(&asked).unwrap(), payload);
    let payload = r#"{"expiresAt":"2026-01-01T02:00:00.000000Z"}"#;
    let answered: InventoryReserved = serde_json::from_str(payload).unwrap();
    assert_eq!(serde_json::to_string(&answered).unwrap(), payload);
    let wrong = serde_json::from_str::<ReserveInventory>(r#"{"holdFor":"2 hours"}"#).unwrap_err().to_string();
    assert!(wrong.contains("`holdFor` must be"), "{wrong}");
}

#[test]
fn a_reader_ignores_fields_it_does_not_know() {
    let body = format!(
        r#"{{"eventId":"{SAGA}","sagaId":"{SAGA}","orderId":"{ORDER}","timestamp":"2026-01-01T00:00:00Z",
            "priority":1,"payload":{{"forceFail":false,"sku":"A-1"}}}}"#
    );
    assert!(InventoryCommand::decode("inventory.reserve.command", body.as_bytes()).is_ok());
}

#[test]
fn a_record_without_an_id_is_refused_by_the_name_of_the_field() {
    let body =
        format!(r#"{{"eventId":"{SAGA}","orderId":"{ORDER}","timestamp":"2026-01-01T00:00:00Z","payload":{{}}}}"#);
    let error = Event::decode("inventory.reserved", body.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("sagaId"), "{error}");
}
