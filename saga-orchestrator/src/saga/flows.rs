//! The flows that come with this release. A flow under a version that sagas were started by never changes: a new version
//! stands beside it, as a file of its own.

use std::sync::{Arc, LazyLock};

use flow::{Flow, Origin, check};

/// Every built-in flow, checked once.
static BUILT_IN: LazyLock<[Arc<Flow>; 1]> =
    LazyLock::new(|| [include_str!("../../../flows/pay-first.v1.yaml")].map(built_in_flow));

fn built_in_flow(text: &str) -> Arc<Flow> {
    match check(text, Origin::BuiltIn) {
        Ok(flow) => flow,
        // The flow's own tests run before a release is made.
        Err(findings) => panic!("a built-in flow breaks a rule: {findings:?}"),
    }
}

/// Every built-in flow.
pub fn built_in() -> &'static [Arc<Flow>] {
    BUILT_IN.as_slice()
}

/// The flow behind `POST /checkout`: charge, reserve, confirm.
pub fn pay_first() -> Arc<Flow> {
    BUILT_IN[0].clone()
}

/// The flow that a stored saga names, if this release knows it.
pub fn find(name: &str, version: i32) -> Option<Arc<Flow>> {
    BUILT_IN.iter().find(|flow| flow.name == name && flow.version == version).cloned()
}
