//! Events that start sagas: `order.created`, of an order that was placed directly, and what comes on the topic that a user's
//! flow names in `start.topic`. There is one saga for each subject, however often its event comes: the subject's row is the
//! memory, and below the retention horizon the horizon is.
//!
//! While new sagas are not taken, events are held: in hand as many as may be, the others in Kafka.

use std::sync::Arc;
use std::time::Instant;

use chrono::TimeDelta;
use flow::{Flow, Misfit, Request, StartEvent};
use messages::{ORDER_CREATED, OrderCreated, OrderId, SagaId, Timestamp, TimestampText};
use service_runtime::database::{StoreError, within_limit};
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use service_runtime::retention::{Retention, may_be_removed, minted_at};
use service_runtime::trace;
use sqlx::PgPool;
use tracing::{debug, warn};

use crate::begin::new_saga;
use crate::coordinator::{ApplyError, Begun, Coordinator};
use crate::gate::Gate;
use crate::saga::flows::{CHECKOUTS, PAY_FIRST};
use crate::saga::{Checkout, Saga};
use crate::store::{KnownBy, NewSaga, old_sagas};

/// A subject has to be younger than what is removed by so much: the horizon must not pass it before its saga is stored.
const MARGIN: TimeDelta = TimeDelta::hours(1);

/// The reader of these topics.
pub struct StartTopics {
    pub coordinator: Arc<Coordinator>,
    pub gate: Arc<Gate>,
    pub pool: PgPool,
    pub retention: Retention,
}

/// Why an event starts no saga.
enum Refused {
    /// Ever: it is set aside.
    For(String),
    Now(Retry),
}

impl From<Misfit> for Refused {
    fn from(misfit: Misfit) -> Self {
        Self::For(misfit.to_string())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Now(error.into())
    }
}

impl Handler for StartTopics {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        match self.start(record).await {
            Ok(()) => Ok(Handled::Done),
            Err(Refused::For(why)) => Ok(Handled::DeadLetter(why)),
            Err(Refused::Now(retry)) => Err(retry),
        }
    }
}

impl StartTopics {
    async fn start(&self, record: &Record) -> Result<(), Refused> {
        if record.topic == ORDER_CREATED {
            return self.start_of_order(record).await;
        }
        let at = Instant::now();
        let mut flow = self.flow(&record.topic, at).await?;
        if StartEvent::read(&record.body, &flow.start.subject).and_then(|event| flow.read_event(event.payload)).is_err()
        {
            // Another version may have been activated on another instance a moment ago.
            within_limit(self.coordinator.flows.seen_since(at)).await?;
            flow = self.flow(&record.topic, at).await?;
        }
        let StartEvent { subject, payload } = StartEvent::read(&record.body, &flow.start.subject)?;
        let request = flow.read_event(payload).map_err(within_payload)?;
        // As the version of the flow reads it that the saga runs by.
        let is_of = |found: &Saga| {
            found.flow.name == flow.name
                && found.flow.read_event(payload).is_ok_and(|request| request.input == found.request.input)
        };
        self.begin(record, &flow, subject, request, is_of).await
    }

    /// Starts the saga of an order that was placed directly.
    async fn start_of_order(&self, record: &Record) -> Result<(), Refused> {
        let OrderCreated { order_id, payload: order, .. } =
            OrderCreated::decode(&record.body).map_err(|error| Refused::For(error.to_string()))?;
        if !CHECKOUTS.contains(&order.flow.as_str()) || order.flow == PAY_FIRST {
            return Err(Refused::For(format!("`payload.flow` names no flow of orders with items: {:?}", order.flow)));
        }
        if order_id.as_uuid().get_version_num() != 7 {
            return Err(Refused::For("`orderId` must be a UUID of version 7".to_owned()));
        }
        if order.items.is_empty() {
            return Err(Refused::For("`payload.items` must have at least one line".to_owned()));
        }
        let flow = self.coordinator.flows.checkout(&order.flow);
        if self.coordinator.flows.is_retired(&flow) {
            // It comes again, and holds up nothing else until then.
            debug!(%order_id, "an order waits until its flow is active again");
            return Ok(());
        }
        let request = Request::from(Checkout {
            user_id: order.user_id,
            money: order.money,
            items: order.items,
            force_payment_fail: false,
            force_inventory_fail: false,
        });
        let input = request.input.clone();
        let is_of = |found: &Saga| found.flow.name == flow.name && found.request.input == input;
        self.begin(record, &flow, order_id, request, is_of).await
    }

