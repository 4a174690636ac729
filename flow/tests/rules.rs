//! Each rule, broken alone in a flow that keeps all others.

use std::collections::BTreeSet;

use flow::{Origin, Rule, check};

const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

/// The rules that are broken once `old` is replaced by `new` in the trip; and the text at the first finding's place.
fn broken(old: &str, new: &str) -> (BTreeSet<&'static str>, String) {
    assert!(TRIP.contains(old), "the trip has no {old:?}");
    let text = TRIP.replacen(old, new, 1);
    let findings = check(&text, Origin::User).expect_err(new);
    let at = findings[0].at;
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let rest = line.chars().skip(at.column - 1).collect();
    (findings.iter().map(|finding| finding.rule.name()).collect(), rest)
}

#[track_caller]
fn breaks(rule: Rule, old: &str, new: &str, place: &str) {
    let (rules, rest) = broken(old, new);
    assert_eq!(rules, BTreeSet::from([rule.name()]), "{new}");
    assert!(rest.starts_with(place), "the finding stands at {rest:?}, not at {place:?}");
}

#[test]
fn keys_and_types() {
    breaks(Rule::UnknownKey, "pivot: FLIGHT_TICKET", "pivot: FLIGHT_TICKET\npivots: A", "pivots");
    breaks(Rule::UnknownKey, "{ cause: HOTEL_FULL,", "{ cause: HOTEL_FULL, couse: A,", "couse");
    breaks(Rule::MissingKey, "version: 1\n", "", "format: 1");
    breaks(Rule::Type, "version: 1", "version: one", "one");
    breaks(Rule::Type, "version: 1", "version: \"1\"", "\"1\"");
    breaks(Rule::Type, "within: 60s", "within: 60", "60");
    breaks(Rule::Type, "within: 60s", "within:", "");
    breaks(Rule::Type, "keep: [bookingRef] ", "keep: bookingRef ", "bookingRef");
    breaks(Rule::Bounds, "version: 1", "version: 0", "0");
    breaks(Rule::Bounds, "format: 1", "format: 2", "2");
    breaks(Rule::Bounds, "within: 60s", "within: 0s", "0s");
    breaks(Rule::Bounds, "done: 201", "done: 99", "99");
    breaks(Rule::Name, "step: HOTEL_BOOK", "step: \"HOTEL'; DROP TABLE sagas\"", "\"HOTEL");
    breaks(Rule::Name, "trip.hotel.book.command", "trip.Hotel", "trip.Hotel");
}

#[test]
fn events_that_start_sagas_have_a_topic_of_the_flows_own() {
    let start = |topic: &str| format!("start:\n  topic: {topic}\n");
    assert!(check(&TRIP.replacen("start:\n", &start("trip.asked"), 1), Origin::User).is_ok());
    for topic in
        ["order.created", "payment.charged", "tour.asked", "trip.replies", "trip.asked.dlq", "trip.car.rent.command"]
    {
        breaks(Rule::Reserved, "start:\n", &start(topic), topic);
        let built_in = check(&TRIP.replacen("start:\n", &start(topic), 1), Origin::BuiltIn);
        assert!(built_in.is_ok(), "{topic}: {built_in:?}");
    }
}

#[test]
fn what_a_signal_names_is_a_short_text() {
    let talk = |matched: &str| {
        let step = format!(
            "  - step: TALK\n    within: 1h\n    wait: {{ signal: trip.talked, match: {matched} }}\n    undo: none\n"
        );
        format!("{step}  - step: CAR_RENT")
    };
    for (matched, is_fine) in [
        ("$start.subject", true),
        ("$start.owner", true),
        ("$input.from", true),
        ("$HOTEL_BOOK.bookingRef", true),
        ("$start.money", false),
        ("$input.out", false),
        ("$input.budget", false),
        ("\"$HOTEL_BOOK.bookingRef?\"", false),
    ] {
        let text = TRIP.split("\ntests:").next().unwrap().replacen("  - step: CAR_RENT", &talk(matched), 1);
        let rules: Vec<_> = check(&text, Origin::User).err().into_iter().flatten().map(|f| f.rule.name()).collect();
        assert_eq!(rules.is_empty(), is_fine, "{matched}: {rules:?}");
        assert!(rules.iter().all(|rule| *rule == "slot"), "{matched}: {rules:?}");
    }
}

