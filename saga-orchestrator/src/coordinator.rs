//! From an input to its effect: read the saga, let the core decide, store the next version, then do what the stored
//! row asks for. Nothing is done for a row that was not stored, and whatever is not done is found by the sweeper.
//!
//! Sagas in flight are cached, so that a move is one statement. The cache is only a guess at what is stored: the
//! conditional write corrects it, and no input is ignored on its word.

use std::borrow::Cow;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use faults::Bug;
use messages::{SagaId, Timestamp, TraceContext, UserId};
use service_runtime::batch::{Backoff, Batcher};
use service_runtime::conditional::{ConditionalWrites, Outcome, Reads};
use service_runtime::database::{DatabaseClock, Session, StoreError};
use service_runtime::kafka::Producer;
use service_runtime::metrics::Metrics;
use service_runtime::trace::{self, Kind, Span, Tracer};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::metrics::SagaMetrics;
use crate::orders::OrderService;
use crate::registry::Flows;
use crate::saga::{Attention, Effect, Ignored, Input, NoMove, OrderCall, Saga, State, advance};
use crate::signals;
use crate::store::{Database, Identity, IgnoredInputs, NewSaga, NewSagas, Sagas, SignalStore, Stored};
use crate::waiters::Waiters;
use service_runtime::http::IdempotencyKey;

/// Sagas kept in the cache at most, about 0.5 kB each. When it is full it starts anew.
const CACHE_LIMIT: usize = 100_000;

/// A saga that holds more bytes than this, of a user's flow, is read for each of its moves.
const MAX_CACHED: usize = 4 * 1024;

/// Drives sagas. Shared by everything that has an input for one.
pub struct Coordinator {
    new_sagas: Batcher<ConditionalWrites<NewSagas>>,
    moves: Batcher<ConditionalWrites<Sagas>>,
    reads: Batcher<Reads<Sagas>>,
    keyed: Batcher<Reads<NewSagas>>,
    ignored: Batcher<IgnoredInputs>,
    cache: DashMap<SagaId, Saga>,
    pub flows: Arc<Flows>,
    /// Calls of the order service under way: one that hangs is not joined by its own repetitions.
    calling: DashSet<(SagaId, Discriminant<OrderCall>)>,
    producer: Producer,
    orders: OrderService,
    pub waiters: Arc<Waiters>,
    /// By which moves are stamped and deadlines set: they are judged by it.
    pub clock: DatabaseClock,
    pub counts: SagaMetrics,
    /// For signals: see [`crate::signals`].
    pub signals: SignalStore,
    tracer: Tracer,
    pub tasks: TaskTracker,
}

/// What became of a new saga.
#[derive(Debug)]
pub enum Begun {
    Started,
    /// It is not new: this saga has its idempotency key, or its subject.
    Joined(Box<Saga>),
}

/// What became of an input.
#[derive(Debug)]
pub enum Applied {
    Moved(Box<Saga>),
    Ignored(Ignored),
}

/// Why an input could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't be read as the flow has it, or is a [`NoMove::Contradiction`].
    #[error("{0}")]
    Contradiction(String),
    #[error("there is no saga {0}")]
    UnknownSaga(SagaId),
    #[error(
        "saga {saga_id} runs by {definition}, which this release does not know: a newer release has to go on with it"
    )]
    UnknownDefinition { saga_id: SagaId, definition: String },
}

impl Coordinator {
    pub fn new(
        Database { pool, clock, is_announced }: Database<'_>,
        producer: Producer,
        orders: OrderService,
        flows: Arc<Flows>,
        metrics: &Metrics,
        tracer: &Tracer,
    ) -> Self {
        let session = || Session::beside(pool);
        let sagas = || Sagas { session: session().impatient_of_locks(), flows: flows.clone(), is_announced };
        let new_sagas = || NewSagas { session: session(), flows: flows.clone() };
        Self {
            new_sagas: Batcher::start(ConditionalWrites::to(new_sagas()), metrics),
            keyed: Batcher::start(Reads(new_sagas()), metrics),
            moves: Batcher::start(ConditionalWrites::to(sagas()), metrics),
            reads: Batcher::start(Reads(sagas()), metrics),
            ignored: Batcher::start(IgnoredInputs(session().impatient_of_locks()), metrics),
            cache: DashMap::new(),
            flows: flows.clone(),
            calling: DashSet::new(),
            producer,
            orders,
            waiters: Arc::new(Waiters::new(metrics)),
            clock,
            counts: SagaMetrics::new(metrics, flows.clone()),
            signals: SignalStore::open(pool, metrics),
            tracer: tracer.clone(),
            tasks: TaskTracker::new(),
        }
    }

