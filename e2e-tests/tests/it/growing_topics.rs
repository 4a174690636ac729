//! A consumer whose topics become more while it runs, beside another one in the same process; and topics that a running
//! service creates.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e_tests::{Broker, KafkaClient, eventually, real_kafka};
use messages::dead_letter_topic;
use messages::groups::Group;
use service_runtime::CancellationToken;
use service_runtime::kafka::{Consumer, CreationError, GroupState, Handled, Handler, Producer, Record, Retry};
use service_runtime::metrics::Metrics;
use service_runtime::trace::Tracer;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

/// A topic of the platform.
const MODEL: &str = "payment.charged";

const GROUP: &str = "saga-orchestrator.flows";

/// Passes on what it gets.
struct Collects(mpsc::UnboundedSender<Record>);

impl Handler for Collects {
    async fn handle(&self, record: &Record) -> Result<Handled, Retry> {
        let _ = self.0.send(record.clone());
        Ok(Handled::Done)
    }
}

/// A consumer that runs, and what has come by it.
struct Running {
    state: Arc<GroupState>,
    metrics: Metrics,
    topics: watch::Sender<Vec<String>>,
    records: mpsc::UnboundedReceiver<Record>,
    /// Topic and body of each record.
    come: BTreeSet<(String, String)>,
    shutdown: CancellationToken,
    done: JoinHandle<Result<(), service_runtime::Fatal>>,
}

impl Running {
    fn start(broker: &Broker, instance_id: &str, topics: &[&str], metrics: Metrics) -> Result<Self> {
        let settings = broker.settings(instance_id)?;
        let (topics, wanted) = watch::channel(owned(topics));
        let consumer = Consumer::open_growing(&settings, "e2e-tests", GROUP, wanted, &metrics, &Tracer::off());
        let producer = Producer::open(&settings, "e2e-tests", &metrics)?;
        let (state, shutdown) = (consumer.state(), CancellationToken::new());
        let (give, records) = mpsc::unbounded_channel();
        let done = tokio::spawn(consumer.run(Collects(give), producer, shutdown.clone()));
        Ok(Self { state, metrics, topics, records, come: BTreeSet::new(), shutdown, done })
    }

    /// Waits until all these bodies have come on this topic.
    async fn until_come(&mut self, topic: &str, bodies: impl Iterator<Item = String>) -> Result<()> {
        let mut missing: BTreeSet<(String, String)> = bodies.map(|body| (topic.to_owned(), body)).collect();
        let receive = async {
            loop {
                missing.retain(|one| !self.come.contains(one));
                if missing.is_empty() {
                    return Ok(());
                }
                let record = self.records.recv().await.context("the consumer has ended")?;
                self.come.insert((record.topic.clone(), String::from_utf8_lossy(&record.body).into_owned()));
            }
        };
        let received = tokio::time::timeout(LIMIT, receive).await;
        let why = || format!("{topic}: {} records did not come: {:?}", missing.len(), self.state.trouble());
        received.with_context(why)?
    }

    async fn until_trouble(&self, what: &str, fits: impl Fn(Option<&str>) -> bool) -> Result<()> {
        eventually(what, LIMIT, async || Ok(fits(self.state.trouble().as_deref()).then_some(()))).await
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.done.await??)
    }
}

fn owned(topics: &[&str]) -> Vec<String> {
    topics.iter().map(|topic| (*topic).to_owned()).collect()
}

/// Creates topics and their dead-letter topics, as a service does.
async fn create(broker: &Broker, topics: &[&str]) -> Result<Vec<String>> {
    let names: Vec<String> = topics.iter().flat_map(|topic| [(*topic).to_owned(), dead_letter_topic(topic)]).collect();
    let created = broker.topic_creation().create(&broker.settings("")?, "e2e-tests", &names, MODEL).await?;
    ensure!(created.different.is_empty(), "{created:?}");
    Ok(created.created)
}

fn bodies(numbers: std::ops::Range<u32>) -> impl Iterator<Item = String> + Clone {
    numbers.map(|number| format!("{number}"))
}

async fn publish(client: &KafkaClient, topic: &str, numbers: std::ops::Range<u32>) -> Result<()> {
    let records: Vec<(String, Vec<u8>)> =
        bodies(numbers).map(|body| (format!("key-{body}"), body.into_bytes())).collect();
    client.publish_all(topic, &records).await
}

