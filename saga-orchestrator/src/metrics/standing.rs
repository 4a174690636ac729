//! Where the unfinished sagas stand, of all instances: read from the rows when the metrics are shown, at most once a
//! second, however many ask. What can't be read now is shown as it was, with the time at which it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flow::Flow;
use service_runtime::database::again_if_lost;
use service_runtime::metrics::{Gauge, Gauges, Metrics, Seconds};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::{checkout_flows, is_checkout, places, word};
use crate::registry::Flows;
use crate::store::{Unfinished, unfinished, waiting_that_need_attention};

/// Until what was read is read again.
const FRESH: Duration = Duration::from_secs(1);

struct Standing {
    /// Of checkouts, and of sagas whose flow is unknown.
    unfinished: Gauges,
    of_flows: Gauges,
    /// The series that there are. Where no saga stands any more it is shown as 0, not as gone.
    places: BTreeSet<Place>,
    needing_attention: Gauge,
    of_unknown_definition: Gauge,
    oldest_age: Seconds,
    read_at: Seconds,
    /// Also after a failure: a database in trouble is not asked more often.
    asked: Option<Instant>,
}

/// Where sagas stand, in the words of the labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// `None`: in the series of checkouts.
    flow: Option<String>,
    status: String,
    step: String,
}

impl Place {
    fn of(flow: Option<&str>, status: &str, step: &str) -> Self {
        Self { flow: flow.map(str::to_owned), status: word(status), step: word(step) }
    }
}

/// Has them shown with the metrics.
pub fn show(metrics: &Metrics, pool: PgPool, flows: Arc<Flows>) {
    let standing = Arc::new(Mutex::new(Standing::new(metrics)));
    metrics.before_shown(move || {
        let (standing, pool, flows) = (standing.clone(), pool.clone(), flows.clone());
        Box::pin(async move {
            // Who comes meanwhile waits, and is shown the same.
            let mut standing = standing.lock().await;
            if standing.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
                return;
            }
            standing.asked = Some(Instant::now());
            let read = async || Ok((unfinished(&pool, &flows).await?, waiting_that_need_attention(&pool).await?));
            match again_if_lost(read).await {
                Ok((found, waiting)) => standing.note(&flows.all(), &found, waiting),
                Err(error) => debug!(error = error.for_log(), "unfinished sagas can't be counted"),
            }
        })
    });
}

impl Standing {
    fn new(metrics: &Metrics) -> Self {
        let help = "Checkouts that have not ended, of all instances, by where they stand.";
        let unfinished = metrics.gauges_by("sagas_unfinished", help, &["status", "step"]);
        let help = "Sagas of flows that have not ended, of all instances, by flow and where they stand.";
        let of_flows = metrics.gauges_by("flow_sagas_unfinished", help, &["flow", "status", "step"]);
        let help = "Sagas that a person should look at, of all instances.";
        let needing_attention = metrics.gauge("sagas_needing_attention", help);
        let help = "Unfinished sagas of definitions that this release does not know, of all instances.";
        let of_unknown_definition = metrics.gauge("sagas_of_unknown_definition", help);
        let help = "How long ago the oldest saga began that has not ended, in seconds; 0: there is none.";
        let oldest_age = metrics.seconds("saga_oldest_unfinished_age_seconds", help);
        let help = "When sagas_unfinished and its neighbours were read, in seconds since 1970; 0: never.";
        let read_at = metrics.seconds("sagas_read_timestamp_seconds", help);
        let mut standing = Self {
            unfinished,
            of_flows,
            places: BTreeSet::new(),
            needing_attention,
            of_unknown_definition,
            oldest_age,
            read_at,
            asked: None,
        };
        for (status, step) in places(checkout_flows()) {
            standing.set(Place::of(None, status, &step), 0);
        }
        standing
    }

