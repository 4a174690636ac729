//! What became of a consumer's records, by topic.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::metrics::{Count, Metrics, RecordCounts};

/// The counts of the topics that are consumed. There may be more of them later.
pub(super) struct TopicCounts {
    metrics: Metrics,
    by_topic: RwLock<HashMap<String, RecordCounts>>,
}

impl TopicCounts {
    pub fn new(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), by_topic: RwLock::default() }
    }

    /// Shows these topics from now on, before the first record of theirs has come.
    pub fn show(&self, topics: &[String]) {
        let mut by_topic = self.by_topic.write().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            by_topic.entry(topic.clone()).or_insert_with(|| self.metrics.kafka_records(topic));
        }
    }

    pub fn count(&self, topic: &str, which: impl FnOnce(&RecordCounts) -> &Count) {
        // Only topics that are shown are consumed.
        if let Some(counts) = self.by_topic.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            which(counts).inc();
        }
    }
}
