//! What a service counts, as `GET /metrics` shows it in Prometheus' text format. Each service has a registry of its
//! own: in `standalone` several share a process. A count is an atomic addition; nothing is allocated for it.
//!
//! Names and units are as <https://prometheus.io/docs/practices/naming/> asks: base units, `_total` for what only
//! grows. Every value of a label stands in the source or in the settings, so that nobody outside can make a series.

mod kafka;
mod process;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use prometheus::core::Collector;
use prometheus::{Encoder as _, HistogramOpts, Opts, Registry, TextEncoder};
use sqlx::PgPool;

pub use prometheus::{
    Gauge as Seconds, Histogram, HistogramVec as Histograms, IntCounter as Count, IntCounterVec as Counts,
    IntGauge as Gauge, IntGaugeVec as Gauges,
};

pub(crate) use self::kafka::{ConsumerMetrics, KafkaTraffic, PartitionGauges, RecordCounts};

use self::kafka::KafkaMetrics;
use self::process::Process;

/// The type of what [`Metrics::text`] answers.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper bounds of the `batch_size` buckets: powers of two up to the largest batch.
const BATCH_SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The upper bounds of the `http_request_duration_seconds` buckets: from a read by key to a checkout that waits.
const HTTP_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How long the metrics wait for what has to be looked up for them. Prometheus itself gives up after 10 s.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

type Look = dyn Fn() -> BoxFuture<'static, ()> + Send + Sync;

/// What one service counts. Clones share the counts.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    looks: Arc<RwLock<Vec<Arc<Look>>>>,
    batch_size: Histograms,
    http_requests: Counts,
    http_seconds: Histograms,
    kafka: KafkaMetrics,
    process: Process,
}

impl Metrics {
    /// The metrics that every service has.
    pub fn of(service: &str) -> Self {
        let registry = Registry::new();
        let build = gauges("build_info", "The program that runs: always 1.", &["service", "version"]);
        registered(&registry, build).with_label_values(&[service, env!("CARGO_PKG_VERSION")]).set(1);
        let batch_size =
            histograms("batch_size", "Items done by one run of a batch.", &BATCH_SIZES, &["batch", "kind"]);
        let requests = "HTTP requests that were answered; 499: the client hung up before.";
        let seconds = "From a request's head to its answer's, in seconds.";
        Self {
            batch_size: registered(&registry, batch_size),
            http_requests: registered(
                &registry,
                counts("http_requests_total", requests, &["method", "route", "status"]),
            ),
            http_seconds: registered(
                &registry,
                histograms("http_request_duration_seconds", seconds, &HTTP_SECONDS, &["method", "route"]),
            ),
            kafka: KafkaMetrics::in_registry(&registry),
            process: Process::in_registry(&registry),
            looks: Arc::default(),
            registry,
        }
    }

    /// Counts of one kind, told apart by a label. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus' (`[a-z_]+_total`).
    pub fn counts<const N: usize>(&self, name: &str, help: &str, label: &str, values: [&str; N]) -> [Count; N] {
        let counts = self.counts_by(name, help, &[label]);
        values.map(|value| counts.with_label_values(&[value]))
    }

    /// Counts of one kind, one for each values of the labels that are asked of it. To be called once for a name.
    ///
    /// # Panics
    /// As [`Metrics::counts`].
    pub fn counts_by(&self, name: &str, help: &str, labels: &[&str]) -> Counts {
        registered(&self.registry, counts(name, help, labels))
    }

    /// A count that stands alone. To be called once for a name.
    ///
    /// # Panics
    /// As [`Metrics::counts`].
    pub fn count(&self, name: &str, help: &str) -> Count {
        registered(&self.registry, Count::new(name, help).expect(VALID))
    }

    /// How long something takes, in seconds, with these upper bounds of its buckets. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus' (`[a-z_]+_seconds`), or the bounds don't rise.
    pub fn durations_by(&self, name: &str, help: &str, bounds: &[f64], labels: &[&str]) -> Histograms {
        registered(&self.registry, histograms(name, help, bounds, labels))
    }

