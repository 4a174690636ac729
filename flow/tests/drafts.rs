//! The flow files of the product.

use flow::{Origin, check};

#[test]
fn every_flow_of_the_product_keeps_all_rules() {
    for (name, origin) in [
        ("pay-first", Origin::BuiltIn),
        ("reserve-first", Origin::BuiltIn),
        ("order", Origin::BuiltIn),
        ("trip", Origin::User),
    ] {
        let path = format!("{}/tests/flows/{name}.v1.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(findings) = check(&text, origin) {
            panic!("{name}:\n{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>());
        }
    }
}