#[tokio::test]
async fn topics_come_one_after_the_other_without_a_lost_record_and_without_the_other_consumer_noticing() -> Result<()> {
    let broker = Broker::start().await?;
    let client = KafkaClient::new(&broker.address, &broker.prefix);
    let metrics = Metrics::of("e2e-tests");
    let mut growing = Running::start(&broker, "", &[], metrics.clone())?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(growing.state.trouble(), None, "nothing is to be consumed");
    let text = metrics.text().await;
    ensure!(text.contains("\nkafka_consumer_ok 1\n") && !text.contains(r#"client="consumer""#), "no client: {text}");
    // The one of the service itself.
    let settings = broker.settings("")?;
    let group = Group { name: "e2e-tests", topics: &[MODEL], formerly: None };
    let partitions = Consumer::prepare(&settings, "e2e-tests", &[group]).await?;
    let own = Consumer::open(&settings, "e2e-tests", (group, partitions), &metrics, &Tracer::off())?;
    let (own_state, shutdown) = (own.state(), CancellationToken::new());
    let (give, mut own_records) = mpsc::unbounded_channel();
    let producer = Producer::open(&settings, "e2e-tests", &metrics)?;
    let own = tokio::spawn(own.run(Collects(give), producer, shutdown.clone()));
    eventually("the own consumer is in its group", LIMIT, async || Ok(own_state.trouble().is_none().then_some(())))
        .await?;

    create(&broker, &["one.replies"]).await?;
    growing.topics.send_replace(owned(&["one.replies"]));
    publish(&client, "one.replies", 0..50).await?;
    growing.until_come("one.replies", bodies(0..50)).await?;
    assert_eq!(growing.state.owned(), [0, 1]);

    let watched = own_state.clone();
    let undisturbed = tokio::spawn(async move {
        loop {
            if let Some(trouble) = watched.trouble() {
                return trouble;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    create(&broker, &["two.replies"]).await?;
    let under_way = client.clone();
    let under_way = tokio::spawn(async move {
        for number in 50..150 {
            publish(&under_way, "one.replies", number..number + 1).await?;
        }
        anyhow::Ok(())
    });
    growing.until_come("one.replies", bodies(50..60)).await?;
    growing.topics.send_replace(owned(&["one.replies", "two.replies"]));
    publish(&client, "two.replies", 0..50).await?;
    growing.until_come("two.replies", bodies(0..50)).await?;
    under_way.await??;
    growing.until_come("one.replies", bodies(50..150)).await?;
    publish(&client, MODEL, 0..1).await?;
    tokio::time::timeout(LIMIT, own_records.recv()).await?.context("the own consumer gets on")?;

    ensure!(!undisturbed.is_finished(), "the own consumer was disturbed: {}", undisturbed.await?);
    undisturbed.abort();
    growing.until_trouble("the growing consumer is well", |trouble| trouble.is_none()).await?;
    eventually("both topics are shown as done", LIMIT, async || {
        let text = metrics.text().await;
        let shown = ["one.replies", "two.replies"].iter().all(|topic| {
            text.contains(&format!("kafka_consumer_lag{{partition=\"1\",topic=\"{topic}\"}} 0"))
                && text.contains(&format!("kafka_records_total{{outcome=\"done\",topic=\"{topic}\"}}"))
        });
        let well = text.contains("\nkafka_consumer_ok 1\n") && text.contains("\nkafka_consumer_renewals_total 0\n");
        Ok((shown && well).then_some(()))
    })
    .await?;
    shutdown.cancel();
    own.await??;
    growing.stop().await
}

#[tokio::test]
async fn a_topic_that_is_missing_is_reported_and_hinders_no_other() -> Result<()> {
    let broker = Broker::start().await?;
    let client = KafkaClient::new(&broker.address, &broker.prefix);
    create(&broker, &["there.replies"]).await?;
    let topics = ["gone.replies", "there.replies"];
    let mut growing = Running::start(&broker, "", &topics, Metrics::of("e2e-tests"))?;

    publish(&client, "there.replies", 0..10).await?;
    growing.until_come("there.replies", bodies(0..10)).await?;
    let names_it = |trouble: Option<&str>| {
        trouble.is_some_and(|trouble| {
            trouble.contains("gone.replies") && trouble.contains("--topic") && !trouble.contains("there.replies")
        })
    };
    growing.until_trouble("the missing topic is named", names_it).await?;
    let text = growing.metrics.text().await;
    ensure!(text.contains("\nkafka_consumer_ok 0\n"), "{text}");
    // Longer than two looks of the watch.
    tokio::time::sleep(Duration::from_secs(7)).await;
    publish(&client, "there.replies", 10..20).await?;
    growing.until_come("there.replies", bodies(10..20)).await?;
    let text = growing.metrics.text().await;
    ensure!(text.contains("\nkafka_consumer_renewals_total 0\n"), "nothing was wrong with the other topic: {text}");

    create(&broker, &["gone.replies"]).await?;
    publish(&client, "gone.replies", 0..10).await?;
    growing.until_come("gone.replies", bodies(0..10)).await?;
    growing.until_trouble("it is well", |trouble| trouble.is_none()).await?;

    growing.topics.send_replace(Vec::new());
    growing.until_trouble("without topics it is well", |trouble| trouble.is_none()).await?;
    growing.topics.send_replace(owned(&topics));
    publish(&client, "gone.replies", 10..20).await?;
    growing.until_come("gone.replies", bodies(10..20)).await?;
    growing.stop().await
}

#[tokio::test]
async fn a_static_member_that_comes_back_with_one_topic_more_gets_its_records() -> Result<()> {
    if real_kafka().is_none() {
        println!("left out: the embedded broker knows no static members");
        return Ok(());
    }
    let broker = Broker::start().await?;
    let client = KafkaClient::new(&broker.address, &broker.prefix);
    create(&broker, &["one.replies", "two.replies"]).await?;
    let mut growing = Running::start(&broker, "static", &["one.replies"], Metrics::of("e2e-tests"))?;
    publish(&client, "one.replies", 0..10).await?;
    growing.until_come("one.replies", bodies(0..10)).await?;
    growing.stop().await?;

    let mut growing = Running::start(&broker, "static", &["one.replies", "two.replies"], Metrics::of("e2e-tests"))?;
    publish(&client, "two.replies", 0..10).await?;
    growing.until_come("two.replies", bodies(0..10)).await?;
    growing.until_trouble("it is well", |trouble| trouble.is_none()).await?;
    growing.stop().await
}

#[tokio::test]
async fn topics_are_created_as_the_platforms_and_only_those_that_are_missing() -> Result<()> {
    let broker = Broker::with_partitions(3).await?;
    let (client, settings) = (KafkaClient::new(&broker.address, &broker.prefix), broker.settings("")?);
    assert_eq!(create(&broker, &["one.replies"]).await?, ["one.replies", "one.replies.dlq"]);
    assert_eq!(client.partitions("one.replies").await?, 3);
    assert_eq!(client.partitions("one.replies.dlq").await?, 3);

    assert_eq!(create(&broker, &["one.replies", "two.replies"]).await?, ["two.replies", "two.replies.dlq"]);
    assert_eq!(create(&broker, &["one.replies", "two.replies"]).await?, Vec::<String>::new());

    let creation = broker.topic_creation();
    let unknown_model = creation.create(&settings, "e2e-tests", &owned(&["three"]), "no.such.topic").await;
    let Err(CreationError::Unavailable(error)) = unknown_model else { bail!("{unknown_model:?}") };
    ensure!(error.to_string().contains("has no topic") && error.to_string().contains("no.such.topic"), "{error}");
    if real_kafka().is_none() {
        return Ok(());
    }
    // The embedded broker takes any name.
    let refused = creation.create(&settings, "e2e-tests", &owned(&["not/a/name", "three", "not/either"]), MODEL).await;
    let Err(CreationError::Refused(refused)) = refused else { bail!("{refused:?}") };
    let names: Vec<&str> = refused.iter().map(|topic| topic.name.strip_prefix(&broker.prefix).unwrap_or("?")).collect();
    assert_eq!(names, ["not/a/name", "not/either"]);
    let command = format!("--create --topic {}not/a/name --partitions 3", broker.prefix);
    ensure!(refused[0].command.contains(&command) && refused[0].why.contains("topic"), "{refused:?}");
    assert_eq!(client.partitions("three").await?, 3, "what is not refused is created");
    Ok(())
}