#[test]
fn nothing_is_called_as_the_history_calls_something_else() {
    breaks(Rule::Reserved, "trip.car.none: {", "operator.cancelled: {", "operator.cancelled");
    breaks(Rule::Reserved, "trip.car.none: {", "deadline.passed: {", "deadline.passed");
    breaks(Rule::Reserved, "trip.car.none: {", "owner.cancelled: {", "owner.cancelled");
}

#[test]
fn what_was_published_before_a_name_was_reserved_is_still_read() {
    let old = TRIP.replace("trip.car.none", "operator.unavailable");
    let findings = check(&old, Origin::User).unwrap_err();
    assert!(findings.iter().all(|finding| finding.rule == Rule::Reserved), "{findings:?}");
    assert!(check(&old, Origin::BuiltIn).is_ok());
    let ours = include_str!("../../flows/pay-first.v1.yaml");
    let findings = check(ours, Origin::User).unwrap_err();
    assert!(findings.iter().all(|finding| !finding.message.contains("history")), "{findings:?}");
}

#[test]
fn no_saga_ends_by_a_status_without_a_body_or_of_one_that_is_not_answered() {
    for status in ["202", "204", "205", "304"] {
        breaks(Rule::Answer, "  done: 201", &format!("  done: {status}"), "after: FLIGHT_TICKET");
        breaks(Rule::Answer, "otherwise: 409", &format!("otherwise: {status}"), "after: FLIGHT_TICKET");
    }
}

#[test]
fn what_is_sent_has_a_size() {
    let driver = |slots: &str| format!("send: {{ driver: [{slots}], city");
    let old = "send: { driver: $input.traveller, city";
    breaks(Rule::Bounds, old, &driver(&["$input.traveller"; 2_000].join(", ")), "{ topic: trip.car.rent.command");
    let text = TRIP.replacen(old, &driver(&["$input.traveller"; 1_000].join(", ")), 1);
    assert!(check(&text, Origin::User).is_ok(), "512 bytes each");
}

#[test]
fn names() {
    breaks(Rule::DuplicateStep, "step: CAR_RETURN", "step: CAR_RENT", "CAR_RENT");
    breaks(Rule::Reserved, "step: CAR_RETURN", "step: TIMED_OUT", "TIMED_OUT");
    breaks(Rule::Reserved, "subject: tripId", "subject: sagaId", "sagaId");
    breaks(Rule::Reserved, "subject: tripId", "route: /trips\n  subject: tripId", "/trips");
    breaks(Rule::Reserved, "topic: trip.car.rent.command", "topic: travel.car.rent.command", "travel.car");
    breaks(Rule::Reserved, "topic: trip.car.rent.command", "topic: order.confirm.command", "order.confirm");
    breaks(Rule::AmbiguousEvent, "trip.hotel.full: {", "trip.hotel.booked: {", "trip.hotel.booked");
    breaks(Rule::UnknownStep, "pivot: FLIGHT_TICKET", "pivot: FLIGHT", "FLIGHT");
    breaks(Rule::UnknownStep, "until: FLIGHT_TICKET", "until: FLIGHT", "FLIGHT");
    breaks(Rule::UnknownStep, "  after: FLIGHT_TICKET", "  after: FLIGHT", "FLIGHT");
    breaks(
        Rule::Choice,
        "topic: trip.car.rent.command",
        "action: order.create, topic: trip.car.rent.command",
        "{ action",
    );
    breaks(Rule::Name, "topic: trip.car.rent.command", "action: order.burn", "order.burn");
}