    /// A number that goes up and down. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus'.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        registered(&self.registry, Gauge::new(name, help).expect(VALID))
    }

    /// Numbers that go up and down, told apart by labels. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus'.
    pub fn gauges_by(&self, name: &str, help: &str, labels: &[&str]) -> Gauges {
        registered(&self.registry, gauges(name, help, labels))
    }

    /// An age or a time, in seconds. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus'.
    pub fn seconds(&self, name: &str, help: &str) -> Seconds {
        registered(&self.registry, Seconds::new(name, help).expect(VALID))
    }

    /// Has `look` bring its metrics up to date whenever they are about to be shown: what costs a question is asked
    /// only when somebody wants to know. After a second the last values are shown.
    pub fn before_shown(&self, look: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.looks.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(look));
    }

    /// Shows how far a pool is used.
    pub(crate) fn watch_pool(&self, pool: &PgPool) {
        let help = "Connections of the pool, by whether a statement has them. Batches have connections of their own.";
        let connections = self.gauges_by("database_pool_connections", help, &["state"]);
        let [in_use, idle] = ["in_use", "idle"].map(|state| connections.with_label_values(&[state]));
        let most = self.gauge("database_pool_max_connections", "DATABASE_MAX_CONNECTIONS.");
        let pool = pool.clone();
        self.before_shown(move || {
            let (open, unused) = (i64::from(pool.size()), i64::try_from(pool.num_idle()).unwrap_or(i64::MAX));
            // Two readings: a connection may have been closed in between.
            in_use.set((open - unused).max(0));
            idle.set(unused);
            most.set(pool.options().get_max_connections().into());
            Box::pin(std::future::ready(()))
        });
    }

    /// All of it, in Prometheus' text format.
    pub async fn text(&self) -> String {
        self.process.look();
        self.kafka.look();
        let looks = self.looks.read().unwrap_or_else(PoisonError::into_inner).clone();
        join_all(looks.iter().map(|look| tokio::time::timeout(LOOK_LIMIT, look()))).await;
        let mut text = Vec::new();
        // It fails for a metric without a name only, which can't be registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where the sizes of this batch go.
    pub(crate) fn batch_sizes(&self, batch: &str, kind: &str) -> Histogram {
        self.batch_size.with_label_values(&[batch, kind])
    }

    /// HTTP requests by method, route and status; and how long they took, by method and route.
    pub(crate) fn http(&self) -> (Counts, Histograms) {
        (self.http_requests.clone(), self.http_seconds.clone())
    }

    /// Where this Kafka client's traffic goes: "consumer", "producer".
    pub(crate) fn kafka_traffic(&self, client: &str) -> KafkaTraffic {
        self.kafka.traffic(client)
    }

    /// What becomes of the records of a topic.
    pub(crate) fn kafka_records(&self, topic: &str) -> RecordCounts {
        self.kafka.records(topic)
    }

    /// Those of one more consumer: `gets_on` is asked before they are shown.
    pub(crate) fn kafka_consumer(&self, gets_on: impl Fn() -> bool + Send + Sync + 'static) -> ConsumerMetrics {
        self.kafka.consumer(&self.registry, gets_on)
    }
}

/// Why making a metric can't fail: its name and labels stand in the source.
const VALID: &str = "a metric has a valid name of its own";

fn counts(name: &str, help: &str, labels: &[&str]) -> Counts {
    Counts::new(Opts::new(name, help), labels).expect(VALID)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Gauges {
    Gauges::new(Opts::new(name, help), labels).expect(VALID)
}

fn histograms(name: &str, help: &str, bounds: &[f64], labels: &[&str]) -> Histograms {
    Histograms::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels).expect(VALID)
}

fn registered<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect(VALID);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_service_shows_what_it_counts_and_nothing_of_another() {
        let (payment, inventory) = (Metrics::of("payment-service"), Metrics::of("inventory-service"));
        let [done, failed] = payment.counts("things_total", "Things.", "outcome", ["done", "failed"]);
        payment.gauge("waiting", "Who waits.").set(3);
        payment.batch_sizes("payments", "write").observe(3.0);
        let took = payment.durations_by("thing_duration_seconds", "Things.", &[0.5, 1.0], &["thing"]);
        took.with_label_values(&["one"]).observe(0.75);

        done.inc();
        failed.inc_by(2);

        let text = payment.text().await;
        for line in [
            "# TYPE things_total counter",
            r#"things_total{outcome="done"} 1"#,
            r#"things_total{outcome="failed"} 2"#,
            "waiting 3",
            r#"batch_size_bucket{batch="payments",kind="write",le="2"} 0"#,
            r#"batch_size_bucket{batch="payments",kind="write",le="4"} 1"#,
            r#"batch_size_sum{batch="payments",kind="write"} 3"#,
            r#"thing_duration_seconds_bucket{thing="one",le="0.5"} 0"#,
            r#"thing_duration_seconds_bucket{thing="one",le="1"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        let text = inventory.text().await;
        assert!(!text.contains("things_total"));
        assert!(text.contains(r#"build_info{service="inventory-service""#));
    }

    #[tokio::test]
    async fn what_is_looked_up_is_looked_up_when_it_is_shown() {
        let metrics = Metrics::of("s");
        let looks = metrics.count("looks_total", "Looks.");
        metrics.before_shown(move || {
            looks.inc();
            Box::pin(std::future::ready(()))
        });

        assert!(metrics.text().await.contains("\nlooks_total 1\n"));
        assert!(metrics.text().await.contains("\nlooks_total 2\n"));
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_waited_for() {
        let metrics = Metrics::of("s");
        metrics.gauge("last", "The last value.").set(7);
        metrics.before_shown(|| Box::pin(std::future::pending()));

        let shown = tokio::time::timeout(2 * LOOK_LIMIT, metrics.text()).await;

        assert!(shown.unwrap().contains("\nlast 7\n"));
    }
}
