//! Which files may be published: those that keep all rules, and that this release runs.

use std::sync::Arc;

use axum::http::StatusCode;
use flow::{Flow, MAX_FILE, Origin, Reach, check};
use service_runtime::Fatal;
use service_runtime::http::{Finding, Problem};
use service_runtime::retention::Retention;
use sqlx::PgPool;

use crate::registry::Flows;
use crate::saga::flows::built_in;
use crate::store::definitions::patiently;
use crate::store::flows::running;
use crate::supported::unsupported;

/// The flow of a file that may be published.
///
/// # Errors
/// 413, or 422 with all findings.
pub fn publishable<'a>(retention: &Retention, body: &'a [u8]) -> Result<(Arc<Flow>, &'a str), Problem> {
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
    if built_in().iter().any(|built_in| built_in.flow.name == flow.name) {
        let message = format!("`{}` is a flow that comes with the platform: choose another name", flow.name);
        findings.push(Finding { line: line_of(source, "flow"), column: 1, rule: "reserved", message });
    }
    for not_yet in unsupported(&flow) {
        let line = line_of(source, &not_yet.place);
        findings.push(Finding { line, column: 1, rule: "not-yet", message: not_yet.to_string() });
    }
    if let Some(message) = outlives(&flow, retention) {
        let key = if let Some(Reach::Answer(_)) = flow.reach { "reach_answer_within" } else { "reach_pivot_within" };
        findings.push(Finding { line: line_of(source, key), column: 1, rule: "bounds", message });
    }
    if findings.is_empty() { Ok((flow, source)) } else { Err(refused(findings)) }
}

/// Why sagas of this flow may live longer than what has ended is kept. What is removed then may still be needed.
pub fn outlives(flow: &Flow, retention: &Retention) -> Option<String> {
    let (life, kept) = (flow.longest_life(), retention.limit()?.to_std().ok()?);
    let days = |time: std::time::Duration| time.as_secs_f64() / 86_400.0;
    (life > kept).then(|| format!("a saga may take {:.1} days, and RETENTION_DAYS keeps {:.1}", days(life), days(kept)))
}

/// Checks that what has ended is kept for as long as the sagas that run may live.
///
/// # Errors
/// When it is not, with both numbers.
pub async fn check_running(pool: &PgPool, flows: &Flows, retention: &Retention) -> Result<(), Fatal> {
    if retention.limit().is_none() {
        return Ok(());
    }
    for (name, version, count) in patiently(|| running(pool)).await? {
        if let Some(why) = flows.find(&name, version).and_then(|flow| outlives(&flow, retention)) {
            return Err(Fatal::new(format!(
                "RETENTION_DAYS is too low: {count} sagas of {name} v{version} run, and {why}"
            )));
        }
    }
    Ok(())
}

/// Nothing is stored of a file with findings.
pub fn refused(findings: Vec<Finding>) -> Problem {
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

    #[test]
    fn a_place_is_found_by_its_step_or_its_key() {
        let source =
            "flow: trip\nreach_pivot_within: 3m\nsteps:\n  - step: A\n    within: 5s\n  - { step: B, within: 5s }\n";
        assert_eq!([line_of(source, "reach_pivot_within"), line_of(source, "A"), line_of(source, "B")], [2, 4, 6]);
        assert_eq!(line_of(source, "C"), 1);
    }
}
