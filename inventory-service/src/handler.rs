//! From a record to its reply: a loop around [`decide`], which always works on the row as it is stored.

use std::time::Duration;

use faults::Bug;
use messages::{InventoryCommand, Timestamp};
use service_runtime::batch::Batcher;
use service_runtime::conditional::{ConditionalWrites, Outcome};
use service_runtime::database::DatabaseClock;
use service_runtime::kafka::{Handled, Handler, Record, Retry};
use service_runtime::retention::{Rows, may_be_removed};
use service_runtime::settings::Share;
use tracing::debug;

use crate::reservation::{Next, Reservation, Status, Stock, decide};
use crate::store::{Move, Moves, NewReservations};

pub struct Reservations {
    pub new: Batcher<ConditionalWrites<NewReservations>>,
    pub moves: Batcher<ConditionalWrites<Moves>>,
    pub failure_rate: Share,
    pub processing: Duration,
    pub old: Rows,
    pub clock: DatabaseClock,
}

impl Handler for Reservations {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let command = match InventoryCommand::decode(&record.topic, &record.body) {
            Ok(command) => command,
            Err(error) => return Ok(Handled::DeadLetter(error.to_string())),
        };
        let order_id = command.order_id();
        let is_old = may_be_removed(order_id.into(), self.clock.now());
        if is_old && self.old.was_removed(order_id.into()).await? {
            let why = format!("order {order_id} is below the retention horizon: its saga has ended, its rows are gone");
            return Ok(Handled::DeadLetter(why));
        }
        if !self.processing.is_zero() {
            tokio::time::sleep(self.processing).await;
        }
        let sold_out = rand::random::<f64>() < self.failure_rate.get();
        let stock = if sold_out { Stock::SoldOut } else { Stock::Available };
        // Mostly the order has no row yet; where it has one, the first write tells.
        let mut stored: Option<Reservation> = None;
        loop {
            match decide(&command, stored.as_ref(), stock, self.clock.now()) {
                Next::Write(row) => {
                    let status = row.status.as_str();
                    faults::reached("inventory.storing", status);
                    let outcome = match stored.map(|reservation| reservation.status) {
                        None => self.new.submit(row).await?,
                        Some(expected) => self.moves.submit(Move { expected, row }).await?,
                    };
                    stored = match outcome {
                        Outcome::Stored(row) => {
                            faults::reached("inventory.stored", status);
                            debug!(saga_id = %row.saga_id, order_id = %row.order_id, status, "reservation");
                            Some(row)
                        }
                        Outcome::Found(_) if faults::planted(Bug::SilentDuplicate) => return Ok(Handled::Done),
                        Outcome::Found(row) => row,
                    };
                }
                // The question above may have been too early: the rows went after it, and what stands now is a new one.
                Next::Reply(_)
                    if is_old
                        && is_new(stored.as_ref(), self.clock.now())
                        && self.old.is_below_horizon(order_id.into()).await? =>
                {
                    self.give_back(stored).await?;
                    return Ok(Handled::DeadLetter(format!(
                        "order {order_id} is below the retention horizon: nothing is set aside for it again"
                    )));
                }
                Next::Reply(reply) => {
                    return Ok(Handled::Reply(reply.to_record(crate::NAME, record.header("traceparent"))));
                }
                Next::Contradiction(why) => return Ok(Handled::DeadLetter(why)),
            }
        }
    }
}

/// Whether a row was made lately. One that stood when its order fell below the horizon is older: its saga has ended a day
/// ago at least, the shortest retention.
fn is_new(row: Option<&Reservation>, now: Timestamp) -> bool {
    row.is_some_and(|row| (now - row.created_at).num_hours() < 12)
}

impl Reservations {
    /// Releases what stands for an order that nobody will ask about again.
    async fn give_back(&self, stored: Option<Reservation>) -> Result<(), Retry> {
        let Some(row) = stored.filter(|row| row.status == Status::Reserved) else { return Ok(()) };
        let (expected, updated_at) = (row.status, self.clock.now());
        self.moves.submit(Move { expected, row: Reservation { status: Status::Released, updated_at, ..row } }).await?;
        Ok(())
    }
}
