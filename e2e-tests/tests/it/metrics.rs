//! `GET /metrics`: what each service counts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Instance, Layout, Service, Services, eventually, shared};
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
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "1500")]).await?;
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
