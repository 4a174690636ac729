//! Kafka, as logs of records: in order within a partition, in any order across them, each at least once. What the
//! consumer of `service-runtime/src/kafka/` does with offsets is imitated here.

use std::collections::BTreeSet;
use std::rc::Rc;

use messages::{MESSAGE_TOPICS, OutgoingRecord, partition_for_key};

use crate::coverage::Seen;
use crate::pending::Event;
use crate::plan::Service;
use crate::world::{ProcessId, World};

/// Of each topic, as in the embedded broker.
const PARTITIONS: usize = 2;

/// One partition of one topic, and how far its consumers are.
#[derive(Default)]
pub struct Log {
    records: Vec<Rc<OutgoingRecord>>,
    owner: Option<ProcessId>,
    /// Counts the assignments: `offsets.rs` has an epoch for each as well.
    epoch: u32,
    /// The next record to be delivered.
    position: usize,
    in_hand: BTreeSet<usize>,
    /// Up to where all are finished: what the consumer has stored, to be committed twice a second.
    stored: usize,
    committed: usize,
    delivery_is_due: bool,
}

/// A record in a consumer's hand.
#[derive(Debug, Clone)]
pub struct Taken {
    log: usize,
    epoch: u32,
    offset: usize,
    pub record: Rc<OutgoingRecord>,
}

pub fn logs() -> Vec<Log> {
    (0..MESSAGE_TOPICS.len() * PARTITIONS).map(|_| Log::default()).collect()
}

/// Who consumes a log: by its topic's place in [`MESSAGE_TOPICS`].
fn consumer_of(log: usize) -> Service {
    match MESSAGE_TOPICS[log / PARTITIONS] {
        "payment.charge.command" | "payment.refund.command" => Service::Payment,
        "inventory.reserve.command" | "inventory.release.command" => Service::Inventory,
        _ => Service::Orchestrator,
    }
}

impl World {
    pub fn broker_is_away(&self) -> bool {
        self.now < self.broker_away_until
    }

    /// The broker takes a record.
    pub fn append(&mut self, record: OutgoingRecord) {
        let topic = MESSAGE_TOPICS.iter().position(|topic| *topic == record.topic).expect("all topics are listed");
        let log = topic * PARTITIONS + partition_for_key(record.key.as_bytes(), PARTITIONS as u32) as usize;
        self.trace(|| format!("kafka takes {} {}", record.topic, String::from_utf8_lossy(&record.body)));
        self.check_command_bytes(&record);
        self.logs[log].records.push(Rc::new(record));
        self.expect_delivery(log);
    }

    /// Lets the next record of a log come, if there is one and somebody to take it.
    fn expect_delivery(&mut self, log: usize) {
        let place = &mut self.logs[log];
        if place.owner.is_some() && place.position < place.records.len() && !place.delivery_is_due {
            place.delivery_is_due = true;
            let epoch = place.epoch;
            let at = self.now.max(self.broker_away_until) + self.delay();
            self.schedule(at, Event::Deliver { log, epoch });
        }
    }

    pub fn deliver(&mut self, log: usize, epoch: u32) {
        if self.broker_is_away() {
            let at = self.broker_away_until + 1;
            return self.schedule(at, Event::Deliver { log, epoch });
        }
        let place = &mut self.logs[log];
        if place.epoch != epoch {
            return;
        }
        place.delivery_is_due = false;
        // A dead or frozen owner's partitions wait for the rebalance that follows.
        let works = |owner: &ProcessId| self.processes[*owner].up && self.processes[*owner].frozen_until <= self.now;
        let (owner, offset) = (place.owner.filter(works), place.position);
        let Some(owner) = owner else { return };
        let Some(record) = place.records.get(offset).cloned() else { return };
        place.position += 1;
        place.in_hand.insert(offset);
        self.expect_delivery(log);
        let taken = Taken { log, epoch, offset, record };
        match consumer_of(log) {
            Service::Payment => self.take_payment_command(owner, taken, 0),
            Service::Inventory => self.take_inventory_command(owner, taken, 0),
            Service::Orchestrator | Service::Order => self.take_reply(owner, taken, 0),
        }
    }

    /// `service-runtime/src/kafka/offsets.rs`, `finished`: the lowest unfinished offset may be committed.
    pub fn finished(&mut self, taken: &Taken) {
        let place = &mut self.logs[taken.log];
        if place.epoch == taken.epoch {
            place.in_hand.remove(&taken.offset);
            place.stored = place.in_hand.first().copied().unwrap_or(place.position);
        }
    }

    /// Deals a service's partitions anew among its live processes. What was stored since the last commit may be lost,
    /// and what is in hand comes again while the old owner may still work on it.
    pub fn rebalance(&mut self, service: Service) {
        let live = self.live(service);
        self.trace(|| format!("{service:?}: partitions are dealt among {live:?}"));
        for log in (0..self.logs.len()).filter(|log| consumer_of(*log) == service) {
            let (low, high) = (self.logs[log].committed, self.logs[log].stored);
            let committed = self.dice.between(low as u64, high as u64) as usize;
            let owner = if live.is_empty() { None } else { Some(self.dice.pick(&live)) };
            let place = &mut self.logs[log];
            let again = place.position - committed;
            place.epoch += 1;
            place.in_hand.clear();
            (place.owner, place.delivery_is_due) = (owner, false);
            (place.position, place.stored, place.committed) = (committed, committed, committed);
            (0..again).for_each(|_| self.saw(Seen::Redelivery));
            self.expect_delivery(log);
        }
    }

    /// All records and offsets are gone.
    pub fn broker_forgets(&mut self) {
        self.saw(Seen::BrokerForgets);
        self.trace(|| "kafka forgets everything".to_owned());
        for place in &mut self.logs {
            *place = Log { owner: place.owner, epoch: place.epoch + 1, ..Log::default() };
        }
    }
}
