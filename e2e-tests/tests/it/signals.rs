//! Sagas that wait: for signals, early, late and twice; and for participants that report progress.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Standalone, eventually, id};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

pub const PERMIT: &str = include_str!("permit.v1.yaml");
pub const LIMIT: Duration = Duration::from_secs(30);

/// Starts a platform that runs permits by this file.
pub async fn platform(flow: &str) -> Result<(Standalone, Client)> {
    let standalone = Standalone::start(&[("CHECKOUT_WAIT_MS", "60000")]).await?;
    let client = standalone.client()?;
    let published = client.publish_flow(flow).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    Ok((standalone, client))
}

/// Starts a permit, and answers its saga's id.
pub async fn begin(client: &Client, applicant: &str) -> Result<Uuid> {
    let request = client.request(Service::Orchestrator, Method::POST, "/flows/permit");
    let request = request.header("Prefer", "respond-async").json(&json!({"applicant": applicant, "fee": 30}));
    let answer = Answer::read(request.send().await?).await?;
    ensure!(answer.status == 202, "{} {}", answer.status, answer.text);
    id(&answer.json()?, "sagaId")
}

async fn saga(client: &Client, saga_id: Uuid) -> Result<Value> {
    client.get(Service::Orchestrator, &format!("/sagas/{saga_id}")).await?.json()
}

/// The saga, once it stands there.
pub async fn until_at(client: &Client, saga_id: Uuid, status: &str, step: &str) -> Result<Value> {
    eventually(&format!("{saga_id} is {status} at {step}"), LIMIT, async || {
        let saga = saga(client, saga_id).await?;
        Ok((saga["status"] == status && saga["step"] == step).then_some(saga))
    })
    .await
}

/// Replies to the saga's pending command, as its participant does; answers the event's id.
pub async fn reply(client: &Client, saga_id: Uuid, step: &str, event: &str, payload: Value) -> Result<Uuid> {
    let event_id = Uuid::now_v7();
    reply_with_id(client, event_id, saga_id, step, event, payload).await?;
    Ok(event_id)
}

async fn reply_with_id(
    client: &Client,
    event_id: Uuid,
    saga_id: Uuid,
    step: &str,
    event: &str,
    payload: Value,
) -> Result<()> {
    let command = eventually(&format!("{saga_id} is at {step}"), LIMIT, async || {
        let saga = saga(client, saga_id).await?;
        Ok((saga["step"] == step).then(|| saga["pending"]["message"].clone()))
    })
    .await?;
    let body = json!({
        "eventId": event_id, "causationId": command["eventId"], "sagaId": saga_id, "permitId": command["permitId"],
        "timestamp": "2027-01-01T00:00:00Z", "payload": payload,
    });
    let key = saga_id.to_string();
    client.kafka.publish_event("permit.replies", event, &key, body.to_string().as_bytes()).await?;
    Ok(())
}

async fn signal(client: &Client, kind: &str, body: &Value) -> Result<Answer> {
    client.post(Service::Orchestrator, &format!("/signals/{kind}"), body).await
}

/// A signal's answer, which has this status.
pub async fn sent(client: &Client, kind: &str, body: &Value, status: u16) -> Result<Value> {
    let answer = signal(client, kind, body).await?;
    ensure!(answer.status == status, "{} {}", answer.status, answer.text);
    answer.json()
}

