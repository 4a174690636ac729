//! Topics that are read by another consumer group than in an earlier release, and two groups of one process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Broker, KafkaClient, eventually, real_kafka};
use messages::groups::Group;
use service_runtime::kafka::{Consumer, GroupState, Handled, Handler, KafkaSettings, Producer, Record, Retry};
use service_runtime::metrics::Metrics;
use service_runtime::trace::Tracer;
use service_runtime::{CancellationToken, Fatal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

const TOPIC: &str = "payment.refund.command";

const PREDECESSOR: Group = Group { name: "payment-service", topics: &[TOPIC], formerly: None };

const SUCCESSOR: Group = Group { name: "payment-service.refunds", topics: &[TOPIC], formerly: Some(PREDECESSOR.name) };

/// Passes on what it gets; done with it, or not yet.
struct Collects {
    records: mpsc::UnboundedSender<String>,
    is_done: bool,
}

impl Handler for Collects {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let _ = self.records.send(String::from_utf8_lossy(&record.body).into_owned());
        match self.is_done {
            true => Ok(Handled::Done),
            false => std::future::pending().await,
        }
    }
}

/// A member of a group.
struct Running {
    state: Arc<GroupState>,
    records: mpsc::UnboundedReceiver<String>,
    shutdown: CancellationToken,
    done: JoinHandle<Result<(), Fatal>>,
}

impl Running {
    async fn start(settings: &KafkaSettings, group: Group, is_done: bool) -> Result<Self> {
        let metrics = Metrics::of("e2e-tests");
        let partitions = Consumer::prepare(settings, "e2e-tests", &[group]).await?;
        let consumer = Consumer::open(settings, "e2e-tests", (group, partitions), &metrics, &Tracer::off())?;
        let producer = Producer::open(settings, "e2e-tests", &metrics)?;
        let (state, shutdown) = (consumer.state(), CancellationToken::new());
        let (give, records) = mpsc::unbounded_channel();
        let done = tokio::spawn(consumer.run(Collects { records: give, is_done }, producer, shutdown.clone()));
        Ok(Self { state, records, shutdown, done })
    }

    /// Waits until these have come, and says that nothing else came before them.
    async fn gets(&mut self, numbers: impl Iterator<Item = u32>) -> Result<()> {
        let mut missing: BTreeSet<String> = numbers.map(|number| number.to_string()).collect();
        while !missing.is_empty() {
            let next = tokio::time::timeout(LIMIT, self.records.recv()).await;
            let next = next.with_context(|| format!("did not come: {missing:?}; {:?}", self.state.trouble()))?;
            let next = next.context("the consumer has ended")?;
            ensure!(missing.remove(&next), "{next} came, and was not expected. Missing: {missing:?}");
        }
        Ok(())
    }

    /// It has committed what it is done with then.
    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.done.await??)
    }
}

async fn publish(client: &KafkaClient, numbers: std::ops::Range<u32>) -> Result<()> {
    publish_on(client, TOPIC, numbers).await
}

