//! What `POST /checkout` and its neighbours answer to bad input: the status, a problem document, and in it the field
//! and the rule that it breaks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, eventually, shared};
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
    client.get(Service::Order, "/orders").await?.is_problem(405, &["/orders", "GET"])
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
