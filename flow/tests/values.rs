//! What is read of requests and replies, and the bytes that payloads become.

use std::sync::Arc;

use flow::payload::Payload;
use flow::{Action, Flow, Meaning, Origin, Reading, Record, Request, Source, Value, check, read};

fn flow(text: &str) -> Arc<Flow> {
    check(text, Origin::BuiltIn).unwrap_or_else(|findings| panic!("{findings:?}"))
}

fn pay_first() -> Arc<Flow> {
    flow(include_str!("../../flows/pay-first.v1.yaml"))
}

fn trip() -> Arc<Flow> {
    flow(include_str!("../../examples/trip/trip.v1.yaml"))
}

/// A flow whose input has just this field.
fn with_field(shape: &str) -> Arc<Flow> {
    let text = include_str!("../../examples/trip/trip.v1.yaml").replacen(
        "traveller: {",
        &format!("x: {shape}\n    traveller: {{"),
        1,
    );
    let without_its_tests = text.split("\ntests:").next().unwrap_or_default();
    flow(without_its_tests)
}

/// A field of this shape, read of a request: as it is written again, or what is wrong.
fn read_again(shape: &str, json: &str) -> Result<String, String> {
    let flow = with_field(shape);
    let fields = &flow.start.input[..1];
    let record = read(fields, &format!(r#"{{"x":{json}}}"#), Reading::Request).map_err(|misfit| misfit.to_string())?;
    Ok(record.to_json())
}

#[track_caller]
fn reads(shape: &str, json: &str, written: &str) {
    assert_eq!(read_again(shape, json), Ok(format!(r#"{{"x":{written}}}"#)));
}

#[track_caller]
fn refuses(shape: &str, json: &str, why: &str) {
    assert_eq!(read_again(shape, json), Err(why.to_owned()));
}

#[test]
fn numbers_keep_their_exact_digits() {
    reads("{ type: amount }", "19.90", "19.90");
    reads("{ type: amount }", r#""1000000000000""#, "1000000000000");
    reads("{ type: amount }", "0.1000000000000000000000001", "0.1000000000000000000000001");
    reads("{ type: money }", r#"{"currency":"EUR","amount":"5.10"}"#, r#"{"amount":5.10,"currency":"EUR"}"#);
    refuses("{ type: amount }", "0", "`x` must be greater than 0");
    refuses("{ type: amount }", "1e400", "`x` must be a decimal number");
    refuses("{ type: amount }", "true", "`x` must be a JSON number or a string that holds one");
    refuses("{ type: money }", r#"{"currency":"EUR","amount":5.123}"#, "`x` must have at most 2 decimals, as EUR has");
}

#[test]
fn texts_have_the_rules_of_their_shape() {
    reads("{ type: text, max: 5 }", r#""\u0061bc""#, r#""abc""#);
    refuses("{ type: text, max: 5 }", r#""abcdef""#, "`x` must have at most 5 characters");
    refuses("{ type: text }", r#""a\u0000""#, "`x` must not contain control characters (U+0000)");
    refuses("{ type: text }", "5", "`x` must be a text");
    reads("{ type: text, pattern: \"[A-Z]{3}|x\" }", r#""BER""#, r#""BER""#);
    refuses("{ type: text, pattern: \"[A-Z]{3}|x\" }", r#""BERL""#, "`x` must match [A-Z]{3}|x");
    refuses("{ type: currency }", r#""HRK""#, "`x` must be a currency in use: EUR has replaced HRK");
    reads("{ type: email }", r#""ann@example.com""#, r#""ann@example.com""#);
    refuses("{ type: email }", r#""ann@example@com""#, "`x` must be an address of mail");
    refuses(
        "{ type: sku }",
        r#""a b""#,
        "`x` must be 1 to 64 of letters, digits, `.`, `_` and `-`, and begin with a letter or a digit",
    );
    reads("{ type: date }", r#""2028-02-29""#, r#""2028-02-29""#);
    for day in ["2027-02-29", "2100-02-29", "2027-13-01", "2027-1-01", "2027-01-00", "2027-01-01T00:00", "+027-01-01"] {
        refuses("{ type: date }", &format!("\"{day}\""), "`x` must be a day of the calendar, as 2027-05-01");
    }
}

#[test]
fn lists_and_records_name_the_field_within() {
    let items = "{ type: list, most: 2, of: { sku: { type: sku }, qty: { type: count, most: 9 } } }";
    reads(items, r#"[{"qty":2,"sku":"a-1"}]"#, r#"[{"sku":"a-1","qty":2}]"#);
    refuses(items, r#"[{"sku":"a","qty":1},{"sku":"b","qty":10}]"#, "`x[1].qty` must be a whole number from 0 to 9");
    refuses(items, r#"[{"sku":"a","qty":1,"price":5}]"#, "`x[0].price` is no field of this request: `sku`, `qty`");
    refuses(items, r#"[{},{},{}]"#, "`x` has 3 items; at most 2 are taken");
    refuses("{ type: record, of: { y: { type: boolean } } }", r#"{"y":1}"#, "`x.y` must be true or false");
    refuses("{ type: record, of: { y: { type: boolean } } }", "{}", "`x.y` is missing");
}

#[test]
fn json_is_kept_byte_for_byte() {
    reads("{ type: json, max: 40 }", r#"{"b" : 1.50, "a":[ ]}"#, r#"{"b" : 1.50, "a":[ ]}"#);
    refuses("{ type: json, max: 4 }", "[1,2]", "`x` has 5 bytes; at most 4 are taken");
}

#[test]
fn what_is_missing_or_null_takes_its_default() {
    reads("{ type: count, default: 7 }", "null", "7");
    let flow = with_field("{ type: text, optional: true }");
    assert_eq!(read(&flow.start.input[..1], "{}", Reading::Request).unwrap(), Record::default());
    refuses("{ type: count }", "null", "`x` is missing");
}

#[test]
fn a_request_is_read_into_its_owner_its_money_and_its_exact_input() {
    let Request { input, owner, money } = pay_first().read_start(r#"{"totalAmount":"19.9000","userId":"u1"}"#).unwrap();
    assert_eq!((owner.as_str(), money.unwrap().to_string()), ("u1", "19.90 USD".to_owned()));
    assert_eq!(
        input.to_json(),
        r#"{"userId":"u1","totalAmount":19.90,"currency":"USD","forcePaymentFail":false,"forceInventoryFail":false}"#
    );
    for (json, why) in [
        (r#"{"userId":"u1"}"#, "`totalAmount` is missing"),
        (r#"{"userId":"u1","totalAmount":1.234}"#, "`totalAmount` must have at most 2 decimals, as USD has"),
    ] {
        assert_eq!(pay_first().read_start(json).unwrap_err().to_string(), why);
    }
    assert!(pay_first().read_start(r#"{"userid":"u1"}"#).unwrap_err().to_string().starts_with("`userid` is no field"));
    let twice = pay_first().read_start(r#"{"userId":"u1","totalAmount":5,"userId":"u2"}"#).unwrap_err().to_string();
    assert!(twice.starts_with("duplicate field `userId`"), "{twice}");
    assert!(pay_first().read_start("[]").is_err());
}

#[test]
fn of_a_reply_what_the_flow_wants_is_read_and_the_rest_is_ignored() {
    let trip = trip();
    let (question, meaning) = trip.answered_by("trip.hotel.booked").next().unwrap();
    assert_eq!(question.name, "HOTEL_BOOK");
    let payload = r#"{"stars":4,"bookingRef":"H-1","price":{"amount":90,"currency":"EUR"}}"#;
    let record = meaning.read(payload).unwrap();
    assert_eq!(record.to_json(), r#"{"bookingRef":"H-1","price":{"amount":90,"currency":"EUR"}}"#);
    assert_eq!(meaning.keep(), ["bookingRef"]);
    assert_eq!(meaning.read(r#"{"price":1}"#).unwrap_err().to_string(), "`bookingRef` is missing");

    let (question, meaning) = trip.answered_by("trip.hotel.full").next().unwrap();
    assert_eq!(question.name, "HOTEL_BOOK");
    let reason = |payload: &str| meaning.reason(&meaning.read(payload).unwrap()).map(str::to_owned);
    assert_eq!(reason(r#"{"reason":"no room"}"#).as_deref(), Some("no room"));
    assert_eq!(reason("{}"), None, "a participant may leave it out");
    assert_eq!(reason(r#"{"reason":5}"#), None);
    assert_eq!(trip.answered_by("payment.charged").count(), 0);
}

#[test]
fn money_that_has_to_agree_is_read_though_it_has_no_shape() {
    let flow = pay_first();
    let (_, meaning) = flow.answered_by("payment.charged").next().unwrap();
    let record = meaning.read(r#"{"money":{"amount":5,"currency":"USD"}}"#).unwrap();
    let Some(Value::Money(money)) = record.get("money") else { panic!("{record:?}") };
    assert_eq!(meaning.agrees(&record, Some(*money)), Ok(()));
    assert_eq!(meaning.agrees(&record, None), Err(*money));
    assert!(matches!(meaning, Meaning::Done(_)) && meaning.read("{}").is_err());
}

#[test]
fn a_payload_is_filled_in_the_order_of_the_file_and_null_stands_where_nothing_is_known() {
    let trip = trip();
    let Action::Ask(book) = &trip.steps[0].action else { panic!("a hotel is asked for") };
    let cancel = &trip.steps[0].undo.as_ref().unwrap().ask;
    let filled = |payload: &Payload| {
        let mut out = Vec::new();
        payload.fill(&mut out, &mut |slot, out| match &slot.source {
            Source::Input(field) => {
                flow::write_string(&format!("\"{field}\""), out);
                true
            }
            Source::Cause => {
                flow::write_string("NO_CAR", out);
                true
            }
            _ => false,
        });
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        filled(&book.send),
        r#"{"guest":"\"traveller\"","city":"\"to\"","arrive":"\"out\"","leave":"\"back\""}"#
    );
    assert_eq!(filled(&cancel.send), r#"{"bookingRef":null,"reason":"NO_CAR"}"#);
}
