//! What the orchestrator counts of its sagas. What happens to a saga is counted by the instance that stores it, from
//! the stored rows alone: nothing is timed here. How many stand where is a question to the rows, asked by [`standing`]
//! when somebody wants to know.
//!
//! Counts are of this process and begin with it. A move whose statement took effect without an answer is counted by
//! nobody: the rows are the truth, `sagactl audit` and SQL tell it.
//!
//! Checkouts have the series that they had before there were other flows. Sagas of all other flows have series of their
//! own, with the flow's name as a label: [`flows`].

pub mod flows;
pub mod standing;

use std::sync::Arc;

use dashmap::DashMap;
use flow::{Flow, Name};
use messages::Timestamp;
use service_runtime::metrics::{Count, Histogram, Metrics};

use self::flows::FlowSagas;
use crate::registry::Flows;
use crate::saga::flows::{built_in, is_checkout};
use crate::saga::{Input, Saga, State};

/// The upper bounds of the buckets: from a few statements to what is past `SAGA_TIMEOUT_MS`.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Counts of what happens to sagas. All series are there from the start, at zero: the first failure is a rise.
pub struct SagaMetrics {
    checkouts: Checkouts,
    others: FlowSagas,
    /// Replies that did not count, since the start, by their flow.
    ignored: DashMap<String, u64>,
}

/// The counts of sagas of `POST /checkout`.
struct Checkouts {
    started: Count,
    steps: Vec<Step>,
    completed: Ended,
    failed: Vec<(Name, Failed)>,
}

/// A forward step or a compensation, as in `sagas.step`.
struct Step {
    name: Name,
    duration: Histogram,
    retries: Count,
}

struct Ended {
    checkouts: Count,
    duration: Histogram,
}

struct Failed {
    turned_back: Count,
    ended: Ended,
}

impl SagaMetrics {
    /// Those of checkouts, and of the flows that are known.
    pub fn new(metrics: &Metrics, flows: Arc<Flows>) -> Self {
        let others = FlowSagas::new(metrics);
        others.keep_prepared(metrics, flows);
        Self { checkouts: Checkouts::new(metrics), others, ignored: DashMap::new() }
    }

    /// Notes that a saga was stored.
    pub fn started(&self, saga: &Saga) {
        if is_checkout(&saga.flow) { self.checkouts.started.inc() } else { self.others.started(&saga.flow) }
    }

    /// Notes that a saga was stored at `to`, in place of `from`.
    pub fn moved(&self, from: &Saga, to: &Saga) {
        if from.state == to.state {
            // An operator had it do its effect again, or the step has reported progress.
            return;
        }
        if is_checkout(&to.flow) { self.checkouts.moved(from, to) } else { self.others.moved(from, to) }
    }

    /// Notes that an input of a saga did not count.
    pub fn ignored(&self, saga: &Saga, input: &Input) {
        if let Input::Reply(_) = input {
            *self.ignored.entry(saga.flow.name.clone()).or_default() += 1;
        }
    }

    /// How many replies to sagas of a flow did not count, since the start.
    pub fn ignored_replies(&self, flow: &str) -> u64 {
        self.ignored.get(flow).map_or(0, |count| *count)
    }

    /// Notes that the effect of a saga's state is repeated, since nobody answered.
    pub fn repeated(&self, saga: &Saga) {
        if is_checkout(&saga.flow) { self.checkouts.repeated(saga) } else { self.others.repeated(saga) }
    }
}

impl Checkouts {
    fn new(metrics: &Metrics) -> Self {
        let checkouts = metrics.counts_by("checkouts_total", "Checkouts that ended, by how.", &["outcome"]);
        let help = "From a checkout's being taken to its end, in seconds.";
        let durations = metrics.durations_by("saga_duration_seconds", help, &SECONDS, &["outcome"]);
        let ended = |outcome: &str| Ended {
            checkouts: checkouts.with_label_values(&[outcome]),
            duration: durations.with_label_values(&[outcome]),
        };
        let help = "Sagas that turned back, by why. They are compensated, as far as there is something to undo.";
        let turned_back = metrics.counts_by("saga_compensations_total", help, &["cause"]);
        let causes = checkout_flows().flat_map(|flow| &flow.causes);
        let failed = causes.map(|cause| {
            let name = word(cause);
            (cause.clone(), Failed { turned_back: turned_back.with_label_values(&[&name]), ended: ended(&name) })
        });
        Self {
            started: metrics.count("sagas_started_total", "Checkouts that were stored."),
            steps: steps(metrics),
            completed: ended("completed"),
            failed: failed.collect(),
        }
    }

    fn moved(&self, from: &Saga, to: &Saga) {
        if let Some(step) = self.step(from) {
            step.duration.observe(seconds(from.updated_at, to.updated_at));
        }
        let failed = to.cause().and_then(|cause| self.failed.iter().find(|(of, _)| of == cause));
        let failed = failed.map(|(_, failed)| failed);
        if let (State::Running { .. }, Some(failed)) = (from.state, failed) {
            failed.turned_back.inc();
        }
        if to.state.has_ended() {
            let ended = failed.map_or(&self.completed, |failed| &failed.ended);
            ended.checkouts.inc();
            ended.duration.observe(seconds(to.created_at, to.updated_at));
        }
    }

    fn repeated(&self, saga: &Saga) {
        if let Some(step) = self.step(saga) {
            step.retries.inc();
        }
    }

    fn step(&self, saga: &Saga) -> Option<&Step> {
        let name = saga.step_name();
        self.steps.iter().find(|step| step.name == *name)
    }
}