#[tokio::test]
async fn a_saga_waits_for_a_signal_and_for_progress_and_goes_on_by_them() -> Result<()> {
    let (_standalone, client) = platform(PERMIT).await?;
    let request = client.request(Service::Orchestrator, Method::POST, "/flows/permit");
    let request = request.header("Idempotency-Key", "permit-number-1").json(&json!({"applicant": "ann", "fee": 30}));
    let again = request.try_clone().context("a request")?;
    let waiting = tokio::spawn(async move { Answer::read(request.send().await?).await });
    let file = client.kafka.wait_for("permit.file.command", 1, |_| true).await?[0].json();
    let saga_id = id(&file, "sagaId")?;
    reply(&client, saga_id, "FILE", "permit.filed", json!({"number": "P-1"})).await?;

    // A client that waits for the outcome is answered as soon as the saga waits.
    let answer = waiting.await??;
    ensure!(answer.status == 202 && answer.header("retry-after") == "30", "{} {}", answer.status, answer.text);
    ensure!(answer.json()?["status"] == "WAITING" && answer.json()?["step"] == "APPROVAL", "{}", answer.text);
    let shown = until_at(&client, saga_id, "WAITING", "APPROVAL").await?;
    assert_eq!(shown["pending"]["effect"], "the signal permit.approved P-1");
    ensure!(shown["summary"].to_string().contains("Now it waits for the signal permit.approved P-1 until"), "{shown}");
    let page = client.get(Service::Orchestrator, "/dashboard/flows/permit/1").await?;
    ensure!(page.text.contains("1 here"), "the picture shows who waits: {}", page.text);
    let listed = client.get(Service::Orchestrator, "/sagas?status=waiting&step=APPROVAL").await?.json()?;
    ensure!(listed["sagas"][0]["sagaId"] == json!(saga_id), "{listed}");

    // What is wrong with a signal is named, and stores nothing.
    let unknown = signal(&client, "permit.aproved", &json!({"match": "P-1"})).await?;
    unknown.is_problem(404, &["permit.aproved", "permit.approved, permit.collected"])?;
    for (body, field) in [
        (json!({"match": "P-1", "payload": {}}), "payload.by"),
        (json!({"match": "P-1", "payload": []}), "payload"),
        (json!({"match": "", "payload": {"by": "eve"}}), "match"),
        (json!({"match": "P-1", "id": " ", "payload": {"by": "eve"}}), "id"),
    ] {
        let refused = signal(&client, "permit.approved", &body).await?;
        ensure!(
            refused.status == 422 && refused.json()?["field"] == field,
            "{body}: {} {}",
            refused.status,
            refused.text
        );
    }
    signal(&client, "permit.approved", &json!({"matches": "P-1"})).await?.is_problem(422, &["`matches`"])?;
    let read = client.get(Service::Orchestrator, "/signals/permit.approved/stamp-7").await?;
    read.is_problem(404, &["no such signal"])?;

    // It comes; sent again it is the same; another one under its id is none.
    let stamp = json!({"match": "P-1", "id": "stamp 7/8", "payload": {"by": "eve", "more": 1.50}});
    let elsewhere = sent(&client, "permit.approved", &json!({"match": "P-2", "payload": {"by": "eve"}}), 201).await?;
    ensure!(elsewhere.get("sagaId").is_none(), "{elsewhere}");
    let taken = signal(&client, "permit.approved", &stamp).await?;
    ensure!(taken.status == 201, "{} {}", taken.status, taken.text);
    let location = taken.header("location").to_owned();
    assert_eq!(location, "/signals/permit.approved/stamp%207%2F8");
    let taken = taken.json()?;
    assert_eq!((&taken["sagaId"], &taken["step"]), (&json!(saga_id), &json!("APPROVAL")));
    assert_eq!(sent(&client, "permit.approved", &stamp, 200).await?, taken);
    assert_eq!(client.get(Service::Orchestrator, &location).await?.json()?, taken);
    let other = json!({"match": "P-1", "id": "stamp 7/8", "payload": {"by": "mallory"}});
    signal(&client, "permit.approved", &other).await?.is_problem(409, &["stamp 7/8"])?;

    // Progress: it waits again, each report counts once, and the command stays the same.
    let running = until_at(&client, saga_id, "RUNNING", "CHECK").await?;
    let report = reply(&client, saga_id, "CHECK", "permit.checking", json!({"desk": "12"})).await?;
    let checking = until_at(&client, saga_id, "WAITING", "CHECK").await?;
    assert_eq!(checking["kept"]["CHECK"], json!({"desk": "12"}));
    assert_eq!(checking["pending"]["message"], running["pending"]["message"], "a repetition is the same message");
    ensure!(checking["pending"]["deadlineAt"].as_str() > running["pending"]["deadlineAt"].as_str(), "{checking}");
    reply_with_id(&client, report, saga_id, "CHECK", "permit.checking", json!({"desk": "12"})).await?;
    let repeated = eventually("the report is ignored", LIMIT, async || {
        let saga = saga(&client, saga_id).await?;
        Ok(saga["ignored"].as_array().is_some_and(|ignored| !ignored.is_empty()).then_some(saga))
    })
    .await?;
    let moves = |saga: &Value| saga["history"].as_array().map(Vec::len);
    assert_eq!(moves(&repeated), moves(&checking));
    reply(&client, saga_id, "CHECK", "permit.checked", json!({})).await?;
    let issue = client.kafka.wait_for("permit.issue.command", 1, |_| true).await?[0].json();
    assert_eq!(issue["payload"], json!({"number": "P-1", "by": "eve", "desk": "12"}));
    reply(&client, saga_id, "ISSUE", "permit.issued", json!({})).await?;
    let subject = until_at(&client, saga_id, "WAITING", "PICKUP").await?["orderId"].clone();
    let collected = sent(&client, "permit.collected", &json!({"match": subject}), 201).await?;
    ensure!(collected["sagaId"] == json!(saga_id), "{collected}");
    let ended = client.end_of(&format!("/sagas/{saga_id}"), LIMIT).await?;
    let statuses: Vec<&str> =
        ended["history"].as_array().into_iter().flatten().filter_map(|e| e["status"].as_str()).collect();
    assert_eq!(statuses, ["RUNNING", "WAITING", "RUNNING", "WAITING", "RUNNING", "WAITING", "COMPLETED"]);
    let answer = Answer::read(again.send().await?).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    assert_eq!(answer.json()?["result"], json!({"number": "P-1", "approvedBy": "eve", "collectedAt": null}));
    Ok(())
}