    /// `waiting`: how many of the sagas that wait need attention; they are not among those found.
    fn note(&mut self, known: &[Arc<Flow>], found: &[Unfinished], waiting: i64) {
        let mut counts: BTreeMap<Place, i64> = self.places.iter().map(|place| (place.clone(), 0)).collect();
        let others: Vec<&Flow> = known.iter().map(|flow| &**flow).filter(|flow| !is_checkout(flow)).collect();
        for flow in &others {
            for (status, step) in places(std::iter::once(*flow)) {
                counts.entry(Place::of(Some(&flow.name), status, &step)).or_default();
            }
        }
        for at in found {
            // One that only a newer release knows stands among the checkouts, and in `of_unknown_definition`.
            let flow = others.iter().any(|flow| flow.name == at.flow).then_some(at.flow.as_str());
            *counts.entry(Place::of(flow, &at.status, &at.step)).or_default() += at.count;
        }
        counts.into_iter().for_each(|(place, count)| self.set(place, count));
        self.needing_attention.set(found.iter().map(|place| place.needing_attention).sum::<i64>() + waiting);
        self.of_unknown_definition.set(found.iter().filter(|at| !at.is_known).map(|at| at.count).sum());
        self.oldest_age.set(found.iter().map(|place| place.oldest_age_seconds).fold(0.0, f64::max));
        self.read_at.set(service_runtime::now().timestamp_millis() as f64 / 1000.0);
    }

    fn set(&mut self, place: Place, count: i64) {
        let Place { flow, status, step } = &place;
        match flow {
            None => self.unfinished.with_label_values(&[status, step]).set(count),
            Some(flow) => self.of_flows.with_label_values(&[flow, status, step]).set(count),
        }
        self.places.insert(place);
    }
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;
    use crate::saga::flows::PAY_FIRST;

    fn place(status: &str, step: &str, count: i64, needing_attention: i64, oldest_age_seconds: f64) -> Unfinished {
        let [flow, status, step] = [PAY_FIRST, status, step].map(str::to_owned);
        Unfinished { flow, version: 1, is_known: true, status, step, count, needing_attention, oldest_age_seconds }
    }

    #[tokio::test]
    async fn sagas_of_a_flow_stand_beside_the_checkouts_and_its_versions_are_added_up() {
        let metrics = Metrics::of("test");
        let mut standing = Standing::new(&metrics);
        let flow = check(include_str!("../../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        let of = |flow: &str, version: i32, count: i64| {
            let is_known = version == 1;
            Unfinished { flow: flow.to_owned(), version, is_known, ..place("RUNNING", "CAR_RENT", count, 0, 0.0) }
        };
        standing.note(&[flow], &[of("trip", 1, 2), of("trip", 2, 3), of("of-a-newer-release", 1, 1)], 0);

        let text = metrics.text().await;
        for line in [
            r#"flow_sagas_unfinished{flow="trip",status="running",step="car_rent"} 5"#,
            r#"flow_sagas_unfinished{flow="trip",status="compensating",step="hotel_cancel"} 0"#,
            r#"sagas_unfinished{status="running",step="car_rent"} 1"#,
            "sagas_of_unknown_definition 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
    }

    #[tokio::test]
    async fn a_place_where_no_saga_stands_any_more_is_shown_as_zero() {
        let metrics = Metrics::of("test");
        let mut standing = Standing::new(&metrics);
        let lines = async || {
            let text = metrics.text().await;
            let shown = |line: &&str| line.starts_with("saga") && !line.ends_with(" 0") && !line.contains("timestamp");
            text.lines().filter(shown).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines().await, Vec::<String>::new());

        standing.note(
            &[],
            &[
                place("RUNNING", "PAYMENT_CHARGE", 3, 0, 1.5),
                place("COMPENSATING", "PAYMENT_REFUND", 2, 1, 90.25),
                place("RUNNING", "OF_A_NEWER_RELEASE", 1, 0, 0.5),
            ],
            2,
        );
        assert_eq!(
            lines().await,
            [
                "saga_oldest_unfinished_age_seconds 90.25",
                "sagas_needing_attention 3",
                r#"sagas_unfinished{status="compensating",step="payment_refund"} 2"#,
                r#"sagas_unfinished{status="running",step="of_a_newer_release"} 1"#,
                r#"sagas_unfinished{status="running",step="payment_charge"} 3"#,
            ]
        );

        standing.note(&[], &[place("RUNNING", "PAYMENT_CHARGE", 4, 0, 2.5)], 0);
        assert_eq!(
            lines().await,
            ["saga_oldest_unfinished_age_seconds 2.5", r#"sagas_unfinished{status="running",step="payment_charge"} 4"#,]
        );
        standing.note(&[], &[], 0);
        assert_eq!(lines().await, Vec::<String>::new());
    }
}
