//! What is pending: events with a time. The earliest happens next, and among those of one moment the dice decide.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use messages::OutgoingRecord;
use saga_orchestrator::saga::{Saga, Transition};

use crate::calls::Calling;
use crate::inventory::Reserving;
use crate::kafka::Taken;
use crate::orchestrator::Applying;
use crate::order::{Answered, Serving};
use crate::payment::Paying;
use crate::plan::{Disturbance, Service};
use crate::world::ProcessId;

pub enum Event {
    /// A piece of a process' work.
    Work {
        process: ProcessId,
        life: u32,
        work: Work,
    },
    /// Kafka hands the next record of a log to its consumer.
    Deliver {
        log: usize,
        epoch: u32,
    },
    /// A command reaches Kafka.
    Arrive(Box<OutgoingRecord>),
    /// A client sends its request.
    Request {
        saga: usize,
    },
    Restart {
        process: ProcessId,
    },
    Rebalance(Service),
    Disturb(Disturbance),
    /// The faults end.
    Calm,
}

/// What a process does next.
pub enum Work {
    Start {
        new: Box<Transition>,
        tries: u32,
    },
    Started(Box<Saga>),
    Apply(Box<Applying>),
    Send(Box<OutgoingRecord>),
    Call(Box<Calling>),
    CallAnswered(Box<Answered>),
    /// The limit of a call has passed: see [`Process::calling`].
    CallTimeout {
        call: u64,
    },
    Sweep,
    TakeReply(Taken, u32),
    TakePaymentCommand(Taken, u32),
    TakeInventoryCommand(Taken, u32),
    Pay(Box<Paying>),
    Reserve(Box<Reserving>),
    Reply {
        taken: Taken,
        reply: Box<OutgoingRecord>,
        tries: u32,
    },
    Finish(Taken),
    Serve(Box<Serving>),
}

/// An event that will happen.
pub struct Scheduled {
    /// When, then a throw of the dice, then a count.
    pub key: (u64, u32, u32),
    pub event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// All that is pending.
#[derive(Default)]
pub struct Pending {
    heap: BinaryHeap<Reverse<Scheduled>>,
    count: u32,
}

impl Pending {
    pub fn add(&mut self, at: u64, throw: u32, event: Event) {
        self.count += 1;
        self.heap.push(Reverse(Scheduled { key: (at, throw, self.count), event }));
    }

    pub fn next(&mut self) -> Option<Scheduled> {
        self.heap.pop().map(|Reverse(scheduled)| scheduled)
    }
}