#[tokio::test]
async fn a_signal_that_comes_early_or_while_nobody_runs_is_found_and_moves_one_saga_once() -> Result<()> {
    // Both wait for the same: what the applicant is called.
    let flow = PERMIT.replace("match: $FILE.number", "match: $start.owner");
    let (mut standalone, client) = platform(&flow).await?;
    let (first, second) = (begin(&client, "ann").await?, begin(&client, "ann").await?);
    let early = json!({"match": "ann", "id": "early", "payload": {"by": "eve"}});
    let stored = sent(&client, "permit.approved", &early, 201).await?;
    ensure!(stored.get("sagaId").is_none(), "{stored}");
    until_at(&client, second, "RUNNING", "FILE").await?;
    standalone.kill();
    standalone.start_again().await?;
    let client = standalone.client()?;

    // The second waits first, and takes it; the first one waits on.
    reply(&client, second, "FILE", "permit.filed", json!({"number": "P-2"})).await?;
    until_at(&client, second, "RUNNING", "CHECK").await?;
    reply(&client, first, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, first, "WAITING", "APPROVAL").await?;
    let taken = sent(&client, "permit.approved", &early, 200).await?;
    ensure!(taken["sagaId"] == json!(second), "{taken}");

    // One that was stored by a process that died before it offered it: the next start brings both together.
    sqlx::query(
        "INSERT INTO signals (signal_id, kind, id, match, payload)
         VALUES (gen_random_uuid(), 'permit.approved', 'unfit', 'ann', '{}'),
                (gen_random_uuid(), 'permit.approved', 'left', 'ann', '{\"by\": \"bob\"}')",
    )
    .execute(&client.databases.orchestrator)
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    until_at(&client, first, "WAITING", "APPROVAL").await?;
    standalone.kill();
    standalone.start_again().await?;
    let client = standalone.client()?;
    let moved = until_at(&client, first, "RUNNING", "CHECK").await?;
    assert_eq!(moved["kept"]["APPROVAL"], json!({"by": "bob"}), "one that can't be read is left");
    let left = client.get(Service::Orchestrator, "/signals/permit.approved/left").await?.json()?;
    ensure!(left["sagaId"] == json!(first), "{left}");
    let unfit = client.get(Service::Orchestrator, "/signals/permit.approved/unfit").await?.json()?;
    ensure!(unfit.get("sagaId").is_none(), "{unfit}");

    // Two signals at once, of one match, and two sagas: each moves one.
    let (third, fourth) = (begin(&client, "tom").await?, begin(&client, "tom").await?);
    for saga_id in [third, fourth] {
        reply(&client, saga_id, "FILE", "permit.filed", json!({"number": "P-3"})).await?;
        until_at(&client, saga_id, "WAITING", "APPROVAL").await?;
    }
    let one = json!({"match": "tom", "id": "one", "payload": {"by": "eve"}});
    let other = json!({"match": "tom", "id": "other", "payload": {"by": "bob"}});
    let both = tokio::join!(signal(&client, "permit.approved", &one), signal(&client, "permit.approved", &other));
    ensure!((both.0?.status, both.1?.status) == (201, 201));
    for saga_id in [third, fourth] {
        until_at(&client, saga_id, "RUNNING", "CHECK").await?;
    }
    let by: Vec<String> = sqlx::query_scalar(
        "SELECT kept->'APPROVAL'->>'by' FROM sagas WHERE user_id = 'tom' ORDER BY kept->'APPROVAL'->>'by'",
    )
    .fetch_all(&client.databases.orchestrator)
    .await?;
    assert_eq!(by, ["bob", "eve"]);
    Ok(())
}