#[test]
fn a_user_can_not_take_a_name_of_the_platforms() {
    let (rules, _) = broken("flow: trip", "flow: payment");
    // Its own topics are another flow's then.
    assert_eq!(rules, BTreeSet::from(["reserved"]));
}

#[test]
fn slots() {
    let city = "city: $input.to, arrive";
    breaks(Rule::Slot, city, "city: $input.town, arrive", "$input.town");
    breaks(Rule::Slot, city, "city: $CAR_RENT.bookingRef, arrive", "$CAR_RENT");
    breaks(Rule::Slot, city, "city: $HOTEL_BOOK.bookingRef, arrive", "$HOTEL_BOOK");
    breaks(Rule::Slot, city, "city: $cause, arrive", "$cause");
    breaks(Rule::Slot, city, "city: $reply.reason, arrive", "$reply");
    breaks(Rule::Slot, city, "city: $input.to + 1, arrive", "$input.to + 1");
    breaks(Rule::Slot, "driver: $input.traveller", "driver: $HOTEL_BOOK.price", "$HOTEL_BOOK.price");
    breaks(Rule::Slot, "keep: [bookingRef] ", "keep: [bookingRef, stars] ", "stars");
    breaks(Rule::Slot, "owner: $input.traveller", "owner: $input.out", "$input.out");
    breaks(Rule::Optional, "\"$HOTEL_BOOK.bookingRef?\"", "$HOTEL_BOOK.bookingRef", "$HOTEL_BOOK");
    breaks(
        Rule::Optional,
        "reply: { bookingRef: { type: text, max: 40 }, price",
        "reply: { bookingRef: { type: text, max: 40, optional: true }, price",
        "$HOTEL_BOOK",
    );
}

#[test]
fn the_three_zones() {
    breaks(Rule::Undo, "    undo: { step: CAR_RETURN", "    # { step: CAR_RETURN", "CAR_RENT");
    breaks(Rule::Within, "  - step: CAR_RENT\n    within: 60s", "  - step: CAR_RENT", "CAR_RENT");
    breaks(Rule::Pivot, "  - step: FLIGHT_TICKET\n", "  - step: FLIGHT_TICKET\n    within: 60s\n", "60s");
    breaks(Rule::Pivot, "  - step: FLIGHT_TICKET\n", "  - step: FLIGHT_TICKET\n    undo: none\n", "none");
    breaks(Rule::Answer, "  after: FLIGHT_TICKET", "  final: false\n  after: FLIGHT_TICKET", "FLIGHT_TICKET");
    breaks(
        Rule::Answer,
        "  after: FLIGHT_TICKET\n  done: 201\n  failed: { TIMED_OUT: 504, otherwise: 409 }\n  body: { hotel: $HOTEL_BOOK.bookingRef, car: $CAR_RENT.bookingRef, ticket: $FLIGHT_TICKET.ticketNumber }",
        "  after: CAR_RENT\n  done: 201\n  failed: { otherwise: 409 }",
        "CAR_RENT",
    );
    let talk = "  - step: TALK\n    wait: { signal: trip.talked, match: $start.subject }\n    late: attention\n    undo: none\n";
    let flight = "  - step: FLIGHT_TICKET\n";
    breaks(Rule::Within, flight, &format!("{talk}{flight}"), "TALK");
    let car = "  - step: CAR_RENT\n";
    breaks(
        Rule::Choice,
        car,
        &format!("{car}    wait: {{ signal: trip.talked, match: $start.subject }}\n"),
        "CAR_RENT",
    );
}

