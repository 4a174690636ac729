//! From a record to its reply: a loop around [`Participant::decide`], which always works on the row as it is stored.

use faults::Bug;
use service_runtime::conditional::Outcome;
use service_runtime::database::DatabaseClock;
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use service_runtime::retention::{Rows, may_be_removed};
use tracing::{debug, warn};

use crate::store::{Common, Row as _, Store};
use crate::{Anew, Next, Participant};

pub struct Handling<P: Participant> {
    pub participant: P,
    pub store: Store<P::Row>,
    pub old: Rows,
    pub clock: DatabaseClock,
}

impl<P: Participant> Handler for Handling<P> {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let command = match P::read(&record.topic, &record.body) {
            Ok(command) => command,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let order_id = P::order_id(&command);
        let too_old = |why| Handled::DeadLetter(format!("order {order_id} is below the retention horizon: {why}"));
        let is_old = may_be_removed(order_id.into(), self.clock.now());
        if is_old && self.old.was_removed(order_id.into()).await? {
            return Ok(too_old("its saga has ended, its rows are gone"));
        }
        let facts = self.participant.facts().await;
        // Mostly the order has no row yet; where it has one, the first write tells.
        let mut stored: Option<P::Row> = None;
        loop {
            let now = self.clock.now();
            let next = P::decide(&command, stored.as_ref(), &facts, now);
            // The question above may have been too early: the rows went after it, and what stands now is a new one.
            if is_old
                && let Some(Anew { why, undone }) = P::anew(&next, stored.as_ref(), now)
                && self.old.is_below_horizon(order_id.into()).await?
            {
                if let Some(row) = undone {
                    self.write(stored, row).await?;
                }
                return Ok(too_old(why));
            }
            match next {
                Next::Write(row) => {
                    stored = match self.write(stored, row).await? {
                        Outcome::Found(_) if faults::planted(Bug::SilentDuplicate) => return Ok(Handled::Done),
                        Outcome::Found(row) => row,
                        Outcome::Stored(row) => Some(row),
                    }
                }
                Next::Ask { call, announced } => {
                    let Some(row) = self.participant.ask(call, &announced).await? else {
                        debug!(topic = record.topic, "no reply");
                        return Ok(Handled::Done);
                    };
                    let is_refused = row.common().status == announced.common().status;
                    stored = match self.write(stored, row).await? {
                        Outcome::Found(row) => row,
                        Outcome::Stored(row) => Some(row),
                    };
                    if let (true, Some(row)) = (is_refused, &stored) {
                        let Common { saga_id, order_id, status, reason, .. } = row.common();
                        let trace_id = record.trace_id();
                        warn!(%saga_id, %order_id, status, trace_id, reason, "refused for good; no reply");
                        return Ok(Handled::Done);
                    }
                }
                Next::Reply(reply) => return Ok(Handled::Reply(P::to_record(&reply, record.header("traceparent")))),
                Next::Contradiction(why) => return Ok(Handled::DeadLetter(why)),
            }
        }
    }
}

impl<P: Participant> Handling<P> {
    /// Stores `row` in place of `stored`.
    async fn write(&self, stored: Option<P::Row>, row: P::Row) -> Result<Outcome<P::Row>, Retry> {
        let expected = stored.map(|row| row.common().status);
        if faults::planted(Bug::ReplyBeforeCommit) {
            let (store, early) = (self.store.clone(), row.clone());
            tokio::spawn(async move { store.write(expected, row).await });
            return Ok(Outcome::Stored(early));
        }
        let outcome = self.store.write(expected, row).await?;
        if let Outcome::Stored(row) = &outcome {
            self.participant.stored(row);
        }
        Ok(outcome)
    }
}
