//! What the dice decide, all of it before anything starts: which faults, in which order, and which checkouts are sent
//! meanwhile. The same seed gives the same plan.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use e2e_tests::clients::Request;
use e2e_tests::{Instance, Service};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Faults and checkouts in the order in which they happen.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub rounds: Vec<Round>,
}

/// A fault, and the checkouts that are sent from its beginning to that of the next one.
#[derive(Debug, PartialEq)]
pub struct Round {
    pub fault: Fault,
    pub lasts: Duration,
    pub requests: Vec<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub victim: Victim,
    pub kind: Kind,
    /// From the fault to the restart, or to SIGCONT.
    pub lasts: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Victim {
    Service(Instance),
    Postgres(Service),
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL, and a start afterwards.
    Kill,
    /// SIGSTOP, and SIGCONT afterwards: a process that knows nothing of the time in between.
    Freeze,
}

/// How many instances of each service there are.
pub const INSTANCES: usize = 2;

/// Every so many-th fault hits Kafka, whose start takes the longest of all; every so many-th one of the Postgres
/// servers. The rest is for the services, of which two thirds are kills.
const KAFKA_EVERY: usize = 50;
const POSTGRES_EVERY: usize = 5;

/// The mean of the rounds is 0.8 s: 500 faults take less than seven minutes.
const ROUND_MS: (u64, u64) = (400, 1200);

impl Plan {
    pub fn new(sagas: usize, faults: usize, seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let faults = deal_faults(faults, &mut dice);
        let count = faults.len();
        let rounds = faults.into_iter().enumerate().map(|(round, fault)| Round {
            fault,
            lasts: between(ROUND_MS, &mut dice),
            requests: (round * sagas / count..(round + 1) * sagas / count)
                .map(|index| Request::drawn("chaos", index, seed, &mut dice))
                .collect(),
        });
        Self { rounds: rounds.collect() }
    }

    /// The same where `is_counted` says which checkouts are of so many products.
    #[must_use]
    pub fn with_items(mut self, products: usize, is_counted: impl Fn(&Request) -> bool) -> Self {
        for round in &mut self.rounds {
            let requests = std::mem::take(&mut round.requests).into_iter();
            let with_items =
                |request: Request| if is_counted(&request) { request.with_items(products) } else { request };
            round.requests = requests.map(with_items).collect();
        }
        self
    }

    /// How many pieces of each product all checkouts together want.
    pub fn wanted(&self) -> BTreeMap<String, u32> {
        let mut wanted = BTreeMap::new();
        let items = self.rounds.iter().flat_map(|round| &round.requests).flat_map(|request| &request.items);
        for (sku, pieces) in items {
            *wanted.entry(sku.clone()).or_default() += pieces;
        }
        wanted
    }

    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        self.rounds.iter().map(|round| round.fault)
    }
}

/// Dealt, not thrown: each victim gets its share whatever the seed; the dice decide when, and for how long.
fn deal_faults(count: usize, dice: &mut StdRng) -> Vec<Fault> {
    let (kafka, postgres) = (count.div_ceil(KAFKA_EVERY), count / POSTGRES_EVERY);
    let services = count.saturating_sub(kafka + postgres);
    let instances = Service::ALL.map(|service| (1..=INSTANCES).map(move |number| Instance { service, number }));
    let instances: Vec<Instance> = instances.into_iter().flatten().collect();

    let mut victims = vec![(Victim::Kafka, Kind::Kill); kafka];
    victims.extend((0..postgres).map(|i| (Victim::Postgres(Service::ALL[i % Service::ALL.len()]), Kind::Kill)));
    victims.extend((0..services).map(|i| {
        // Three rounds over all instances: two of kills, one of freezes.
        let kind = if i / instances.len() % 3 == 1 { Kind::Freeze } else { Kind::Kill };
        (Victim::Service(instances[i % instances.len()]), kind)
    }));
    victims.shuffle(dice);
    victims.into_iter().map(|(victim, kind)| Fault { victim, kind, lasts: how_long(victim, kind, dice) }).collect()
}

/// Now and then longer than `KAFKA_SESSION_TIMEOUT_MS` (6 s), so that partitions move, and a frozen process wakes up
/// as one that owns nothing any more.
fn how_long(victim: Victim, kind: Kind, dice: &mut StdRng) -> Duration {
    let range = match (victim, kind) {
        (Victim::Service(_), Kind::Kill) if dice.random_bool(0.1) => (6500, 9000),
        (Victim::Service(_), Kind::Freeze) if dice.random_bool(0.2) => (7000, 10_000),
        (Victim::Service(_), Kind::Freeze) => (200, 4000),
        _ => (50, 1500),
    };
    between(range, dice)
}

fn between((least, most): (u64, u64), dice: &mut StdRng) -> Duration {
    Duration::from_millis(dice.random_range(least..=most))
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(instance) => instance.fmt(f),
            Self::Postgres(service) => f.pad(&format!("Postgres of {}", service.database())),
            Self::Kafka => f.pad("Kafka"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use e2e_tests::clients::Reuse;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another_one() {
        assert_eq!(Plan::new(300, 20, 7), Plan::new(300, 20, 7));
        assert_ne!(Plan::new(300, 20, 7), Plan::new(300, 20, 8));
    }

    #[test]
    fn items_leave_all_else_of_a_plan_as_it_is() {
        let (plain, counted) = (Plan::new(300, 20, 7), Plan::new(300, 20, 7).with_items(5, |one| one.index % 2 == 0));
        let requests = |plan: Plan| plan.rounds.into_iter().flat_map(|round| round.requests).collect::<Vec<_>>();
        assert_eq!(counted.wanted().len(), 5);
        for (plain, counted) in requests(plain).into_iter().zip(requests(counted)) {
            assert_eq!(counted.items.is_empty(), counted.index % 2 == 1);
            assert_eq!(Request { items: Vec::new(), ..counted }, plain);
        }
    }

    #[test]
    fn every_fault_and_every_checkout_asked_for_is_in_the_plan() {
        for (sagas, faults) in [(300, 20), (10, 33), (1000, 7)] {
            let plan = Plan::new(sagas, faults, 1);
            assert_eq!(plan.rounds.len(), faults);
            let indices = plan.rounds.iter().flat_map(|round| round.requests.iter().map(|request| request.index));
            assert!(indices.eq(0..sagas), "{sagas} checkouts, each once, in order");
        }
    }

    #[test]
    fn twenty_faults_hit_kafka_every_database_and_every_instance_and_some_are_freezes() {
        let faults: Vec<Fault> = Plan::new(300, 20, 1).faults().collect();
        let victims: BTreeSet<Victim> = faults.iter().map(|fault| fault.victim).collect();
        assert_eq!(victims.len(), 1 + 4 + 4 * INSTANCES, "{victims:?}");
        assert!(faults.iter().any(|fault| fault.kind == Kind::Freeze), "{faults:?}");
    }

    #[test]
    fn some_keys_are_used_again_in_every_way_and_only_by_requests_that_have_one() {
        let plan = Plan::new(1000, 10, 1);
        let requests: Vec<&Request> = plan.rounds.iter().flat_map(|round| &round.requests).collect();
        for reuse in [Reuse::AtOnce, Reuse::AfterAnswer, Reuse::OtherBody, Reuse::AtTheEnd] {
            assert!(requests.iter().any(|request| request.reuse == reuse), "{reuse:?}");
        }
        assert!(requests.iter().all(|request| request.key.is_some() || request.reuse == Reuse::No));
    }
}
