//! Which files may be published: those that keep all rules, that this release runs, and whose sagas keep all rules in a
//! rehearsal: a number of seeds, for a bounded time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use flow::{Flow, MAX_FILE, Origin, check};
use service_runtime::http::{Finding, Problem};
use service_runtime::retention::Retention;
use tracing::{error, info};

use crate::rehearsal::{Broken, Coverage, Script};
use crate::supported::unsupported;

/// Seeds that are run at most, and for how long. `sagactl flow simulate` runs as many as one wants.
const SEEDS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(2);

/// The flow of a file that may be published.
///
/// # Errors
/// 413, or 422 with all findings. 500 if the rehearsal could not be run.
pub async fn publishable<'a>(retention: &Retention, body: &'a [u8]) -> Result<(Arc<Flow>, &'a str), Problem> {
    let (flow, source) = checked(retention, body)?;
    match rehearsed(&flow).await? {
        None => Ok((flow, source)),
        Some(finding) => Err(refused(vec![finding])),
    }
}

fn checked<'a>(retention: &Retention, body: &'a [u8]) -> Result<(Arc<Flow>, &'a str), Problem> {
    if body.len() > MAX_FILE {
        let detail = format!("a flow file has at most {MAX_FILE} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let source = std::str::from_utf8(body).map_err(|error| {
        let message = format!("the file is not UTF-8: {error}");
        refused(vec![Finding { line: 1, column: 1, rule: "size", message }])
    })?;
    let flow = check(source, Origin::User).map_err(|findings| {
        let finding = |found: flow::Finding| Finding {
            line: found.at.line,
            column: found.at.column,
            rule: found.rule.name(),
            message: found.message,
        };
        refused(findings.into_iter().map(finding).collect())
    })?;
    let mut findings: Vec<Finding> = Vec::new();
    for not_yet in unsupported(&flow) {
        let line = line_of(source, &not_yet.place);
        let message = format!("{}: this release does not run {}", not_yet.place, not_yet.what);
        findings.push(Finding { line, column: 1, rule: "not-yet", message });
    }
    if let (Some(kept), Some(life)) = (retention.limit().and_then(|limit| limit.to_std().ok()), flow.pivot_limit())
        && life > kept
    {
        let days = |time: std::time::Duration| time.as_secs_f64() / 86_400.0;
        let message =
            format!("a saga may take {:.1} days to its pivot, and RETENTION_DAYS keeps {:.1}", days(life), days(kept));
        findings.push(Finding { line: line_of(source, "reach_pivot_within"), column: 1, rule: "bounds", message });
    }
    if findings.is_empty() { Ok((flow, source)) } else { Err(refused(findings)) }
}

/// What a rehearsal finds wrong with a flow. On a thread of its own: it may take [`LIMIT`].
///
/// # Errors
/// When it could not be run.
async fn rehearsed(flow: &Arc<Flow>) -> Result<Option<Finding>, Problem> {
    let (name, version) = (flow.name.clone(), flow.version);
    let script = match Script::of(flow, None) {
        Ok(script) => script,
        // Nothing is wrong with the flow: no value was found that fits its shapes, or there is no model of a step.
        Err(why) => {
            info!(flow = name, version, %why, "a flow is published without a rehearsal");
            return Ok(None);
        }
    };
    let found = tokio::task::spawn_blocking(move || found(&script)).await;
    found.map_err(|error| {
        error!(flow = name, version, %error, "the rehearsal of a flow panicked");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the flow can't be rehearsed, see the server log")
    })
}

/// The seed that breaks a rule, as a finding.
fn found(script: &Script) -> Option<Finding> {
    let (flow, began) = (script.flow(), Instant::now());
    match script.rehearse(SEEDS, |_| began.elapsed() < LIMIT) {
        Ok(Coverage { seeds, ends, .. }) => {
            info!(flow = flow.name, version = flow.version, seeds, ?ends, "a flow was rehearsed");
            None
        }
        Err(Broken { seed, rule }) => {
            let message = format!(
                "seed {seed} of its simulation breaks a rule: {rule}. `sagactl flow simulate FILE --seed {seed}` shows all that happens in it"
            );
            Some(Finding { line: 1, column: 1, rule: "simulation", message })
        }
    }
}

/// Nothing is stored of a file with findings.
fn refused(findings: Vec<Finding>) -> Problem {
    let count = findings.len();
    let detail = format!("the flow file breaks {count} rules, see `findings`: nothing was stored");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_findings(findings)
}

/// The line where a step, or a key at the top of the file, stands: what is reported here has no place of its own.
fn line_of(source: &str, place: &str) -> usize {
    let is_it = |line: &str| {
        let line = line.trim_start_matches([' ', '-', '{']);
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.split(['#', ',']).next().unwrap_or_default().trim();
        key == place || (key == "step" && value == place)
    };
    source.lines().position(is_it).map_or(1, |line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::Fault;

    #[test]
    fn a_place_is_found_by_its_step_or_its_key() {
        let source =
            "flow: trip\nreach_pivot_within: 3m\nsteps:\n  - step: A\n    within: 5s\n  - { step: B, within: 5s }\n";
        assert_eq!([line_of(source, "reach_pivot_within"), line_of(source, "A"), line_of(source, "B")], [2, 4, 6]);
        assert_eq!(line_of(source, "C"), 1);
    }

    #[test]
    fn a_seed_that_breaks_a_rule_is_a_finding_that_names_it() {
        let flow = check(include_str!("../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        let mut script = Script::of(&flow, None).unwrap();
        assert!(found(&script).is_none());

        script.fault = Some(Fault::UndoSkipped);
        let found = found(&script).unwrap();

        assert_eq!((found.rule, found.line), ("simulation", 1));
        assert!(found.message.starts_with("seed "), "{}", found.message);
        assert!(found.message.contains(" --seed "), "{}", found.message);
    }
}
