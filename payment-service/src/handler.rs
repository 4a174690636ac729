//! From a record to its reply: a loop around [`decide`], which always works on the row as it is stored.

use messages::PaymentCommand;
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome};
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use tracing::debug;

use crate::gateway::SimulatedGateway;
use crate::payment::{Next, Payment, decide, settle};
use crate::store::{PaymentsTable, Write};

pub struct Payments {
    pub writes: Batcher<ConditionalWrites<PaymentsTable>>,
    pub gateway: SimulatedGateway,
}

impl Handler for Payments {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let command = match PaymentCommand::decode(&record.topic, &record.body) {
            Ok(command) => command,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        // Mostly the order has no row yet; where it has one, the first write tells.
        let mut stored: Option<Payment> = None;
        loop {
            match decide(&command, stored.as_ref(), service_runtime::now()) {
                Next::Write(row) => stored = self.write(stored, row).await?,
                Next::Ask(call) => {
                    let answer = self.gateway.call(call).await?;
                    // Only an announced call is asked for, so there is a row.
                    let row = stored.as_ref().map(|announced| settle(announced, answer, service_runtime::now()));
                    if let Some(row) = row {
                        stored = self.write(stored, row).await?;
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
        let expected = stored.map(|payment| payment.status);
        match self.writes.submit(Write { expected, row }).await? {
            Outcome::Stored(row) => {
                debug!(saga_id = %row.saga_id, order_id = %row.order_id, status = row.status.as_str(), "payment");
                Ok(Some(row))
            }
            Outcome::Found(row) => Ok(row),
        }
    }
}