    /// Stores a new saga and does its first effect. May be called again after an error: it is stored once.
    pub async fn start(self: &Arc<Self>, new: NewSaga) -> Result<Begun, ApplyError> {
        let saga = new.transition.saga.clone();
        if let (true, Effect::Call(call)) = (faults::planted(Bug::SagaAfterOrder), saga.effect()) {
            self.orders.call(&call).await;
        }
        faults::reached("orchestrator.storing", saga.step_name());
        loop {
            match self.new_sagas.submit(new.clone()).await? {
                Outcome::Stored(_) => {
                    faults::reached("orchestrator.stored", saga.step_name());
                    debug!(saga_id = %saga.saga_id, order_id = %saga.order_id, "saga started");
                    self.counts.started(&saga);
                    self.remember(&saga);
                    self.perform_first(&saga);
                    return Ok(Begun::Started);
                }
                // The key was forgotten in between: it may be free now, or this saga's own.
                Outcome::Found(None) => {
                    if self.reads.submit(saga.saga_id).await?.is_some() {
                        return Ok(Begun::Started);
                    }
                }
                Outcome::Found(found) => {
                    let found = self.known(saga.saga_id, found).await?;
                    // An earlier try, whose answer was lost, stored it, and the sweeper may have gone on with it.
                    let is_this_one = found.saga_id == saga.saga_id;
                    return Ok(if is_this_one { Begun::Started } else { Begun::Joined(Box::new(found)) });
                }
            }
        }
    }

    /// Applies an input to a saga. Once this returns, whatever it led to is stored.
    pub async fn apply(
        self: &Arc<Self>,
        saga_id: SagaId,
        input: &Input,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        self.apply_read(saga_id, |_| Ok(Cow::Borrowed(input)), now).await
    }

