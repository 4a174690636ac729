//! Others share the platform's Kafka: they write header names that are not UTF-8, compress by another codec, or delete
//! everything. Under a steady load nothing is lost, no other partition is held up, health and metrics say what is so, and
//! the platform serves again by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::clients::Driver;
use e2e_tests::{Batch, Client, KafkaTopics, Outsider, Samples, Service, Services, dev_kafka, kafka_init};
use messages::groups::{FLOWS, GROUPS, Group};
use serde_json::json;

use crate::outages::{Load, verdict};
use crate::until_normal;

/// Before, between and after the troubles.
const CALM: Duration = Duration::from_secs(10);

/// How soon it serves again once Kafka has its topics.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// How long readiness may take to tell what is so.
const TOLD_LIMIT: Duration = Duration::from_secs(20);

/// How often others write.
const EVERY: Duration = Duration::from_millis(500);

/// Those who read from Kafka.
const READERS: [Service; 3] = [Service::Orchestrator, Service::Payment, Service::Inventory];

const REPLIES: &str = "payment.charged";

/// The services under load.
struct Trial {
    services: Services,
    client: Client,
    load: Load,
    wrong: Vec<String>,
}

impl Trial {
    async fn begin(rate: u32) -> Result<Self> {
        let mut services = Services::launch_none(&[("CHECKOUT_WAIT_MS", "10000")]).await?;
        println!("logs and databases, kept unless all is well: {}", services.keep_files(true)?.display());
        services.start_all().await?;
        let load = Load::new(Driver::new(vec![services.address(Service::Orchestrator.into())?])?, rate);
        let mut trial = Self { client: services.quiet_client()?, services, load, wrong: Vec::new() };
        trial.load.during(CALM).await;
        println!("calm: {}", trial.load.told());
        Ok(trial)
    }

    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    /// Nobody waits longer than on a good day, and nobody says that there is trouble.
    async fn goes_on_during(&mut self, what: &str, trouble: impl Future<Output = Result<()>>) -> Result<()> {
        let health = Health::watch(&self.services)?;
        self.load.beside(trouble).await?;
        let (late, told) = (self.load.late(), self.load.told());
        println!("{what}: {told}; {late} held up");
        self.must(late == 0, || format!("{what}: {late} checkouts were held up"));
        let unhealthy = health.ended();
        self.must(!unhealthy, || format!("{what}: a service said that it was not ready"));
        self.load.during(CALM).await;
        Ok(())
    }

    async fn end(mut self) -> Result<Vec<String>> {
        for service in READERS {
            let (ready, samples) =
                (kafka_check(&self.client, service).await?, Samples::of(&self.client, service).await?);
            self.must(ready == "ok", || format!("{service:?} says of Kafka at the end: {ready}"));
            let lines = samples.count("kafka_consumer_lag");
            let partitions = 2 * topics_of(service);
            self.must(lines == partitions, || {
                format!("{service:?} shows the lag of {lines} of {partitions} partitions")
            });
            let stalled = samples.sum("kafka_consumer_stalled");
            self.must(stalled == 0.0, || format!("{service:?} says that {stalled} partitions stand still"));
        }
        let Self { client, load, mut wrong, services } = self;
        wrong.extend(verdict(&client, load.ended().await).await?);
        services.keep_files(!wrong.is_empty())?;
        Ok(wrong)
    }
}

/// Records with a header name that is not UTF-8 come to a topic of replies and to its dead-letter topic.
pub async fn header_names(seconds: u64, rate: u32) -> Result<Vec<String>> {
    let mut trial = Trial::begin(rate).await?;
    let (kafka, mut sent) = (trial.client.kafka.clone(), 0);
    let headers: [(&[u8], &[u8]); 2] = [(b"Jos\xe9", b"1"), (b"dlq_topic", REPLIES.as_bytes())];
    let letters = format!("{REPLIES}.dlq");
    let writing = async {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let record = Batch::Record { key: b"k", body: b"{}", headers: &headers };
            kafka.publish_raw(REPLIES, sent % 2, &record).await?;
            kafka.publish_raw(&letters, sent % 2, &record).await?;
            sent += 1;
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    };
    trial.goes_on_during("header names of any bytes", writing).await?;
    let sample = format!("kafka_records_total{{outcome=\"dead_lettered\",topic=\"{REPLIES}\"}}");
    let counted = Samples::of(&trial.client, Service::Orchestrator).await?.value(&sample)?;
    trial.must(counted == f64::from(sent), || format!("{sent} such records came, {counted} dead letters are counted"));
    let listed = trial.client.get(Service::Orchestrator, "/dead-letters?limit=500").await?;
    trial.must(listed.status == 200, || format!("GET /dead-letters: {} {}", listed.status, listed.text));
    let list = trial.client.sagactl(&["dlq", "list", "--json", "--topic", REPLIES]).await?;
    let lines = list.stdout.lines().count();
    trial.must(list.code == 0 && lines == 2 * sent as usize, || {
        format!("sagactl dlq list: exit code {}, {lines} letters of {}", list.code, 2 * sent)
    });
    trial.end().await
}

