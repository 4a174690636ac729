//! From an input to its effect: read the saga, let the core decide, store the next version, then do what the stored
//! row asks for. Nothing is done for a row that was not stored, and whatever is not done is found by the sweeper.
//!
//! Sagas in flight are cached, so that a move is one statement. The cache is only a guess at what is stored: the
//! conditional write corrects it, and no input is ignored on its word.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use messages::{SagaId, Timestamp};
use service_runtime::batch::{Backoff, Batcher};
use service_runtime::conditional::{ConditionalWrites, Outcome, Reads};
use service_runtime::database::StoreError;
use service_runtime::kafka::Producer;
use sqlx::PgPool;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

use crate::SagaSettings;
use crate::orders::OrderService;
use crate::saga::{Effect, Input, OrderCall, Saga, State, Transition, advance};
use crate::store::{IgnoredInputs, NewSagas, Sagas, Stored};
use crate::waiters::Waiters;

/// Sagas kept in the cache at most, about 0.5 kB each. When it is full it starts anew.
const CACHE_LIMIT: usize = 100_000;

/// Drives sagas. Shared by everything that has an input for one.
pub struct Coordinator {
    new_sagas: Batcher<ConditionalWrites<NewSagas>>,
    moves: Batcher<ConditionalWrites<Sagas>>,
    reads: Batcher<Reads<Sagas>>,
    ignored: Batcher<IgnoredInputs>,
    cache: DashMap<SagaId, Saga>,
    /// Calls of the order service under way: one that hangs is not joined by its own repetitions.
    calling: DashSet<(SagaId, Discriminant<OrderCall>)>,
    producer: Producer,
    orders: OrderService,
    pub waiters: Arc<Waiters>,
    tasks: TaskTracker,
}

/// Why an input could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no saga {0}")]
    UnknownSaga(SagaId),
    #[error(
        "saga {saga_id} runs by {definition}, which this release does not know: a newer release has to go on with it"
    )]
    UnknownDefinition { saga_id: SagaId, definition: String },
}

impl Coordinator {
    pub fn new(pool: PgPool, producer: Producer, orders: OrderService, settings: &SagaSettings) -> Self {
        let resend_first = Duration::from_millis(settings.resend_first_ms.into());
        let sagas = Sagas { pool: pool.clone(), resend_first };
        Self {
            new_sagas: Batcher::start(ConditionalWrites(NewSagas { pool: pool.clone(), resend_first })),
            moves: Batcher::start(ConditionalWrites(sagas.clone())),
            reads: Batcher::start(Reads(sagas)),
            ignored: Batcher::start(IgnoredInputs(pool)),
            cache: DashMap::new(),
            calling: DashSet::new(),
            producer,
            orders,
            waiters: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Stores a new saga and does its first effect. May be called again after an error: it is stored once.
    pub async fn start(self: &Arc<Self>, new: Transition) -> Result<(), StoreError> {
        let saga = new.saga.clone();
        if let Outcome::Stored(()) = self.new_sagas.submit(new).await? {
            debug!(saga_id = %saga.saga_id, order_id = %saga.order_id, "saga started");
            self.remember(&saga);
            self.perform(&saga);
        }
        // Else an earlier try, whose answer was lost, stored it, and the sweeper may have gone on with it.
        Ok(())
    }

    /// Applies an input to a saga. Once this returns, whatever it led to is stored.
    pub async fn apply(self: &Arc<Self>, saga_id: SagaId, input: &Input, now: Timestamp) -> Result<(), ApplyError> {
        let cached = self.cache.get(&saga_id).map(|saga| saga.clone());
        let mut is_guess = cached.is_some();
        let mut saga = match cached {
            Some(saga) => saga,
            None => self.stored(saga_id).await?,
        };
        loop {
            let transition = match advance(&saga, input, now) {
                Ok(transition) => transition,
                // The row itself has to say so.
                Err(_) if is_guess => {
                    self.cache.remove(&saga_id);
                    (saga, is_guess) = (self.stored(saga_id).await?, false);
                    continue;
                }
                Err(ignored) => {
                    info!(%saga_id, %ignored, "input ignored");
                    return Ok(self.ignored.submit((saga_id, ignored)).await?);
                }
            };
            let outcome = self.moves.submit(transition).await.inspect_err(|_| {
                // Whether it was stored is unknown: the next try reads the row.
                self.cache.remove(&saga_id);
            })?;
            match outcome {
                Outcome::Stored(stored) => {
                    let saga = known(saga_id, Some(stored))?;
                    log_move(&saga);
                    self.remember(&saga);
                    self.perform(&saga);
                    return Ok(());
                }
                Outcome::Found(found) => {
                    debug!(%saga_id, "someone else was quicker; deciding again");
                    self.cache.remove(&saga_id);
                    (saga, is_guess) = (known(saga_id, found)?, false);
                }
            }
        }
    }

    /// Reads a saga, together with whoever else reads one now.
    pub async fn stored(&self, saga_id: SagaId) -> Result<Saga, ApplyError> {
        known(saga_id, self.reads.submit(saga_id).await?)
    }

    /// Does what a stored saga asks for, without waiting for the result.
    pub fn perform(self: &Arc<Self>, saga: &Saga) {
        match saga.effect() {
            // Not awaited: a command that is lost is sent again by the sweeper.
            Effect::Send(record) => drop(self.producer.send(&record)),
            Effect::Call(call) => {
                let key = (saga.saga_id, discriminant(&call));
                if self.calling.insert(key) {
                    let this = self.clone();
                    self.tasks.spawn(async move {
                        this.call(key.0, call).await;
                        this.calling.remove(&key);
                    });
                }
            }
            Effect::Wake => self.waiters.wake(saga),
        }
    }

    /// Calls the order service and applies its answer. Without an answer nothing happens: the sweeper calls again.
    async fn call(self: &Arc<Self>, saga_id: SagaId, call: OrderCall) {
        let Some(input) = self.orders.call(&call).await else { return };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for _ in 0..5 {
            match self.apply(saga_id, &input, service_runtime::now()).await {
                Ok(()) => return,
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
        if saga.state.has_ended() {
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

fn known(saga_id: SagaId, stored: Option<Stored>) -> Result<Saga, ApplyError> {
    match stored {
        Some(Stored::Saga(saga)) => Ok(*saga),
        Some(Stored::UnknownDefinition { name, version }) => {
            Err(ApplyError::UnknownDefinition { saga_id, definition: format!("{name} v{version}") })
        }
        None => Err(ApplyError::UnknownSaga(saga_id)),
    }
}

/// One line for each saga's end, and one when it turns back.
fn log_move(saga: &Saga) {
    let (saga_id, order_id, status, step) = (saga.saga_id, saga.order_id, saga.state.status(), saga.step_name());
    match saga.state {
        State::Running { .. } => debug!(%saga_id, %order_id, status, step, "saga"),
        State::Completed => info!(%saga_id, %order_id, status, step, "saga"),
        State::Compensating { .. } | State::Failed { .. } => {
            let reason = saga.reason.as_deref().unwrap_or_default();
            info!(%saga_id, %order_id, status, step, reason, "saga");
        }
    }
}
