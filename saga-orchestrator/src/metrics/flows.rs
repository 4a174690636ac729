//! What is counted of sagas of all flows but the one behind `POST /checkout`. Each series has the flow's name as a label:
//! there are as many as are published. Versions of a flow share them.

use std::sync::Arc;

use flow::Flow;
use service_runtime::metrics::{Counts, Histograms, Metrics};

use super::{SECONDS, is_checkout, places, seconds, word};
use crate::registry::Flows;
use crate::saga::{Saga, State};

/// How a saga ends that does all of its steps.
const COMPLETED: &str = "completed";

/// Counts of what happens to sagas of flows. Clones share them.
#[derive(Clone)]
pub struct FlowSagas {
    started: Counts,
    ended: Counts,
    durations: Histograms,
    turned_back: Counts,
    steps: Histograms,
    retries: Counts,
}

impl FlowSagas {
    pub fn new(metrics: &Metrics) -> Self {
        let counts = |name, help, labels: &[&str]| metrics.counts_by(name, help, labels);
        let durations = |name, help, labels: &[&str]| metrics.durations_by(name, help, &SECONDS, labels);
        let (outcomes, steps) = (["flow", "outcome"], ["flow", "step"]);
        let took = "From a saga's being taken to its end, in seconds, by flow.";
        let stood = "How long a saga stood at a step, in seconds, by flow.";
        let turned = "Sagas that turned back, by flow and why.";
        let repeated = "Repetitions of a step, since nobody answered in time, by flow.";
        Self {
            started: counts("flow_sagas_started_total", "Sagas that were stored, by flow.", &["flow"]),
            ended: counts("flow_sagas_ended_total", "Sagas that ended, by flow and how.", &outcomes),
            durations: durations("flow_saga_duration_seconds", took, &outcomes),
            turned_back: counts("flow_saga_compensations_total", turned, &["flow", "cause"]),
            steps: durations("flow_saga_step_duration_seconds", stood, &steps),
            retries: counts("flow_saga_retries_total", repeated, &steps),
        }
    }

    /// Shows the series of each flow from its publication on, at zero: the first failure is a rise.
    pub fn keep_prepared(&self, metrics: &Metrics, flows: Arc<Flows>) {
        let counts = self.clone();
        metrics.before_shown(move || {
            flows.all().iter().filter(|flow| !is_checkout(flow)).for_each(|flow| counts.prepare(flow));
            Box::pin(std::future::ready(()))
        });
    }

    fn prepare(&self, flow: &Flow) {
        let name = flow.name.as_str();
        self.started.with_label_values(&[name]);
        for (_, step) in places(std::iter::once(flow)) {
            let step = word(&step);
            self.steps.with_label_values(&[name, &step]);
            self.retries.with_label_values(&[name, &step]);
        }
        let causes: Vec<String> = flow.causes.iter().map(|cause| word(cause)).collect();
        for cause in &causes {
            self.turned_back.with_label_values(&[name, cause]);
        }
        for outcome in causes.iter().map(String::as_str).chain([COMPLETED]) {
            self.ended.with_label_values(&[name, outcome]);
            self.durations.with_label_values(&[name, outcome]);
        }
    }

    pub fn started(&self, flow: &Flow) {
        self.started.with_label_values(&[&flow.name]).inc();
    }

    /// Notes that a saga was stored at `to`, another state than `from` has.
    pub fn moved(&self, from: &Saga, to: &Saga) {
        let flow = to.flow.name.as_str();
        let step = word(from.step_name());
        self.steps.with_label_values(&[flow, &step]).observe(seconds(from.updated_at, to.updated_at));
        let cause = to.cause().map(word);
        if let (State::Running { .. }, Some(cause)) = (from.state, &cause) {
            self.turned_back.with_label_values(&[flow, cause]).inc();
        }
        if to.state.has_ended() {
            let outcome = cause.as_deref().unwrap_or(COMPLETED);
            self.ended.with_label_values(&[flow, outcome]).inc();
            self.durations.with_label_values(&[flow, outcome]).observe(seconds(to.created_at, to.updated_at));
        }
    }

    /// Notes that the effect of a saga's state is repeated.
    pub fn repeated(&self, saga: &Saga) {
        self.retries.with_label_values(&[saga.flow.name.as_str(), &word(saga.step_name())]).inc();
    }
}

