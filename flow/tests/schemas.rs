//! The JSON Schemas of a flow's values against the code that reads and writes those values.

#![expect(clippy::unwrap_used, reason = "tests")]

mod json_schema;

use std::sync::Arc;

use flow::sample::Samples;
use flow::{Action, Asked, Carrier, Flow, Origin, check};
use serde_json::{Value, json};

use self::json_schema::misfit;

/// Every flow file of the repository.
fn flows() -> Vec<Arc<Flow>> {
    let texts = [
        include_str!("../../flows/pay-first.v1.yaml"),
        include_str!("../../examples/trip/trip.v1.yaml"),
        include_str!("../../examples/booking/booking.v1.yaml"),
        include_str!("../../examples/kiosk/kiosk.v1.yaml"),
        include_str!("flows/club.v1.yaml"),
        include_str!("flows/order.v1.yaml"),
        include_str!("flows/reserve-first-draft.v1.yaml"),
        include_str!("flows/shop.v1.yaml"),
        KINDS,
    ];
    texts.map(|text| check(text, Origin::BuiltIn).unwrap_or_else(|findings| panic!("{findings:?}"))).into()
}

/// A field of each kind, and patterns that mean something else, or nothing, in a schema.
const KINDS: &str = r#"
format: 1
flow: kinds
version: 1
start:
  subject: orderId
  owner: $input.email
  money: { amount: $input.amount, currency: $input.currency }
  input:
    email:    { type: email }
    amount:   { type: amount }
    currency: { type: currency, default: EUR }
    text:     { type: text, max: 5, optional: true }
    visible:  { type: text, pattern: "[A-Z]{3}|\\d", optional: true }
    any:      { type: text, max: 6, pattern: "a.*[^b]", optional: true }
    flags:    { type: text, pattern: "(?i)ab", optional: true }
    sku:      { type: sku, optional: true }
    user:     { type: user_id, optional: true }
    count:    { type: count, most: 9, optional: true }
    most:     { type: count, optional: true }
    flag:     { type: boolean, default: true }
    day:      { type: date, optional: true }
    price:    { type: money, optional: true }
    json:     { type: json, optional: true }
    to:       { type: address, optional: true }
    list:     { type: list, most: 2, of: { sku: { type: sku }, note: { type: text, optional: true } }, optional: true }
    record:   { type: record, of: { sku: { type: sku }, count: { type: count, default: 1 } }, optional: true }
pivot: ASK
answer: { after: ASK, done: 200, failed: { otherwise: 409 }, body: { to: "$input.to?", of: [1, "$input.list?"] } }
steps:
  - step: ASK
    ask:
      topic: kinds.ask.command
      send:
        kind: all
        version: 2
        nothing: null
        all: ["$input.text?", "$input.price?", "$input.record?", "$input.json?", $input.amount, $input.flag]
        who: $start.owner
        what: $start.subject
    done: kinds.asked
"#;

/// Values of all sorts: each fits some kind, and most fit none.
fn values() -> Vec<Value> {
    let text = |length: usize| Value::from("a".repeat(length));
    let address = json!({"line1": "1 High Street", "city": "Berlin", "country": "DE"});
    let mut values = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(9),
        json!(10),
        json!(2.5),
        json!(10_000),
        json!(10_001),
        json!(1_000_000_000),
        json!(1_000_000_001),
        json!(1_000_000_000_001_u64),
        json!(""),
        json!(" "),
        json!("\u{a0}"),
        json!("a"),
        json!("A B"),
        json!("a\u{200b}b"),
        json!("a\u{200d}b"),
        json!("a\tb"),
        json!("\u{1f600}"),
        json!("ABC"),
        json!("abc"),
        json!("ABCD"),
        json!("5"),
        json!("٥"),
        json!("ab"),
        json!("12.50"),
        json!("+1"),
        json!("-1"),
        json!("1_000"),
        json!("EUR"),
        json!("XXX"),
        json!("DEM"),
        json!("HRK"),
        json!("eur"),
        json!("2027-05-01"),
        json!("2027-13-01"),
        json!("2027-5-1"),
        json!("27-05-01"),
        json!("a@b"),
        json!("a@b@c"),
        json!("@b"),
        json!("a @b"),
        json!("SKU-1.a_b"),
        json!("SKU/1"),
        json!([]),
        json!({}),
        json!([{}]),
        json!([1]),
        json!({"a": 1}),
        json!([{"sku": "A"}]),
        json!([{"sku": "A", "note": null}]),
        json!([{"sku": "A", "more": 1}]),
        json!([{"sku": "A"}, {"sku": "B"}, {"sku": "C"}]),
        json!({"sku": "A"}),
        json!({"sku": "A", "count": "1"}),
        json!({"amount": 5, "currency": "EUR"}),
        json!({"amount": "5", "currency": "HRK"}),
        json!({"amount": 0, "currency": "EUR"}),
        json!({"amount": 5}),
        json!([{"sku": "A", "qty": 2}]),
        json!([{"sku": "A", "qty": 10_001}]),
        address.clone(),
    ];
    values.extend([1, 5, 6, 40, 41, 64, 65, 128, 129, 254, 255, 256].map(text));
    values.extend([127, 128, 253, 254].map(|length| json!(format!("{}@b", "a".repeat(length - 2)))));
    for (field, value) in [("country", json!("DEU")), ("line2", json!(null)), ("more", json!("a")), ("city", json!(7))]
    {
        let mut other = address.clone();
        other[field] = value;
        values.push(other);
    }
    values
}

