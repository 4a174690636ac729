//! `GET /metrics`: what each service counts.

mod dashboards;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Instance, Layout, Samples, Service, Services, Standalone, eventually, shared};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(15);

/// A sample's value in the orchestrator at this address.
async fn value(client: &Client, address: &str, sample: &str) -> Result<u64> {
    let answer = client.get_url(&format!("http://{address}/metrics")).await?;
    let line = answer.text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {sample} in\n{}", answer.text))?.parse()?)
}

#[tokio::test]
async fn every_service_shows_its_own_metrics_in_prometheus_text_format() -> Result<()> {
    let client = shared().await?;
    client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    for service in Service::ALL {
        let answer = client.get(service, "/metrics").await?;

        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let build = format!(r#"build_info{{service="{}""#, service.program());
        for line in [build.as_str(), "process_resident_memory_bytes ", "# TYPE batch_size histogram"] {
            ensure!(answer.text.contains(line), "{service:?} has no {line}:\n{}", answer.text);
        }
        let is_orchestrator = service == Service::Orchestrator;
        assert_eq!(answer.text.contains("checkout_waiters"), is_orchestrator, "{service:?}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_is_told_by_the_process_that_it_asked_or_from_the_row_if_that_one_has_no_partition() -> Result<()> {
    let mut services = Services::lay_out(Layout { instances: 2, partitions: 1 }, &[]).await?;
    services.start_all().await?;
    let client = services.client()?;
    let (mut here, mut elsewhere) = (0, 0);
    for number in 1..=2 {
        let address = services.address(Instance { service: Service::Orchestrator, number })?.to_string();

        let body = json!({"userId": "u1", "totalAmount": 500});
        let answer = client.post_url(&format!("http://{address}/checkout"), &body).await?;

        assert_eq!(answer.status, 200, "{}", answer.text);
        here += value(&client, &address, r#"replies_total{waiter="here"}"#).await?;
        elsewhere += value(&client, &address, r#"replies_total{waiter="elsewhere"}"#).await?;
        assert_eq!(value(&client, &address, "checkout_waiters").await?, 0);
    }
    assert_eq!((here, elsewhere), (1, 1));
    Ok(())
}

#[tokio::test]
async fn those_who_wait_are_counted_while_they_wait() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "6000")]).await?;
    let client = services.client()?;
    let address = services.address(Service::Orchestrator.into())?.to_string();
    let checkouts = client.checkouts(7);

    let waiters = async || value(&client, &address, "checkout_waiters").await;
    eventually("seven wait", LIMIT, async || Ok((waiters().await? == 7).then_some(()))).await?;
    for answer in checkouts.join_all().await {
        assert_eq!(answer?.status, 200);
    }

    assert_eq!(waiters().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_request_that_joins_anothers_idempotency_key_waits_once() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "6000")]).await?;
    let client = services.client()?;
    let address = services.address(Service::Orchestrator.into())?.to_string();
    let mut checkouts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let client = client.clone();
        let body = json!({"userId": "u1", "totalAmount": 5});
        checkouts.spawn(async move { client.checkout_with_key("8e03978e-40d5-43dd-bc93-6894a57f9324", &body).await });
    }

    // The most that are shown while they wait, which is for seconds.
    let (mut most, mut replays) = (0, 0);
    while !checkouts.is_empty() {
        most = most.max(value(&client, &address, "checkout_waiters").await?);
        while let Some(answer) = checkouts.try_join_next() {
            let answer = answer??;
            assert_eq!(answer.status, 200);
            replays += usize::from(answer.header("idempotent-replayed") == "true");
        }
    }

    assert_eq!((most, replays), (6, 5));
    Ok(())
}

/// Nothing is sent twice here, so that numbers can be told; and no call is given up, which nobody would repeat.
const NO_REPETITION: [(&str, &str); 3] =
    [("RESEND_FIRST_MS", "60000"), ("RESEND_MAX_MS", "60000"), ("ORDER_SERVICE_TIMEOUT_MS", "20000")];