#[tokio::test]
async fn a_wait_that_lasts_too_long_turns_back_or_calls_a_person_or_goes_on() -> Result<()> {
    let flow = PERMIT.replacen("within: 1h\n    late: { undo", "within: 2s\n    late: { undo", 1);
    let flow = flow.replace("within: 1h\n    late: attention", "within: 2s\n    late: attention");
    let (_standalone, client) = platform(&flow).await?;
    let undone = begin(&client, "ann").await?;
    reply(&client, undone, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, undone, "COMPENSATING", "WITHDRAW").await?;
    reply(&client, undone, "WITHDRAW", "permit.withdrawn", json!({})).await?;
    let ended = client.end_of(&format!("/sagas/{undone}"), LIMIT).await?;
    ensure!(ended["step"] == "NOT_APPROVED" && ended["reason"] == "no permit.approved in time", "{ended}");
    ensure!(ended["summary"].to_string().contains("APPROVAL waited in vain for permit.approved"), "{ended}");

    // Behind the pivot a person is called, and the signal still counts.
    let late = begin(&client, "bob").await?;
    let approved = json!({"match": "P-2", "payload": {"by": "eve"}});
    sent(&client, "permit.approved", &approved, 201).await?;
    reply(&client, late, "FILE", "permit.filed", json!({"number": "P-2"})).await?;
    reply(&client, late, "CHECK", "permit.checked", json!({})).await?;
    reply(&client, late, "ISSUE", "permit.issued", json!({})).await?;
    let shown = eventually("it needs attention", LIMIT, async || {
        let saga = saga(&client, late).await?;
        Ok((!saga["needsAttention"].is_null()).then_some(saga))
    })
    .await?;
    assert_eq!(shown["needsAttention"]["reason"], "no permit.collected in time");
    assert_eq!((&shown["status"], &shown["pending"]["deadlineAt"]), (&json!("WAITING"), &Value::Null));
    let metrics = client.get(Service::Orchestrator, "/metrics").await?.text;
    ensure!(metrics.lines().any(|line| line == "sagas_needing_attention 1"), "{metrics}");
    ensure!(!metrics.contains("status=\"waiting\""), "who waits is not counted at each scrape");
    let looked = client.get(Service::Orchestrator, "/sagas?needsAttention=true").await?.json()?;
    ensure!(looked["sagas"][0]["sagaId"] == json!(late), "{looked}");
    sent(&client, "permit.collected", &json!({"match": shown["orderId"], "payload": {"office": "north"}}), 201).await?;
    let ended = client.end_of(&format!("/sagas/{late}"), LIMIT).await?;
    ensure!(ended["status"] == "COMPLETED" && ended["needsAttention"].is_null(), "{ended}");

    // Another version goes on without.
    let next = flow.replace("version: 1", "version: 2").replace("late: attention", "late: go_on");
    let published = client.publish_flow(&next).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    let without = begin(&client, "tom").await?;
    sent(&client, "permit.approved", &json!({"match": "P-3", "payload": {"by": "eve"}}), 201).await?;
    reply(&client, without, "FILE", "permit.filed", json!({"number": "P-3"})).await?;
    reply(&client, without, "CHECK", "permit.checked", json!({})).await?;
    reply(&client, without, "ISSUE", "permit.issued", json!({})).await?;
    let ended = client.end_of(&format!("/sagas/{without}"), LIMIT).await?;
    ensure!(ended["status"] == "COMPLETED", "{ended}");
    ensure!(ended["summary"].to_string().contains("no permit.collected in time: it goes on without"), "{ended}");

    // What may live longer than what has ended is kept is not published.
    let long = next.replace("version: 2", "version: 3").replacen("within: 2s", "within: 90d", 1);
    let standalone = Standalone::start(&[("RETENTION_DAYS", "30")]).await?;
    let refused = standalone.client()?.publish_flow(&long).await?;
    refused.is_problem(422, &["breaks 1 rules"])?;
    ensure!(refused.text.contains("RETENTION_DAYS keeps 30.0"), "{}", refused.text);
    Ok(())
}

