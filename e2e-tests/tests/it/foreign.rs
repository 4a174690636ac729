//! What others have written to the topics: bytes that no client library writes, and compressions that ours does not use.
//! It ends no process, stops no partition, and is there to be looked at.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Batch, Client, Command, Outsider, Samples, Service, Services, eventually, kafka_security, real_kafka};
use serde_json::json;
use service_runtime::kafka::{KafkaSettings, Record, TopicReader};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// "José" in Latin-1.
const NAME: &[u8] = b"Jos\xe9";

const CHARGES: &str = "payment.charge.command";

/// Whether records can be produced byte by byte: not over TLS.
fn is_plain() -> bool {
    let plain = kafka_security().is_empty();
    if !plain {
        println!("left out: the raw producer knows no TLS");
    }
    plain
}

/// A charge on this partition, of two.
fn charge_on(client: &Client, partition: i32) -> Command {
    loop {
        let outsider = Outsider::new(&client.kafka);
        if messages::partition_for_key(outsider.saga_id.to_string().as_bytes(), 2) == partition as u32 {
            return outsider.charge();
        }
    }
}

fn record<'a>(key: &'a str, body: &'a [u8], headers: &'a [(&'a [u8], &'a [u8])]) -> Batch<'a> {
    Batch::Record { key: key.as_bytes(), body, headers }
}

/// The letter that came from there, byte by byte.
async fn letter(client: &Client, topic: &str, (partition, offset): (i32, i64)) -> Result<Record> {
    client.kafka.dead_letter(topic, (partition, offset)).await?;
    let settings = KafkaSettings::at(client.kafka.address(), client.kafka.prefix())?;
    let mut reader = TopicReader::open(&settings, "e2e-reader", &format!("{topic}.dlq")).await?;
    while let Some(record) = reader.next().await? {
        let from = (record.header("dlq_partition"), record.header("dlq_offset"));
        if from == (Some(&partition.to_string()), Some(&offset.to_string())) {
            return Ok(record);
        }
    }
    anyhow::bail!("the letter from {topic} {partition}:{offset} is gone")
}

