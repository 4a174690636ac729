//! What a seed decides before anything happens: the checkouts, how often each kind of fault strikes, and the longer
//! disturbances. Each kind is left out of about half of the seeds, so that the others are met undisturbed as well.

use messages::{Currency, Money, OrderId, SagaId};
use saga_orchestrator::saga::Checkout;
use uuid::Uuid;

use crate::world::{PROCESSES, ProcessId};
use saga_orchestrator::rehearsal::dice::{Dice, Rate};

/// The services, each of which runs in two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Orchestrator,
    Order,
    Payment,
    Inventory,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Orchestrator, Self::Order, Self::Payment, Self::Inventory];
}

pub struct Plan {
    pub sagas: Vec<Planned>,
    pub rates: Rates,
    /// When the faults end, in ms from the beginning.
    pub calm_at: u64,
    /// When which begins.
    pub disturbances: Vec<(u64, Disturbance)>,
}

/// A client's request.
pub struct Planned {
    pub at: u64,
    pub saga_id: SagaId,
    pub order_id: OrderId,
    pub checkout: Checkout,
}

/// How often faults strike that are a matter of a moment.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// A process dies instead of taking its next step.
    pub crash: Rate,
    /// A statement fails: half of these before, half after it took effect.
    pub statement: Rate,
    pub command_lost: Rate,
    pub command_doubled: Rate,
    /// Kafka does not take a reply, or takes it and its acknowledgement is lost.
    pub reply: Rate,
    /// A participant also sends a reply that tells of something else than it was asked for: see `forged.rs`.
    pub forged: Rate,
    /// A request or its answer is lost.
    pub http: Rate,
    pub request_doubled: Rate,
    /// A gateway call fails, half of these after it was decided.
    pub gateway: Rate,
    /// A gateway call takes up to 100 s.
    pub gateway_slow: Rate,
    pub declined: Rate,
    /// A refund is refused for good: a person has to settle it.
    pub refund_refused: Rate,
    pub sold_out: Rate,
    /// Something takes up to 3 s instead of some milliseconds.
    pub delay: Rate,
}

impl Rates {
    /// What happens when no fault does.
    pub fn calm(&self) -> Self {
        let never = Rate::NEVER;
        Self {
            crash: never,
            statement: never,
            command_lost: never,
            command_doubled: never,
            reply: never,
            forged: never,
            http: never,
            request_doubled: never,
            gateway: never,
            gateway_slow: never,
            delay: never,
            ..*self
        }
    }
}

/// What strikes at a time of its own.
#[derive(Debug, Clone, Copy)]
pub enum Disturbance {
    /// All processes of the service are down until then.
    Outage { service: Service, until: u64 },
    /// One process stops in its tracks, loses its partitions, and goes on then.
    Freeze { process: ProcessId, until: u64 },
    /// The service's database answers no statement until then.
    DatabaseAway { service: Service, until: u64 },
    /// Kafka takes and gives nothing until then.
    BrokerAway { until: u64 },
    /// Kafka loses all records and offsets, as the embedded broker does at its end.
    BrokerForgets,
    /// The service's partitions are dealt anew though nobody died.
    Rebalance { service: Service },
    /// Somebody who knows the saga's id cancels its order.
    CancelOrder { saga: usize },
    /// An operator steps in.
    Operate { saga: usize, act: Act },
}

/// What an operator does to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Cancel,
    Retry,
    /// Only of what needs attention, and only where the gateway has refused the refund.
    Resolve,
}

impl Plan {
    pub fn new(dice: &mut Dice) -> Self {
        let calm_at = dice.between(1_000, 20_000);
        let long = dice.chance(Rate::percent(35));
        let calm_at = if long { calm_at + dice.between(60_000, 110_000) } else { calm_at };
        let count = dice.pick(&[1, 1, 1, 2, 2, 3, 4]);
        let sagas = (0..count).map(|index| Planned::new(dice, index, calm_at)).collect();
        let mut plan = Self { sagas, rates: Rates::new(dice), calm_at, disturbances: Vec::new() };
        if long {
            plan.long_disturbance(dice);
        }
        for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2, 3]) {
            plan.short_disturbance(dice);
        }
        plan
    }

    /// Long enough that deadlines pass.
    fn long_disturbance(&mut self, dice: &mut Dice) {
        let from = dice.between(0, 1_500);
        let until = from + dice.between(40_000, self.calm_at - 1_500);
        let service = dice.pick(&Service::ALL);
        let disturbance = match dice.between(0, 5) {
            0 => Disturbance::DatabaseAway { service, until },
            1 => Disturbance::BrokerAway { until },
            _ => Disturbance::Outage { service, until },
        };
        self.disturbances.push((from, disturbance));
    }

    fn short_disturbance(&mut self, dice: &mut Dice) {
        let from = dice.between(0, self.calm_at.min(5_000));
        let until = from + dice.between(100, 5_000);
        let (service, saga) = (dice.pick(&Service::ALL), dice.between(0, self.sagas.len() as u64 - 1) as usize);
        let disturbance = match dice.between(0, 9) {
            0 => Disturbance::Outage { service, until },
            1 => Disturbance::DatabaseAway { service, until },
            2 => Disturbance::BrokerAway { until },
            3 => Disturbance::BrokerForgets,
            4 | 5 => Disturbance::Rebalance { service },
            6 => Disturbance::CancelOrder { saga },
            7 => Disturbance::Freeze { process: dice.between(0, PROCESSES as u64 - 1) as usize, until: until + 5_000 },
            8 => Disturbance::Operate { saga, act: Act::Retry },
            _ => Disturbance::Operate { saga, act: Act::Cancel },
        };
        self.disturbances.push((from, disturbance));
    }
}

impl Planned {
    fn new(dice: &mut Dice, index: usize, calm_at: u64) -> Self {
        let cents = dice.between(1, 10_000_000);
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let checkout = Checkout {
            items: messages::Items::default(),
            user_id: format!("user-{index}").try_into().expect("a name of letters is a user id"),
            money: Money::parse(&amount, Currency::USD).expect("a positive number of cents is an amount"),
            force_payment_fail: dice.chance(Rate::percent(8)),
            force_inventory_fail: dice.chance(Rate::percent(15)),
        };
        // An id's last byte tells whose it is.
        let mut id = || Uuid::from_u64_pair(dice.bits(), dice.bits() & !0xff | index as u64);
        let (saga_id, order_id) = (id().into(), id().into());
        Self { at: dice.between(0, calm_at.min(3_000)), saga_id, order_id, checkout }
    }
}

/// Whose id this is: the place of its saga in the plan.
pub fn index_of(id: impl Into<Uuid>) -> usize {
    usize::from(id.into().as_bytes()[15])
}

impl Rates {
    fn new(dice: &mut Dice) -> Self {
        // A scale for the whole seed, so that there are gentle and rough ones.
        let scale = dice.pick(&[0, 1, 1, 2, 4]);
        let mut rate = |per_mille: u32| {
            let struck = dice.chance(Rate::percent(50));
            if struck { Rate::per_mille(per_mille * scale) } else { Rate::NEVER }
        };
        Self {
            crash: rate(6),
            statement: rate(10),
            command_lost: rate(40),
            command_doubled: rate(60),
            reply: rate(40),
            http: rate(40),
            request_doubled: rate(60),
            gateway: rate(40),
            gateway_slow: rate(40),
            declined: rate(50),
            refund_refused: rate(30),
            sold_out: rate(50),
            delay: rate(40),
            forged: Rate::NEVER,
        }
    }
}