#[tokio::test]
async fn an_operator_cancels_a_saga_that_waits_and_has_another_look_again() -> Result<()> {
    let (_standalone, client) = platform(PERMIT).await?;
    let act = json!({"by": "ann", "reason": "a test"});
    let act = |saga_id: Uuid, what: &'static str| {
        let (client, act, path) = (client.clone(), act.clone(), format!("/sagas/{saga_id}/{what}"));
        async move { client.post(Service::Orchestrator, &path, &act).await }
    };
    let cancelled = begin(&client, "ann").await?;
    reply(&client, cancelled, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    until_at(&client, cancelled, "WAITING", "APPROVAL").await?;
    ensure!(act(cancelled, "cancel").await?.status == 202);
    reply(&client, cancelled, "WITHDRAW", "permit.withdrawn", json!({})).await?;
    ensure!(client.end_of(&format!("/sagas/{cancelled}"), LIMIT).await?["step"] == "CANCELLED");
    let unheard = sent(&client, "permit.approved", &json!({"match": "P-1", "payload": {"by": "eve"}}), 201).await?;
    ensure!(unheard.get("sagaId").is_none(), "{unheard}");

    let looks = begin(&client, "bob").await?;
    reply(&client, looks, "FILE", "permit.filed", json!({"number": "P-2"})).await?;
    until_at(&client, looks, "WAITING", "APPROVAL").await?;
    sqlx::query(
        "INSERT INTO signals (signal_id, kind, id, match, payload)
         VALUES (gen_random_uuid(), 'permit.approved', 'left', 'P-2', '{\"by\": \"bob\"}')",
    )
    .execute(&client.databases.orchestrator)
    .await?;
    ensure!(act(looks, "retry").await?.status == 202);
    until_at(&client, looks, "RUNNING", "CHECK").await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_before_the_end_is_given_again_byte_for_byte_whatever_becomes_of_the_saga() -> Result<()> {
    let flow = PERMIT.replacen("  after: PICKUP\n", "  after: CHECK\n  final: false\n", 1);
    let flow = flow.replacen(", collectedAt: \"$PICKUP.office?\"", "", 1);
    let flow = flow.replacen("pivot: ISSUE", "pivot: ISSUE\nreach_answer_within: 30s", 1);
    let refused =
        "    done: permit.issued\n    refused: { permit.refused: { cause: REFUSED, reason: $reply.reason } }\n";
    let (mut standalone, client) = platform(&flow.replacen("    done: permit.issued\n", refused, 1)).await?;
    let ask = |client: &Client| {
        let request = client.request(Service::Orchestrator, Method::POST, "/flows/permit");
        let request =
            request.header("Idempotency-Key", "permit-number-1").json(&json!({"applicant": "ann", "fee": 30}));
        async move { Answer::read(request.send().await?).await }
    };
    let first = ask(&client);
    let first = tokio::spawn(first);
    let file = client.kafka.wait_for("permit.file.command", 1, |_| true).await?[0].json();
    let saga_id = id(&file, "sagaId")?;
    reply(&client, saga_id, "FILE", "permit.filed", json!({"number": "P-1"})).await?;
    // Before the answer: how far it is.
    let waiting = first.await??;
    ensure!(waiting.status == 202 && waiting.json()?["final"] == false, "{} {}", waiting.status, waiting.text);
    // It waits longer than the saga has to its answer: that is not counted.
    sqlx::query("UPDATE sagas SET updated_at = updated_at - interval '1 h', expires_at = expires_at - interval '1 h'")
        .execute(&client.databases.orchestrator)
        .await?;
    sent(&client, "permit.approved", &json!({"match": "P-1", "payload": {"by": "eve"}}), 201).await?;
    let checking = until_at(&client, saga_id, "RUNNING", "CHECK").await?;
    ensure!(checking["pending"]["deadlineAt"].as_str() > checking["updatedAt"].as_str(), "{checking}");

    let again = tokio::spawn(ask(&client));
    reply(&client, saga_id, "CHECK", "permit.checked", json!({})).await?;
    let answer = again.await??;
    ensure!(
        answer.status == 200 && answer.header("idempotent-replayed") == "true",
        "{} {}",
        answer.status,
        answer.text
    );
    let body = answer.json()?;
    assert_eq!((&body["status"], &body["step"], &body["final"]), (&json!("RUNNING"), &json!("ISSUE"), &json!(false)));
    assert_eq!(body["result"], json!({"number": "P-1", "approvedBy": "eve"}));

    reply(&client, saga_id, "ISSUE", "permit.refused", json!({"reason": "a tree stands there"})).await?;
    reply(&client, saga_id, "WITHDRAW", "permit.withdrawn", json!({})).await?;
    let ended = client.end_of(&format!("/sagas/{saga_id}"), LIMIT).await?;
    assert_eq!((&ended["status"], &ended["step"]), (&json!("FAILED"), &json!("REFUSED")));
    assert_eq!((&ended["answer"]["status"], &ended["answer"]["body"]), (&json!(200), &body));
    ensure!(ended["summary"].to_string().contains("The answer to its client is 200 ("), "{ended}");
    standalone.kill();
    standalone.start_again().await?;
    let replayed = ask(&standalone.client()?).await?;
    assert_eq!((replayed.status, replayed.text), (200, answer.text));
    Ok(())
}