/// What the tests in a flow's file, and the sample, send.
fn requests(flow: &Flow) -> Vec<Value> {
    let of_test = |test: &flow::file::Test| {
        let mut json = Vec::new();
        test.input.fill(&mut json, &mut |_, _| false);
        serde_json::from_slice(&json).unwrap()
    };
    let mut requests: Vec<Value> = flow.tests.iter().map(of_test).collect();
    requests.push(serde_json::from_str(&flow::sample::example(flow).unwrap()).unwrap());
    requests
}

#[test]
fn a_request_fits_the_schema_if_the_flow_takes_it() {
    let (mut taken, mut refused) = (0, 0);
    for flow in flows() {
        let schema = serde_json::to_value(flow.request_schema()).unwrap();
        let mut compare = |request: &Value| {
            let (read, fits) = (flow.read_start(&request.to_string()), misfit(&schema, &schema, request));
            assert_eq!(read.is_ok(), fits.is_none(), "{}: {request}: {read:?}, {fits:?}", flow.name);
            *(if read.is_ok() { &mut taken } else { &mut refused }) += 1;
        };
        let requests = requests(&flow);
        requests.iter().for_each(&mut compare);
        let request = &requests[0];
        let mut unknown = request.clone();
        unknown["unknown"] = json!(null);
        compare(&unknown);
        for (field, _) in &flow.start.input {
            let mut without = request.clone();
            without.as_object_mut().unwrap().remove(field);
            compare(&without);
            // `flags` has a pattern that no schema has.
            for value in values().into_iter().filter(|value| field != "flags" || !value.is_string()) {
                let mut other = request.clone();
                other[field] = value;
                compare(&other);
            }
        }
        for whole in [json!([]), json!(null), json!("a"), json!({})] {
            compare(&whole);
        }
    }
    assert!(taken > 300 && refused > 2_000, "{taken} taken, {refused} refused");
}

#[test]
fn what_a_schema_can_not_say_it_lets_pass() {
    let flow = check(KINDS, Origin::BuiltIn).unwrap();
    let schema = serde_json::to_value(flow.request_schema()).unwrap();
    let request = |field: &str, value: Value| {
        let mut request = json!({"email": "ann@example.com", "amount": 5, "currency": "EUR"});
        request[field] = value;
        request
    };
    for (field, value) in [
        ("amount", json!("0")),
        ("amount", json!("1000000000001")),
        ("amount", json!(5.001)),
        ("day", json!("2027-02-30")),
        ("flags", json!("cd")),
        ("json", json!("a".repeat(2048))),
        ("count", serde_json::from_str("1.0").unwrap()),
    ] {
        let request = request(field, value);
        assert_eq!(misfit(&schema, &schema, &request), None);
        assert!(flow.read_start(&request.to_string()).is_err_and(|misfit| misfit.field == field), "{request}");
    }
}