    /// Applies an input that can be read only by the saga's flow. `read` says why it can't be.
    pub async fn apply_read<'a>(
        self: &Arc<Self>,
        saga_id: SagaId,
        read: impl FnOnce(&Saga) -> Result<Cow<'a, Input>, String>,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let cached = self.cache.get(&saga_id).map(|saga| saga.clone());
        let is_guess = cached.is_some();
        let saga = match cached {
            Some(saga) => saga,
            None => self.stored(saga_id).await?,
        };
        let input = read(&saga).map_err(ApplyError::Contradiction)?;
        self.apply_from(saga, is_guess, &input, now).await
    }

    /// The same for a signal, which a saga reads as the step has it that it stands at: by the row, and once. Whoever moves
    /// the saga meanwhile has it look for signals again.
    pub async fn apply_signal(
        self: &Arc<Self>,
        saga_id: SagaId,
        read: impl FnOnce(&Saga) -> Result<Input, String>,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let saga = self.stored(saga_id).await?;
        let input = read(&saga).map_err(ApplyError::Contradiction)?;
        self.apply_from(saga, false, &input, now).await
    }

    /// Applies an input to a saga as it is stored, or is guessed to be.
    async fn apply_from(
        self: &Arc<Self>,
        mut saga: Saga,
        mut is_guess: bool,
        input: &Input,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let saga_id = saga.saga_id;
        loop {
            let mut transition = match advance(&saga, input, now) {
                Ok(transition) => transition,
                // What the saga asks for is the same in all its versions.
                Err(error @ NoMove::Contradiction(_)) => return Err(ApplyError::Contradiction(error.to_string())),
                // The row itself has to say so.
                Err(_) if is_guess => {
                    self.cache.remove(&saga_id);
                    (saga, is_guess) = (self.stored(saga_id).await?, false);
                    continue;
                }
                Err(NoMove::Ignored(ignored)) => {
                    let (by, trace_id) = (input.operator().map(|operator| operator.by.as_str()), saga.trace_id());
                    info!(%saga_id, trace_id, by, %ignored, "input ignored");
                    self.counts.ignored(&saga, input);
                    self.ignored.submit((saga_id, ignored.clone())).await?;
                    return Ok(Applied::Ignored(ignored));
                }
            };
            faults::reached("orchestrator.storing", transition.saga.step_name());
            let takes_a_signal = transition.takes.is_some();
            if faults::planted(Bug::NoVersionCheck) {
                transition.saga.version = self.stored(saga_id).await?.version + 1;
                transition.entry.seq = transition.saga.version;
            }
            let outcome = self.moves.submit(transition).await.inspect_err(|_| {
                // Whether it was stored is unknown: the next try reads the row.
                self.cache.remove(&saga_id);
            })?;
            match outcome {
                Outcome::Stored(stored) => {
                    let stored = self.known(saga_id, Some(stored)).await?;
                    faults::reached("orchestrator.stored", stored.step_name());
                    log_move(&stored);
                    self.counts.moved(&saga, &stored);
                    self.remember(&stored);
                    self.perform_first(&stored);
                    return Ok(Applied::Moved(Box::new(stored)));
                }
                Outcome::Found(found) => {
                    debug!(%saga_id, "someone else was quicker");
                    self.cache.remove(&saga_id);
                    let found = self.known(saga_id, found).await?;
                    if takes_a_signal {
                        return Ok(Applied::Ignored(Ignored { state: found.to_string(), input: input.name() }));
                    }
                    (saga, is_guess) = (found, false);
                }
            }
        }
    }

    /// The saga that has this user's key, if there is one.
    pub async fn of_key(&self, user_id: &UserId, key: &IdempotencyKey) -> Result<Option<Saga>, ApplyError> {
        let found = self.keyed.submit(Identity::Key(user_id.to_string(), key.clone())).await?;
        let Some(found) = found else { return Ok(None) };
        let saga_id = match &found {
            Stored::Saga(saga) => saga.saga_id,
            Stored::UnknownDefinition { saga_id, .. } => *saga_id,
        };
        self.known(saga_id, Some(found)).await.map(Some)
    }

    /// Reads a saga, together with whoever else reads one now.
    pub async fn stored(&self, saga_id: SagaId) -> Result<Saga, ApplyError> {
        let stored = self.reads.submit(saga_id).await?;
        self.known(saga_id, stored).await
    }

    /// A saga that was found. Its flow may have been published a moment ago.
    async fn known(&self, saga_id: SagaId, stored: Option<Stored>) -> Result<Saga, ApplyError> {
        match of_known_definition(saga_id, stored) {
            // Boxed: it is rare, and large, and would be a part of every move's future, which is copied when it is spawned.
            Err(Unknown::Definition { name, version, .. }) if Box::pin(self.flows.learn(&name, version)).await => {
                Ok(of_known_definition(saga_id, self.reads.submit(saga_id).await?)?)
            }
            known => Ok(known?),
        }
    }

    /// Does what a saga that was just stored asks for.
    fn perform_first(self: &Arc<Self>, saga: &Saga) {
        self.step_span(saga, false).around_sync(|| self.perform(saga));
    }

    /// Does again what a stored saga asks for.
    pub fn repeat(self: &Arc<Self>, saga: &Saga) {
        self.step_span(saga, true).around_sync(|| self.perform(saga));
    }

    /// The span of a step's beginning: where it has come to by its trace, else under the request that began the saga.
    /// Its id follows from the row, so that whoever repeats the step can link to it.
    fn step_span(&self, saga: &Saga, is_repetition: bool) -> Span {
        let traceparent = saga.traceparent.as_deref().filter(|_| self.tracer.is_on());
        let Some(request) = traceparent.and_then(|text| text.parse::<TraceContext>().ok()) else {
            return Span::none();
        };
        let repeat = if is_repetition { "repeat " } else { "" };
        let name = || format!("{repeat}{}", saga.step_name()).into();
        let first = TraceContext { span_id: trace::known_id(saga.saga_id.into(), saga.version), ..request };
        let (current, same_trace) = (trace::current(), |current: &TraceContext| current.trace_id == request.trace_id);
        let parent = current.filter(same_trace).unwrap_or(request);
        let span = match is_repetition {
            false => self.tracer.span_with_id(first.span_id, Kind::Internal, Some(parent), name),
            true => self.tracer.span(Kind::Internal, Some(parent), name),
        };
        if span.is_recorded() {
            if is_repetition {
                span.link(first);
            }
            // An operator's own trace, say.
            if let Some(other) = current.filter(|current| !same_trace(current)) {
                span.link(other);
            }
            span.set("saga.id", saga.saga_id.to_string());
            span.set("order.id", saga.order_id.to_string());
            span.set("saga.status", saga.status());
            span.set("saga.version", saga.version);
            if let Some(reason) = &saga.reason {
                span.set("saga.reason", reason.clone());
            }
        }
        span
    }

    /// Does what a stored saga asks for, without waiting for the result.
    fn perform(self: &Arc<Self>, saga: &Saga) {
        if saga.has_news() && !saga.state.has_ended() {
            // Who waits for its end would wait for days, or has an answer already.
            self.waiters.wake(saga);
        }
        match saga.effect() {
            // Not awaited: a command that is lost is sent again by the sweeper.
            Effect::Send(record) => {
                drop(self.producer.send(&record));
                faults::reached("orchestrator.sent", saga.step_name());
            }
            Effect::Call(call) => {
                let key = (saga.saga_id, discriminant(&call));
                if self.calling.insert(key) {
                    let calling = Calling { of: self.clone(), key };
                    self.tasks.spawn(trace::carried(async move { calling.of.call(key.0, call).await }));
                }
            }
            Effect::Await => {
                // In a task of its own, and boxed: a saga of a flow that waits is rare.
                let (coordinator, saga) = (self.clone(), saga.clone());
                self.tasks.spawn(Box::pin(async move { signals::look(&coordinator, &saga).await }));
            }
            Effect::Wake => self.waiters.wake(saga),
        }
    }

    /// Calls the order service and applies its answer. Without an answer nothing happens: the sweeper calls again.
    async fn call(self: &Arc<Self>, saga_id: SagaId, call: OrderCall) {
        let Some(reply) = self.orders.call(&call).await else { return };
        let input = Input::from(reply);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for _ in 0..5 {
            match self.apply(saga_id, &input, self.clock.now()).await {
                Ok(_) => return,
                Err(ApplyError::Store(_)) => tokio::time::sleep(backoff.delay()).await,
                Err(error) => return error!(%saga_id, %error, "an answer of the order service can't be applied"),
            }
        }
    }

    /// Waits for the calls in hand, at most for `limit`.
    pub async fn finish(&self, limit: Duration) {
        self.tasks.close();
        let _ = tokio::time::timeout(limit, self.tasks.wait()).await;
    }

    fn remember(&self, saga: &Saga) {
        if saga.is_resting() || saga.size() > MAX_CACHED {
            self.cache.remove(&saga.saga_id);
            return;
        }
        if self.cache.len() >= CACHE_LIMIT {
            // Sagas that other instances went on with stay behind in here; those in flight come back by a read.
            self.cache.clear();
        }
        self.cache.insert(saga.saga_id, saga.clone());
    }
}

