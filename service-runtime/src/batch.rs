//! Batching while busy, without timers: what arrives while one statement runs forms the next one. A lone item
//! waits for nobody; five hundred share a round trip and a commit.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use prometheus::Histogram;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::database::{StoreError, within_limit};
use crate::metrics::Metrics;
use crate::trace::{self, Span};

/// The most items that one statement takes: beyond it a statement's cost grows as fast as its size.
const MAX_BATCH: usize = 500;

/// Work that is done for many items at once.
pub trait Batch: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// What this is, for log lines and metrics: "payments", say.
    const NAME: &'static str;

    /// Whether it reads or writes, for metrics and spans.
    const KIND: &'static str = "write";

    /// Whether it is a statement of the database: then each item's share in it is a span.
    const IS_STATEMENT: bool = true;

    /// Does the work. Answers stand in the order of the items. Items may repeat a key: the later one must be
    /// decided after the first.
    ///
    /// # Errors
    /// The outer error means that nothing was done for any item, or, if [`StoreError::Unavailable`], that nothing
    /// is known of any. Where something was done for some, each item has a result of its own.
    fn run(&self, items: &[Self::Item]) -> impl Future<Output = Answers<Self::Answer>> + Send;
}

/// What a [`Batch`] answers.
pub type Answers<A> = Result<Vec<Result<A, StoreError>>, StoreError>;

type Submission<B> = (<B as Batch>::Item, oneshot::Sender<Result<<B as Batch>::Answer, StoreError>>);

/// A handle to the task that does a [`Batch`]'s work. The task ends when the last handle is gone.
pub struct Batcher<B: Batch> {
    queue: mpsc::UnboundedSender<Submission<B>>,
}

impl<B: Batch> Clone for Batcher<B> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<B: Batch> Batcher<B> {
    /// Starts the task.
    pub fn start(batch: B, metrics: &Metrics) -> Self {
        let (queue, submissions) = mpsc::unbounded_channel();
        tokio::spawn(work(batch, submissions, metrics.batch_sizes(B::NAME, B::KIND)));
        Self { queue }
    }

    /// Has one item done, with whatever else is waiting.
    ///
    /// # Errors
    /// [`StoreError::Refused`] and [`StoreError::Locked`] mean that this very item failed: such a batch is halved until
    /// the culprit stands alone, so that it takes nobody with it. The queue is bounded by its callers' number in flight.
    pub async fn submit(&self, item: B::Item) -> Result<B::Answer, StoreError> {
        let name = || if B::KIND == "read" { format!("read {}", B::NAME).into() } else { B::NAME.into() };
        let span = if B::IS_STATEMENT { trace::child(trace::Kind::Client, name) } else { Span::none() };
        span.set("db.system.name", "postgresql");
        span.set("db.operation.name", B::KIND);
        let (sender, answer) = oneshot::channel();
        let _ = self.queue.send((item, sender));
        let answer = answer.await;
        let answer = answer.unwrap_or_else(|_| Err(StoreError::Unavailable(format!("{} has stopped", B::NAME).into())));
        if let (true, Err(error)) = (span.is_recorded(), &answer) {
            span.fail(&error.to_string());
        }
        answer
    }
}

async fn work<B: Batch>(batch: B, mut submissions: mpsc::UnboundedReceiver<Submission<B>>, sizes: Histogram) {
    let mut taken = Vec::new();
    let mut available = true;
    while submissions.recv_many(&mut taken, MAX_BATCH).await > 0 {
        // Whoever is about to submit does so first. Where nobody is, this costs a microsecond.
        tokio::task::yield_now().await;
        while taken.len() < MAX_BATCH
            && let Ok(submission) = submissions.try_recv()
        {
            taken.push(submission);
        }
        let (items, senders): (Vec<_>, Vec<_>) = taken.drain(..).unzip();
        sizes.observe(items.len() as f64);
        let answers = answer_each(&batch, &items).await;
        let failure = answers.iter().find_map(|answer| match answer {
            Err(error @ (StoreError::Unavailable(_) | StoreError::NotSent(_))) => Some(error.cause()),
            _ => None,
        });
        match failure {
            Some(cause) if available => {
                warn!(batch = B::NAME, why = cause.text(), error_id = cause.id(), "the database is not available");
            }
            None if !available => info!(batch = B::NAME, "the database is available again"),
            _ => {}
        }
        available = failure.is_none();
        // What has come meanwhile can't be sent either, and need not find out once more: each look takes seconds.
        if let Some(Err(error @ StoreError::NotSent(_))) = answers.first() {
            while let Ok((_, sender)) = submissions.try_recv() {
                let _ = sender.send(Err(error.clone()));
            }
        }
        for (answer, sender) in answers.into_iter().zip(senders) {
            let _ = sender.send(answer);
        }
    }
}

