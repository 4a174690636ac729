use messages::{CommitInventory, EventId, Items, KeepInventory, ReleaseInventory, ReserveInventory};

use super::*;

const PLENTY: Facts = Facts { stock: Stock::Available, hold_for: None };
const NOTHING: Facts = Facts { stock: Stock::SoldOut, hold_for: None };

fn envelope<T>(payload: T) -> Envelope<T> {
    let id = |n: u128| uuid::Uuid::from_u128(n);
    Envelope {
        event_id: EventId::from(id(1)),
        causation_id: None,
        saga_id: SagaId::from(id(2)),
        order_id: OrderId::from(id(3)),
        timestamp: service_runtime::now(),
        payload,
    }
}

fn reserve(force_fail: bool) -> InventoryCommand {
    InventoryCommand::Reserve(envelope(ReserveInventory { force_fail, items: Items::default(), hold_for: None }))
}

fn reserve_items(items: &str) -> InventoryCommand {
    let items = serde_json::from_str(items).unwrap();
    InventoryCommand::Reserve(envelope(ReserveInventory { force_fail: false, items, hold_for: None }))
}

fn free(pieces: &[(&str, i64)]) -> BTreeMap<Sku, i64> {
    pieces.iter().map(|(sku, count)| (Sku::try_from((*sku).to_owned()).unwrap(), *count)).collect()
}

fn release() -> InventoryCommand {
    InventoryCommand::Release(envelope(ReleaseInventory { reason: "TIMED_OUT".into() }))
}

fn commit() -> InventoryCommand {
    InventoryCommand::Commit(envelope(CommitInventory {}))
}

fn keep() -> InventoryCommand {
    InventoryCommand::Keep(envelope(KeepInventory {}))
}

fn next(command: &InventoryCommand, stored: Option<Status>) -> Next {
    let now = service_runtime::now();
    let row = stored.map(|status| Reservation { status, ..first_row(&reserve(false), &PLENTY, now) });
    decide(command, row.as_ref(), &PLENTY, now)
}

/// What a command does to a row of each status, in a word.
fn word(next: &Next) -> &'static str {
    match next {
        Next::Write(row) => row.status.as_str(),
        Next::Reply(Reply::Reserved(_)) => "reserved",
        Next::Reply(Reply::Failed(_)) => "failed",
        Next::Reply(Reply::Released(_)) => "released",
        Next::Reply(Reply::Committed(_)) => "committed",
        Next::Reply(Reply::Kept(_)) => "kept",
        Next::Contradiction(_) => "contradiction",
        Next::Ask { call, .. } => match *call {},
    }
}

fn written(next: Next) -> Status {
    match next {
        Next::Write(row) => row.status,
        other => panic!("expected a write, got {other:?}"),
    }
}

#[test]
fn a_reserve_is_decided_once_and_answered_from_the_row() {
    assert_eq!(written(next(&reserve(false), None)), Status::Reserved);
    assert_eq!(written(next(&reserve(true), None)), Status::Failed);
    let sold_out = decide(&reserve(false), None, &NOTHING, service_runtime::now());
    assert_eq!(written(sold_out), Status::Failed);
    assert!(matches!(next(&reserve(false), Some(Status::Reserved)), Next::Reply(Reply::Reserved(_))));
}

