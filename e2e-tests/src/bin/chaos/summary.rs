//! What a run is told by at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use e2e_tests::clients::checks::{Findings, Saga};
use e2e_tests::clients::{Got, Scenario, Sent};

use crate::plan::{Fault, Kind};

/// The least share of the sagas that were meant to succeed which does so in spite of the faults: a platform that gave
/// all of them up would be consistent, too.
const LEAST_COMPLETED: f64 = 0.3;

/// By when the last saga has to have ended after the last fault.
const MOST_RECOVERY: Duration = Duration::from_secs(30);

/// At most so many lines of what is wrong are printed.
const MOST_LINES: usize = 30;

/// All that was found.
pub struct Summary<'a> {
    pub faults: &'a [Fault],
    pub sent: &'a [Sent],
    pub sagas: &'a [Saga],
    pub findings: &'a Findings,
    /// What the audit of the four databases said, if it found anything.
    pub disagreement: Option<String>,
    pub ended_by_themselves: &'a [String],
    /// From the end of the last fault to the end of the last saga, if it ended later.
    pub recovery: Duration,
    pub took: Duration,
}

impl Summary<'_> {
    pub fn is_well(&self) -> bool {
        let agreed =
            self.findings.violations.is_empty() && self.findings.lost.is_empty() && self.disagreement.is_none();
        agreed && self.share() >= LEAST_COMPLETED && self.recovery <= MOST_RECOVERY
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("faults", format!("{} in {:.0} s", self.faults.len(), self.took.as_secs_f64()));
        for ((victim, kind), count) in count(self.faults.iter().map(|fault| (fault.victim, fault.kind))) {
            let kind = if kind == Kind::Kill { "killed" } else { "frozen" };
            line("", format!("{victim:<24} {kind} {count}"));
        }
        for (what, count) in count(self.ended_by_themselves) {
            line("", format!("{what}, {count} times"));
        }
        line("answers", counts(self.sent.iter().flat_map(|sent| &sent.tries).map(|one| told(&one.got))));
        let ends = self.sagas.iter().map(|saga| match saga.step.as_str() {
            "COMPLETED" => "COMPLETED".to_owned(),
            step => format!("{} {step}", saga.status),
        });
        line("sagas", format!("{} of {} requests: {}", self.sagas.len(), self.sent.len(), counts(ends)));
        let ((completed, meant), share) = (self.completed(), 100.0 * self.share());
        let goal = 100.0 * LEAST_COMPLETED;
        line("completed", format!("{completed} of {meant} that were meant to: {share:.1} % (at least {goal:.0} %)"));
        let (recovery, goal) = (self.recovery.as_secs_f64(), MOST_RECOVERY.as_secs());
        line("recovery", format!("the last saga ended {recovery:.1} s after the last fault (at most {goal} s)"));
        line("violations", format!("{}/{} answers", self.findings.violations.len(), self.findings.answers));
        line("lost", format!("{}/{} acknowledged sagas", self.findings.lost.len(), self.findings.acknowledged));
        line("audit", self.disagreement.as_deref().unwrap_or("the four databases agree").to_owned());
        for wrong in self.findings.lost.iter().chain(&self.findings.violations).take(MOST_LINES) {
            line("", wrong.clone());
        }
        text
    }

    fn share(&self) -> f64 {
        let (completed, meant) = self.completed();
        completed as f64 / meant.max(1) as f64
    }

    /// Of the sagas without a forced failure: how many were completed, and how many there are.
    fn completed(&self) -> (usize, usize) {
        let willing =
            self.sent.iter().filter(|sent| matches!(sent.request.scenario, Scenario::Plain | Scenario::Async));
        let users: BTreeSet<&str> = willing.map(|sent| sent.request.user_id.as_str()).collect();
        let sagas = self.sagas.iter().filter(|saga| users.contains(saga.user_id.as_str()));
        let completed = sagas.clone().filter(|saga| saga.status == "COMPLETED").count();
        (completed, sagas.count())
    }
}

fn told(got: &Got) -> String {
    match got {
        Got::Answer(answer) if answer.status == 503 && !answer.header("location").is_empty() => {
            "503 with Location".to_owned()
        }
        Got::Answer(answer) if !answer.header("idempotent-replayed").is_empty() => {
            format!("{} replayed", answer.status)
        }
        Got::Answer(answer) => answer.status.to_string(),
        Got::NoConnection => "no connection".to_owned(),
        Got::ConnectionLost => "connection lost".to_owned(),
        Got::TimedOut => "no answer in time".to_owned(),
    }
}

fn count<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// `200: 5, 402: 1`.
fn counts(items: impl Iterator<Item = String>) -> String {
    let counts: Vec<String> = count(items).into_iter().map(|(item, count)| format!("{item}: {count}")).collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    /// A run with one plain checkout.
    fn is_well(status: &str, recovery: Duration, change: impl FnOnce(&mut Findings, &mut Option<String>)) -> bool {
        let requests = Plan::new(300, 20, 1).rounds.into_iter().flat_map(|round| round.requests);
        let request = requests.into_iter().find(|request| request.scenario == Scenario::Plain).unwrap();
        let saga = Saga {
            saga_id: "0".to_owned(),
            user_id: request.user_id.clone(),
            idempotency_key: request.key.clone(),
            status: status.to_owned(),
            step: status.to_owned(),
            amount: request.amount().to_string(),
        };
        let (mut findings, mut disagreement) = (Findings::default(), None);
        change(&mut findings, &mut disagreement);
        let summary = Summary {
            faults: &[],
            sent: &[Sent { request, tries: Vec::new(), undecided: false }],
            sagas: &[saga],
            findings: &findings,
            disagreement,
            ended_by_themselves: &[],
            recovery,
            took: Duration::ZERO,
        };
        summary.is_well()
    }

    #[test]
    fn all_is_well_only_if_nothing_was_found_and_the_platform_went_on_working() {
        let (soon, late) = (Duration::from_secs(29), Duration::from_secs(31));
        assert!(is_well("COMPLETED", soon, |_, _| ()));
        assert!(!is_well("COMPLETED", late, |_, _| ()), "the last saga ended too late");
        assert!(!is_well("FAILED", soon, |_, _| ()), "nothing was completed");
        assert!(!is_well("COMPLETED", soon, |findings, _| findings.violations.push("x".to_owned())));
        assert!(!is_well("COMPLETED", soon, |findings, _| findings.lost.push("x".to_owned())));
        assert!(!is_well("COMPLETED", soon, |_, disagreement| *disagreement = Some("x".to_owned())));
    }
}
