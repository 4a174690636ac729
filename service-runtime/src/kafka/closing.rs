//! The end of a consumer.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Consumers whose closing goes on.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// How many consumers are being closed.
pub(super) fn under_way() -> usize {
    UNDER_WAY.load(Ordering::Relaxed)
}

/// One of librdkafka's consumers. Closing it waits for a broker, and may wait for ever, so that is done by a thread of its own,
/// whoever drops it: the services' one thread has signals and time limits to see to.
pub(super) struct ClosesOnThread<C: Send + 'static>(Option<C>);

impl<C: Send + 'static> ClosesOnThread<C> {
    pub(super) fn new(consumer: C) -> Self {
        Self(Some(consumer))
    }

    /// The consumer itself, for whoever may wait for its closing.
    pub(super) fn take(mut self) -> Option<C> {
        self.0.take()
    }
}

impl<C: Send + 'static> Deref for ClosesOnThread<C> {
    type Target = C;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<C: Send + 'static> Drop for ClosesOnThread<C> {
    fn drop(&mut self) {
        if let Some(consumer) = self.0.take() {
            UNDER_WAY.fetch_add(1, Ordering::Relaxed);
            let close = move || {
                drop(consumer);
                UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            };
            let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(close);
        }
    }
}
