//! The inventory service's processes: what `participant/src/handling.rs` does around `reservation.rs`; and, for
//! both participants, the sending of replies as `service-runtime/src/kafka/consumer.rs` does it.

use inventory_service::reservation::{Facts, Next, Reservation, Status, Stock, decide};
use messages::{InventoryCommand, OutgoingRecord};

use crate::coverage::Seen;
use crate::databases::Versioned;
use crate::kafka::Taken;
use crate::payment::traceparent;
use crate::pending::Work;
use crate::plan::{Service, index_of};
use crate::world::{ProcessId, World};
use saga_orchestrator::rehearsal::dice::Rate;
use saga_orchestrator::rehearsal::dice::Statement;

/// A command in the service's hands.
pub struct Reserving {
    taken: Taken,
    tries: u32,
    command: InventoryCommand,
    facts: Facts,
    stored: Option<Versioned<Reservation>>,
    step: Step,
}

enum Step {
    Decide,
    Write(Reservation),
    Read,
}

impl World {
    /// `Handling::handle`, from the beginning.
    pub fn take_inventory_command(&mut self, process: ProcessId, taken: Taken, tries: u32) {
        let sold_out = self.dice.chance(self.rates.sold_out);
        let stock = if sold_out { Stock::SoldOut } else { Stock::Available };
        let facts = Facts { stock, hold_for: None };
        match InventoryCommand::decode(&taken.record.topic, &taken.record.body) {
            Ok(command) => {
                let reserving = Reserving { taken, tries, command, facts, stored: None, step: Step::Decide };
                self.decide_reservation(process, Box::new(reserving));
            }
            Err(error) => self.broken(format!("an inventory command can't be read: {error}")),
        }
    }

    pub fn reserve(&mut self, process: ProcessId, mut reserving: Box<Reserving>) {
        let index = index_of(reserving.command.order_id());
        match reserving.step {
            Step::Decide => self.decide_reservation(process, reserving),
            Step::Write(row) => {
                let statement = self.statement(Service::Inventory);
                let expected = reserving.stored.as_ref().map(|stored| stored.row.status);
                let stored = statement != Statement::Fails && self.store_reservation(index, expected, &row);
                if statement != Statement::Works {
                    return self.reserve_again(process, reserving.taken, reserving.tries);
                }
                if stored {
                    reserving.stored = self.databases.reservations[index].clone();
                    reserving.step = Step::Decide;
                } else {
                    self.saw(Seen::ReservationRaceLost);
                    reserving.step = Step::Read;
                }
                self.soon(process, Work::Reserve(reserving));
            }
            Step::Read => match self.statement(Service::Inventory) {
                Statement::Works => {
                    reserving.stored = self.databases.reservations[index].clone();
                    self.decide_reservation(process, reserving);
                }
                _ => self.reserve_again(process, reserving.taken, reserving.tries),
            },
        }
    }

    fn decide_reservation(&mut self, process: ProcessId, mut reserving: Box<Reserving>) {
        let stored = reserving.stored.as_ref().map(|stored| &stored.row);
        if let (InventoryCommand::Reserve(_), Some(Status::Voided)) = (&reserving.command, stored.map(|row| row.status))
        {
            self.coverage.add(Seen::LateReserve);
        }
        match decide(&reserving.command, stored, &reserving.facts, self.clock(process)) {
            Next::Write(row) => {
                reserving.step = Step::Write(row);
                self.soon(process, Work::Reserve(reserving));
            }
            Next::Reply(reply) => {
                let record = reply.to_record("inventory-service", traceparent(&reserving.taken));
                let Reserving { taken, command, stored, .. } = *reserving;
                self.check_reply_bytes(command.event_id(), stored.map_or(0, |stored| stored.writes), &record);
                self.soon(process, Work::Reply { taken, reply: Box::new(record), tries: 0 });
            }
            Next::Contradiction(why) => self.broken(format!("an inventory command contradicts the row: {why}")),
        }
    }

    fn store_reservation(&mut self, index: usize, expected: Option<Status>, row: &Reservation) -> bool {
        let stored = self.databases.write_reservation(index, expected, row);
        if stored {
            self.trace(|| format!("reservation {index} is {}", row.status.as_str()));
            match row.status {
                Status::Reserved => self.check_reserved(index),
                Status::Failed => self.saw(Seen::SoldOut),
                Status::Released => self.saw(Seen::Released),
                Status::Voided => self.saw(Seen::ReservationTombstone),
                // No flow of the simulation commits, and none has holds that end.
                Status::Expired | Status::Committed => {
                    self.broken(format!("reservation {index} is {}", row.status.as_str()))
                }
            }
        }
        stored
    }

    fn reserve_again(&mut self, process: ProcessId, taken: Taken, tries: u32) {
        let pause = self.backoff(tries, 5_000);
        self.later(process, pause, Work::TakeInventoryCommand(taken, tries + 1));
    }

    /// `consumer.rs`, `process` and `deliver`: a reply is sent until it is acknowledged; then the offset may move.
    pub fn reply(&mut self, process: ProcessId, taken: Taken, reply: OutgoingRecord, tries: u32) {
        if self.forger.chance(self.rates.forged) {
            self.forge(&reply);
        }
        let fails = self.dice.chance(self.rates.reply);
        if self.broker_is_away() || (fails && self.dice.chance(Rate::percent(50))) {
            self.saw(Seen::ReplyLost);
        } else {
            self.append(reply.clone());
            if !fails {
                return self.soon(process, Work::Finish(taken));
            }
            self.saw(Seen::AcknowledgementLost);
        }
        let pause = self.backoff(tries, 5_000);
        self.later(process, pause, Work::Reply { taken, reply: Box::new(reply), tries: tries + 1 });
    }
}
