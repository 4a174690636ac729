//! A flow with 1 KiB of input and 500 bytes that are kept, beside checkouts on the same platform. Its own participant is
//! here: it stores nothing, and answers each command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chrono::{SecondsFormat, Utc};
use e2e_tests::{Client, Service, eventually};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use uuid::Uuid;

const FLOW: &str = include_str!("../flows/wide.v1.yaml");

/// What a saga of the flow brings with it, and what it keeps, in bytes.
const SIZES: (usize, usize) = (1024, 500);

/// The topics of its commands, with the event that each is answered by.
const COMMANDS: [(&str, &str); 2] = [("wide.stamp.command", "wide.stamped"), ("wide.close.command", "wide.closed")];

/// Where it answers.
const REPLIES: &str = "wide.replies";

/// The flow's participant. It ends when dropped.
pub struct Participant {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The body of the nth request.
pub fn body(n: usize) -> Value {
    json!({"userId": format!("user-{n}"), "totalAmount": 100 + n, "note": "n".repeat(SIZES.0)})
}

/// Publishes the flow, starts its participant, and waits until a saga has completed.
pub async fn start(client: &Client) -> Result<Participant> {
    let published = client.publish_flow(FLOW).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let (address, prefix) = (client.kafka.address().to_owned(), client.kafka.prefix().to_owned());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("group.id", format!("{prefix}wide"))
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let topics = COMMANDS.map(|(topic, _)| format!("{prefix}{topic}"));
    consumer.subscribe(&topics.each_ref().map(String::as_str))?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .create()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let thread = std::thread::spawn(move || answer(&consumer, &producer, &prefix, &stopping));
    let participant = Participant { stop, thread: Some(thread) };
    eventually("a saga of the flow completes", Duration::from_secs(60), async || {
        let answer = client.post(Service::Orchestrator, "/flows/wide", &body(0)).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    Ok(participant)
}

fn answer(consumer: &BaseConsumer, producer: &BaseProducer, prefix: &str, stop: &AtomicBool) {
    let stamp = "s".repeat(SIZES.1);
    while !stop.load(Ordering::Relaxed) {
        let Some(Ok(command)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let topic = command.topic().strip_prefix(prefix).unwrap_or_default();
        let event = COMMANDS.into_iter().find(|(known, _)| *known == topic).map(|(_, event)| event);
        let ids = command.payload().and_then(|body| serde_json::from_slice(body).ok());
        let Some((event, ids)) = event.zip(ids) else { continue };
        if let Err(error) = reply(producer, prefix, event, &ids, &stamp) {
            eprintln!("bench: a command of the flow is not answered: {error:#}");
        }
        producer.poll(Duration::ZERO);
    }
    let _ = producer.flush(Duration::from_secs(5));
}

fn reply(producer: &BaseProducer, prefix: &str, event: &str, ids: &Value, stamp: &str) -> Result<()> {
    let id = |name: &str| ids[name].as_str().context("a command has its ids");
    let event_id = Uuid::new_v4().to_string();
    let payload = if event == "wide.stamped" { json!({ "stamp": stamp }) } else { json!({}) };
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let body = json!({
        "eventId": event_id, "causationId": id("eventId")?, "sagaId": id("sagaId")?, "orderId": id("orderId")?,
        "timestamp": now, "payload": payload,
    });
    let headers =
        [("content-type", "application/json"), ("ce_specversion", "1.0"), ("ce_id", &event_id), ("ce_type", event)];
    let headers = headers.into_iter().chain([("ce_source", "/wide"), ("ce_time", &*now)]);
    let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let (topic, body) = (format!("{prefix}{REPLIES}"), body.to_string());
    let record = BaseRecord::to(&topic).key(id("sagaId")?).payload(&body).headers(headers);
    producer.send(record).map_err(|(error, _)| error.into())
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
