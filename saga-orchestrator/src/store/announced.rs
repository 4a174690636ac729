//! The events of sagas that have ended, for other systems.

use std::collections::HashMap;
use std::sync::Arc;

use messages::{OutgoingRecord, SagaOutcome};
use service_runtime::database::{Session, StoreError};
use service_runtime::outbox::{Announced, Announcement, Entry};
use sqlx::Row as _;
use uuid::Uuid;

use super::{Stored, from_row, wanted};
use crate::NAME;
use crate::registry::Flows;
use crate::saga::{FlowOutcome, Saga};

/// The events of sagas that have ended, from their rows.
pub struct Outcomes {
    pub session: Session,
    pub flows: Arc<Flows>,
}

impl Announced for Outcomes {
    async fn of(&self, entries: &[Entry]) -> Result<Vec<Announcement>, StoreError> {
        let rows = self.session.rows(wanted(entries.iter().map(|entry| entry.id.into()).collect())).await?;
        let stored = rows.iter().map(|row| Ok((row.try_get("saga_id")?, from_row(&self.flows, row).ok())));
        let stored: HashMap<Uuid, Option<Stored>> = stored.collect::<Result<_, sqlx::Error>>()?;
        let announcement = |entry: &Entry| match stored.get(&entry.id) {
            None => Announcement::Nothing("its row was removed"),
            Some(Some(Stored::Saga(saga))) if !saga.state.has_ended() => Announcement::Nothing("it has not ended"),
            Some(Some(Stored::Saga(saga))) => Announcement::Record(outcome(saga)),
            Some(_) => Announcement::Unknown,
        };
        Ok(entries.iter().map(announcement).collect())
    }
}

/// The event of a saga's end. Made from the row alone.
fn outcome(saga: &Saga) -> OutgoingRecord {
    let outcome = SagaOutcome {
        flow: saga.flow.name.clone(),
        version: saga.flow.version,
        status: saga.status().to_owned(),
        cause: saga.cause().map(str::to_owned),
        reason: saga.reason.clone(),
        owner: saga.request.owner.to_string(),
        money: saga.request.money,
        result: FlowOutcome(saga).result(),
        resolved_by_hand: saga.resolved_by_hand,
        started_at: saga.created_at.into(),
    };
    let subject = (&*saga.flow.start.subject, saga.order_id);
    outcome.to_record(saga.saga_id, subject, saga.updated_at, NAME, saga.traceparent.as_deref())
}
