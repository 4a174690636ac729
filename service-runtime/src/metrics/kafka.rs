//! What a service counts of Kafka: its clients' traffic, what became of the records it consumes, and how far it is
//! behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prometheus::Registry;

use super::{Count, Counts, Gauge, Gauges, VALID, counts, gauges, registered};

#[derive(Clone)]
pub(super) struct KafkaMetrics {
    requests: Counts,
    sent_bytes: Counts,
    received_bytes: Counts,
    records: Counts,
    retries: Counts,
    lag: Gauges,
    still: Gauges,
    consumers: Arc<OnceLock<Consumers>>,
}

/// What the consumers of a service share.
struct Consumers {
    renewals: Count,
    ok: Gauge,
    /// Of each consumer: whether it gets on.
    get_on: RwLock<Vec<GetsOn>>,
}

type GetsOn = Box<dyn Fn() -> bool + Send + Sync>;

/// What one Kafka client has exchanged with its brokers.
pub(crate) struct KafkaTraffic {
    requests: Total,
    sent_bytes: Total,
    received_bytes: Total,
}

/// A count, and how much of it is this client's: another one may have been there before it.
struct Total(Count, AtomicU64);

/// What became of the records of one topic. Each is counted once its offset may be committed.
pub(crate) struct RecordCounts {
    pub done: Count,
    pub replied: Count,
    pub dead_lettered: Count,
    /// Attempts that failed and were repeated.
    pub retries: Count,
}

/// Of one consumer.
pub(crate) struct ConsumerMetrics {
    pub partitions: PartitionGauges,
    /// How often it was made anew.
    pub renewals: Count,
}

/// How far a consumer is behind, and whether it gets on, by partition.
pub(crate) struct PartitionGauges {
    lag: Gauges,
    still: Gauges,
}

impl KafkaMetrics {
    pub(super) fn in_registry(registry: &Registry) -> Self {
        let by_client = |name: &str, help: &str| registered(registry, counts(name, help, &["client"]));
        let records = "Records that were consumed, by topic and by what became of them.";
        let retries = "Attempts to handle a record that failed and were repeated.";
        let lag = "Records of a partition of this consumer whose handling has not ended.";
        let still = "1 where a partition of this consumer has records and none is read, else 0.";
        Self {
            requests: by_client("kafka_requests_total", "Requests sent to Kafka."),
            sent_bytes: by_client("kafka_sent_bytes_total", "Bytes sent to Kafka."),
            received_bytes: by_client("kafka_received_bytes_total", "Bytes received from Kafka."),
            records: registered(registry, counts("kafka_records_total", records, &["topic", "outcome"])),
            retries: registered(registry, counts("kafka_record_retries_total", retries, &["topic"])),
            lag: registered(registry, gauges("kafka_consumer_lag", lag, &["topic", "partition"])),
            still: registered(registry, gauges("kafka_consumer_stalled", still, &["topic", "partition"])),
            consumers: Arc::default(),
        }
    }

    pub(super) fn traffic(&self, client: &str) -> KafkaTraffic {
        KafkaTraffic {
            requests: Total::of(&self.requests, client),
            sent_bytes: Total::of(&self.sent_bytes, client),
            received_bytes: Total::of(&self.received_bytes, client),
        }
    }

    pub(super) fn records(&self, topic: &str) -> RecordCounts {
        RecordCounts {
            done: self.records.with_label_values(&[topic, "done"]),
            replied: self.records.with_label_values(&[topic, "replied"]),
            dead_lettered: self.records.with_label_values(&[topic, "dead_lettered"]),
            retries: self.retries.with_label_values(&[topic]),
        }
    }

    /// Those of one more consumer, of which a service without any shows nothing.
    pub(super) fn consumer(
        &self,
        registry: &Registry,
        gets_on: impl Fn() -> bool + Send + Sync + 'static,
    ) -> ConsumerMetrics {
        let ok = "1: partitions are read as readiness wants it. 0: /health/ready says why not.";
        let renewals = "How often a consumer was made anew, since it made no progress.";
        let consumers = self.consumers.get_or_init(|| Consumers {
            renewals: registered(registry, Count::new("kafka_consumer_renewals_total", renewals).expect(VALID)),
            ok: registered(registry, Gauge::new("kafka_consumer_ok", ok).expect(VALID)),
            get_on: RwLock::default(),
        });
        consumers.get_on.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(gets_on));
        ConsumerMetrics {
            partitions: PartitionGauges { lag: self.lag.clone(), still: self.still.clone() },
            renewals: consumers.renewals.clone(),
        }
    }

    /// Brings up to date whether all consumers get on.
    pub(super) fn look(&self) {
        if let Some(Consumers { ok, get_on, .. }) = self.consumers.get() {
            let get_on = get_on.read().unwrap_or_else(PoisonError::into_inner);
            ok.set(get_on.iter().all(|gets_on| gets_on()).into());
        }
    }
}

