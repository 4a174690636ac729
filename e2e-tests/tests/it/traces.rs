//! Traces, as an OpenTelemetry collector gets them.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::collector::{self, Collected, Collector, tree};
use e2e_tests::{Answer, Client, Service, Services, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A client's own span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// How a checkout begins, up to the reply of the payment service.
const CHARGED: &str = "
saga-orchestrator: POST /checkout
  saga-orchestrator: new sagas
  saga-orchestrator: ORDER_CREATE
    saga-orchestrator: POST /orders
      order-service: POST /orders
        order-service: orders created
    saga-orchestrator: sagas
    saga-orchestrator: PAYMENT_CHARGE
      saga-orchestrator: send payment.charge.command
        payment-service: process payment.charge.command
          payment-service: payments created
          payment-service: gateway charge
            payment-service: gateway
          payment-service: payments moved
          payment-service: send payment.charged
            saga-orchestrator: process payment.charged
              saga-orchestrator: sagas
              saga-orchestrator: INVENTORY_RESERVE
                saga-orchestrator: send inventory.reserve.command
                  inventory-service: process inventory.reserve.command
                    inventory-service: reservations created
";

/// How one ends that succeeds.
const RESERVED: &str = "
                    inventory-service: send inventory.reserved
                      saga-orchestrator: process inventory.reserved
                        saga-orchestrator: sagas
                        saga-orchestrator: ORDER_CONFIRM
                          saga-orchestrator: PATCH /orders/{orderId}/status CONFIRMED
                            order-service: PATCH /orders/{id}/status
                              order-service: orders moved
                          saga-orchestrator: sagas
                          saga-orchestrator: COMPLETED
";

/// How one ends whose goods are refused: the money goes back, the order is cancelled.
const REFUSED: &str = "
                    inventory-service: send inventory.failed
                      saga-orchestrator: process inventory.failed
                        saga-orchestrator: sagas
                        saga-orchestrator: PAYMENT_REFUND
                          saga-orchestrator: send payment.refund.command
                            payment-service: process payment.refund.command
                              payment-service: payments created
                              payment-service: payments moved
                              payment-service: gateway refund
                                payment-service: gateway
                              payment-service: payments moved
                              payment-service: send payment.refunded
                                saga-orchestrator: process payment.refunded
                                  saga-orchestrator: sagas
                                  saga-orchestrator: ORDER_CANCEL
                                    saga-orchestrator: PATCH /orders/{orderId}/status CANCELLED
                                      order-service: PATCH /orders/{id}/status
                                        order-service: orders moved
                                    saga-orchestrator: sagas
                                    saga-orchestrator: INVENTORY_FAILED
";

/// The services, which repeat an effect that is not answered after `resend_first_ms`.
async fn start(collector: &Collector, resend_first_ms: &str) -> Result<Services> {
    let endpoint = collector.endpoint();
    Services::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("RESEND_FIRST_MS", resend_first_ms),
        ("RESEND_MAX_MS", "60000"),
        // A call that is given up is repeated no sooner.
        ("ORDER_SERVICE_TIMEOUT_MS", "20000"),
        ("LOG_FORMAT", "json"),
    ])
    .await
}

async fn checkout(client: &Client, traceparent: &str, body: &Value) -> Result<Answer> {
    let request = client.request(Service::Orchestrator, Method::POST, "/checkout").json(body);
    Answer::read(request.header("traceparent", traceparent).send().await?).await
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CLIENT}-{flags}")
}

/// Waits until the trace below `root` is this tree, and no span is missing or has another parent; answers the spans.
async fn until_complete(
    collector: &Collector,
    trace_id: &str,
    root: &str,
    expected: [&str; 2],
) -> Result<Vec<Collected>> {
    let expected = expected.map(|part| part.trim_start_matches('\n')).concat();
    eventually("the trace is complete", LIMIT, async || {
        let mut spans = collector.trace(trace_id);
        // A request that waits looks at the row now and then: how often depends on the machine.
        let request = named(&spans, "POST /checkout")?.id();
        spans.retain(|one| one.span.name != "read sagas" || one.parent() != request);
        let found = tree(&spans, root)?;
        ensure!(found == expected, "it is\n{found}");
        Ok(Some(spans))
    })
    .await
}

fn named<'a>(spans: &'a [Collected], name: &str) -> Result<&'a Collected> {
    spans.iter().find(|one| one.span.name == name).with_context(|| format!("no span {name}"))
}

