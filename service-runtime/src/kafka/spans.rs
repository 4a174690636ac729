//! The spans of records, with the attributes that OpenTelemetry's semantic conventions for Kafka have.

use messages::OutgoingRecord;

use super::Record;
use crate::trace::{self, Kind, Span, Tracer};

/// A record is sent, for the span at hand.
pub(super) fn send(record: &OutgoingRecord) -> Span {
    let span = trace::child(Kind::Producer, || format!("send {}", record.topic).into());
    if span.is_recorded() {
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.type", "send");
        span.set("messaging.destination.name", record.topic.to_string());
        span.set("messaging.kafka.message.key", record.key.clone());
    }
    span
}

/// A record is processed, under the span that sent it.
pub(super) fn process(tracer: &Tracer, record: &Record, group: &'static str) -> Span {
    if !tracer.is_on() {
        return Span::none();
    }
    let span = tracer.span(Kind::Consumer, record.trace_context(), || format!("process {}", record.topic).into());
    if span.is_recorded() {
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", record.topic.clone());
        span.set("messaging.destination.partition.id", record.partition.to_string());
        span.set("messaging.kafka.offset", record.offset);
        span.set("messaging.consumer.group.name", group);
        if let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) {
            span.set("messaging.kafka.message.key", key.to_owned());
        }
    }
    span
}
