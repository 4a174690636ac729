use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use standalone::broker::EmbeddedBroker;

#[tokio::test]
async fn a_group_consumer_gets_what_a_producer_sent_without_the_initial_rebalance_delay() {
    // The delay alone is 3 s by default. On a busy machine the rest may take as long, but not each time.
    let delay = Duration::from_secs(3);
    let mut took: Vec<Duration> = Vec::new();
    while took.len() < 5 && took.iter().all(|took| *took >= delay) {
        let started = Instant::now();
        let broker = EmbeddedBroker::start(&["orders".to_owned(), "payments".to_owned()], 2).unwrap();
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "10")
            .create()
            .unwrap();
        consumer.subscribe(&["orders"]).unwrap();
        let producer: FutureProducer =
            ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();

        producer.send(FutureRecord::to("orders").key("k").payload("hello"), Duration::from_secs(5)).await.unwrap();
        let message = tokio::time::timeout(Duration::from_secs(10), consumer.recv()).await.unwrap().unwrap();

        assert_eq!(message.payload(), Some(b"hello".as_slice()));
        took.push(started.elapsed());
    }
    assert!(took.iter().any(|took| *took < delay), "took {took:?}");
}

#[test]
fn each_topic_has_the_partitions_that_were_asked_for() {
    let broker = EmbeddedBroker::start(&["orders".to_owned(), "payments".to_owned()], 2).unwrap();
    let consumer: rdkafka::consumer::BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();

    for topic in ["orders", "payments"] {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), 2, "{topic}");
    }
}
