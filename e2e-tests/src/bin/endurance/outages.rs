//! Kafka is away, then each database in turn, while checkouts come at a steady rate: nothing is lost, nobody is told
//! anything wrong, and each time the platform serves again by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use e2e_tests::clients::{Driver, Got, Request, Scenario, Sent, Try, checks};
use e2e_tests::{Client, Service, Services, dev_kafka};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::memory::{MIB, Memory, in_words};
use crate::{BACK_LIMIT, disagreement, until_normal};

/// Between two outages.
const CALM: Duration = Duration::from_secs(10);

/// More than this a process must not grow by, in KiB, from its peak in the first outage to the end of the last: what
/// one outage takes, the next one has to find again.
const GROWTH: u64 = 20 * MIB;

/// What is away.
#[derive(Debug, Clone, Copy)]
enum Away {
    Kafka,
    Database(Service),
}

/// Answers what is wrong.
pub async fn run(outage: Duration, rate: u32) -> Result<Vec<String>> {
    let mut services = Services::launch_none(&[("CHECKOUT_WAIT_MS", "10000")]).await?;
    services.start_all().await?;
    let client = services.quiet_client()?;
    let mut load = Load::new(Driver::new(vec![services.address(Service::Orchestrator.into())?])?, rate);
    let memory = Memory::watch(services.process_ids());
    let mut wrong = Vec::new();

    load.during(CALM).await;
    println!("calm: {}; {}", load.told(), in_words(&memory.take_peak()));
    let mut first = None;
    let away = [Service::Order, Service::Payment, Service::Inventory, Service::Orchestrator].map(Away::Database);
    for away in [Away::Kafka].into_iter().chain(away) {
        leave(&services, away).await?;
        load.during(outage).await;
        come_back(&services, away).await?;
        let back = until_normal(&client).await?;
        load.during(CALM).await;
        let peak = memory.take_peak();
        println!(
            "{away:?} away for {} s: serving again {:.1} s after it was back; {}; {}",
            outage.as_secs(),
            back.as_secs_f64(),
            load.told(),
            in_words(&peak)
        );
        first.get_or_insert(peak);
        if back > BACK_LIMIT {
            wrong.push(format!("{away:?}: serving again only after {back:?}"));
        }
    }
    wrong.extend(verdict(&client, load.ended().await).await?);
    let after = memory.now();
    println!("at the end: {}", in_words(&after));
    for (instance, kib) in &after {
        let peak = first.as_ref().and_then(|first| first.get(instance)).copied().unwrap_or_default();
        if *kib > peak + GROWTH {
            wrong.push(format!("{instance} grew from {peak} to {kib} KiB"));
        }
    }
    Ok(wrong)
}

/// What is wrong with what the clients were told, once every saga has ended.
pub async fn verdict(client: &Client, sent: Vec<Sent>) -> Result<Vec<String>> {
    let mut wrong: Vec<String> = disagreement(client).await?.into_iter().collect();
    let mut sagas = checks::read(&client.databases).await?;
    sagas.retain(|saga| saga.user_id != "probe");
    let findings = checks::check(&sent, &sagas);
    println!(
        "{} checkouts sent, {} answers checked, {} sagas acknowledged, {} lost, {} wrong",
        sent.len(),
        findings.answers,
        findings.acknowledged,
        findings.lost.len(),
        findings.violations.len()
    );
    wrong.extend(findings.lost.into_iter().chain(findings.violations));
    Ok(wrong)
}

async fn leave(services: &Services, away: Away) -> Result<()> {
    match away {
        Away::Kafka => dev_kafka(&["stop"]).await,
        Away::Database(service) => {
            services.database(service)?.stop().await;
            Ok(())
        }
    }
}

async fn come_back(services: &Services, away: Away) -> Result<()> {
    match away {
        Away::Kafka => dev_kafka(&["start"]).await,
        Away::Database(service) => Ok(services.database(service)?.start().await?),
    }
}

/// Clients at a steady rate, whatever becomes of them.
pub struct Load {
    driver: Arc<Driver>,
    every: Duration,
    dice: StdRng,
    next: usize,
    clients: JoinSet<Sent>,
    done: Vec<Sent>,
    told: usize,
}

impl Load {
    pub fn new(driver: Driver, rate: u32) -> Self {
        let (every, dice) = (Duration::from_secs(1) / rate.max(1), StdRng::seed_from_u64(1));
        Self { driver: Arc::new(driver), every, dice, next: 0, clients: JoinSet::new(), done: Vec::new(), told: 0 }
    }

    pub async fn during(&mut self, time: Duration) {
        self.beside(tokio::time::sleep(time)).await;
    }

    /// Goes on until `work` is done.
    pub async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut ticks = tokio::time::interval(self.every);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {}
            }
            let request = Request::drawn("outages", self.next, 1, &mut self.dice);
            let driver = self.driver.clone();
            self.clients.spawn(async move { driver.send(request).await });
            self.next += 1;
            while let Some(Ok(sent)) = self.clients.try_join_next() {
                self.done.push(sent);
            }
        }
    }

    /// How many of the answers since the last call of [`Load::told`] were "not yet", though the client had not asked for
    /// such an answer.
    pub fn late(&self) -> usize {
        let sent = self.done[self.told..].iter().filter(|sent| sent.request.scenario != Scenario::Async);
        let is_late = |one: &Try| matches!(&one.got, Got::Answer(answer) if answer.status == 202);
        sent.flat_map(|sent| &sent.tries).filter(|one| is_late(one)).count()
    }

    /// The answers since the last call, by status.
    pub fn told(&mut self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for one in self.done[self.told..].iter().flat_map(|sent| &sent.tries) {
            let what = match &one.got {
                Got::Answer(answer) => answer.status.to_string(),
                other => format!("{other:?}"),
            };
            *counts.entry(what).or_default() += 1;
        }
        self.told = self.done.len();
        format!("answers {counts:?}")
    }

    pub async fn ended(mut self) -> Vec<Sent> {
        self.done.extend(self.clients.join_all().await);
        self.done.sort_by_key(|sent| sent.request.index);
        self.done
    }
}