#[tokio::test]
async fn a_record_whose_header_has_a_name_of_any_bytes_is_set_aside_with_them_and_its_neighbours_go_on() -> Result<()> {
    if !is_plain() {
        return Ok(());
    }
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    for topic in [CHARGES, "inventory.reserve.command", "payment.charged"] {
        for partition in 0..2 {
            // It could be handled, but for the name of its header.
            let command = Outsider::new(&client.kafka).charge();
            let body = serde_json::to_vec(&command.body)?;
            let headers: [(&[u8], &[u8]); 3] = [(b"before", b"1"), (NAME, b"2\xff"), (b"after", b"")];
            let key = command.body["sagaId"].as_str().context("a command has a saga")?;

            let place = client.kafka.publish_raw(topic, partition, &record(key, &body, &headers)).await?;

            let letter = letter(&client, topic, place).await?;
            assert_eq!(letter.body, body);
            let original: Vec<(&[u8], &[u8])> =
                letter.headers.iter().take(3).map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
            assert_eq!(original, headers);
            let why = letter.header("dlq_error").unwrap_or_default();
            ensure!(why.contains(r#""Jos\xe9" is not UTF-8"#), "{why}");
        }
    }
    for answer in client.checkouts(20).join_all().await {
        ensure!(answer?.status == 200);
    }
    client.all_end_in_agreement(LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_letter_with_such_a_header_is_listed_and_shown() -> Result<()> {
    if !is_plain() {
        return Ok(());
    }
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let headers: [(&[u8], &[u8]); 2] = [(NAME, b"1"), (b"dlq_topic", CHARGES.as_bytes())];
    let saga_id = Uuid::now_v7().to_string();
    let letters = format!("{CHARGES}.dlq");
    client.kafka.publish_raw(&letters, 1, &record(&saga_id, b"{}", &headers)).await?;

    let listed = client.get(Service::Orchestrator, "/dead-letters").await?;
    ensure!(listed.status == 200 && listed.text.contains(&saga_id), "{} {}", listed.status, listed.text);
    let list = client.sagactl(&["dlq", "list"]).await?;
    ensure!(list.code == 0 && list.stdout.contains(&saga_id), "{list:?}");
    let show = client.sagactl(&["dlq", "show"]).await?;
    ensure!(show.code == 0 && show.stdout.contains("Jos\u{fffd}: 1"), "{show:?}");
    let redrive = client.sagactl(&["dlq", "redrive"]).await?;
    ensure!(redrive.code == 1 && redrive.stdout.contains("refused"), "{redrive:?}");
    Ok(())
}

#[tokio::test]
async fn records_are_read_whatever_codec_their_producer_has_chosen() -> Result<()> {
    let mut services = Services::launch_none(&[]).await?;
    services.start_again(Service::Payment).await?;
    let client = services.client()?;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let charges: Vec<Command> = (0..20).map(|_| Outsider::new(&client.kafka).charge()).collect();
        let records: Vec<(String, Vec<u8>)> = charges
            .iter()
            .map(|charge| {
                (charge.body["sagaId"].as_str().unwrap_or_default().to_owned(), charge.body.to_string().into())
            })
            .collect();

        client.kafka.publish_compressed(codec, CHARGES, &records).await.context(codec)?;

        for charge in charges {
            charge.replies("payment.charged", 1).await.context(codec)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_too_large_to_be_set_aside_whole_is_cut_and_what_comes_after_it_goes_on() -> Result<()> {
    let mut services = Services::launch_none(&[]).await?;
    services.start_again(Service::Payment).await?;
    let client = services.client()?;
    // Compressed it is small enough for every topic.
    let large = vec![b'a'; 3 * 1024 * 1024];
    let partition = messages::partition_for_key(b"large", 2) as i32;

    client.kafka.publish_compressed("zstd", CHARGES, &[("large".to_owned(), large)]).await?;

    let cut = letter(&client, CHARGES, (partition, 0)).await?;
    assert_eq!(cut.header("dlq_cut_from"), Some("3145728"));
    ensure!(cut.key.is_none() && (1..1_000_000).contains(&cut.body.len()), "{} bytes", cut.body.len());
    let next = charge_on(&client, partition);
    next.publish(CHARGES).await?;
    next.replies("payment.charged", 1).await?;
    let redrive = client.sagactl(&["dlq", "redrive"]).await?;
    ensure!(redrive.code == 1 && redrive.stdout.contains("it was cut"), "{redrive:?}");
    Ok(())
}

#[tokio::test]
async fn a_batch_that_no_codec_can_read_is_told_of_and_holds_no_other_partition_up() -> Result<()> {
    if real_kafka().is_some() {
        println!("left out: a real broker takes no such batch, which has to be damaged on its disk");
        return Ok(());
    }
    let mut services = Services::launch_none(&[]).await?;
    services.start_again(Service::Payment).await?;
    let client = services.client()?;
    client.kafka.publish_raw(CHARGES, 0, &Batch::Damaged { codec: 4 }).await?;
    let behind = charge_on(&client, 0);
    behind.publish(CHARGES).await?;

    let health = async || {
        let answer = client.get(Service::Payment, "/health/ready").await?;
        let told = [&format!("{CHARGES} [0]: 2 records are there"), "a batch of records can't be decompressed"];
        Ok((answer.status == 503 && told.iter().all(|words| answer.text.contains(*words))).then_some(()))
    };
    eventually("readiness names the partition and why", LIMIT, health).await?;
    let samples = Samples::of(&client, Service::Payment).await?;
    let of = |name: &str, partition| format!("{name}{{partition=\"{partition}\",topic=\"{CHARGES}\"}}");
    assert_eq!(samples.value(&of("kafka_consumer_lag", 0))?, 2.0);
    assert_eq!(samples.value(&of("kafka_consumer_lag", 1))?, 0.0);
    assert_eq!(samples.value(&of("kafka_consumer_stalled", 0))?, 1.0);
    let charge = charge_on(&client, 1);
    charge.publish(CHARGES).await?;
    charge.replies("payment.charged", 1).await?;
    assert_eq!(behind.replies_now("payment.charged").await?, []);
    let told = client.log().lines().filter(|line| line.contains("Kafka refuses to be read")).count();
    ensure!(told <= 2, "it is refused ten times a second, and told {told} times");
    Ok(())
}

/// What happens to topics while the services run.
async fn topics_are_replaced(services: &Services, client: &Client) -> Result<()> {
    services.broker().delete_topics().await?;
    // Meanwhile sagas go on, as far as they can.
    let checkout = client.checkout_async(&json!({"userId": "u1", "totalAmount": 5})).await?;
    ensure!(checkout.status == 202, "{} {}", checkout.status, checkout.text);
    services.broker().create_topics().await
}

#[tokio::test]
async fn topics_that_were_deleted_and_made_anew_are_read_again_without_anybodys_help() -> Result<()> {
    if real_kafka().is_none() {
        println!("left out: the embedded broker can't delete topics");
        return Ok(());
    }
    let services = Services::start(&[("RESEND_FIRST_MS", "500"), ("RESEND_MAX_MS", "2000")]).await?;
    let client = services.client()?;
    for answer in client.checkouts(20).join_all().await {
        ensure!(answer?.status == 200);
    }

    for _ in 0..2 {
        topics_are_replaced(&services, &client).await?;
        eventually("a checkout completes", LIMIT, async || {
            let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 5})).await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        client.all_end_in_agreement(LIMIT).await?;
    }

    for service in [Service::Orchestrator, Service::Payment, Service::Inventory] {
        eventually("it is ready", LIMIT, async || {
            let answer = client.get(service, "/health/ready").await?;
            Ok(answer.text.contains(r#""kafka":"ok""#).then_some(()))
        })
        .await?;
    }
    Ok(())
}
