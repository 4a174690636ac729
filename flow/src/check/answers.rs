//! Answers and causes: where the client is answered, and whether each cause has a status.

use super::{Origin, steps};
use crate::file::{FlowFile, Late};
use crate::finding::Findings;
use crate::rule::Rule;

/// Causes that every flow has: a limit passed, and somebody cancelled.
pub const EVERY_FLOWS_CAUSES: [&str; 2] = ["TIMED_OUT", "CANCELLED"];

/// Statuses that no end of a saga has, and why.
const NO_END: [(u16, &str); 4] = [
    (202, "is the status of a saga that is not answered yet"),
    (204, "is for answers without a body, and this answer has one"),
    (205, "is for answers without a body, and this answer has one"),
    (304, "is for answers without a body, and this answer has one"),
];

pub fn check(file: &FlowFile, pivot: usize, origin: Origin, findings: &mut Findings) {
    let answer = &file.answer;
    early(file, pivot, findings);
    if origin == Origin::User {
        let statuses = [answer.done].into_iter().chain(answer.failed.iter().map(|(_, status)| *status));
        for (status, why) in statuses.filter_map(|status| NO_END.into_iter().find(|(no_end, _)| *no_end == status)) {
            findings.report(answer.at, Rule::Answer, format!("{status} {why}: choose another status"));
        }
    }
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

/// What holds for an answer before the last step only.
fn early(file: &FlowFile, pivot: usize, findings: &mut Findings) {
    let (answer, subject) = (&file.answer, &file.start.subject);
    let Some(after) = file.steps.iter().position(|step| *step.name == *answer.after) else { return };
    if let Some(limit) = file.reach_answer_within.as_ref().filter(|_| after >= pivot) {
        let message =
            "from the pivot on nothing times out, so there is no limit up to this answer: say `reach_pivot_within`";
        findings.report(limit.at, Rule::Answer, message);
    }
    if after + 1 == file.steps.len() {
        return;
    }
    if subject.value == "final" {
        let message = "the answer has a field `final` already: choose another name";
        findings.report(subject.at, Rule::Reserved, message);
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
