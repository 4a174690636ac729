//! Wake-ups for HTTP requests that wait on a saga. In memory only, and never a source of truth: a waiter that
//! misses its wake-up finds the end in the row.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use flow::Flow;
use messages::SagaId;
use service_runtime::CancellationToken;
use service_runtime::database::{Session, within_limit};
use service_runtime::looking::keep_looking;
use service_runtime::metrics::{Count, Gauge, Metrics};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::registry::Flows;
use crate::saga::Saga;
use crate::store;

/// How often the row of a saga is looked at that somebody waits for, in case its replies go to another instance: seldom
/// while its partition is this instance's (or Kafka is away), often when it is not, or has moved.
const SELDOM: Duration = Duration::from_secs(1);
pub const OFTEN: Duration = Duration::from_millis(200);

/// So many rows are looked at by one statement.
const AT_ONCE: usize = 500;

/// Looking takes one part of so many of the time, at most: thousands may wait, while the database has other work to do.
const SHARE: u32 = 5;

/// Who waits for which saga.
pub struct Waiters {
    by_saga: DashMap<SagaId, Awaited>,
    waiting: Gauge,
    /// How waiters learnt of the end: from this process, or from the row, since another process went on with the saga.
    here: Count,
    elsewhere: Count,
    /// Ends of which nobody here had to be told.
    unawaited: Count,
}

/// A saga that somebody waits for.
struct Awaited {
    flow: Arc<Flow>,
    /// When its row was looked at, or the first one began to wait.
    looked: Instant,
    by: Vec<oneshot::Sender<Woken>>,
}

struct Woken {
    saga: Saga,
    by_row: bool,
}

/// A registration; it ends when dropped.
pub struct Waiter {
    waiters: Arc<Waiters>,
    saga_id: SagaId,
    receiver: oneshot::Receiver<Woken>,
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
    pub fn register(self: &Arc<Self>, saga: &Saga) -> Waiter {
        let saga_id = saga.saga_id;
        let (sender, receiver) = oneshot::channel();
        let awaited = || Awaited { flow: saga.flow.clone(), looked: Instant::now(), by: Vec::new() };
        self.by_saga.entry(saga_id).or_insert_with(awaited).by.push(sender);
        self.waiting.inc();
        Waiter { waiters: self.clone(), saga_id, receiver }
    }

    /// Wakes all who wait for this saga: it has ended, is answered, or waits for something outside.
    pub fn wake(&self, ended: &Saga) {
        if !self.tell(ended, false) && ended.state.has_ended() && ended.answered.is_none() {
            self.unawaited.inc();
        }
    }

    fn tell(&self, saga: &Saga, by_row: bool) -> bool {
        let Some((_, Awaited { by, .. })) = self.by_saga.remove(&saga.saga_id) else { return false };
        by.into_iter().for_each(|sender| drop(sender.send(Woken { saga: saga.clone(), by_row })));
        true
    }

