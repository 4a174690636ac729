//! The flows that come with this release. A flow under a version that sagas were started by never changes: a new version
//! stands beside it, as a file of its own.

use std::sync::{Arc, LazyLock};

use flow::{Flow, Origin, check};

pub use flow::PAY_FIRST;

/// A built-in flow: its file and what it says.
#[derive(Debug)]
pub struct BuiltIn {
    pub source: &'static str,
    pub flow: Arc<Flow>,
}

/// Every built-in flow, checked once.
static BUILT_IN: LazyLock<[BuiltIn; 1]> =
    LazyLock::new(|| [include_str!("../../../flows/pay-first.v1.yaml")].map(built_in_flow));

fn built_in_flow(source: &'static str) -> BuiltIn {
    match check(source, Origin::BuiltIn) {
        Ok(flow) => BuiltIn { source, flow },
        // The flow's own tests run before a release is made.
        Err(findings) => panic!("a built-in flow breaks a rule: {findings:?}"),
    }
}

/// Every built-in flow.
pub fn built_in() -> &'static [BuiltIn] {
    BUILT_IN.as_slice()
}

/// The flow behind `POST /checkout`: charge, reserve, confirm.
pub fn pay_first() -> Arc<Flow> {
    BUILT_IN[0].flow.clone()
}