#[tokio::test]
async fn a_checkout_is_one_trace_under_its_clients_span_through_every_hop() -> Result<()> {
    let collector = Collector::start().await?;
    let services = start(&collector, "60000").await?;
    let client = services.client()?;

    let answer = checkout(&client, &traceparent("01"), &json!({"userId": "u1", "totalAmount": 500})).await?;

    assert_eq!(answer.status, 200, "{}", answer.text);
    let spans = until_complete(&collector, TRACE, CLIENT, [CHARGED, RESERVED]).await?;
    let saga_id = answer.json()?["sagaId"].as_str().context("a saga's id")?.to_owned();
    assert_eq!(named(&spans, "POST /checkout")?.attribute("saga.id"), Some(saga_id.clone()));
    assert_eq!(named(&spans, "PAYMENT_CHARGE")?.attribute("saga.id"), Some(saga_id.clone()));
    for one in &spans {
        ensure!(
            one.span.end_time_unix_nano >= one.span.start_time_unix_nano,
            "{} ends before it begins",
            one.span.name
        );
    }
    let log = client.log();
    let end = log.lines().find(|line| line.contains(&saga_id) && line.contains("COMPLETED")).context("no line")?;
    ensure!(end.contains(&format!(r#""trace_id":"{TRACE}""#)), "{end}");
    assert_eq!(client.saga(saga_id.parse()?).await?["traceId"], json!(TRACE));
    Ok(())
}

#[tokio::test]
async fn a_trace_shows_the_compensation_and_a_failure_that_is_nobodys_error_is_none() -> Result<()> {
    let collector = Collector::start().await?;
    let services = start(&collector, "60000").await?;
    let client = services.client()?;

    let body = json!({"userId": "u1", "totalAmount": 500, "forceInventoryFail": true});
    let answer = checkout(&client, &traceparent("01"), &body).await?;

    assert_eq!(answer.status, 409, "{}", answer.text);
    let spans = until_complete(&collector, TRACE, CLIENT, [CHARGED, REFUSED]).await?;
    let reason = named(&spans, "PAYMENT_REFUND")?.attribute("saga.reason").unwrap_or_default();
    ensure!(reason.contains("out of stock"), "{reason:?}");
    for one in spans {
        assert_eq!(one.span.status.map_or(0, |status| status.code), 0, "{} is told as failed", one.span.name);
    }
    Ok(())
}

#[tokio::test]
async fn repetitions_are_in_the_same_trace_and_link_to_what_they_repeat_over_a_crash() -> Result<()> {
    let collector = Collector::start().await?;
    let mut services = start(&collector, "300").await?;
    let client = services.client()?;
    services.kill(Service::Payment)?;

    let request = client.request(Service::Orchestrator, Method::POST, "/checkout");
    let request = request.json(&json!({"userId": "u1", "totalAmount": 500})).header("traceparent", traceparent("01"));
    let answer = Answer::read(request.header("Prefer", "respond-async").send().await?).await?;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let repetition = |after: SystemTime| {
        let after = after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut spans = collector.trace(TRACE).into_iter();
        spans.find(|one| one.span.name == "repeat PAYMENT_CHARGE" && one.span.start_time_unix_nano > after)
    };
    let before = SystemTime::UNIX_EPOCH;
    eventually("the charge is repeated", LIMIT, async || Ok(repetition(before))).await?;
    services.kill(Service::Orchestrator)?;
    let killed = SystemTime::now();
    services.start_again(Service::Orchestrator).await?;
    let after = eventually("it is repeated after the crash", LIMIT, async || Ok(repetition(killed))).await?;
    services.start_again(Service::Payment).await?;
    client.end_of(answer.header("location"), LIMIT).await?;

    let spans = eventually("the end is told", LIMIT, async || {
        let spans = collector.trace(TRACE);
        Ok(named(&spans, "COMPLETED").is_ok().then_some(spans))
    })
    .await?;
    let first = named(&spans, "PAYMENT_CHARGE")?;
    let links: Vec<String> = after.span.links.iter().map(|link| collector::hex(&link.span_id)).collect();
    assert_eq!(links, [first.id()]);
    assert_eq!(after.parent(), named(&spans, "POST /checkout")?.id());
    Ok(())
}

#[tokio::test]
async fn a_trace_that_its_client_does_not_record_is_not_recorded_but_passed_on() -> Result<()> {
    let collector = Collector::start().await?;
    let services = start(&collector, "60000").await?;
    let client = services.client()?;
    let body = json!({"userId": "u1", "totalAmount": 500});

    let unrecorded = checkout(&client, &traceparent("00"), &body).await?;
    let recorded = client.checkout(&body).await?;

    assert_eq!((unrecorded.status, recorded.status), (200, 200));
    // Each service's spans come in their order: those of the first checkout would be here before those of the second.
    let other = eventually("the other checkout is recorded", LIMIT, async || {
        Ok(named(&collector.spans(), "COMPLETED").ok().map(|end| collector::hex(&end.span.trace_id)))
    })
    .await?;
    until_complete(&collector, &other, collector::NO_PARENT, [CHARGED, RESERVED]).await?;
    assert_eq!(collector.trace(TRACE).len(), 0);
    let saga = client.get(Service::Orchestrator, unrecorded.header("location")).await?.json()?;
    assert_eq!(saga["traceparent"], json!(traceparent("00")));
    Ok(())
}