/// Another program compresses by zstd, and then the topics themselves do, for a while.
pub async fn codecs(seconds: u64, rate: u32) -> Result<Vec<String>> {
    let mut trial = Trial::begin(rate).await?;
    let kafka = trial.client.kafka.clone();
    let each = Duration::from_secs(seconds);
    for codec in ["zstd", "lz4", "snappy", "gzip"] {
        let writing = async {
            let end = Instant::now() + each;
            while Instant::now() < end {
                // Of a saga that nobody knows: it is told of, and passed over.
                let event = Outsider::new(&kafka).reserve();
                let key = event.body["sagaId"].as_str().context("an event has a saga")?.to_owned();
                kafka.publish_compressed(codec, "inventory.reserved", &[(key, event.body.to_string().into())]).await?;
                tokio::time::sleep(EVERY).await;
            }
            Ok(())
        };
        trial.goes_on_during(&format!("a producer with {codec}"), writing).await?;
    }
    let topics = KafkaTopics::with_prefix(kafka.address(), kafka.prefix())?;
    for (what, settings) in [("topics with zstd", &[("compression.type", "zstd")][..]), ("topics without it", &[])] {
        let setting = async {
            for topic in messages::TOPICS {
                topics.set(topic, settings).await?;
            }
            tokio::time::sleep(each).await;
            Ok(())
        };
        trial.goes_on_during(what, setting).await?;
    }
    trial.end().await
}

/// Kafka is stopped, comes back empty, and its topics are there again some time later. The services are left running.
pub async fn wiped(delays: &[u64], rate: u32) -> Result<Vec<String>> {
    let mut trial = Trial::begin(rate).await?;
    let (address, prefix) = (trial.client.kafka.address().to_owned(), trial.client.kafka.prefix().to_owned());
    // After a restart the leaders' epochs are above those that a new log begins with.
    let restart = async {
        dev_kafka(&["stop"]).await?;
        dev_kafka(&["start"]).await
    };
    trial.load.beside(restart).await?;
    trial.load.during(CALM).await;
    println!("restarted: {}", trial.load.told());
    for delay in delays {
        let client = trial.services.quiet_client()?;
        let wiping = async {
            dev_kafka(&["stop", "--wipe"]).await?;
            dev_kafka(&["start"]).await?;
            let empty = Instant::now();
            let told = if *delay > TOLD_LIMIT.as_secs() { told_within(&client, TOLD_LIMIT).await } else { Ok(()) };
            tokio::time::sleep(Duration::from_secs(*delay).saturating_sub(empty.elapsed())).await;
            let init = kafka_init(&address, &prefix, &["--partitions", "2"]).await?;
            ensure!(init.code == 0, "{init:?}");
            Ok(told)
        };
        let told = trial.load.beside(wiping).await?;
        trial.must(told.is_ok(), || format!("wiped, {delay} s: {told:?}"));
        let back = trial.load.beside(until_normal(&client)).await;
        trial.load.during(CALM).await;
        println!("wiped, its topics {delay} s later: serving again {back:?} after that; {}", trial.load.told());
        let in_time = back.as_ref().is_ok_and(|back| *back <= BACK_LIMIT);
        trial.must(in_time, || format!("wiped, topics {delay} s later: serving again only after {back:?}"));
        let (began, limit) = (Instant::now(), Duration::from_secs(30));
        let healthy = trial.load.beside(healthy_within(&client, limit)).await;
        trial.must(healthy.is_ok(), || format!("wiped, {delay} s: after {:?}: {healthy:?}", began.elapsed()));
    }
    trial.end().await
}

/// What a service's readiness says of Kafka.
async fn kafka_check(client: &Client, service: Service) -> Result<String> {
    let answer = client.get(service, "/health/ready").await?;
    let body: serde_json::Value = serde_json::from_str(&answer.text)?;
    Ok(body["checks"]["kafka"].as_str().unwrap_or_default().to_owned())
}

async fn told_within(client: &Client, limit: Duration) -> Result<()> {
    for service in READERS {
        let missing = async || Ok(kafka_check(client, service).await?.contains("has no topic").then_some(()));
        e2e_tests::eventually(&format!("{service:?} says that its topics are missing"), limit, missing).await?;
    }
    Ok(())
}

async fn healthy_within(client: &Client, limit: Duration) -> Result<()> {
    for service in READERS {
        let is_ok = async || Ok((kafka_check(client, service).await? == json!("ok")).then_some(()));
        e2e_tests::eventually(&format!("{service:?} says that all is well with Kafka"), limit, is_ok).await?;
    }
    Ok(())
}

/// How many topics a service reads where no user's flow is published.
fn topics_of(service: Service) -> usize {
    let of_service = |group: &&Group| group.name.split('.').next() == Some(service.program());
    let groups = GROUPS.iter().filter(of_service).filter(|group| group.name != FLOWS.name);
    groups.map(|group| group.topics.len()).sum()
}

/// Looks at readiness twice a second.
struct Health {
    unhealthy: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<()>,
}

impl Health {
    fn watch(services: &Services) -> Result<Self> {
        let (client, unhealthy) = (services.quiet_client()?, Arc::new(AtomicBool::new(false)));
        let noted = unhealthy.clone();
        let work = tokio::spawn(async move {
            loop {
                for service in READERS {
                    if let Ok(said) = kafka_check(&client, service).await
                        && said != "ok"
                    {
                        println!("{service:?} says of Kafka: {said}");
                        noted.store(true, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Ok(Self { unhealthy, work })
    }

    fn ended(self) -> bool {
        self.work.abort();
        self.unhealthy.load(Ordering::Relaxed)
    }
}