#[test]
fn an_order_gets_all_pieces_that_it_is_of_or_none() {
    let row = |items| first_row(&reserve_items(items), &NOTHING, service_runtime::now());
    let mut stock = free(&[("a", 3), ("b", 1)]);

    let first = row(r#"[{"sku":"a","qty":1},{"sku":"b","qty":1},{"sku":"a","qty":1}]"#).counted(&mut stock);
    assert_eq!(
        (first.status, first.items, &stock),
        (Status::Reserved, free(&[("a", 2), ("b", 1)]), &free(&[("a", 1), ("b", 0)]))
    );

    let second = row(r#"[{"sku":"a","qty":1},{"sku":"b","qty":2},{"sku":"c","qty":1}]"#).counted(&mut stock);
    assert_eq!((second.status, second.items.len(), &stock), (Status::Failed, 0, &free(&[("a", 1), ("b", 0)])));
    let reason = "out of stock: b (2 wanted, 0 available), c (there is no such product)";
    assert_eq!(second.reason.as_deref(), Some(reason));

    let third = row(r#"[{"sku":"a","qty":1}]"#).counted(&mut stock);
    assert_eq!((third.status, stock), (Status::Reserved, free(&[("a", 0), ("b", 0)])));
}

#[test]
fn a_reserve_of_other_goods_than_are_reserved_is_a_contradiction() {
    let (now, command) = (service_runtime::now(), reserve_items(r#"[{"sku":"a","qty":2}]"#));
    let row = first_row(&command, &PLENTY, now);
    let decided = |items| decide(&reserve_items(items), Some(&row), &PLENTY, now);
    assert!(matches!(decided(r#"[{"sku":"a","qty":1},{"sku":"a","qty":1}]"#), Next::Reply(Reply::Reserved(_))));
    for other in [r#"[{"sku":"a","qty":1}]"#, r#"[{"sku":"b","qty":2}]"#, "[]"] {
        assert!(matches!(decided(other), Next::Contradiction(_)), "{other}");
    }
    let uncounted = Reservation { items: BTreeMap::new(), ..row.clone() };
    assert!(matches!(decide(&command, Some(&uncounted), &PLENTY, now), Next::Reply(Reply::Reserved(_))));
}

#[test]
fn every_command_does_one_thing_to_a_row_of_each_status() {
    use Status::{Committed, Expired, Failed, Released, Reserved, Voided};
    let columns = [None, Some(Reserved), Some(Failed), Some(Released), Some(Voided), Some(Expired), Some(Committed)];
    assert_eq!(columns.len(), Status::ALL.len() + 1);
    for (command, words) in [
        (reserve(false), ["RESERVED", "reserved", "failed", "failed", "failed", "reserved", "reserved"]),
        (release(), ["VOIDED", "RELEASED", "released", "released", "released", "RELEASED", "contradiction"]),
        (commit(), ["VOIDED", "COMMITTED", "failed", "failed", "failed", "failed", "committed"]),
        (keep(), ["VOIDED", "kept", "failed", "failed", "failed", "failed", "kept"]),
    ] {
        let found = columns.map(|stored| word(&next(&command, stored)));
        assert_eq!(found, words, "{command:?}");
    }
}

#[test]
fn goods_are_set_aside_for_as_long_as_the_command_or_the_setting_says() {
    let now = service_runtime::now();
    let by_setting = Facts { hold_for: Some(Duration::from_secs(60)), ..PLENTY };
    let until = |hold_for: Option<&str>, items: &str, facts: &Facts| {
        let items = serde_json::from_str(items).unwrap();
        let hold_for = hold_for.map(|text| text.to_owned().try_into().unwrap());
        let command = InventoryCommand::Reserve(envelope(ReserveInventory { force_fail: false, items, hold_for }));
        let row = first_row(&command, facts, now);
        assert_eq!(row.will_expire, row.expires_at.is_some());
        row.expires_at.map(|at| (at - now).num_seconds())
    };
    let counted = r#"[{"sku":"a","qty":1}]"#;
    assert_eq!(until(None, counted, &PLENTY), None);
    assert_eq!(until(Some("20m"), counted, &PLENTY), Some(1_200));
    assert_eq!(until(None, counted, &by_setting), Some(60));
    assert_eq!(until(Some("0s"), counted, &by_setting), None);
    // Most flows never say that an order is done with goods that are not counted.
    assert_eq!(until(None, "[]", &by_setting), None);
    assert_eq!(until(Some("20m"), "[]", &by_setting), Some(1_200));
}

#[test]
fn what_was_answered_once_is_answered_again_however_the_hold_went_on() {
    let held = InventoryCommand::Reserve(envelope(ReserveInventory {
        force_fail: false,
        items: Items::default(),
        hold_for: Some("20m".to_owned().try_into().unwrap()),
    }));
    let now = service_runtime::now();
    let later = now + Duration::from_secs(5);
    let row = first_row(&held, &PLENTY, now);
    let answer = decide(&held, Some(&row), &PLENTY, now);
    let Next::Reply(Reply::Reserved(reserved)) = &answer else { panic!("{answer:?}") };
    assert_eq!(reserved.payload.expires_at, row.expires_at.map(TimestampText));
    let Next::Write(kept) = decide(&keep(), Some(&row), &PLENTY, later) else { panic!("a hold that ends can be kept") };
    assert_eq!((kept.status, kept.will_expire, kept.expires_at), (Status::Reserved, false, row.expires_at));
    let Next::Write(committed) = decide(&commit(), Some(&kept), &PLENTY, later) else {
        panic!("what is kept is there")
    };
    let expired = Reservation { reason: Some("its time is over".into()), ..row.moved_to(Status::Expired, None, later) };
    for row in [&kept, &committed, &expired] {
        assert_eq!(decide(&held, Some(row), &PLENTY, later), answer);
    }
    let Next::Reply(Reply::Failed(refused)) = decide(&commit(), Some(&expired), &PLENTY, later) else {
        panic!("what is gone is not committed")
    };
    assert_eq!(refused.payload.reason, "its time is over");
}

#[test]
fn what_was_stored_lately_for_an_order_whose_saga_has_ended_is_taken_back() {
    let now = service_runtime::now();
    let row = |status| Reservation { status, ..first_row(&reserve(false), &PLENTY, now) };
    let undone = reserved_anew(&row(Status::Reserved), now).unwrap().undone.unwrap();
    assert_eq!(undone, Reservation { status: Status::Released, ..row(Status::Reserved) });
    assert!(reserved_anew(&row(Status::Voided), now).unwrap().undone.is_none());
    let half_a_day_later = now + std::time::Duration::from_secs(12 * 3600);
    assert!(reserved_anew(&row(Status::Reserved), half_a_day_later).is_none());
}

#[test]
fn a_command_of_another_saga_gets_no_reply_in_any_status() {
    for command in [reserve(false), release(), commit(), keep()] {
        for status in Status::ALL {
            let now = service_runtime::now();
            let row = Reservation { saga_id: SagaId::new(), status, ..first_row(&command, &PLENTY, now) };
            assert!(matches!(decide(&command, Some(&row), &PLENTY, now), Next::Contradiction(_)));
        }
    }
}
