//! What `POST /checkout` and its neighbours answer to bad input: the status, a problem document, and in it the field
//! and the rule that it breaks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, Standalone, eventually, shared};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

async fn send(client: &Client, content_type: Option<&str>, body: impl Into<String>) -> Result<Answer> {
    let mut request = client.request(Service::Orchestrator, Method::POST, "/checkout").body(body.into());
    if let Some(content_type) = content_type {
        request = request.header("Content-Type", content_type);
    }
    Answer::read(request.send().await?).await
}

async fn is_refused(client: &Client, body: &str, status: u16, words: &[&str]) -> Result<()> {
    let answer = send(client, Some("application/json"), body).await?;
    answer.is_problem(status, words).with_context(|| body.to_owned())
}

#[tokio::test]
async fn what_is_not_json_is_answered_400() -> Result<()> {
    let client = shared().await?;
    for body in ["", "{", "userId=u1", r#"{"userId":"u","totalAmount":5} trailing"#, r#"{"totalAmount":NaN}"#] {
        is_refused(&client, body, 400, &["JSON"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408_and_gives_its_place_back() -> Result<()> {
    let client = shared().await?;
    let mut stream = TcpStream::connect(("127.0.0.1", Service::Orchestrator.port(&client.ports))).await?;
    let head =
        "POST /checkout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(br#"{"userId":"u1","#).await?;

    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await??;

    ensure!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("within 10 s"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn another_content_type_is_answered_415() -> Result<()> {
    let client = shared().await?;
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let answer = send(&client, content_type, r#"{"userId":"u1","totalAmount":500}"#).await?;
        answer.is_problem(415, &["application/json"])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_compressed_body_is_answered_415_with_what_is_accepted() -> Result<()> {
    let client = shared().await?;
    let gzip: Vec<u8> = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], b"whatever"].concat();
    let request = client.request(Service::Orchestrator, Method::POST, "/checkout").body(gzip);
    let request = request.header("Content-Type", "application/json").header("Content-Encoding", "gzip");

    let answer = Answer::read(request.send().await?).await?;

    answer.is_problem(415, &["Content-Encoding: gzip"])?;
    assert_eq!(answer.header("accept-encoding"), "identity");
    Ok(())
}

#[tokio::test]
async fn a_byte_order_mark_is_named() -> Result<()> {
    let client = shared().await?;
    is_refused(&client, "\u{feff}{\"userId\":\"u1\",\"totalAmount\":500}", 400, &["byte order mark (UTF-8)"]).await
}

#[tokio::test]
async fn what_a_client_prefers_is_followed_and_named() -> Result<()> {
    // Nobody charges, and the limit is not reached here: an answer comes because the client asked for it.
    let mut services = Services::start(&[("CHECKOUT_WAIT_MS", "3600000"), ("SAGA_TIMEOUT_MS", "3600000")]).await?;
    let client = services.client()?;
    services.kill(Service::Payment)?;
    for (prefer, applied) in
        [("respond-async", "respond-async"), ("wait=1", "wait=1"), ("respond-async, wait=1", "respond-async, wait=1")]
    {
        let request = client.request(Service::Orchestrator, Method::POST, "/checkout").header("Prefer", prefer);
        let answer = Answer::read(request.json(&json!({"userId": "u1", "totalAmount": 500})).send().await?).await?;
        assert_eq!((answer.status, answer.header("preference-applied")), (202, applied), "{}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn where_forced_failures_are_off_a_checkout_can_not_ask_for_one() -> Result<()> {
    let standalone = Standalone::start(&[("ALLOW_FORCED_FAILURES", "false")]).await?;
    let client = standalone.client()?;
    for field in ["forcePaymentFail", "forceInventoryFail"] {
        let body = json!({"userId": "u1", "totalAmount": 500, field: true});
        client.checkout(&body).await?.is_problem(422, &[field, "ALLOW_FORCED_FAILURES"])?;
        let plain = client.checkout(&json!({"userId": "u1", "totalAmount": 500, field: false})).await?;
        assert_eq!(plain.status, 200, "{}", plain.text);
    }
    let form = client.get(Service::Orchestrator, "/dashboard/new").await?;
    ensure!(form.status == 200 && !form.text.contains("forcePaymentFail"), "{}", form.text);
    Ok(())
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_answered_400_by_every_service() -> Result<()> {
    let client = shared().await?;
    for (service, path) in [
        (Service::Orchestrator, "/sagas/%ff"),
        (Service::Orchestrator, "/sagas/%ff/events"),
        (Service::Orchestrator, "/sagas/%ff/rows"),
        (Service::Order, "/orders/%ff"),
        (Service::Payment, "/payments/%ff"),
        (Service::Inventory, "/reservations/%ff"),
    ] {
        client.get(service, path).await?.is_problem(400, &["%ff"])?;
    }
    let act = json!({"by": "ann", "reason": "to try it"});
    for path in ["/sagas/%ff/cancel", "/dead-letters/%ff/0:1/redrive"] {
        client.post(Service::Orchestrator, path, &act).await?.is_problem(400, &["%ff"])?;
    }
    for path in ["/dashboard/sagas/%ff", "/dashboard/find"] {
        let page = client.get(Service::Orchestrator, path).await?;
        assert_eq!((page.status, page.header("content-type")), (400, "text/html; charset=utf-8"), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_over_64_kib_is_answered_413_and_one_of_64_kib_is_read() -> Result<()> {
    let client = shared().await?;
    let padded = |length: usize| r#"{"totalAmount":5}"#.to_owned() + &" ".repeat(length - 17);
    is_refused(&client, &padded(64 * 1024 + 1), 413, &["65536"]).await?;
    is_refused(&client, &padded(64 * 1024), 422, &["userId"]).await
}

#[tokio::test]
async fn an_invalid_field_is_answered_422_with_its_name_and_the_rule() -> Result<()> {
    let client = shared().await?;
    let long = format!(r#"{{"userId":"{}","totalAmount":5}}"#, "ü".repeat(129));
    for (body, words) in [
        (r#"{"totalAmount":5}"#, ["userId", "missing"]),
        (r#"{"userId":null,"totalAmount":5}"#, ["userId", "string"]),
        (r#"{"userId":7,"totalAmount":5}"#, ["userId", "string"]),
        (r#"{"userId":"","totalAmount":5}"#, ["userId", "must not be blank"]),
        (r#"{"userId":" \t ","totalAmount":5}"#, ["userId", "must not be blank"]),
        (&long, ["userId", "at most 128 characters"]),
        (r#"{"userId":"u\u00001","totalAmount":5}"#, ["userId", "control characters"]),
        (r#"{"userId":"u\n1","totalAmount":5}"#, ["userId", "control characters"]),
        (r#"{"userId":"u\u202e1","totalAmount":5}"#, ["userId", "U+202E"]),
        (r#"{"userId":"u\u200b","totalAmount":5}"#, ["userId", "U+200B"]),
        (r#"{"userId":"\ufeff","totalAmount":5}"#, ["userId", "U+FEFF"]),
        (r#"["bad-input",5]"#, ["expected a JSON object", "sequence"]),
        (
            r#"{"userId":"bad-input","totalAmount":{"$serde_json::private::Number":"5"}}"#,
            ["totalAmount", "JSON number"],
        ),
        (r#"{"userId":"bad-input","totalAmount":5,"currency":"HRK"}"#, ["currency", "EUR has replaced HRK"]),
        (r#"{"userId":"bad-input","totalAmount":5,"currency":"BGN"}"#, ["currency", "EUR has replaced BGN"]),
        (r#"{"userId":"bad-input"}"#, ["totalAmount", "missing"]),
        (r#"{"userId":"bad-input","totalAmount":0}"#, ["totalAmount", "greater than 0"]),
        (r#"{"userId":"bad-input","totalAmount":0.00}"#, ["totalAmount", "greater than 0"]),
        (r#"{"userId":"bad-input","totalAmount":-5}"#, ["totalAmount", "greater than 0"]),
        (r#"{"userId":"bad-input","totalAmount":-1e400}"#, ["totalAmount", "must be"]),
        (r#"{"userId":"bad-input","totalAmount":"abc"}"#, ["totalAmount", "decimal number"]),
        (r#"{"userId":"bad-input","totalAmount":"NaN"}"#, ["totalAmount", "decimal number"]),
        (r#"{"userId":"bad-input","totalAmount":""}"#, ["totalAmount", "decimal number"]),
        (r#"{"userId":"bad-input","totalAmount":true}"#, ["totalAmount", "not valid"]),
        (r#"{"userId":"bad-input","totalAmount":1e400}"#, ["totalAmount", "at most 1000000000000"]),
        (r#"{"userId":"bad-input","totalAmount":1.005}"#, ["totalAmount", "at most 2 decimals"]),
        (r#"{"userId":"bad-input","totalAmount":5.5,"currency":"JPY"}"#, ["totalAmount", "at most 0 decimals"]),
        (r#"{"userId":"bad-input","totalAmount":1000000000000.01}"#, ["totalAmount", "at most 1000000000000"]),
        (r#"{"userId":"bad-input","totalAmount":5,"currency":"ZZZ"}"#, ["currency", "ISO 4217"]),
        (r#"{"userId":"bad-input","totalAmount":5,"forcePaymentFial":true}"#, ["forcePaymentFial", "unknown"]),
        (r#"{"userId":"bad-input","totalAmount":5,"forcePaymentFail":"yes"}"#, ["forcePaymentFail", "boolean"]),
    ] {
        is_refused(&client, body, 422, &words).await?;
    }

    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM sagas WHERE user_id = 'bad-input'")
        .fetch_one(&client.databases.orchestrator)
        .await?;
    assert_eq!(stored, 0, "a refused checkout is not stored");
    Ok(())
}

#[tokio::test]
async fn what_is_just_within_the_rules_is_accepted() -> Result<()> {
    let client = shared().await?;
    for body in [
        json!({"userId": "ü".repeat(128), "totalAmount": 5}),
        json!({"userId": "u", "totalAmount": 1_000_000_000_000_u64}),
        json!({"userId": "u", "totalAmount": "0.01"}),
        json!({"userId": "u", "totalAmount": 5, "currency": "JPY"}),
        json!({"userId": "u", "totalAmount": "500.0", "currency": "JPY"}),
        json!({"userId": "u", "totalAmount": "19.9000"}),
        json!({"userId": "u", "totalAmount": "1.005", "currency": "KWD"}),
    ] {
        let answer = client.checkout(&body).await?;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_path_is_answered_404_and_another_method_405_by_every_service() -> Result<()> {
    let client = shared().await?;
    for service in Service::ALL {
        client.get(service, "/nothing/here").await?.is_problem(404, &["/nothing/here"])?;
        client.post(service, "/health/live", &json!({})).await?.is_problem(405, &["/health/live", "POST"])?;
    }
    client.get(Service::Orchestrator, "/checkout").await?.is_problem(405, &["/checkout", "GET"])?;
    client.patch(Service::Order, "/orders", &json!({})).await?.is_problem(405, &["/orders", "PATCH"])
}

#[tokio::test]
async fn a_malformed_saga_id_is_answered_400_and_an_unknown_one_404() -> Result<()> {
    let client = shared().await?;
    let unknown = Uuid::now_v7();
    for id in ["7", "not-a-uuid", "%00"] {
        client.get(Service::Orchestrator, &format!("/sagas/{id}")).await?.is_problem(400, &["saga id"])?;
    }
    let answer = client.get(Service::Orchestrator, &format!("/sagas/{unknown}")).await?;
    answer.is_problem(404, &[&unknown.to_string()])
}

#[tokio::test]
async fn every_service_says_that_it_lives_and_is_ready() -> Result<()> {
    let client = shared().await?;
    for service in Service::ALL {
        let live = client.get(service, "/health/live").await?;
        ensure!(live.status == 200, "{service:?}: {live:?}");
        // The orchestrator is ready before its consumer has joined the group, and says "degraded" until then.
        let ready = async || {
            let answer = client.get(service, "/health/ready").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok((answer.json()?["status"] == "ready").then_some(()))
        };
        eventually(&format!("{service:?} is ready"), Duration::from_secs(10), ready).await?;
    }
    Ok(())
}
