//! The flow files of the product.

use flow::{Origin, check};

#[test]
fn every_flow_of_the_product_keeps_all_rules() {
    for (path, origin) in [
        ("../flows/pay-first.v1.yaml", Origin::BuiltIn),
        ("tests/flows/reserve-first-draft.v1.yaml", Origin::BuiltIn),
        ("tests/flows/order.v1.yaml", Origin::BuiltIn),
        ("../examples/trip/trip.v1.yaml", Origin::User),
        ("../examples/booking/booking.v1.yaml", Origin::User),
        ("../examples/kiosk/kiosk.v1.yaml", Origin::User),
    ] {
        let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        if let Err(findings) = check(&text, origin) {
            panic!("{path}:\n{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>());
        }
    }
}
