//! Wake-ups for HTTP requests that wait on a saga. In memory only, and never a source of truth: a waiter that
//! misses its wake-up finds the end in the row.

use std::sync::Arc;

use dashmap::DashMap;
use messages::SagaId;
use service_runtime::metrics::{Count, Gauge, Metrics};
use tokio::sync::oneshot;

use crate::saga::Saga;

/// Who waits for which saga.
pub struct Waiters {
    by_saga: DashMap<SagaId, Vec<oneshot::Sender<Saga>>>,
    waiting: Gauge,
    /// How waiters learnt of the end: from this process, or from the row, since another process went on with the saga.
    here: Count,
    elsewhere: Count,
    /// Ends of which nobody here had to be told.
    unawaited: Count,
}

/// A registration; it ends when dropped.
pub struct Waiter {
    waiters: Arc<Waiters>,
    saga_id: SagaId,
    receiver: oneshot::Receiver<Saga>,
}

impl Waiters {
    pub fn new(metrics: &Metrics) -> Self {
        let help = "Ends and answers of sagas, by whether a request that waited here learnt it here or from the row.";
        let [here, elsewhere, unawaited] =
            metrics.counts("replies_total", help, "waiter", ["here", "elsewhere", "none"]);
        let waiting = metrics.gauge("checkout_waiters", "Requests that wait for the end of a saga.");
        Self { by_saga: DashMap::new(), waiting, here, elsewhere, unawaited }
    }

    /// Registers for a saga's end.
    pub fn register(self: &Arc<Self>, saga_id: SagaId) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        self.by_saga.entry(saga_id).or_default().push(sender);
        self.waiting.inc();
        Waiter { waiters: self.clone(), saga_id, receiver }
    }

    /// Wakes all who wait for this saga: it has ended, is answered, or waits for something outside.
    pub fn wake(&self, ended: &Saga) {
        if let Some((_, senders)) = self.by_saga.remove(&ended.saga_id) {
            senders.into_iter().for_each(|sender| drop(sender.send(ended.clone())));
        } else if ended.state.has_ended() && ended.answered.is_none() {
            self.unawaited.inc();
        }
    }
}

impl Waiter {
    /// The saga at its end or its answer, or where it waits for something outside. Pending for ever if nobody wakes this
    /// waiter.
    pub async fn woken(&mut self) -> Saga {
        match (&mut self.receiver).await {
            Ok(saga) => {
                self.waiters.here.inc();
                saga
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Notes that the row told of the end, not this process.
    pub fn found_elsewhere(&self) {
        self.waiters.elsewhere.inc();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        self.waiters.waiting.dec();
        self.waiters.by_saga.remove_if_mut(&self.saga_id, |_, senders| {
            senders.retain(|sender| !sender.is_closed());
            senders.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_waiter_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::new(&Metrics::of("test")));
        let saga_id = SagaId::new();
        let (first, second) = (waiters.register(saga_id), waiters.register(saga_id));
        drop(first);
        assert_eq!((waiters.by_saga.len(), waiters.waiting.get()), (1, 1), "the second still waits");
        drop(second);
        assert_eq!((waiters.by_saga.len(), waiters.waiting.get()), (0, 0));
    }
}