#[test]
fn an_answer_before_the_last_step() {
    let answer = "  after: FLIGHT_TICKET\n  done: 201\n  failed: { TIMED_OUT: 504, otherwise: 409 }\n  body: { hotel: $HOTEL_BOOK.bookingRef, car: $CAR_RENT.bookingRef, ticket: $FLIGHT_TICKET.ticketNumber }";
    let early =
        |done: u16| format!("  after: CAR_RENT\n  final: false\n  done: {done}\n  failed: {{ otherwise: 409 }}");
    let (text, _its_tests) = TRIP.split_once("\ntests:").unwrap();
    let text = text.replacen(answer, &early(201), 1);
    assert!(text.contains("final: false"), "{text}");
    check(&text, Origin::User).unwrap();
    check(&text.replacen("reach_pivot_within", "reach_answer_within", 1), Origin::User).unwrap();
    let broken = |text: &str| {
        let findings = check(text, Origin::User).unwrap_err();
        findings.iter().map(|finding| (finding.rule.name(), finding.message.clone())).collect::<Vec<_>>()
    };
    let accepted = broken(&text.replacen(&early(201), &early(202), 1));
    assert!(accepted.len() == 1 && accepted[0].0 == "answer" && accepted[0].1.starts_with("202 is"), "{accepted:?}");
    let twice = broken(&text.replacen("subject: tripId", "subject: final", 1));
    assert!(twice.len() == 1 && twice[0].0 == "reserved" && twice[0].1.contains("`final`"), "{twice:?}");
    breaks(Rule::Answer, "reach_pivot_within: 3m", "reach_answer_within: 3m", "3m");
}

#[test]
fn causes_and_answers() {
    breaks(Rule::Cause, "failed: { TIMED_OUT: 504,", "failed: { TIMED_OUT: 504, NO_TRAIN: 404,", "NO_TRAIN");
    breaks(Rule::Cause, "failed: { TIMED_OUT: 504, otherwise: 409 }", "failed: { TIMED_OUT: 504 }", "after");
}

#[test]
fn shapes() {
    let from = "from:      { type: text, pattern: \"[A-Z]{3}\" }";
    breaks(Rule::Type, from, "from: { type: text, pattern: \"[A-Z\" }", "{ type");
    breaks(Rule::Choice, from, "from: { type: date, pattern: \"[A-Z]\" }", "{ type");
    breaks(Rule::Choice, from, "from: { type: text, optional: false, most: 3 }", "{ type");
    breaks(
        Rule::MissingKey,
        "out:       { type: date }",
        "out: { type: date }\n    bags: { type: list, of: { kg: { type: count } } }",
        "{ type: list",
    );
    breaks(Rule::Type, "default: EUR", "default: 5", "{ type: currency");
}

#[test]
fn all_findings_of_a_file_are_reported_in_its_order() {
    let text = TRIP.replace("step: CAR_RETURN", "step: CAR_RENT").replace("until: FLIGHT_TICKET", "until: NOWHERE");
    let text = text.replace("city: $input.to, arrive", "city: $input.town, arrive");

    let findings = check(&text, Origin::User).unwrap_err();

    let rules: Vec<_> = findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [Rule::UnknownStep, Rule::Slot, Rule::DuplicateStep]);
}

#[test]
fn a_test_of_the_file_that_fails_is_a_finding() {
    breaks(Rule::Test, "FAILED/NO_SEAT]", "FAILED/NO_CAR]", "HOTEL_BOOK");
    breaks(Rule::Test, "out: 2027-05-01,", "out: 2027-05-32,", "no seat");
    breaks(Rule::Test, "answer: 409", "answer: 504", "no seat");
    breaks(
        Rule::Test,
        "replies: [trip.hotel.booked, trip.car.rented,",
        "replies: [trip.car.rented,",
        "trip.car.rented",
    );
}

/// A flow that asks the platform's own participants.
const SHOP: &str = include_str!("flows/shop.v1.yaml");

