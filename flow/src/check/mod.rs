//! Whether a flow file makes sense. All findings at once; a file without findings becomes a [`Flow`].

mod answers;
mod names;
mod platform;
mod shapes;
mod sizes;
mod slots;
mod steps;

use std::sync::Arc;

pub(crate) use answers::causes;

use crate::file::FlowFile;
use crate::finding::{Finding, Findings};
use crate::flow::Flow;
use crate::format::{conforms, tables};
use crate::rule::Rule;
use crate::{walk, yaml};

/// Whose flow it is. A built-in one may use names that are reserved, and have a route of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    User,
}

/// Reads and checks a flow file.
///
/// # Errors
/// All that is wrong with it, in the order of the file. What has not the form of a flow file is not checked further.
pub fn check(text: &str, origin: Origin) -> Result<Arc<Flow>, Vec<Finding>> {
    let mut findings = Findings::default();
    if let Some(root) = yaml::read(text, &mut findings) {
        conforms(&root, &tables::FILE, &mut findings);
        if findings.is_empty() {
            let file = FlowFile::of(&root);
            rules(&file, origin, &mut findings);
            if findings.is_empty() {
                let flow = Flow::of(&file, text);
                own_tests(&flow, &mut findings);
                if origin == Origin::User {
                    platform::check(&file, &flow, &mut findings);
                }
                if findings.is_empty() {
                    return Ok(Arc::new(flow));
                }
            }
        }
    }
    Err(findings.sorted())
}

/// The tests that stand in the file.
fn own_tests(flow: &Flow, findings: &mut Findings) {
    for test in &flow.tests {
        let mut input = Vec::new();
        test.input.fill(&mut input, &mut |_, _| false);
        if let Err(misfit) = flow.read_start(&String::from_utf8_lossy(&input)) {
            findings.report(test.name.at, Rule::Test, format!("\"{}\": the input: {misfit}", test.name.value));
        }
        if let Err(failure) = walk::run(flow, test) {
            findings.report(failure.at, Rule::Test, format!("\"{}\": {}", test.name.value, failure.why));
        }
    }
}

fn rules(file: &FlowFile, origin: Origin, findings: &mut Findings) {
    names::check(file, origin, findings);
    shapes::check(file, findings);
    // The rest depends on where the pivot is.
    let Some(pivot) = file.steps.iter().position(|step| *step.name == *file.pivot) else {
        return steps::unknown(&file.pivot, file, findings);
    };
    steps::check(file, pivot, findings);
    slots::check(file, findings);
    sizes::check(file, findings);
    answers::check(file, pivot, origin, findings);
}