/// A call of the order service under way; however it ends, it may be made again.
struct Calling {
    of: Arc<Coordinator>,
    key: (SagaId, Discriminant<OrderCall>),
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.of.calling.remove(&self.key);
    }
}

fn of_known_definition(saga_id: SagaId, stored: Option<Stored>) -> Result<Saga, Unknown> {
    match stored {
        None => Err(Unknown::Saga(saga_id)),
        Some(Stored::Saga(saga)) => Ok(*saga),
        Some(Stored::UnknownDefinition { name, version, .. }) => Err(Unknown::Definition { saga_id, name, version }),
    }
}

/// A saga that this instance can't go on with.
enum Unknown {
    Saga(SagaId),
    Definition { saga_id: SagaId, name: String, version: i32 },
}

impl From<Unknown> for ApplyError {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Saga(saga_id) => Self::UnknownSaga(saga_id),
            Unknown::Definition { saga_id, name, version } => {
                Self::UnknownDefinition { saga_id, definition: format!("{name} v{version}") }
            }
        }
    }
}

/// One line for each saga's end, and one when it turns back.
fn log_move(saga: &Saga) {
    let (saga_id, order_id, status, step) = (saga.saga_id, saga.order_id, saga.status(), saga.step_name());
    let trace_id = saga.trace_id();
    match saga.state {
        State::Running { .. } => match &saga.attention {
            Some(Attention { reason, .. }) => {
                warn!(%saga_id, %order_id, trace_id, status, step, reason, "a saga needs attention");
            }
            None => debug!(%saga_id, %order_id, trace_id, status, step, "saga"),
        },
        State::Completed => info!(%saga_id, %order_id, trace_id, status, step, "saga"),
        State::Compensating { .. } | State::Failed { .. } => {
            let reason = saga.reason.as_deref().unwrap_or_default();
            info!(%saga_id, %order_id, trace_id, status, step, reason, "saga");
        }
    }
}