#[test]
fn each_command_fits_the_schema_of_its_topic() {
    let mut count = 0;
    for flow in flows() {
        let samples = Samples::of(&flow, None).unwrap();
        for question in flow.steps.iter().flat_map(|step| step.questions()) {
            let Asked::Topic(topic) = &question.ask.of else { continue };
            let schema = serde_json::to_value(flow.payload_schema(Carrier::Command(topic))).unwrap();
            for request in [&samples.usual, &samples.other] {
                let subject = "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9";
                let payload = samples.payload(&question.ask.send, request, subject, None);
                let payload: Value = serde_json::from_str(&payload).unwrap();
                assert_eq!(misfit(&schema, &schema, &payload), None, "{topic}");
                for part in payload.as_object().into_iter().flat_map(|payload| payload.keys()) {
                    let mut less = payload.clone();
                    less.as_object_mut().unwrap().remove(part);
                    assert!(misfit(&schema, &schema, &less).is_some(), "{topic} without {part}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn a_reply_fits_the_schema_of_its_event_if_the_flow_reads_it() {
    let flow = check(include_str!("flows/club.v1.yaml"), Origin::User).unwrap();
    let fee = json!({"amount": "120.00", "currency": "HRK"});
    for (event, payload, is_read) in [
        ("club.signed-up", json!({"number": "7", "more": true}), true),
        ("club.signed-up", json!({"number": 7}), false),
        ("club.signed-up", json!({}), false),
        ("club.full", json!({}), true),
        ("club.full", json!({"reason": "no place"}), true),
        ("club.locker.held", json!({"locker": 12}), true),
        ("club.locker.held", json!({"locker": -1}), false),
        ("club.fee.charged", json!({"money": fee, "receipt": "R"}), true),
        ("club.fee.charged", json!({"receipt": "R"}), false),
        ("club.fee.pending", json!({"bank": "B", "due": null}), true),
        ("club.fee.pending", json!({"bank": "B", "due": "soon"}), false),
        ("club.welcomed", json!({}), true),
    ] {
        let schema = serde_json::to_value(flow.payload_schema(Carrier::Reply(event))).unwrap();
        let (_, meaning) = flow.answered_by(event).next().unwrap();
        let (read, fits) = (meaning.read(&payload.to_string()), misfit(&schema, &schema, &payload));
        assert_eq!((read.is_ok(), fits.is_none()), (is_read, is_read), "{event} {payload}: {read:?}, {fits:?}");
    }
}

#[test]
fn a_flows_asyncapi_has_what_its_own_participants_receive_and_send() {
    let flow = check(include_str!("../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
    let document = flow.asyncapi();
    let mut topics: Vec<_> = flow.own_command_topics().into_iter().map(str::to_owned).collect();
    topics.push(flow.reply_topic());
    topics.sort();
    assert_eq!(document["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), topics.iter().collect::<Vec<_>>());
    let replies = |operation: &str| {
        let replies = document["operations"][operation]["reply"]["messages"].as_array().unwrap().iter();
        replies.map(|reply| reply["$ref"].as_str().unwrap().rsplit('/').next().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(replies("HOTEL_BOOK"), ["trip.hotel.booked", "trip.hotel.full"]);
    assert_eq!(replies("CAR_RETURN"), ["trip.car.returned"]);
    // Each example fits.
    let messages = document["components"]["messages"].as_object().unwrap();
    let mut examples = 0;
    for message in messages.values() {
        for example in message["examples"].as_array().into_iter().flatten() {
            assert_eq!(misfit(&document, &message["payload"], &example["payload"]), None);
            examples += 1;
        }
    }
    assert_eq!((messages.len(), examples), (13, 5));
    // A step that waits, and one that asks the platform, are nothing to a participant of the flow's own.
    let club = check(include_str!("flows/club.v1.yaml"), Origin::User).unwrap().asyncapi();
    assert!(club["operations"]["APPROVE"].is_null() && club["operations"]["FEE_REFUND"].is_object());
    let shop = check(include_str!("flows/shop.v1.yaml"), Origin::User).unwrap().asyncapi();
    assert_eq!(shop["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), ["shop.replies", "shop.wrap.command"]);
    for document in [document, club, shop] {
        let text = document.to_string();
        for target in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(target).is_some_and(Value::is_object), "{target}");
        }
    }
}

#[test]
fn all_that_a_flow_sends_and_reads_has_a_schema() {
    let flow = check(include_str!("flows/club.v1.yaml"), Origin::User).unwrap();
    let carriers = flow.carriers();
    let commands: Vec<_> = carriers.iter().filter(|carrier| matches!(carrier, Carrier::Command(_))).collect();
    let topics: Vec<_> = flow.command_topics().collect();
    assert_eq!(commands.iter().map(|carrier| carrier.name()).collect::<Vec<_>>(), topics);
    assert!(
        carriers.contains(&Carrier::Signal("club.visited")) && carriers.contains(&Carrier::Reply("club.locker.freed"))
    );
    for step in &flow.steps {
        if let Action::Wait(wait) = &step.action {
            let schema = serde_json::to_value(flow.payload_schema(Carrier::Signal(&wait.signal))).unwrap();
            assert_eq!(schema["properties"].as_object().map(|fields| fields.len()), Some(wait.keep.len()));
        }
    }
    let answer = serde_json::to_value(flow.result_schema().unwrap()).unwrap();
    let result = json!({"card": "C", "gate": "north", "locker": null});
    assert_eq!(misfit(&answer, &answer, &result), None);
    assert!(misfit(&answer, &answer, &json!({"card": "C", "gate": "north"})).is_some());
}
