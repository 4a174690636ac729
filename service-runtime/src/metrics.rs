//! What a service counts, as `GET /metrics` shows it in Prometheus' text format. Each service has a registry of its
//! own: in `standalone` several share a process. A count is an atomic addition; nothing is allocated for it.

use std::time::Duration;

use prometheus::{
    Counter, Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use rustix::time::{ClockId, clock_gettime};

pub use prometheus::{IntCounter as Count, IntGauge as Gauge};

/// The type of what [`Metrics::text`] answers.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper bounds of the `batch_size` buckets: powers of two up to the largest batch.
const BATCH_SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// What one service counts. Clones share the counts.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    batch_size: HistogramVec,
    kafka_requests: IntCounterVec,
    kafka_sent_bytes: IntCounterVec,
    kafka_received_bytes: IntCounterVec,
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
}

/// What one Kafka client has exchanged with its brokers.
pub(crate) struct KafkaTraffic {
    requests: IntCounter,
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
}

impl Metrics {
    /// The metrics that every service has.
    pub fn of(service: &str) -> Self {
        let registry = Registry::new();
        let by_client = |name: &str, help: &str| registered(&registry, count_vec(name, help, "client"));
        let batch_size = HistogramOpts::new("batch_size", "Items done by one run of a batch.");
        let batch_size = HistogramVec::new(batch_size.buckets(BATCH_SIZES.to_vec()), &["batch", "kind"]);
        let build =
            IntGaugeVec::new(Opts::new("build_info", "The program that runs: always 1."), &["service", "version"]);
        registered(&registry, build.expect(VALID)).with_label_values(&[service, env!("CARGO_PKG_VERSION")]).set(1);
        let cpu = Counter::new("process_cpu_seconds_total", "Processor time of the whole process, in seconds.");
        let resident =
            IntGauge::new("process_resident_memory_bytes", "Resident memory of the whole process, in bytes.");
        Self {
            batch_size: registered(&registry, batch_size.expect(VALID)),
            kafka_requests: by_client("kafka_requests_total", "Requests sent to Kafka."),
            kafka_sent_bytes: by_client("kafka_sent_bytes_total", "Bytes sent to Kafka."),
            kafka_received_bytes: by_client("kafka_received_bytes_total", "Bytes received from Kafka."),
            cpu_seconds: registered(&registry, cpu.expect(VALID)),
            resident_bytes: registered(&registry, resident.expect(VALID)),
            registry,
        }
    }

    /// Counts of one kind, told apart by a label. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus' (`[a-z_]+_total`).
    pub fn counts<const N: usize>(&self, name: &str, help: &str, label: &str, values: [&str; N]) -> [Count; N] {
        let counts = registered(&self.registry, count_vec(name, help, label));
        values.map(|value| counts.with_label_values(&[value]))
    }

    /// A number that goes up and down. To be called once for a name.
    ///
    /// # Panics
    /// When the name is taken or not one of Prometheus'.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        registered(&self.registry, IntGauge::new(name, help).expect(VALID))
    }

    /// All of it, in Prometheus' text format.
    pub fn text(&self) -> String {
        // Of the process, so that a look is early enough.
        self.cpu_seconds.inc_by((cpu_time().as_secs_f64() - self.cpu_seconds.get()).max(0.0));
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        let mut text = Vec::new();
        // It fails for a metric without a name only, which can't be registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where the sizes of this batch go.
    pub(crate) fn batch_sizes(&self, batch: &str, kind: &str) -> Histogram {
        self.batch_size.with_label_values(&[batch, kind])
    }

    /// Where this Kafka client's traffic goes: "consumer", "producer".
    pub(crate) fn kafka_traffic(&self, client: &str) -> KafkaTraffic {
        KafkaTraffic {
            requests: self.kafka_requests.with_label_values(&[client]),
            sent_bytes: self.kafka_sent_bytes.with_label_values(&[client]),
            received_bytes: self.kafka_received_bytes.with_label_values(&[client]),
        }
    }
}

impl KafkaTraffic {
    /// Notes what librdkafka has counted since the client was made.
    pub(crate) fn so_far(&self, requests: i64, sent_bytes: i64, received_bytes: i64) {
        for (count, so_far) in
            [(&self.requests, requests), (&self.sent_bytes, sent_bytes), (&self.received_bytes, received_bytes)]
        {
            count.inc_by(u64::try_from(so_far).unwrap_or_default().saturating_sub(count.get()));
        }
    }
}

/// Why making a metric can't fail: its name and labels stand in the source.
const VALID: &str = "a metric has a valid name of its own";

fn count_vec(name: &str, help: &str, label: &str) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), &[label]).expect(VALID)
}

fn registered<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect(VALID);
    metric
}

/// Of all threads, since the process began.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// `VmRSS` of proc_pid_status(5), which is in KiB. `None` where there is no such file.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_shows_what_it_counts_and_nothing_of_another() {
        let (payment, inventory) = (Metrics::of("payment-service"), Metrics::of("inventory-service"));
        let [done, failed] = payment.counts("things_total", "Things.", "outcome", ["done", "failed"]);
        payment.gauge("waiting", "Who waits.").set(3);
        payment.batch_sizes("payments", "write").observe(3.0);

        done.inc();
        failed.inc_by(2);

        let text = payment.text();
        for line in [
            "# TYPE things_total counter",
            r#"things_total{outcome="done"} 1"#,
            r#"things_total{outcome="failed"} 2"#,
            "waiting 3",
            r#"batch_size_bucket{batch="payments",kind="write",le="2"} 0"#,
            r#"batch_size_bucket{batch="payments",kind="write",le="4"} 1"#,
            r#"batch_size_sum{batch="payments",kind="write"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert!(!inventory.text().contains("things_total"));
        assert!(inventory.text().contains(r#"build_info{service="inventory-service""#));
    }

    #[test]
    fn kafka_traffic_is_counted_from_its_running_totals() {
        let metrics = Metrics::of("s");
        let traffic = metrics.kafka_traffic("producer");
        traffic.so_far(5, 500, 50);
        traffic.so_far(7, 700, 70);
        assert!(metrics.text().contains(r#"kafka_requests_total{client="producer"} 7"#), "{}", metrics.text());
    }

    #[test]
    fn the_process_is_measured() {
        let metrics = Metrics::of("s");
        let text = metrics.text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") > 0.0, "{text}");
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
    }
}