/// Waits until these samples of a service have these values.
async fn until_shown(client: &Client, service: Service, expected: &[(&str, f64)]) -> Result<()> {
    eventually(&format!("{service:?} shows {expected:?}"), LIMIT, async || {
        let samples = Samples::of(client, service).await?;
        for (sample, value) in expected {
            let shown = samples.value(sample)?;
            ensure!(shown == *value, "{sample} is {shown}");
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn sagas_are_counted_by_outcome_and_step_as_they_were_sent() -> Result<()> {
    let platform = Standalone::start(&NO_REPETITION).await?;
    let client = platform.client()?;
    for (count, status, force) in [(3, 200, ""), (2, 402, "forcePaymentFail"), (1, 409, "forceInventoryFail")] {
        let mut body = json!({"userId": "u1", "totalAmount": 500});
        if !force.is_empty() {
            body[force] = json!(true);
        }
        for _ in 0..count {
            assert_eq!(client.checkout(&body).await?.status, status);
        }
    }

    until_shown(
        &client,
        Service::Orchestrator,
        &[
            ("sagas_started_total", 6.0),
            (r#"checkouts_total{outcome="completed"}"#, 3.0),
            (r#"checkouts_total{outcome="payment_failed"}"#, 2.0),
            (r#"checkouts_total{outcome="inventory_failed"}"#, 1.0),
            (r#"checkouts_total{outcome="timed_out"}"#, 0.0),
            (r#"checkouts_total{outcome="cancelled"}"#, 0.0),
            (r#"checkouts_total{outcome="order_refused"}"#, 0.0),
            (r#"saga_duration_seconds_count{outcome="completed"}"#, 3.0),
            (r#"saga_duration_seconds_count{outcome="payment_failed"}"#, 2.0),
            (r#"saga_compensations_total{cause="payment_failed"}"#, 2.0),
            (r#"saga_compensations_total{cause="inventory_failed"}"#, 1.0),
            (r#"saga_step_duration_seconds_count{step="order_create"}"#, 6.0),
            (r#"saga_step_duration_seconds_count{step="payment_charge"}"#, 6.0),
            (r#"saga_step_duration_seconds_count{step="inventory_reserve"}"#, 4.0),
            (r#"saga_step_duration_seconds_count{step="order_confirm"}"#, 3.0),
            (r#"saga_step_duration_seconds_count{step="inventory_release"}"#, 0.0),
            (r#"saga_step_duration_seconds_count{step="payment_refund"}"#, 1.0),
            (r#"saga_step_duration_seconds_count{step="order_cancel"}"#, 3.0),
            (r#"saga_retries_total{step="payment_charge"}"#, 0.0),
            (r#"sagas_unfinished{status="running",step="payment_charge"}"#, 0.0),
            ("sagas_needing_attention", 0.0),
            ("saga_oldest_unfinished_age_seconds", 0.0),
            (r#"http_requests_total{method="POST",route="/checkout",status="200"}"#, 3.0),
            (r#"http_requests_total{method="POST",route="/checkout",status="402"}"#, 2.0),
            (r#"http_requests_total{method="POST",route="/checkout",status="409"}"#, 1.0),
            (r#"http_request_duration_seconds_count{method="POST",route="/checkout"}"#, 6.0),
            (r#"kafka_records_total{outcome="done",topic="payment.charged"}"#, 4.0),
            (r#"kafka_records_total{outcome="done",topic="payment.failed"}"#, 2.0),
            (r#"kafka_records_total{outcome="done",topic="payment.refunded"}"#, 1.0),
            (r#"kafka_records_total{outcome="done",topic="inventory.failed"}"#, 1.0),
        ],
    )
    .await?;
    until_shown(
        &client,
        Service::Payment,
        &[
            (r#"kafka_records_total{outcome="replied",topic="payment.charge.command"}"#, 6.0),
            (r#"kafka_records_total{outcome="replied",topic="payment.refund.command"}"#, 1.0),
            (r#"kafka_records_total{outcome="dead_lettered",topic="payment.charge.command"}"#, 0.0),
            (r#"kafka_record_retries_total{topic="payment.charge.command"}"#, 0.0),
        ],
    )
    .await?;
    until_shown(
        &client,
        Service::Inventory,
        &[
            (r#"kafka_records_total{outcome="replied",topic="inventory.reserve.command"}"#, 4.0),
            (r#"kafka_records_total{outcome="replied",topic="inventory.release.command"}"#, 0.0),
        ],
    )
    .await
}

#[tokio::test]
async fn letters_and_pages_are_counted_by_topic_and_route_whatever_their_ids_are() -> Result<()> {
    let platform = Standalone::start(&[]).await?;
    let client = platform.client()?;

    let letters = client.kafka.publish_everywhere("inventory.reserve.command", b"this is not JSON").await?.len();
    for path in ["/orders/1", "/orders/2", "/no/such/page", "/nor/such"] {
        client.get(Service::Order, path).await?;
    }

    let letters = u32::try_from(letters)?.into();
    let dead = r#"kafka_records_total{outcome="dead_lettered",topic="inventory.reserve.command"}"#;
    until_shown(&client, Service::Inventory, &[(dead, letters)]).await?;
    until_shown(
        &client,
        Service::Order,
        &[
            (r#"http_requests_total{method="GET",route="/orders/{id}",status="400"}"#, 2.0),
            (r#"http_requests_total{method="GET",route="other",status="404"}"#, 2.0),
        ],
    )
    .await?;
    let text = client.get(Service::Order, "/metrics").await?.text;
    ensure!(!text.contains("such"), "a client can make a series:\n{text}");
    Ok(())
}

#[tokio::test]
async fn what_stands_and_what_is_behind_is_shown_until_it_is_done() -> Result<()> {
    let settings = [("PAYMENT_PROCESSING_MS", "15000"), ("RESEND_FIRST_MS", "1000")];
    let services = Services::start(&settings).await?;
    let client = services.client()?;
    for n in 1..=7 {
        client.checkout_async(&json!({"userId": format!("u{n}"), "totalAmount": n})).await?;
    }
    let standing = r#"sagas_unfinished{status="running",step="payment_charge"}"#;
    let behind = r#"kafka_consumer_lag{partition=""#;

    eventually("seven wait for their payment", LIMIT, async || {
        let (sagas, payment) =
            (Samples::of(&client, Service::Orchestrator).await?, Samples::of(&client, Service::Payment).await?);
        let (waiting, age) = (sagas.value(standing)?, sagas.value("saga_oldest_unfinished_age_seconds")?);
        let retries = sagas.value(r#"saga_retries_total{step="payment_charge"}"#)?;
        let lag = payment.sum(behind);
        ensure!(waiting == 7.0 && age > 0.5 && retries >= 1.0 && lag >= 7.0, "{waiting} {age} {retries} {lag}");
        Ok(Some(()))
    })
    .await?;

    client.all_end(Duration::from_secs(60)).await?;
    until_shown(&client, Service::Orchestrator, &[(standing, 0.0), (r#"checkouts_total{outcome="completed"}"#, 7.0)])
        .await?;
    eventually("nothing is behind", Duration::from_secs(60), async || {
        let lag = Samples::of(&client, Service::Payment).await?.sum(behind);
        ensure!(lag == 0.0, "{lag} are");
        Ok(Some(()))
    })
    .await
}