    /// Begins the saga about `subject`, unless there is one; `is_of` says whether that one was started by this event.
    async fn begin(
        &self,
        record: &Record,
        flow: &Arc<Flow>,
        subject: OrderId,
        request: Request,
        is_of: impl FnOnce(&Saga) -> bool,
    ) -> Result<(), Refused> {
        let field = &flow.start.subject;
        let now = self.coordinator.clock.now();
        self.check_age(field, subject, now).await?;
        self.gate.admit().map_err(|why| Refused::Now(Retry::NotNow(why)))?;
        let context = record.trace_context().unwrap_or_else(|| trace::new_trace(true));
        // Nobody waits for its replies here: any partition will do.
        let transition = new_saga(flow, SagaId::new_at(now), subject, request.into(), context.to_string(), now);
        match self.coordinator.start(NewSaga { transition, known_by: KnownBy::Subject }).await {
            Ok(Begun::Started) => Ok(()),
            Ok(Begun::Joined(found)) if is_of(&found) => {
                debug!(saga_id = %found.saga_id, "the event that started a saga came again");
                Ok(())
            }
            Ok(Begun::Joined(found)) => {
                let (saga_id, of) = (found.saga_id, &found.flow.name);
                Err(Refused::For(format!("`{field}` is what another saga is about, {saga_id} of the flow {of}")))
            }
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(error @ ApplyError::UnknownDefinition { .. }) => {
                warn!(%error, "the event that started a saga came again");
                Ok(())
            }
            Err(error @ (ApplyError::UnknownSaga(_) | ApplyError::Contradiction(_))) => {
                Err(Refused::For(error.to_string()))
            }
        }
    }

    /// The flow that events on this topic start sagas of, as it is at the time `at` or later.
    async fn flow(&self, topic: &str, at: Instant) -> Result<Arc<Flow>, Refused> {
        let flows = &self.coordinator.flows;
        // A flow's own topics begin with its name.
        let name = topic.split('.').next().unwrap_or_default();
        let started = || flows.active(name).filter(|flow| flow.start.topic.as_deref() == Some(topic));
        if let Some(flow) = started() {
            return Ok(flow);
        }
        within_limit(flows.seen_since(at)).await?;
        if let Some(flow) = started() {
            return Ok(flow);
        }
        match (flows.active(name), flows.active_versions().get(name)) {
            (Some(flow), _) => {
                Err(Refused::For(format!("it does not start {name} v{}, which is active", flow.version)))
            }
            (None, Some(version)) => {
                let why = format!("{name} v{version} is active, and this release can't run it");
                Err(Refused::Now(Retry::NotNow(why)))
            }
            (None, None) => Err(Refused::For(format!("no version of {name} is active"))),
        }
    }

    /// Whether a saga about this subject may be stored. What was removed is begun by no event again.
    async fn check_age(&self, field: &str, subject: OrderId, now: Timestamp) -> Result<(), Refused> {
        let id = subject.as_uuid();
        let minted = minted_at(id).unwrap_or_default();
        if minted > now + MARGIN {
            let minted = TimestampText(minted);
            return Err(Refused::For(format!("`{field}` is of {minted}, which is still to come: its clock is wrong")));
        }
        if !may_be_removed(id, now) {
            return Ok(());
        }
        let is_old = self.retention.limit().is_some_and(|limit| minted < now - limit + MARGIN);
        if is_old || within_limit(old_sagas::horizon(&self.pool)).await?.is_some_and(|horizon| id < horizon) {
            let minted = TimestampText(minted);
            return Err(Refused::For(format!("`{field}` is of {minted}: older than what is kept (RETENTION_DAYS)")));
        }
        Ok(())
    }
}

fn within_payload(misfit: Misfit) -> Misfit {
    match misfit.field.as_str() {
        "" => Misfit { field: "payload".to_owned(), ..misfit },
        field => Misfit { field: format!("payload.{field}"), ..misfit },
    }
}