    /// The sagas whose rows have not been looked at for long enough, those first that have waited longest for it.
    /// `elsewhere`: whether its replies may go to another instance now.
    fn due(&self, now: Instant, elsewhere: impl Fn(SagaId, &Flow) -> bool) -> Vec<SagaId> {
        let due = self.by_saga.iter().filter_map(|one| {
            let (saga_id, awaited) = one.pair();
            let age = now.duration_since(awaited.looked);
            let is_due = age >= SELDOM || (age >= OFTEN && elsewhere(*saga_id, &awaited.flow));
            is_due.then_some((awaited.looked, *saga_id))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        due.into_iter().map(|(_, saga_id)| saga_id).collect()
    }

    /// Notes that the rows of these are looked at.
    fn note_look(&self, sagas: &[SagaId], now: Instant) {
        for saga_id in sagas {
            if let Some(mut awaited) = self.by_saga.get_mut(saga_id) {
                awaited.looked = now;
            }
        }
    }
}

/// Wakes who waits for a saga that another instance went on with, until `stop`. One task looks at the rows for all of them,
/// as slowly as it has to: when each request looked at its own, some thousands left the database no time for the moves that
/// they waited for.
pub async fn look_at_rows(
    waiters: Arc<Waiters>,
    elsewhere: impl Fn(SagaId, &Flow) -> bool,
    session: Session,
    flows: Arc<Flows>,
    stop: CancellationToken,
) {
    keep_looking(OFTEN, "sagas that clients wait for", stop, async || {
        for some in waiters.due(Instant::now(), &elsewhere).chunks(AT_ONCE) {
            let began = Instant::now();
            waiters.note_look(some, began);
            for saga in within_limit(store::with_news(&session, &flows, some.to_vec())).await? {
                waiters.tell(&saga, true);
            }
            tokio::time::sleep(began.elapsed() * (SHARE - 1)).await;
        }
        Ok(())
    })
    .await;
}

impl Waiter {
    /// The saga at its end or its answer, or where it waits for something outside. Pending for ever if nobody wakes this
    /// waiter.
    pub async fn woken(&mut self) -> Saga {
        match (&mut self.receiver).await {
            Ok(Woken { saga, by_row }) => {
                let told = if by_row { &self.waiters.elsewhere } else { &self.waiters.here };
                told.inc();
                saga
            }
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        self.waiters.waiting.dec();
        self.waiters.by_saga.remove_if_mut(&self.saga_id, |_, awaited| {
            awaited.by.retain(|sender| !sender.is_closed());
            awaited.by.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::tests::new_saga;

    fn waiters() -> Arc<Waiters> {
        Arc::new(Waiters::new(&Metrics::of("test")))
    }

    #[test]
    fn a_dropped_waiter_leaves_nothing_behind() {
        let (waiters, saga) = (waiters(), new_saga());
        let (first, second) = (waiters.register(&saga), waiters.register(&saga));
        drop(first);
        assert_eq!((waiters.by_saga.len(), waiters.waiting.get()), (1, 1), "the second still waits");
        drop(second);
        assert_eq!((waiters.by_saga.len(), waiters.waiting.get()), (0, 0));
    }

    #[test]
    fn a_row_is_looked_at_seldom_unless_its_replies_go_elsewhere() {
        let (waiters, [here, there]) = (waiters(), [new_saga(), new_saga()]);
        let _both = (waiters.register(&here), waiters.register(&there));
        let mut looked = Vec::new();
        for round in 1..=10 {
            let now = Instant::now() + round * OFTEN;
            let due = waiters.due(now, |saga_id, _| saga_id == there.saga_id);
            waiters.note_look(&due, now);
            looked.extend(due);
        }
        let times = |saga: &Saga| looked.iter().filter(|one| **one == saga.saga_id).count();
        assert_eq!((times(&here), times(&there)), (2, 10));
    }

    #[test]
    fn those_that_a_slow_look_did_not_reach_are_the_first_of_the_next() {
        let (waiters, sagas) = (waiters(), [new_saga(), new_saga(), new_saga()]);
        let _all = sagas.each_ref().map(|saga| waiters.register(saga));
        let now = Instant::now() + SELDOM;
        let first = waiters.due(now, |_, _| false);
        waiters.note_look(&first[..2], now);
        let second = waiters.due(now + SELDOM, |_, _| false);
        assert_eq!((second.len(), second[0]), (3, first[2]));
    }

    #[tokio::test]
    async fn who_is_woken_by_a_row_is_counted_apart() {
        let (waiters, [here, there]) = (waiters(), [new_saga(), new_saga()]);
        let (mut first, mut second) = (waiters.register(&here), waiters.register(&there));
        waiters.wake(&here);
        assert!(waiters.tell(&there, true));
        assert_eq!((first.woken().await.saga_id, second.woken().await.saga_id), (here.saga_id, there.saga_id));
        assert_eq!((waiters.here.get(), waiters.elsewhere.get(), waiters.unawaited.get()), (1, 1, 0));
    }
}
