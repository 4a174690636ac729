//! Answers and causes: where the client is answered, and whether each cause has a status.

use super::steps;
use crate::file::{FlowFile, Late};
use crate::finding::Findings;
use crate::rule::Rule;

/// Causes that every flow has: a limit passed, and somebody cancelled.
pub const EVERY_FLOWS_CAUSES: [&str; 2] = ["TIMED_OUT", "CANCELLED"];

pub fn check(file: &FlowFile, pivot: usize, findings: &mut Findings) {
    let answer = &file.answer;
    match file.steps.iter().position(|step| *step.name == *answer.after) {
        None => steps::unknown(&answer.after, file, findings),
        Some(after) if after < pivot && answer.is_final => {
            let message = format!(
                "`{}` is before the pivot: the saga may still turn back behind this answer, so it has to say `final: false`",
                answer.after.value
            );
            findings.report(answer.after.at, Rule::Answer, message);
        }
        Some(after) if after >= pivot && !answer.is_final => {
            let message = format!(
                "`{}` is not before the pivot: there is no way back, so the answer is final",
                answer.after.value
            );
            findings.report(answer.after.at, Rule::Answer, message);
        }
        Some(_) => {}
    }

    let causes = causes(file);
    let known = || causes.join(", ");
    let answered = |cause: &str| answer.failed.iter().any(|(name, _)| name.value == cause);
    for (name, _) in &answer.failed {
        if name.value != "otherwise" && !causes.contains(&name.as_str()) {
            let message = format!("`{}` is no cause of this flow: {}", name.value, known());
            findings.report(name.at, Rule::Cause, message);
        }
    }
    if !answered("otherwise")
        && let Some(missing) = causes.iter().find(|cause| !answered(cause))
    {
        findings.report(
            answer.at,
            Rule::Cause,
            format!("`failed` has no status for {missing}: add it, or `otherwise`"),
        );
    }
}

/// Why a saga of this flow can turn back: each once, those that the answer names first, as it names them.
pub fn causes(file: &FlowFile) -> Vec<&str> {
    let refused = file.steps.iter().flat_map(|step| &step.refused).map(|(_, refusal)| refusal.cause.as_str());
    let late = file.steps.iter().filter_map(|step| match step.late.as_deref()? {
        Late::Undo(Some(cause)) => Some(cause.as_str()),
        _ => None,
    });
    let all: Vec<_> = refused.chain(late).chain(EVERY_FLOWS_CAUSES).collect();
    let named = file.answer.failed.iter().map(|(name, _)| name.as_str()).filter(|name| all.contains(name));
    let mut causes = Vec::new();
    for cause in named.chain(all.iter().copied()) {
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    causes
}
