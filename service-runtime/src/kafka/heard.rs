//! Why Kafka can't be reached: librdkafka's own answer to a question is only that there is none.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::producer::QuietContext;
use crate::Fatal;

/// A failed connection is told in up to four pieces.
const POLLS: u32 = 64;

/// What was said last of a connection that failed.
#[derive(Default)]
pub(super) struct Heard(Mutex<Option<String>>);

/// Why a question of this consumer has failed: a refused password, say, else the error itself.
pub(super) fn why(asking: &BaseConsumer<Heard>, error: &KafkaError) -> String {
    // What is said waits for whoever polls, one piece at a time; one that is only logged answers as if it were the last.
    let refused = (0..POLLS).filter_map(|_| asking.poll(Duration::ZERO)?.err()).reduce(|_, later| later);
    let Heard(heard) = &**asking.context();
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    heard.or(refused.map(|error| error.to_string())).unwrap_or_else(|| error.to_string())
}

/// What a start or a command that can't go on without Kafka says.
pub(super) fn no_answer(servers: &str, why: &str) -> Fatal {
    let hint = match ["SASL", "SSL"].iter().any(|word| why.contains(word)) {
        true => "KAFKA_SECURITY_PROTOCOL and the settings beside it say how to get in",
        false => "Is it running? KAFKA_BOOTSTRAP_SERVERS says where it is",
    };
    Fatal::new(format!("Kafka can't be reached at {servers}: {why}. {hint}"))
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "2/2 brokers are down" comes behind each reason.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
        QuietContext.error(error, reason);
    }
}

impl ConsumerContext for Heard {}
