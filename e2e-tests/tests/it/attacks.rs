//! Clients that hold connections, bodies and streams take nothing from the others. The attacks are as they were found on
//! a release, smaller; `dev/endurance attack` has them in full.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::attackers::{Attack, Hold, connect, exchange, http_from};
use e2e_tests::{Client, Samples, Service, Services, eventually};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HONEST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SECOND_ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What is under way is there by then, on a machine with much else to do.
const LIMIT: Duration = Duration::from_secs(30);

/// Checkouts from `from`, each on a connection of its own, are all answered 200.
async fn is_served(from: Ipv4Addr, orchestrator: SocketAddr, count: usize) -> Result<()> {
    let http = http_from(from)?;
    for n in 0..count {
        let body = json!({"userId": format!("honest-{n}"), "totalAmount": 5});
        let answer = http.post(format!("http://{orchestrator}/checkout")).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == 200, "the checkout {n} from {from} got {status} {text}");
    }
    Ok(())
}

async fn until_held(attack: &Attack, count: usize) -> Result<()> {
    eventually(&format!("{count} connections are held"), LIMIT, async || {
        let held = attack.held();
        ensure!(held >= count, "{held} are");
        Ok(Some(()))
    })
    .await
}

async fn until_shown(client: &Client, sample: &str, least: f64) -> Result<()> {
    eventually(&format!("{sample} is at least {least}"), LIMIT, async || {
        let shown = Samples::of(client, Service::Orchestrator).await?.value(sample)?;
        ensure!(shown >= least, "it is {shown}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn bodies_that_do_not_come_take_no_place_among_the_waiting() -> Result<()> {
    let services = Services::start(&[("CHECKOUT_MAX_WAITING", "20")]).await?;
    let (client, orchestrator) = (services.client()?, services.address(Service::Orchestrator.into())?);
    let attack = Attack::start(25, ATTACKER, orchestrator, Hold::Body);
    until_held(&attack, 25).await?;
    until_shown(&client, "http_bodies_awaited", 20.0).await?;

    is_served(HONEST, orchestrator, 5).await?;
    is_served(ATTACKER, orchestrator, 5).await?;

    until_shown(&client, r#"http_shed_total{reason="slow_body"}"#, 20.0).await
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_takes_little_more_memory_than_its_bytes() -> Result<()> {
    const BODIES: usize = 20;
    const BYTES: usize = 3000;
    let services = Services::start(&[]).await?;
    let orchestrator = services.address(Service::Orchestrator.into())?;
    let process = services.process_ids().into_iter().find(|(instance, _)| instance.service == Service::Orchestrator);
    let process = process.context("an orchestrator")?.1;
    is_served(HONEST, orchestrator, 5).await?;
    let before = resident_kib(process)?;
    let head = format!(
        "POST /checkout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        BYTES + 1
    );
    let mut connections = Vec::new();
    for _ in 0..BODIES {
        let mut connection = connect(ATTACKER, orchestrator).await?;
        connection.write_all(head.as_bytes()).await?;
        connections.push(connection);
    }
    // Slowly enough that most bytes are read one by one, and within the time that a body may take.
    let began = Instant::now();
    for _ in (0..BYTES).take_while(|_| began.elapsed() < Duration::from_secs(8)) {
        for connection in &mut connections {
            connection.write_all(b" ").await?;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let grown = resident_kib(process)?.saturating_sub(before);

    // As pieces of their buffers they would be 480 MB.
    ensure!(grown < 64 * 1024, "{BODIES} bodies of {BYTES} bytes take {grown} KiB");
    is_served(HONEST, orchestrator, 5).await
}

/// What a process has in memory, in KiB.
fn resident_kib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test]
async fn a_head_that_does_not_come_is_answered_408_in_every_service() -> Result<()> {
    let client = e2e_tests::shared().await?;
    for service in Service::ALL {
        let address = SocketAddr::from((HONEST, service.port(&client.ports)));
        // The second is how HTTP/2 begins.
        for head in ["GET /health/live HTTP/1.1\r\nHost: ", "PRI * "] {
            let answer = exchange(connect(HONEST, address).await?, head, LIMIT).await?;
            let is_closed = answer.starts_with("HTTP/1.1 408 ") && answer.contains("Connection: close");
            ensure!(is_closed, "{service:?} after {head:?}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() -> Result<()> {
    let client = e2e_tests::shared().await?;
    let address = SocketAddr::from((HONEST, Service::Orchestrator.port(&client.ports)));
    let request = format!("GET /health/live HTTP/1.1\r\nHost: {address}\r\nX-Large: {}", "x".repeat(17 * 1024));
    let answer = exchange(connect(HONEST, address).await?, &request, LIMIT).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn idle_connections_make_room_when_there_are_as_many_as_descriptors() -> Result<()> {
    let services = Services::start(&[]).await?;
    let (client, orchestrator) = (services.client()?, services.address(Service::Orchestrator.into())?);
    for (instance, process) in services.process_ids() {
        let limit = Rlimit { current: Some(220), maximum: Some(220) };
        let process = Pid::from_raw(process.cast_signed());
        prlimit(process, Resource::Nofile, limit).map_err(|error| anyhow::anyhow!("{instance}: {error}"))?;
    }
    let of =
        |from, service: Service| Attack::start(110, from, (HONEST, service.port(&client.ports)).into(), Hold::Idle);
    let attacks: Vec<Attack> =
        Service::ALL.into_iter().flat_map(|service| [of(ATTACKER, service), of(SECOND_ATTACKER, service)]).collect();
    let all_opened = async || {
        let opened = attacks.iter().all(|attack| attack.held() + attack.closed() >= 110);
        Ok(opened.then_some(()))
    };
    eventually("all connections were tried", LIMIT, all_opened).await?;

    is_served(HONEST, orchestrator, 5).await?;
    // At the same address a new connection may be the next one to go, before its request is there.
    eventually("the attacker's neighbour is served", LIMIT, async || {
        is_served(ATTACKER, orchestrator, 1).await?;
        Ok(Some(()))
    })
    .await?;

    until_shown(&client, r#"http_shed_total{reason="evicted"}"#, 1.0).await?;
    eventually("readiness reports it", LIMIT, async || {
        let ready = client.get(Service::Orchestrator, "/health/ready").await?;
        ensure!(ready.status == 200 && ready.text.contains("connections are open"), "{} {}", ready.status, ready.text);
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn a_client_with_too_many_busy_connections_is_refused_and_no_other() -> Result<()> {
    let services = Services::start(&[("HTTP_MAX_CONNECTIONS", "24")]).await?;
    let orchestrator = services.address(Service::Orchestrator.into())?;
    let attack = Attack::start(18, ATTACKER, orchestrator, Hold::Stream);
    until_held(&attack, 18).await?;

    let refused = exchange(connect(ATTACKER, orchestrator).await?, "", LIMIT).await?;

    ensure!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("Retry-After: 1"), "{refused:?}");
    is_served(HONEST, orchestrator, 3).await?;
    let more = Attack::start(6, HONEST, orchestrator, Hold::Stream);
    until_held(&more, 6).await?;
    let refused = exchange(connect(PROXY, orchestrator).await?, "", LIMIT).await?;
    ensure!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: 1"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn one_client_can_not_take_all_event_streams_also_behind_a_proxy() -> Result<()> {
    let settings = [("EVENT_STREAMS_MAX_PER_CLIENT", "3"), ("TRUSTED_PROXIES", "127.0.0.3")];
    let services = Services::start(&settings).await?;
    let orchestrator = services.address(Service::Orchestrator.into())?;
    let url = format!("http://{orchestrator}/events");
    let open = async |from: Ipv4Addr, forwarded_for: &str| {
        let request = http_from(from)?.get(&url).header("X-Forwarded-For", forwarded_for);
        anyhow::Ok(request.send().await?)
    };
    // Who is no trusted proxy may write what it wants there.
    for (from, forwarded_for) in [(ATTACKER, "192.0.2.9"), (PROXY, "192.0.2.1"), (PROXY, "10.0.0.1, 192.0.2.2")] {
        let mut streams = Vec::new();
        for _ in 0..3 {
            let stream = open(from, forwarded_for).await?;
            ensure!(stream.status() == 200, "{from} for {forwarded_for}: {}", stream.status());
            streams.push(stream);
        }
        let refused = open(from, forwarded_for).await?;
        ensure!(refused.status() == 429, "{from} for {forwarded_for}: {}", refused.status());
        ensure!(refused.headers().contains_key("retry-after"), "{:?}", refused.headers());
        let other = if from == PROXY { open(from, "192.0.2.77").await? } else { open(HONEST, "").await? };
        ensure!(other.status() == 200, "another client: {}", other.status());
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer() -> Result<()> {
    let client = e2e_tests::shared().await?;
    let address = SocketAddr::from((HONEST, Service::Orchestrator.port(&client.ports)));
    let answer = half_closed_checkout(address).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("COMPLETED"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_is_answered_202_when_its_outcome_takes_long() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "25000")]).await?;
    let (client, orchestrator) = (services.client()?, services.address(Service::Orchestrator.into())?);

    let answer = half_closed_checkout(orchestrator).await?;

    ensure!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("location: /sagas/"), "{answer:?}");
    // It may be gone, so it holds no place any more.
    assert_eq!(Samples::of(&client, Service::Orchestrator).await?.value("checkout_waiting")?, 0.0);
    client.all_end_in_agreement(Duration::from_secs(60)).await?;
    Ok(())
}

/// Sends a checkout, closes the sending side (RFC 9112, section 9.6), and reads the answer.
async fn half_closed_checkout(address: SocketAddr) -> Result<String> {
    let body = r#"{"userId":"halfclose","totalAmount":5}"#;
    let request = format!(
        "POST /checkout HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(HONEST, address).await?;
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn http2_without_tls_is_understood_only_where_the_settings_want_it() -> Result<()> {
    let services = Services::start(&[("HTTP2", "true")]).await?;
    let shared = e2e_tests::shared().await?;
    let wanted = services.address(Service::Orchestrator.into())?;
    let unwanted = SocketAddr::from((HONEST, Service::Orchestrator.port(&shared.ports)));
    for (address, is_wanted) in [(wanted, true), (unwanted, false)] {
        let mut stream = connect(HONEST, address).await?;
        // The preface, and an empty SETTINGS frame (RFC 9113, section 3.4).
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let mut answer = [0; 9];
        let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await?;
        // A frame's fourth byte is its type: SETTINGS is 4.
        let understood = read.is_ok() && answer[3] == 4;
        ensure!(understood == is_wanted, "{address}: {answer:?}");
    }
    Ok(())
}
