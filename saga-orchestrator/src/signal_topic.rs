//! The topic `saga.signals`: signals as records, for who has Kafka at hand and no HTTP client. A record is done with once its
//! signal is stored and was offered; one that no flow can read is set aside with the reason.

use std::sync::Arc;
use std::time::Instant;

use messages::SignalRecord;
use service_runtime::kafka::{Handled, Handler, Record, Retry};

use crate::coordinator::Coordinator;
use crate::signals::{Arrived, KEPT, Refused, accept, offer};

/// The reader of the topic. Records that are in hand at the same time share statements.
pub struct SignalTopic(pub Arc<Coordinator>);

impl Handler for SignalTopic {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let (coordinator, at) = (&self.0, Instant::now());
        let SignalRecord { kind, matched, id, payload } = match SignalRecord::decode(&record.body) {
            Ok(signal) => signal,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let age = record.timestamp_ms.map(|ms| coordinator.clock.now().timestamp_millis().saturating_sub(ms));
        if age.is_some_and(|age| age > KEPT.as_millis() as i64) {
            // Whether it was taken once is not known any more: it may be read again because its offset was lost.
            return Ok(Handled::DeadLetter("it was produced longer than seven days ago".to_owned()));
        }
        match accept(coordinator, Arrived { kind, id, matched, payload }, at).await {
            Ok((signal, _)) => {
                if signal.saga_id.is_none() {
                    offer(coordinator, &signal).await;
                }
                Ok(Handled::Done)
            }
            Err(Refused::Store(error)) => Err(error.into()),
            Err(refused) => Ok(Handled::DeadLetter(refused.to_string())),
        }
    }
}
