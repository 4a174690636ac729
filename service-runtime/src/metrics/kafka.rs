//! What a service counts of Kafka: its clients' traffic, what became of the records it consumes, and how far it is
//! behind.

use prometheus::Registry;

use super::{Count, Counts, Gauges, counts, gauges, registered};

#[derive(Clone)]
pub(super) struct KafkaMetrics {
    requests: Counts,
    sent_bytes: Counts,
    received_bytes: Counts,
    records: Counts,
    retries: Counts,
    lag: Gauges,
}

/// What one Kafka client has exchanged with its brokers.
pub(crate) struct KafkaTraffic {
    requests: Count,
    sent_bytes: Count,
    received_bytes: Count,
}

/// What became of the records of one topic. Each is counted once its offset may be committed.
pub(crate) struct RecordCounts {
    pub done: Count,
    pub replied: Count,
    pub dead_lettered: Count,
    /// Attempts that failed and were repeated.
    pub retries: Count,
}

/// How far a consumer is behind, by partition.
pub(crate) struct ConsumerLag(Gauges);

impl KafkaMetrics {
    pub(super) fn in_registry(registry: &Registry) -> Self {
        let by_client = |name: &str, help: &str| registered(registry, counts(name, help, &["client"]));
        let records = "Records that were consumed, by topic and by what became of them.";
        let retries = "Attempts to handle a record that failed and were repeated.";
        let lag = "Records of a partition of this consumer whose handling has not ended.";
        Self {
            requests: by_client("kafka_requests_total", "Requests sent to Kafka."),
            sent_bytes: by_client("kafka_sent_bytes_total", "Bytes sent to Kafka."),
            received_bytes: by_client("kafka_received_bytes_total", "Bytes received from Kafka."),
            records: registered(registry, counts("kafka_records_total", records, &["topic", "outcome"])),
            retries: registered(registry, counts("kafka_record_retries_total", retries, &["topic"])),
            lag: registered(registry, gauges("kafka_consumer_lag", lag, &["topic", "partition"])),
        }
    }

    pub(super) fn traffic(&self, client: &str) -> KafkaTraffic {
        KafkaTraffic {
            requests: self.requests.with_label_values(&[client]),
            sent_bytes: self.sent_bytes.with_label_values(&[client]),
            received_bytes: self.received_bytes.with_label_values(&[client]),
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

    pub(super) fn lag(&self) -> ConsumerLag {
        ConsumerLag(self.lag.clone())
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

impl ConsumerLag {
    /// Shows a partition's lag. `None`: it is not this consumer's, and is shown by the one that has it.
    pub(crate) fn show(&self, topic: &str, partition: i32, lag: Option<i64>) {
        let partition = partition.to_string();
        match lag {
            Some(lag) => self.0.with_label_values(&[topic, &partition]).set(lag),
            // It may not have been there.
            None => drop(self.0.remove_label_values(&[topic, &partition])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;

    #[tokio::test]
    async fn kafka_traffic_is_counted_from_its_running_totals() {
        let metrics = Metrics::of("s");
        let traffic = metrics.kafka_traffic("producer");
        traffic.so_far(5, 500, 50);
        traffic.so_far(7, 700, 70);
        let text = metrics.text().await;
        assert!(text.contains(r#"kafka_requests_total{client="producer"} 7"#), "{text}");
    }

    #[tokio::test]
    async fn the_lag_of_a_partition_that_went_to_another_is_shown_no_more() {
        let metrics = Metrics::of("s");
        let lag = metrics.kafka_lag();
        lag.show("t", 0, Some(4));
        lag.show("t", 1, Some(5));
        lag.show("t", 0, None);
        lag.show("t", 2, None);
        let text = metrics.text().await;
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("kafka_consumer_lag{")).collect();
        assert_eq!(shown, [r#"kafka_consumer_lag{partition="1",topic="t"} 5"#]);
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
