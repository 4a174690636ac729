//! Participants' replies, from Kafka to the coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use messages::Event;
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use tracing::warn;

use crate::coordinator::{ApplyError, Coordinator};
use crate::passed_over::PassedOver;
use crate::saga::{Input, Reply};

pub struct Replies {
    pub coordinator: Arc<Coordinator>,
    /// Events of sagas that nobody knows, since the start.
    pub unknown: AtomicU64,
    pub passed_over: Arc<PassedOver>,
}

impl Handler for Replies {
    /// Done once the move is stored; the command that it leads to need not be sent yet, since the row sends it
    /// again.
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let event = match Event::decode(&record.topic, &record.body) {
            Ok(event) => event,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let (saga_id, order_id) = (event.saga_id(), event.order_id());
        let input = Input::from(Reply::from(event));
        match self.coordinator.apply(saga_id, &input, self.coordinator.clock.now()).await {
            Ok(_) => Ok(Handled::Done),
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(error @ ApplyError::Contradiction(_)) => Ok(Handled::DeadLetter(error.to_string())),
            Err(error @ ApplyError::UnknownSaga(_)) => {
                let count = self.unknown.fetch_add(1, Ordering::Relaxed) + 1;
                warn!(%saga_id, %order_id, topic = record.topic, offset = record.offset, %error, count, "event ignored");
                Ok(Handled::Done)
            }
            Err(ApplyError::UnknownDefinition { definition, .. }) => {
                self.passed_over.note(saga_id, order_id, &definition, Instant::now());
                Ok(Handled::Done)
            }
        }
    }
}