/// Runs the batch; one that is refused, or that met a row which another transaction holds, is halved.
async fn answer_each<B: Batch>(batch: &B, items: &[B::Item]) -> Vec<Result<B::Answer, StoreError>> {
    match run_guarded(batch, items).await {
        Ok(answers) => {
            debug_assert_eq!(answers.len(), items.len(), "one answer an item");
            answers
        }
        Err(error @ (StoreError::Refused(_) | StoreError::Locked(_))) if items.len() > 1 => {
            if let StoreError::Refused(cause) = error {
                error!(batch = B::NAME, items = items.len(), why = cause.text(), "a batch was refused: halving it");
            }
            let (left, right) = items.split_at(items.len() / 2);
            let mut answers = Box::pin(answer_each(batch, left)).await;
            answers.extend(Box::pin(answer_each(batch, right)).await);
            answers
        }
        Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// Runs a batch within the database's limit; a panic counts as a refusal, so that it ends neither the task nor its
/// neighbours.
async fn run_guarded<B: Batch>(batch: &B, items: &[B::Item]) -> Answers<B::Answer> {
    let guarded = async {
        let outcome = AssertUnwindSafe(batch.run(items)).catch_unwind().await;
        outcome.unwrap_or_else(|panic| Err(StoreError::Refused(format!("a panic: {}", panic_text(&*panic)).into())))
    };
    within_limit(guarded).await
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Delays between tries: from `first`, doubling to `most`, with up to 25 % taken off at random, so that those who
/// failed together don't come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The delay before the next try.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(1.0 - 0.25 * rand::random::<f64>());
        self.next = (self.next * 2).min(self.most);
        delay
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ENOUGH: usize = 10_000;

    /// Finds out, once it may, that it can't be sent.
    struct Away(Arc<tokio::sync::Semaphore>);

    impl Batch for Away {
        type Item = u32;
        type Answer = u32;
        const NAME: &'static str = "away";

        async fn run(&self, _: &[u32]) -> Answers<u32> {
            self.0.acquire().await.unwrap().forget();
            Err(StoreError::NotSent("nobody is there".into()))
        }
    }

    #[tokio::test]
    async fn what_waits_behind_a_batch_that_could_not_be_sent_does_not_try_for_itself() {
        let once = Arc::new(tokio::sync::Semaphore::new(0));
        let batcher = Batcher::start(Away(once.clone()), &Metrics::of("test"));
        let submit = |n| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(n).await })
        };
        let many: Vec<_> = (0..2 * MAX_BATCH as u32).map(submit).collect();
        // All are in hand or in the queue by then.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        once.add_permits(1);
        for answer in many {
            let answer =
                tokio::time::timeout(Duration::from_secs(10), answer).await.expect("it waits for a batch of its own");
            assert!(matches!(answer.unwrap(), Err(StoreError::NotSent(_))));
        }
    }

    /// Doubles numbers; refuses any batch with a 13 in it, finds the row of 14 held; counts its runs.
    struct Double {
        runs: Arc<AtomicUsize>,
        gate: Arc<tokio::sync::Semaphore>,
    }

    impl Batch for Double {
        type Item = u32;
        type Answer = u32;
        const NAME: &'static str = "double";

        async fn run(&self, items: &[u32]) -> Answers<u32> {
            self.gate.acquire().await.unwrap().forget();
            self.runs.fetch_add(1, Ordering::SeqCst);
            if items.contains(&13) {
                return Err(StoreError::Refused("13".into()));
            }
            if items.contains(&14) {
                return Err(StoreError::Locked("14".into()));
            }
            assert!(!items.contains(&666), "the devil's number");
            Ok(items.iter().map(|n| Ok(n * 2)).collect())
        }
    }

    fn double(permits: usize) -> (Batcher<Double>, Arc<AtomicUsize>, Arc<tokio::sync::Semaphore>) {
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(permits));
        (Batcher::start(Double { runs: runs.clone(), gate: gate.clone() }, &Metrics::of("test")), runs, gate)
    }

    #[tokio::test]
    async fn what_arrives_during_a_run_shares_the_next_one() {
        let (batcher, runs, gate) = double(0);
        let first = tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.submit(1).await }
        });
        tokio::task::yield_now().await;
        let rest = futures::future::join_all((2..100).filter(|n| *n != 14).map(|n| batcher.submit(n)));
        let open = async { gate.add_permits(ENOUGH) };
        let (rest, ()) = tokio::join!(rest, open);
        assert_eq!(first.await.unwrap().unwrap(), 2);
        assert_eq!(rest.len(), 97);
        assert!(runs.load(Ordering::SeqCst) <= 16, "13 is among them, so one run is halved: {runs:?}");
    }

    #[tokio::test]
    async fn a_panic_ends_neither_the_task_nor_its_neighbours() {
        let (batcher, ..) = double(ENOUGH);
        let (good, bad) = tokio::join!(batcher.submit(1), batcher.submit(666));
        assert_eq!(good.unwrap(), 2);
        assert!(bad.unwrap_err().for_log().contains("devil"));
        assert_eq!(batcher.submit(3).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn an_item_that_is_refused_or_whose_row_is_held_fails_alone() {
        let (batcher, ..) = double(ENOUGH);
        let answers = futures::future::join_all((10..16).map(|n| batcher.submit(n))).await;
        for (n, answer) in (10..16).zip(answers) {
            match answer {
                Ok(doubled) => assert_eq!(doubled, 2 * n),
                Err(error @ StoreError::Locked(_)) => assert_eq!((n, error.cause().text()), (14, "14")),
                Err(error) => assert_eq!((n, error.cause().text()), (13, "13")),
            }
        }
    }
}
