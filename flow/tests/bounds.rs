//! What a file may cost those who read it, and those who send requests to it.

use flow::{Origin, check};

const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

/// What the check finds in the trip with this field in its input.
fn findings(field: &str) -> Vec<String> {
    let text = TRIP.replacen("    from:      {", &format!("    note:      {field}\n    from:      {{"), 1);
    check(&text, Origin::User).map_or_else(|found| found.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn a_pattern_is_small_and_what_it_is_held_against_is_short() {
    assert_eq!(findings(r#"{ type: text, default: x, max: 1000, pattern: "[a-z]{1,40}" }"#), [""; 0]);
    for field in [
        r#"{ type: text, default: x, pattern: "x{200000}" }"#,
        r#"{ type: text, default: x, pattern: "(x{1,300}){1,300}" }"#,
    ] {
        let found = findings(field);
        assert!(found.len() == 1 && found[0].contains("too large"), "{field}: {found:?}");
    }
    let found = findings(r#"{ type: text, default: x, max: 60KiB, pattern: "x*" }"#);
    assert!(found.len() == 1 && found[0].contains("at most 1000 characters"), "{found:?}");
}

#[test]
fn the_subject_has_a_name_that_neither_messages_nor_answers_have() {
    for name in ["status", "version", "payload"] {
        let found = check(&TRIP.replace("subject: tripId", &format!("subject: {name}")), Origin::User).unwrap_err();
        assert!(found[0].to_string().contains(&format!("have a field `{name}` already")), "{found:?}");
    }
}

#[test]
fn a_request_with_many_names_is_read_in_no_time_and_one_twice_is_found() {
    let flow = check(TRIP, Origin::User).unwrap();
    let mut many: Vec<String> = (0..200_000).map(|n| format!(r#""n{n}":0"#)).collect();
    many.push(r#""n7":0"#.to_owned());
    let misfit = flow.read_start(&format!("{{{}}}", many.join(","))).unwrap_err();
    assert!(misfit.to_string().starts_with("duplicate field `n7`"), "{misfit}");
}

#[test]
fn the_longest_life_counts_each_limit_once_and_what_waits_beside_a_limit_up_to_the_answer() {
    let club = include_str!("flows/club.v1.yaml").split_once("\ntests:").unwrap().0;
    let life = |text: &str| check(text, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}")).longest_life();
    // Behind the pivot, or at it: 60 s of progress, 3 min, 1 min.
    let behind = 60 + 180 + 60;
    assert_eq!(life(club).as_secs(), 600 + behind);
    assert_eq!(life(&club.replacen("reach_pivot_within: 10m\n", "", 1)).as_secs(), 30 + 120 + 20 + (40 + 90) + behind);
    let early = club.replacen("reach_pivot_within: 10m", "reach_answer_within: 10m", 1);
    let early = early.replacen("  after: WELCOME\n", "  after: FEE_CHARGE\n  final: false\n", 1);
    let early = early.replacen("card: $CARD_ISSUE.cardNumber, gate: $CARD_ACTIVATE.gate, ", "", 1);
    // The wait for the board, and the whole of a charge that reports progress.
    assert_eq!(life(&early).as_secs(), 600 + 120 + (40 + 90) + behind);
}