async fn publish_on(client: &KafkaClient, topic: &str, numbers: std::ops::Range<u32>) -> Result<()> {
    let record = |number: u32| (format!("key-{number}"), number.to_string().into_bytes());
    client.publish_all(topic, &numbers.map(record).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn a_new_group_begins_where_its_predecessor_was_and_goes_on_from_its_own_offsets() -> Result<()> {
    let broker = Broker::start().await?;
    let (client, settings) = (KafkaClient::new(&broker.address, &broker.prefix), broker.settings("")?);
    publish(&client, 0..20).await?;
    let mut older = Running::start(&settings, PREDECESSOR, true).await?;
    older.gets(0..20).await?;
    older.stop().await?;
    publish(&client, 20..40).await?;

    let mut newer = Running::start(&settings, SUCCESSOR, true).await?;
    newer.gets(20..40).await?;
    newer.stop().await?;

    // A rollback: the older release reads again what it had not read, and goes on.
    publish(&client, 40..50).await?;
    let mut older = Running::start(&settings, PREDECESSOR, true).await?;
    older.gets(20..50).await?;
    older.stop().await?;
    publish(&client, 50..60).await?;
    let mut newer = Running::start(&settings, SUCCESSOR, true).await?;
    // By its own offsets. What the older release did meanwhile comes again.
    newer.gets(40..60).await?;
    newer.stop().await
}

#[tokio::test]
async fn static_members_read_what_their_release_subscribes_to_after_an_upgrade_and_after_a_rollback() -> Result<()> {
    const CHARGES: &str = "payment.charge.command";
    const BOTH: Group = Group { name: PREDECESSOR.name, topics: &[CHARGES, TOPIC], formerly: None };
    const ONE: Group = Group { name: PREDECESSOR.name, topics: &[CHARGES], formerly: None };
    if real_kafka().is_none() {
        println!("left out: the embedded broker knows no static members");
        return Ok(());
    }
    let broker = Broker::start().await?;
    let (client, settings) = (KafkaClient::new(&broker.address, &broker.prefix), broker.settings("static")?);
    publish_on(&client, CHARGES, 0..20).await?;
    publish(&client, 100..120).await?;
    let mut older = Running::start(&settings, BOTH, true).await?;
    older.gets((0..20).chain(100..120)).await?;
    older.stop().await?;

    // At once: the group still has the older one's member.
    let mut charges = Running::start(&settings, ONE, true).await?;
    let mut refunds = Running::start(&settings, SUCCESSOR, true).await?;
    publish_on(&client, CHARGES, 20..40).await?;
    publish(&client, 120..140).await?;
    charges.gets(20..40).await?;
    refunds.gets(120..140).await?;
    // Longer than it takes to fetch what it must not have.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(charges.records.is_empty() && refunds.records.is_empty(), "one of them reads the other's topic");
    charges.stop().await?;
    refunds.stop().await?;

    publish_on(&client, CHARGES, 40..60).await?;
    publish(&client, 140..160).await?;
    let mut older = Running::start(&settings, BOTH, true).await?;
    older.gets((40..60).chain(120..160)).await?;
    older.stop().await
}

#[tokio::test]
async fn a_group_without_a_predecessors_offsets_begins_with_the_first_record() -> Result<()> {
    let broker = Broker::start().await?;
    let (client, settings) = (KafkaClient::new(&broker.address, &broker.prefix), broker.settings("")?);
    publish(&client, 0..20).await?;

    let mut newer = Running::start(&settings, SUCCESSOR, true).await?;

    newer.gets(0..20).await?;
    newer.stop().await
}

#[tokio::test]
async fn one_that_joins_a_group_whose_members_have_committed_nothing_yet_leaves_its_offsets_alone() -> Result<()> {
    let broker = Broker::start().await?;
    let (client, settings) = (KafkaClient::new(&broker.address, &broker.prefix), broker.settings("")?);
    let mut first = Running::start(&settings, SUCCESSOR, false).await?;
    publish(&client, 0..20).await?;
    // At least one of each partition; the others wait for it.
    tokio::time::timeout(LIMIT, first.records.recv()).await?.context("the first has ended")?;
    let mut older = Running::start(&settings, PREDECESSOR, true).await?;
    older.gets(0..20).await?;
    older.stop().await?;

    let second = broker.settings("")?;
    let mut second = Running::start(&second, SUCCESSOR, true).await?;
    eventually("both are members", LIMIT, async || {
        let states = [&first.state, &second.state];
        Ok(states.iter().all(|state| state.trouble().is_none() && state.owned().len() == 1).then_some(()))
    })
    .await?;
    // What the first was not done with comes to the second, though the predecessor was done with it.
    let came = tokio::time::timeout(LIMIT, second.records.recv()).await?;
    ensure!(came.is_some(), "the second has ended");
    first.done.abort();
    second.done.abort();
    Ok(())
}

#[tokio::test]
async fn all_groups_of_a_process_have_the_same_partitions() -> Result<()> {
    const OTHER: Group = Group { name: "payment-service", topics: &["payment.charge.command"], formerly: None };
    if real_kafka().is_none() {
        println!("left out: the embedded broker names members by itself");
        return Ok(());
    }
    let broker = Broker::with_partitions(6).await?;
    let mut processes = Vec::new();
    for _ in 0..3 {
        let settings = broker.settings("")?;
        let (one, other) =
            tokio::try_join!(Running::start(&settings, OTHER, true), Running::start(&settings, SUCCESSOR, true))?;
        processes.push([one, other]);
    }

    eventually("three processes have two partitions each, the same in both groups", LIMIT, async || {
        let owned: Vec<[Vec<u32>; 2]> =
            processes.iter().map(|groups| groups.each_ref().map(|group| group.state.owned())).collect();
        let alike = owned.iter().all(|[one, other]| one == other && one.len() == 2);
        ensure!(alike, "{owned:?}");
        Ok(Some(()))
    })
    .await?;
    for group in processes.into_iter().flatten() {
        group.stop().await?;
    }
    Ok(())
}