#[track_caller]
fn shop_breaks(old: &str, new: &str, place: &str, words: &[&str]) {
    assert!(SHOP.contains(old), "the shop has no {old:?}");
    let text = SHOP.replacen(old, new, 1);
    let findings = check(&text, Origin::User).expect_err(new);
    let [finding] = findings.as_slice() else { panic!("{new}: {findings:?}") };
    assert_eq!(finding.rule, Rule::Platform, "{new}: {finding}");
    let rest: String =
        text.lines().nth(finding.at.line - 1).unwrap_or_default().chars().skip(finding.at.column - 1).collect();
    assert!(rest.starts_with(place), "the finding stands at {rest:?}, not at {place:?}");
    assert!(words.iter().all(|word| finding.message.contains(word)), "{}", finding.message);
}

#[test]
fn a_participant_of_the_platform_may_be_sent_what_a_signal_has_brought() {
    let pay = "  - step: PAY\n";
    let wait = "  - step: ASK\n    within: 1h\n    wait: { signal: shop.paid-by, match: $start.subject, keep: { payer: { type: user_id } } }\n    undo: none\n";
    let text =
        SHOP.replacen(pay, &format!("{wait}{pay}"), 1).replacen("userId: $input.userId", "userId: $ASK.payer", 1);
    assert!(text.contains("$ASK.payer"));
    if let Err(findings) = check(&text, Origin::User) {
        panic!("{findings:?}");
    }
}

#[test]
fn what_is_asked_of_the_platforms_participants_keeps_to_their_messages() {
    check(SHOP, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
    shop_breaks("subject: orderId", "subject: basketId", "basketId", &["write `subject: orderId`"]);
    let charge = "payment.charge.command";
    shop_breaks("{ userId: $input.userId, money", "{ user: $input.userId, money", charge, &["missing field `userId`"]);
    shop_breaks("money: $start.money, forceFail", "money: $input.total, forceFail", charge, &["It takes `userId`"]);
    shop_breaks("forceFail: $input.decline", "forceFail: \"no\"", charge, &["forceFail", "true or false"]);
    shop_breaks("reason: $cause", "why: $cause", "payment.refund.command", &["missing field `reason`"]);
    shop_breaks(
        "topic: inventory.reserve.command",
        "topic: inventory.hold.command",
        "inventory.hold",
        &["takes `inventory.hold"],
    );
    shop_breaks("done: inventory.reserved", "done: shop.reserved", "shop.reserved", &["`inventory.reserved` or"]);
    shop_breaks("inventory.failed: {", "payment.failed: {", "payment.failed", &["does not answer"]);
    let charged = "reply: { money: { type: money } }";
    shop_breaks(charged, "reply: { receipt: { type: text } }", "receipt", &["`receipt`", r#"{"money":"#]);
    shop_breaks(charged, "reply: { money: { type: text } }", "money", &["`money`"]);

    // Where it is missing in a request it would be sent as null.
    let text = SHOP.replace("boolean, default: false", "boolean, optional: true");
    let text = text.replace("$input.decline", "\"$input.decline?\"");
    let findings = check(&text, Origin::User).unwrap_err();
    let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(all.len() == 2 && all.iter().all(|finding| finding.contains("invalid type: null")), "{all:?}");
}

#[test]
fn goods_are_not_handed_over_before_the_pivot() {
    let wrap = "  - step: WRAP\n";
    let hand_over = "  - step: HAND_OVER\n    within: 60s\n    ask: { topic: inventory.commit.command }\n    done: inventory.committed\n    refused: { inventory.failed: { cause: GONE, reason: $reply.reason } }\n    undo: none\n";
    shop_breaks(wrap, &format!("{hand_over}{wrap}"), "inventory.commit.command", &["the pivot, which is `WRAP`"]);
    let keep = hand_over.replace("inventory.commit.command", "inventory.keep.command").replace("committed", "kept");
    check(&SHOP.replacen(wrap, &format!("{keep}{wrap}"), 1), Origin::User).unwrap_or_else(|found| panic!("{found:?}"));
}
