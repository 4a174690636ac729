//! `kafka-init` and what only it may do: topics are created by it and by nothing else, and what is not as it should be is
//! told by an exit code.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e_tests::{KafkaTopics, Ran, kafka_init, real_kafka};
use messages::all_topics;
use service_runtime::kafka::{KafkaSettings, Producer, existing_topics};
use service_runtime::metrics::Metrics;
use service_runtime::settings::{KAFKA_DEFAULTS, SERVICE_DEFAULTS, Settings};
use standalone::broker::EmbeddedBroker;

const CHARGES: &str = "payment.charge.command";
const LETTERS: &str = "payment.charge.command.dlq";

/// Topics of its own on the real Kafka. `None` where there is none: the embedded broker has no admin API.
async fn topics() -> Result<Option<KafkaTopics>> {
    match real_kafka() {
        Some(address) => Ok(Some(KafkaTopics::new(&address)?)),
        None => {
            println!("left out: it needs a real Kafka");
            Ok(None)
        }
    }
}

fn fails(ran: &Ran, words: &[&str]) -> Result<()> {
    let told = words.iter().all(|words| ran.stderr.contains(words));
    ensure!(ran.code == 1 && told, "{words:?} in {ran:?}");
    Ok(())
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_not_made_by_producing() -> Result<()> {
    // It creates what a client asks for that wants it, as brokers do by default (auto.create.topics.enable).
    let broker = EmbeddedBroker::start(&["there".to_owned()], 2)?;
    // Not the environment's, which may be about a Kafka with TLS and a password.
    let settings = Settings::load(&[SERVICE_DEFAULTS, KAFKA_DEFAULTS], None, std::iter::empty())?;
    let settings = KafkaSettings::try_from(&settings.with("kafka_bootstrap_servers", broker.bootstrap_servers())?)?;
    let producer = Producer::open(&settings, "e2e-producer", &Metrics::of("e2e-producer"))?;
    producer.produce("there", None, b"{}", std::iter::empty()).acknowledged().await.map_err(anyhow::Error::msg)?;

    let refused = producer.produce(CHARGES, None, b"{}", std::iter::empty()).acknowledged().await;

    ensure!(refused.is_err(), "there is no such topic, and yet the record is on it");
    let topics = tokio::task::spawn_blocking(move || existing_topics(&settings, "e2e-tests", Duration::from_secs(10)));
    assert_eq!(topics.await??.into_keys().collect::<Vec<_>>(), ["there"]);
    Ok(())
}

#[tokio::test]
async fn a_topic_that_a_broker_has_made_by_itself_sets_no_example() -> Result<()> {
    let Some(topics) = topics().await? else { return Ok(()) };
    topics.create(CHARGES, 1).await?;

    fails(&topics.init(&[]).await?, &["8 partitions are wanted", &format!("{CHARGES} has 1"), "--grow"])?;
    assert_eq!(topics.partitions(LETTERS).await?, None, "nothing is created beside it");

    let grown = topics.init(&["--partitions", "8", "--grow"]).await?;
    ensure!(grown.code == 0 && grown.stdout.contains("8 partitions, more than before"), "{grown:?}");
    assert_eq!(topics.partitions(CHARGES).await?, Some(8));
    let again = topics.init(&[]).await?;
    ensure!(again.code == 0 && again.stdout.contains(&format!("{} there already", all_topics().count())), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn the_topics_of_flows_are_created_and_grown_with_the_platforms() -> Result<()> {
    let Some(topics) = topics().await? else { return Ok(()) };
    let flow = ["--topic", "trip.replies", "--topic", "trip.hotel.book.command"];
    let count = all_topics().count() + 3;
    let made = topics.init(&[&flow[..], &["--partitions", "2"]].concat()).await?;
    ensure!(made.code == 0 && made.stdout.contains(&format!("{count} created")), "{made:?}");
    for topic in ["trip.replies", "trip.replies.dlq", "trip.hotel.book.command"] {
        assert_eq!(topics.partitions(topic).await?, Some(2), "{topic}");
    }
    let again = topics.init(&flow).await?;
    ensure!(again.code == 0 && again.stdout.contains(&format!("{count} there already")), "{again:?}");

    let without = topics.init(&["--partitions", "4", "--grow"]).await?;
    let hint = format!("left as they are: {}trip.replies. If", topics.prefix());
    ensure!(without.code == 0 && without.stdout.contains(&hint), "{without:?}");
    assert_eq!(topics.partitions("trip.replies").await?, Some(2));
    fails(&topics.init(&flow).await?, &["4 partitions are wanted", "trip.replies has 2"])?;

    topics.publish("trip.replies", b"{}").await?;
    let grow = [&flow[..], &["--partitions", "4", "--grow"]].concat();
    fails(&topics.init(&grow).await?, &["1 records are not done by saga-orchestrator.flows"])?;
    assert_eq!(topics.partitions("trip.replies").await?, Some(2));
    Ok(())
}

#[tokio::test]
async fn partitions_are_added_while_nothing_is_under_way_and_never_removed() -> Result<()> {
    let Some(topics) = topics().await? else { return Ok(()) };
    let made = topics.init(&["--partitions", "2"]).await?;
    ensure!(made.code == 0, "{made:?}");
    topics.publish(CHARGES, b"{}").await?;

    fails(&topics.init(&["--partitions", "4"]).await?, &["4 partitions are wanted", &format!("{CHARGES} has 2")])?;
    let under_way = topics.init(&["--partitions", "4", "--grow"]).await?;
    fails(&under_way, &["1 records are not done by payment-service", "POST /intake/pause"])?;
    fails(&topics.init(&["--partitions", "1", "--grow"]).await?, &["1 partitions are wanted"])?;
    assert_eq!(topics.partitions(CHARGES).await?, Some(2));
    Ok(())
}

#[tokio::test]
async fn settings_that_would_lose_records_are_told_by_an_exit_code() -> Result<()> {
    let Some(topics) = topics().await? else { return Ok(()) };
    let made = topics.init(&["--partitions", "2"]).await?;
    ensure!(made.code == 0, "{made:?}");
    for (topic, key, value) in [
        (CHARGES, "cleanup.policy", "compact"),
        (CHARGES, "min.insync.replicas", "2"),
        (CHARGES, "retention.ms", "60000"),
        (LETTERS, "retention.ms", "604800000"),
        (LETTERS, "max.message.bytes", "1048588"),
    ] {
        topics.set(topic, &[(key, value)]).await?;
        fails(&topics.init(&[]).await?, &[&format!("{topic} has {key}={value}"), "kafka-configs.sh"])?;
        let right: &[(&str, &str)] = match topic {
            LETTERS => &[("retention.ms", "-1"), ("max.message.bytes", "2097152")],
            _ => &[],
        };
        topics.set(topic, right).await?;
    }
    let replicas = topics.init(&["--replication-factor", "3"]).await?;
    fails(&replicas, &[&format!("{CHARGES} has 1 replicas of a partition, 3 are wanted")])?;
    match kafka_init(topics.address(), topics.prefix(), &[]).await?.code {
        0 => Ok(()),
        code => bail!("all is as it should be, and yet: {code}"),
    }
}
