//! Where the unfinished sagas stand, of all instances: read from the rows when the metrics are shown, at most once a
//! second, however many ask. What can't be read now is shown as it was, with the time at which it was read.

use std::sync::Arc;
use std::time::Duration;

use service_runtime::database::again_if_lost;
use service_runtime::metrics::{Gauge, Gauges, Metrics, Seconds};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::{places, word};
use crate::registry::Flows;
use crate::store::{Unfinished, unfinished};

/// Until what was read is read again.
const FRESH: Duration = Duration::from_secs(1);

struct Standing {
    unfinished: Gauges,
    /// The series that there are. Where no saga stands any more it is shown as 0, not as gone.
    places: Vec<(String, String, Gauge)>,
    needing_attention: Gauge,
    of_unknown_definition: Gauge,
    oldest_age: Seconds,
    read_at: Seconds,
    /// Also after a failure: a database in trouble is not asked more often.
    asked: Option<Instant>,
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
            match again_if_lost(|| unfinished(&pool, &flows)).await {
                Ok(found) => standing.note(&found),
                Err(error) => debug!(error = error.for_log(), "unfinished sagas can't be counted"),
            }
        })
    });
}

impl Standing {
    fn new(metrics: &Metrics) -> Self {
        let help = "Sagas that have not ended, of all instances, by where they stand.";
        let unfinished = metrics.gauges_by("sagas_unfinished", help, &["status", "step"]);
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
            places: Vec::new(),
            needing_attention,
            of_unknown_definition,
            oldest_age,
            read_at,
            asked: None,
        };
        places().for_each(|(status, step)| standing.set(status, &step, 0));
        standing
    }

    fn note(&mut self, found: &[Unfinished]) {
        let gone = |(status, step, _): &&(String, String, Gauge)| {
            !found.iter().any(|place| word(&place.status) == *status && word(&place.step) == *step)
        };
        self.places.iter().filter(gone).for_each(|(.., gauge)| gauge.set(0));
        for place in found {
            self.set(&place.status, &place.step, place.count);
        }
        self.needing_attention.set(found.iter().map(|place| place.needing_attention).sum());
        self.of_unknown_definition.set(found.iter().map(|place| place.of_unknown_definition).sum());
        self.oldest_age.set(found.iter().map(|place| place.oldest_age_seconds).fold(0.0, f64::max));
        self.read_at.set(service_runtime::now().timestamp_millis() as f64 / 1000.0);
    }

    /// Also of a step that only a newer release knows.
    fn set(&mut self, status: &str, step: &str, count: i64) {
        let (status, step) = (word(status), word(step));
        let gauge = self.unfinished.with_label_values(&[&status, &step]);
        gauge.set(count);
        if !self.places.iter().any(|(known, at, _)| (known, at) == (&status, &step)) {
            self.places.push((status, step, gauge));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(status: &str, step: &str, count: i64, needing_attention: i64, oldest_age_seconds: f64) -> Unfinished {
        let (status, step) = (status.to_owned(), step.to_owned());
        Unfinished { status, step, count, needing_attention, of_unknown_definition: 0, oldest_age_seconds }
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

        standing.note(&[
            place("RUNNING", "PAYMENT_CHARGE", 3, 0, 1.5),
            place("COMPENSATING", "PAYMENT_REFUND", 2, 1, 90.25),
            place("RUNNING", "OF_A_NEWER_RELEASE", 1, 0, 0.5),
        ]);
        assert_eq!(
            lines().await,
            [
                "saga_oldest_unfinished_age_seconds 90.25",
                "sagas_needing_attention 1",
                r#"sagas_unfinished{status="compensating",step="payment_refund"} 2"#,
                r#"sagas_unfinished{status="running",step="of_a_newer_release"} 1"#,
                r#"sagas_unfinished{status="running",step="payment_charge"} 3"#,
            ]
        );

        standing.note(&[place("RUNNING", "PAYMENT_CHARGE", 4, 0, 2.5)]);
        assert_eq!(
            lines().await,
            ["saga_oldest_unfinished_age_seconds 2.5", r#"sagas_unfinished{status="running",step="payment_charge"} 4"#,]
        );
        standing.note(&[]);
        assert_eq!(lines().await, Vec::<String>::new());
    }
}
