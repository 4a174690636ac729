//! From a record to its reply: a loop around [`decide`], which always works on the row as it is stored.

use faults::Bug;
use messages::PaymentCommand;
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome};
use service_runtime::database::{DatabaseClock, StoreError};
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use service_runtime::retention::{Rows, may_be_removed};
use tracing::{debug, warn};

use crate::gateway::{CallError, SimulatedGateway};
use crate::payment::{Next, Payment, Status, decide, settle};
use crate::store::{Move, Moves, NewPayments};

pub struct Payments {
    pub writes: Writes,
    pub gateway: SimulatedGateway,
    pub old: Rows,
    pub clock: DatabaseClock,
}

/// How rows are written. New ones and moves apart: each statement does one thing, and does it sooner.
#[derive(Clone)]
pub struct Writes {
    pub new: Batcher<ConditionalWrites<NewPayments>>,
    pub moves: Batcher<ConditionalWrites<Moves>>,
}

impl Handler for Payments {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let command = match PaymentCommand::decode(&record.topic, &record.body) {
            Ok(command) => command,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let order_id = command.order_id();
        let is_old = may_be_removed(order_id.into(), self.clock.now());
        if is_old && self.old.was_removed(order_id.into()).await? {
            let why = format!("order {order_id} is below the retention horizon: its saga has ended, its rows are gone");
            return Ok(Handled::DeadLetter(why));
        }
        // Mostly the order has no row yet; where it has one, the first write tells.
        let mut stored: Option<Payment> = None;
        loop {
            match decide(&command, stored.as_ref(), self.clock.now()) {
                Next::Write(row) => stored = self.write(stored, row).await?,
                // The question above may have been too early: the rows went after it, and what stands now is a new one.
                Next::Ask { .. } if is_old && self.old.is_below_horizon(order_id.into()).await? => {
                    let why =
                        format!("order {order_id} is below the retention horizon: no money is moved for it again");
                    return Ok(Handled::DeadLetter(why));
                }
                Next::Ask { call, announced } => {
                    let answer = match self.gateway.call(call).await {
                        Ok(answer) => answer,
                        Err(CallError::Store(error)) => return Err(error.into()),
                        // No reply: the saga sends the command again.
                        Err(error @ CallError::Unreachable) => {
                            debug!(%error, topic = record.topic, "no reply");
                            return Ok(Handled::Done);
                        }
                    };
                    let row = settle(&announced, answer, self.clock.now());
                    let refused = row.status == announced.status;
                    stored = self.write(stored, row).await?;
                    if let (true, Some(row)) = (refused, &stored) {
                        let (order_id, reason) = (row.order_id, row.reason.as_deref().unwrap_or_default());
                        let trace_id = record.trace_id();
                        warn!(saga_id = %row.saga_id, %order_id, trace_id, reason, "a refund can't be made; no reply");
                        return Ok(Handled::Done);
                    }
                }
                Next::Reply(reply) => {
                    return Ok(Handled::Reply(reply.to_record(crate::NAME, record.header("traceparent"))));
                }
                Next::Contradiction(why) => return Ok(Handled::DeadLetter(why)),
            }
        }
    }
}

impl Payments {
    /// Stores `row` in place of `stored` and answers what is stored then: `row`, or what someone else put there.
    async fn write(&self, stored: Option<Payment>, row: Payment) -> Result<Option<Payment>, Retry> {
        let (writes, expected) = (self.writes.clone(), stored.map(|payment| payment.status));
        if faults::planted(Bug::ReplyBeforeCommit) {
            let early = row.clone();
            tokio::spawn(async move { writes.store(expected, row).await });
            return Ok(Some(early));
        }
        match writes.store(expected, row).await? {
            Outcome::Stored(row) => {
                debug!(saga_id = %row.saga_id, order_id = %row.order_id, status = row.status.as_str(), "payment");
                Ok(Some(row))
            }
            Outcome::Found(row) => Ok(row),
        }
    }
}

impl Writes {
    async fn store(&self, expected: Option<Status>, row: Payment) -> Result<Outcome<Payment>, StoreError> {
        let status = row.status.as_str();
        faults::reached("payment.storing", status);
        let outcome = match expected {
            None => self.new.submit(row).await?,
            Some(expected) => self.moves.submit(Move { expected, row }).await?,
        };
        if let Outcome::Stored(_) = outcome {
            faults::reached("payment.stored", status);
        }
        Ok(outcome)
    }
}
