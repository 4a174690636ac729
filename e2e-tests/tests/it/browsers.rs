//! What a web page can do through its reader's browser to a platform that asks nobody who they are: nothing. Here as the
//! bytes that a browser sends; `tests/browser` has the same with a browser.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Service, Services, Standalone, eventually, shared};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// A service's answer to exactly these bytes, after which it closes the connection.
async fn exchange(client: &Client, service: Service, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", service.port(&client.ports))).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("no end of the answer")??;
    Ok(String::from_utf8_lossy(&answer).to_ascii_lowercase())
}

/// A whole request with these lines in its head.
fn request(start: &str, lines: &[&str], body: &str) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    format!(
        "{start} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

const PAUSE: &str = r#"{"by":"a page","reason":"because it can"}"#;

#[tokio::test]
async fn a_page_whose_name_was_made_to_lead_here_reads_nothing_and_changes_nothing() -> Result<()> {
    let client = shared().await?;
    let reads = [
        (Service::Orchestrator, "/sagas".to_owned()),
        (Service::Orchestrator, "/".to_owned()),
        (Service::Orchestrator, "/events".to_owned()),
        (Service::Orchestrator, "/openapi.json".to_owned()),
        (Service::Order, format!("/orders/{}", Uuid::now_v7())),
        (Service::Payment, format!("/payments/{}", Uuid::now_v7())),
        (Service::Inventory, format!("/reservations/{}", Uuid::now_v7())),
    ];
    for (service, path) in reads {
        let host = format!("Host: evil.test:{}", service.port(&client.ports));
        let answer = exchange(&client, service, &request(&format!("GET {path}"), &[&host], "")).await?;
        ensure!(answer.starts_with("http/1.1 421 ") && answer.contains("allowed_hosts"), "{path}: {answer}");
    }
    let own_name = ["Host: evil.test", "Origin: http://evil.test"];
    let paused = exchange(&client, Service::Orchestrator, &request("POST /intake/pause", &own_name, PAUSE)).await?;
    ensure!(paused.starts_with("http/1.1 421 "), "{paused}");
    let intake = client.get(Service::Orchestrator, "/intake").await?.json()?;
    assert_eq!(intake["open"], json!(true));
    for service in Service::ALL {
        for path in ["/health/live", "/metrics"] {
            let answer =
                exchange(&client, service, &request(&format!("GET {path}"), &["Host: probe.test"], "")).await?;
            ensure!(answer.starts_with("http/1.1 200 "), "{service:?} {path}: {answer}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() -> Result<()> {
    let client = shared().await?;
    let checkout = r#"{"userId":"cross-origin","totalAmount":5}"#;
    for (service, start, body) in [
        (Service::Orchestrator, "POST /intake/pause", PAUSE),
        (Service::Orchestrator, "POST /checkout", checkout),
        (Service::Order, "POST /orders", checkout),
        (Service::Order, "POST /batch", "[]"),
    ] {
        for from in
            ["Origin: http://localhost:1", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
        {
            let answer = exchange(&client, service, &request(start, &["Host: localhost", from], body)).await?;
            ensure!(answer.starts_with("http/1.1 403 "), "{start} {from}: {answer}");
        }
    }
    let own = ["Host: localhost:80", "Origin: http://localhost", "Sec-Fetch-Site: same-origin"];
    let answer = exchange(&client, Service::Orchestrator, &request("POST /checkout", &own, checkout)).await?;
    ensure!(answer.starts_with("http/1.1 200 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_request_names_its_host_once() -> Result<()> {
    let client = shared().await?;
    for service in Service::ALL {
        for hosts in [&[][..], &["Host: localhost", "Host: localhost"], &["Host: local host"], &["Host:"]] {
            let answer = exchange(&client, service, &request("GET /health/live", hosts, "")).await?;
            ensure!(answer.starts_with("http/1.1 400 "), "{service:?} {hosts:?}: {answer}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_answer_is_for_its_reader_only() -> Result<()> {
    let client = shared().await?;
    let mut paths: Vec<_> = Service::ALL.map(|service| (service, "/health/ready")).to_vec();
    paths.extend(Service::ALL.map(|service| (service, "/metrics")));
    paths.extend(Service::ALL.map(|service| (service, "/docs")));
    paths.extend(Service::ALL.map(|service| (service, "/nothing/here")));
    paths.extend(["/", "/sagas", "/sagas/7", "/intake", "/checkout"].map(|path| (Service::Orchestrator, path)));
    for (service, path) in paths {
        let answer = client.get(service, path).await?;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{service:?} {path} {} {name}", answer.status);
        }
    }
    let style = client.get(Service::Orchestrator, "/assets/style.css").await?;
    assert_eq!(style.header("cache-control"), "max-age=3600");
    Ok(())
}

#[tokio::test]
async fn a_service_is_asked_by_the_names_that_its_setting_allows() -> Result<()> {
    let standalone = Standalone::start(&[("ALLOWED_HOSTS", "shop.example, *.internal")]).await?;
    let client = standalone.client()?;
    for (host, status) in [("shop.example", 200), ("a.internal:4000", 200), ("internal", 421), ("x.shop.example", 421)]
    {
        let host = format!("Host: {host}");
        let answer = exchange(&client, Service::Orchestrator, &request("GET /sagas", &[&host], "")).await?;
        ensure!(answer.starts_with(&format!("http/1.1 {status} ")), "{host}: {answer}");
    }
    let log = client.log();
    ensure!(log.contains("not in ALLOWED_HOSTS") && log.contains("x.shop.example"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_redirect_of_another_service_is_not_followed() -> Result<()> {
    let mut services = Services::start(&[("RESEND_FIRST_MS", "200"), ("RESEND_MAX_MS", "200")]).await?;
    let client = services.client()?;
    services.kill(Service::Order)?;
    let (elsewhere, redirecting) =
        (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind(services.address(Service::Order.into())?).await?);
    let target = elsewhere.local_addr()?;
    let (asked, mut were_asked) = tokio::sync::mpsc::unbounded_channel();
    let redirector = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = redirecting.accept().await else { return };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let _ = asked.send(String::from_utf8_lossy(&head[..read]).into_owned());
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{target}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let saga = client.checkout_async(&json!({"userId": "u1", "totalAmount": 5})).await?.field("sagaId")?;
    let rows = client.get(Service::Orchestrator, &format!("/sagas/{saga}/rows")).await?.json()?;
    ensure!(rows["order"]["error"].as_str().is_some_and(|error| error.contains("307")), "{rows}");
    // A call that was made again is not under way to elsewhere any more.
    for _ in 0..4 {
        tokio::time::timeout(LIMIT, were_asked.recv()).await?.context("the redirector goes on")?;
    }
    let followed = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
    ensure!(followed.is_err(), "the redirect was followed");
    redirector.abort();
    let _ = redirector.await;

    services.start_again(Service::Order).await?;
    client.end_of(&format!("/sagas/{saga}"), LIMIT).await?;
    eventually("the databases agree", LIMIT, async || {
        client.agree_about(&[saga.parse()?]).await?;
        Ok(Some(()))
    })
    .await
}