/// New sagas that were refused at the intake, by why. Clones share the counts.
#[derive(Clone)]
pub struct Refused {
    checkouts: Counts,
    others: Counts,
}

/// Why a valid request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Waiting,
    Paused,
    Unfinished,
    Database,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Waiting, Self::Paused, Self::Unfinished, Self::Database];

    const fn reason(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Unfinished => "unfinished",
            Self::Database => "database",
        }
    }
}

impl Refused {
    pub fn new(metrics: &Metrics, flows: Arc<Flows>) -> Self {
        let help = "Valid checkouts that were refused: too many wait, they are paused, too many are unfinished, or the database.";
        let of_flows = "Valid requests for a saga that were refused, by flow: as checkouts_refused_total.";
        let refused = Self {
            checkouts: metrics.counts_by("checkouts_refused_total", help, &["reason"]),
            others: metrics.counts_by("flow_sagas_refused_total", of_flows, &["flow", "reason"]),
        };
        for refusal in Refusal::ALL {
            refused.checkouts.with_label_values(&[refusal.reason()]);
        }
        let others = refused.others.clone();
        metrics.before_shown(move || {
            for flow in flows.all().iter().filter(|flow| !is_checkout(flow)) {
                for refusal in Refusal::ALL {
                    others.with_label_values(&[&flow.name, refusal.reason()]);
                }
            }
            Box::pin(std::future::ready(()))
        });
        refused
    }

    /// Notes that a new saga of this flow was refused.
    pub fn note(&self, flow: &Flow, refusal: Refusal) {
        match is_checkout(flow) {
            true => self.checkouts.with_label_values(&[refusal.reason()]).inc(),
            false => self.others.with_label_values(&[&flow.name, refusal.reason()]).inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use flow::{Origin, check};
    use messages::{OrderId, SagaId, Timestamp};

    use super::*;
    use crate::saga::start;

    const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

    #[tokio::test]
    async fn a_saga_of_a_flow_is_counted_under_its_flow_and_its_series_are_there_before() {
        let flow = check(TRIP, Origin::User).unwrap();
        let metrics = Metrics::of("test");
        let counts = FlowSagas::new(&metrics);
        counts.prepare(&flow);
        let shows = async |lines: &[&str]| {
            let text = metrics.text().await;
            for line in lines {
                assert!(text.lines().any(|found| found == *line), "no {line} in:\n{text}");
            }
        };
        shows(&[
            r#"flow_sagas_started_total{flow="trip"} 0"#,
            r#"flow_sagas_ended_total{flow="trip",outcome="no_seat"} 0"#,
            r#"flow_saga_step_duration_seconds_count{flow="trip",step="hotel_cancel"} 0"#,
            r#"flow_saga_retries_total{flow="trip",step="flight_ticket"} 0"#,
        ])
        .await;

        let json =
            r#"{"traveller":"ann","budget":"900.00","from":"BER","to":"LIS","out":"2027-05-01","back":"2027-05-08"}"#;
        let now = Timestamp::default();
        let request = flow.read_start(json).unwrap();
        let mut saga = start(flow.clone(), SagaId::new(), OrderId::new(), request, now, None, now).saga;
        counts.started(&flow);
        counts.repeated(&saga);
        let cause = flow.cause("HOTEL_FULL").unwrap();
        for state in [State::Running { step: 1 }, State::Compensating { step: 0, cause }, State::Failed { cause }] {
            let updated_at = saga.updated_at + TimeDelta::milliseconds(20);
            let next = crate::saga::Saga { state, updated_at, ..saga.clone() };
            counts.moved(&saga, &next);
            saga = next;
        }
        shows(&[
            r#"flow_sagas_started_total{flow="trip"} 1"#,
            r#"flow_sagas_ended_total{flow="trip",outcome="hotel_full"} 1"#,
            r#"flow_sagas_ended_total{flow="trip",outcome="completed"} 0"#,
            r#"flow_saga_duration_seconds_sum{flow="trip",outcome="hotel_full"} 0.06"#,
            r#"flow_saga_compensations_total{cause="hotel_full",flow="trip"} 1"#,
            r#"flow_saga_step_duration_seconds_sum{flow="trip",step="hotel_book"} 0.02"#,
            r#"flow_saga_step_duration_seconds_count{flow="trip",step="hotel_cancel"} 1"#,
            r#"flow_saga_retries_total{flow="trip",step="hotel_book"} 1"#,
        ])
        .await;
    }
}