fn steps(metrics: &Metrics) -> Vec<Step> {
    let help = "How long a saga stood at a step, in seconds: from asking for it to the answer's being stored.";
    let durations = metrics.durations_by("saga_step_duration_seconds", help, &SECONDS, &["step"]);
    let help = "Repetitions of a step, since nobody answered in time.";
    let retries = metrics.counts_by("saga_retries_total", help, &["step"]);
    let step = |(_, name): (_, Name)| {
        let word = word(&name);
        Step { name, duration: durations.with_label_values(&[&word]), retries: retries.with_label_values(&[&word]) }
    };
    places(checkout_flows()).into_iter().map(step).collect()
}

/// The flows behind `POST /checkout`.
fn checkout_flows() -> impl Iterator<Item = &'static Flow> {
    built_in().iter().map(|built_in| &*built_in.flow).filter(|flow| is_checkout(flow))
}

/// Where an unfinished saga of these flows can stand: `sagas.status` and `sagas.step`.
fn places<'a>(flows: impl Iterator<Item = &'a Flow>) -> Vec<(&'static str, Name)> {
    let mut places: Vec<(&str, Name)> = Vec::new();
    for (step, at) in flows.flat_map(|flow| flow.steps.iter().zip(0..)) {
        places.push((State::Running { step: at }.status(), step.name.clone()));
        if let Some(undo) = &step.undo {
            // Its status is the same whatever the cause.
            places.push((State::Compensating { step: at, cause: 0 }.status(), undo.name.clone()));
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// A row's word as a label's value.
fn word(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    // Another instance's clock may be behind.
    (to - from).to_std().unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use messages::{Currency, Money, OrderId, SagaId};

    use super::*;
    use crate::saga::tests::named;
    use crate::saga::{Checkout, advance, start};

    /// Drives a new saga by these inputs, one every 20 ms, and answers what is shown then.
    async fn shown_after(inputs: &[&'static str]) -> String {
        let metrics = Metrics::of("test");
        let counts = Checkouts::new(&metrics);
        let checkout = Checkout {
            items: messages::Items::default(),
            user_id: "u1".to_owned().try_into().unwrap(),
            money: Money::new(500.into(), Currency::USD).unwrap(),
            force_payment_fail: false,
            force_inventory_fail: false,
        };
        let mut now = DateTime::UNIX_EPOCH;
        let expires_at = now + TimeDelta::seconds(90);
        let mut saga =
            start(crate::saga::flows::pay_first(), SagaId::new(), OrderId::new(), checkout, expires_at, None, now).saga;
        counts.started.inc();
        for &input in inputs {
            now += TimeDelta::milliseconds(20);
            let next = advance(&saga, &named(input), now).unwrap().saga;
            counts.moved(&saga, &next);
            saga = next;
        }
        metrics.text().await
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line} in:\n{text}");
        }
    }

    #[tokio::test]
    async fn a_saga_that_completes_is_counted_with_its_duration_and_that_of_its_steps() {
        let text = shown_after(&["order.created", "payment.charged", "inventory.reserved", "order.confirmed"]).await;

        assert_lines(
            &text,
            &[
                "sagas_started_total 1",
                r#"checkouts_total{outcome="completed"} 1"#,
                r#"checkouts_total{outcome="payment_failed"} 0"#,
                r#"saga_duration_seconds_sum{outcome="completed"} 0.08"#,
                r#"saga_step_duration_seconds_count{step="order_create"} 1"#,
                r#"saga_step_duration_seconds_sum{step="payment_charge"} 0.02"#,
                r#"saga_step_duration_seconds_count{step="inventory_reserve"} 1"#,
                r#"saga_step_duration_seconds_count{step="order_confirm"} 1"#,
                r#"saga_step_duration_seconds_count{step="payment_refund"} 0"#,
            ],
        );
        assert!(!text.lines().any(|line| line.starts_with("saga_compensations_total") && !line.ends_with(" 0")));
    }

    #[tokio::test]
    async fn a_saga_that_turns_back_is_counted_once_when_it_does_and_once_when_it_ends() {
        let going_back =
            ["order.created", "payment.charged", "inventory.failed", "operator.cancelled", "payment.refunded"];
        let text = shown_after(&going_back).await;
        assert_lines(
            &text,
            &[
                r#"saga_compensations_total{cause="inventory_failed"} 1"#,
                r#"saga_compensations_total{cause="cancelled"} 0"#,
                r#"checkouts_total{outcome="inventory_failed"} 0"#,
                // It stayed there while it was cancelled once more.
                r#"saga_step_duration_seconds_sum{step="payment_refund"} 0.04"#,
            ],
        );

        let text = shown_after(&[&going_back[..], &["order.cancelled"]].concat()).await;
        assert_lines(
            &text,
            &[
                r#"saga_compensations_total{cause="inventory_failed"} 1"#,
                r#"checkouts_total{outcome="inventory_failed"} 1"#,
                r#"saga_duration_seconds_sum{outcome="inventory_failed"} 0.12"#,
            ],
        );
    }

    #[tokio::test]
    async fn a_repetition_counts_for_the_step_that_is_repeated() {
        let metrics = Metrics::of("test");
        let counts = Checkouts::new(&metrics);
        assert_eq!(counts.steps.len(), 8);
        counts.steps.iter().find(|step| step.name == "PAYMENT_REFUND").unwrap().retries.inc();
        assert_lines(
            &metrics.text().await,
            &[r#"saga_retries_total{step="payment_refund"} 1"#, r#"saga_retries_total{step="order_create"} 0"#],
        );
    }
}