impl KafkaTraffic {
    /// Notes what librdkafka has counted since the client was made.
    pub(crate) fn so_far(&self, requests: i64, sent_bytes: i64, received_bytes: i64) {
        for (count, so_far) in
            [(&self.requests, requests), (&self.sent_bytes, sent_bytes), (&self.received_bytes, received_bytes)]
        {
            count.so_far(so_far);
        }
    }
}

impl Total {
    fn of(counts: &Counts, client: &str) -> Self {
        Self(counts.with_label_values(&[client]), AtomicU64::new(0))
    }

    fn so_far(&self, so_far: i64) {
        let so_far = u64::try_from(so_far).unwrap_or_default();
        self.0.inc_by(so_far.saturating_sub(self.1.swap(so_far, Ordering::Relaxed)));
    }
}

impl PartitionGauges {
    /// Shows a partition's lag, and whether none of its records is read though some are there.
    pub(crate) fn show(&self, topic: &str, partition: i32, lag: i64, stands_still: bool) {
        let partition = partition.to_string();
        let labels = [topic, partition.as_str()];
        self.lag.with_label_values(&labels).set(lag);
        self.still.with_label_values(&labels).set(stands_still.into());
    }

    /// Shows that none of a partition's records is read. How many there are is not known.
    pub(crate) fn show_stalled(&self, topic: &str, partition: i32) {
        self.still.with_label_values(&[topic, &partition.to_string()]).set(1);
    }

    /// A partition is not this consumer's any more, and is shown by the one that has it.
    pub(crate) fn show_no_more(&self, topic: &str, partition: i32) {
        let partition = partition.to_string();
        for gauges in [&self.lag, &self.still] {
            // It may not have been there.
            drop(gauges.remove_label_values(&[topic, partition.as_str()]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Metrics;

    #[tokio::test]
    async fn a_service_without_a_consumer_shows_no_health_of_one() {
        let metrics = Metrics::of("test");
        assert!(!metrics.text().await.contains("kafka_consumer_ok"));
        metrics.kafka_consumer(|| true);
        assert!(metrics.text().await.contains("\nkafka_consumer_ok 1\n"));
    }

    #[tokio::test]
    async fn of_two_consumers_one_in_trouble_is_enough_for_the_service_not_to_be_ok() {
        let metrics = Metrics::of("test");
        let second = Arc::new(AtomicBool::new(false));
        let gets_on = second.clone();
        let [one, other] =
            [metrics.kafka_consumer(|| true), metrics.kafka_consumer(move || gets_on.load(Ordering::Relaxed))];
        [one, other].iter().for_each(|consumer| consumer.renewals.inc());
        let text = metrics.text().await;
        assert!(text.contains("\nkafka_consumer_ok 0\n"), "{text}");
        assert!(text.contains("\nkafka_consumer_renewals_total 2\n"), "{text}");
        second.store(true, Ordering::Relaxed);
        assert!(metrics.text().await.contains("\nkafka_consumer_ok 1\n"));
    }

    #[tokio::test]
    async fn kafka_traffic_is_counted_from_its_running_totals() {
        let metrics = Metrics::of("s");
        let traffic = metrics.kafka_traffic("producer");
        traffic.so_far(5, 500, 50);
        traffic.so_far(7, 700, 70);
        let text = metrics.text().await;
        assert!(text.contains(r#"kafka_requests_total{client="producer"} 7"#), "{text}");

        metrics.kafka_traffic("producer").so_far(2, 200, 20);

        let text = metrics.text().await;
        assert!(text.contains(r#"kafka_requests_total{client="producer"} 9"#), "of another client: {text}");
    }

    #[tokio::test]
    async fn the_lag_of_a_partition_that_went_to_another_is_shown_no_more() {
        let metrics = Metrics::of("s");
        let gauges = metrics.kafka_consumer(|| true).partitions;
        gauges.show("t", 0, 4, false);
        gauges.show("t", 1, 5, true);
        gauges.show_no_more("t", 0);
        gauges.show_no_more("t", 2);
        let text = metrics.text().await;
        let of_partitions = |line: &&str| line.starts_with("kafka_consumer_") && line.contains("partition=");
        let shown: Vec<&str> = text.lines().filter(of_partitions).collect();
        let expected = [
            r#"kafka_consumer_lag{partition="1",topic="t"} 5"#,
            r#"kafka_consumer_stalled{partition="1",topic="t"} 1"#,
        ];
        assert_eq!(shown, expected);
    }

    #[tokio::test]
    async fn a_topic_is_shown_before_its_first_record() {
        let metrics = Metrics::of("s");
        metrics.kafka_records("t").replied.inc();
        let text = metrics.text().await;
        for (outcome, count) in [("done", 0), ("replied", 1), ("dead_lettered", 0)] {
            let line = format!(r#"kafka_records_total{{outcome="{outcome}",topic="t"}} {count}"#);
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
    }
}
