//! The end of a consumer.

use std::ops::Deref;

use rdkafka::consumer::{ConsumerContext, StreamConsumer};

/// librdkafka's consumer. Closing it waits for a broker, so that is done by a thread of its own, whoever drops it: the
/// services' one thread has signals and time limits to see to.
pub(super) struct ClosesOnThread<C: ConsumerContext + 'static>(Option<StreamConsumer<C>>);

impl<C: ConsumerContext + 'static> ClosesOnThread<C> {
    pub(super) fn new(consumer: StreamConsumer<C>) -> Self {
        Self(Some(consumer))
    }

    /// The consumer itself, for whoever may wait for its closing.
    pub(super) fn take(mut self) -> Option<StreamConsumer<C>> {
        self.0.take()
    }
}

impl<C: ConsumerContext + 'static> Deref for ClosesOnThread<C> {
    type Target = StreamConsumer<C>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<C: ConsumerContext + 'static> Drop for ClosesOnThread<C> {
    fn drop(&mut self) {
        if let Some(consumer) = self.0.take() {
            let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(consumer));
        }
    }
}
