//! What can be seen of sagas: lists, one saga, the other services' rows, figures, streams of moves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, id, shared};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(15);

async fn get(client: &Client, path: &str) -> Result<Answer> {
    client.get(Service::Orchestrator, path).await
}

/// The ids of a page of sagas, and where the next page begins.
async fn page(client: &Client, query: &str) -> Result<(Vec<Uuid>, Value)> {
    let answer = get(client, &format!("/sagas?{query}")).await?;
    ensure!(answer.status == 200, "{query}: {} {}", answer.status, answer.text);
    let body = answer.json()?;
    let sagas = body["sagas"].as_array().context("sagas")?;
    Ok((sagas.iter().map(|saga| id(saga, "sagaId")).collect::<Result<_>>()?, body["next"].clone()))
}

/// A user that no other test knows.
fn stranger() -> String {
    format!("user-{}", Uuid::now_v7())
}

/// An open stream of events.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(client: &Client, path: &str, last_event_id: Option<&str>) -> Result<Self> {
        let mut request = client.request(Service::Orchestrator, Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        ensure!(response.headers()["content-type"] == "text/event-stream", "{:?}", response.headers());
        Ok(Self { response, text: String::new() })
    }

    /// Reads on until `enough` of what has come.
    async fn read_until(&mut self, enough: impl Fn(&str) -> bool) -> Result<()> {
        let reading = async {
            while !enough(&self.text) {
                let chunk = self.response.chunk().await?.context("the stream has ended")?;
                self.text += std::str::from_utf8(&chunk)?;
            }
            anyhow::Ok(())
        };
        let read = timeout(SOON, reading).await;
        read.with_context(|| format!("not enough came: {}", self.text))?.with_context(|| self.text.clone())
    }

    /// Reads to the end of the stream.
    async fn rest(mut self) -> Result<String> {
        let reading = async {
            while let Some(chunk) = self.response.chunk().await? {
                self.text += std::str::from_utf8(&chunk)?;
            }
            anyhow::Ok(self.text)
        };
        timeout(SOON, reading).await.context("the stream does not end")?
    }
}

/// What the services have stored, once these have answered: one that is slow is told as one that is away.
async fn rows(client: &Client, saga_id: Uuid, services: &[&str]) -> Result<Value> {
    e2e_tests::eventually("the services have answered", SOON, async || {
        let rows = get(client, &format!("/sagas/{saga_id}/rows")).await?.json()?;
        Ok(services.iter().all(|service| rows[*service]["error"].is_null()).then_some(rows))
    })
    .await
}

/// The values of a field of each event's data.
fn data(text: &str, field: &str) -> Result<Vec<Value>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|line| Ok(serde_json::from_str::<Value>(line)?[field].clone())).collect()
}

#[tokio::test]
async fn who_has_read_a_stream_to_its_sagas_end_is_told_not_to_come_again() -> Result<()> {
    let client = shared().await?;
    let saga = client.checkout(&json!({"userId": stranger(), "totalAmount": 500})).await?.json()?;
    let path = format!("/sagas/{}/events", id(&saga, "sagaId")?);
    let all = Events::open(&client, &path, None).await?.rest().await?;
    let last: u32 =
        all.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().context("it has events")?.parse()?;

    let request = client.request(Service::Orchestrator, Method::GET, &path).header("Last-Event-ID", last.to_string());
    let again = Answer::read(request.send().await?).await?;

    // An EventSource that gets 200 connects again for ever.
    assert_eq!((again.status, again.text.as_str()), (204, ""));
    let missed = Events::open(&client, &path, Some(&(last - 1).to_string())).await?.rest().await?;
    assert_eq!(data(&missed, "seq")?, [json!(last)], "what was not read yet still comes");
    Ok(())
}

#[tokio::test]
async fn sagas_are_listed_newest_first_page_by_page_and_by_what_is_known_of_them() -> Result<()> {
    let client = shared().await?;
    let user = stranger();
    let mut sagas = Vec::new();
    for forced in [json!({}), json!({"forcePaymentFail": true}), json!({"forceInventoryFail": true})] {
        let mut body = json!({"userId": user, "totalAmount": "500.50"});
        body.as_object_mut().context("an object")?.extend(forced.as_object().cloned().unwrap_or_default());
        sagas.push(client.checkout(&body).await?.json()?);
    }
    let ids: Vec<Uuid> = sagas.iter().map(|saga| id(saga, "sagaId")).collect::<Result<_>>()?;

    let (first, next) = page(&client, &format!("userId={user}&limit=2")).await?;
    assert_eq!(first, [ids[2], ids[1]]);
    let next = next.as_str().context("there is another page")?;
    assert_eq!(page(&client, &format!("userId={user}&limit=2&before={next}")).await?, (vec![ids[0]], Value::Null));

    for (query, expected) in [
        ("status=COMPLETED".to_owned(), vec![ids[0]]),
        ("status=failed".to_owned(), vec![ids[2], ids[1]]),
        ("status=COMPLETED,FAILED".to_owned(), vec![ids[2], ids[1], ids[0]]),
        ("step=INVENTORY_FAILED".to_owned(), vec![ids[2]]),
        ("status=RUNNING".to_owned(), vec![]),
        ("needsAttention=true".to_owned(), vec![]),
        (format!("orderId={}", id(&sagas[1], "orderId")?), vec![ids[1]]),
        (format!("since={}", sagas[1]["createdAt"].as_str().context("a time")?), vec![ids[2], ids[1]]),
        (format!("until={}", sagas[1]["createdAt"].as_str().context("a time")?), vec![ids[0]]),
    ] {
        assert_eq!(page(&client, &format!("userId={user}&{query}")).await?.0, expected, "{query}");
    }
    let listed = get(&client, &format!("/sagas?userId={user}&step=INVENTORY_FAILED")).await?;
    assert!(listed.text.contains(r#""totalAmount":500.50"#), "{}", listed.text);
    get(&client, "/sagas?step=NOWHERE").await?.is_problem(400, &["step", "PAYMENT_CHARGE"])?;
    get(&client, "/sagas?stauts=FAILED").await?.is_problem(400, &["stauts"])
}

#[tokio::test]
async fn a_saga_tells_what_was_sent_when_and_what_the_other_services_have_stored() -> Result<()> {
    let client = shared().await?;
    let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 500, "forceInventoryFail": true})).await?;
    let saga_id = id(&answer.json()?, "sagaId")?;

    let saga = client.saga(saga_id).await?;
    let history = saga["history"].as_array().context("a history")?;
    let effects: Vec<_> = history.iter().map(|entry| entry["effect"].as_str().unwrap_or_default()).collect();
    let order = |what: &str| format!("PATCH /orders/{}/status {what}", saga["orderId"].as_str().unwrap_or_default());
    let expected = [
        "POST /orders",
        "payment.charge.command",
        "inventory.reserve.command",
        "payment.refund.command",
        &order("CANCELLED"),
        "",
    ];
    assert_eq!(effects, expected);
    assert!(history[1]["commandId"].is_string() && history[2]["eventId"].is_string(), "{saga}");
    assert!(history[1]["durationMs"].as_f64() > Some(0.0) && history[5]["durationMs"].is_null(), "{saga}");
    assert!(saga["pending"].is_null() && saga["durationMs"].as_f64() > Some(0.0), "{saga}");

    let rows = rows(&client, saga_id, &["order", "payment", "reservation"]).await?;
    let status = |service: &str| rows[service]["row"]["status"].clone();
    assert_eq!([status("order"), status("payment"), status("reservation")], ["CANCELLED", "REFUNDED", "FAILED"]);
    let ledger = rows["payment"]["row"]["ledger"].as_array().context("a ledger")?;
    let kinds: Vec<_> = ledger.iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, ["CHARGE", "REFUND"]);
    for path in ["/sagas/7/rows", "/sagas/7/events"] {
        get(&client, path).await?.is_problem(400, &["not a saga id"])?;
    }
    let unknown = Uuid::now_v7();
    for path in [format!("/sagas/{unknown}/rows"), format!("/sagas/{unknown}/events")] {
        get(&client, &path).await?.is_problem(404, &["there is no saga"])?;
    }
    client.get(Service::Payment, &format!("/payments/{unknown}")).await?.is_problem(404, &["no payment"])?;
    client.get(Service::Inventory, &format!("/reservations/{unknown}")).await?.is_problem(404, &["no reservation"])
}

#[tokio::test]
async fn a_saga_that_waits_tells_what_is_pending_and_a_service_that_is_away_is_told_as_such() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    services.kill(Service::Payment)?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let saga_id = id(&client.checkout_async(&body).await?.json()?, "sagaId")?;
    let at_charge = async || {
        let saga = client.saga(saga_id).await?;
        Ok((saga["step"] == "PAYMENT_CHARGE").then_some(saga))
    };
    let saga = e2e_tests::eventually("the charge is pending", SOON, at_charge).await?;

    let pending = &saga["pending"];
    assert_eq!(pending["effect"], "payment.charge.command");
    assert_eq!(pending["commandId"], pending["message"]["eventId"], "{pending}");
    assert!(pending["nextAttemptAt"].is_string() && pending["deadlineAt"].is_string(), "{pending}");
    let rows = rows(&client, saga_id, &["order", "reservation"]).await?;
    assert_eq!(rows["order"]["row"]["status"], "PENDING");
    assert!(rows["payment"]["error"].is_string() && rows["payment"]["row"].is_null(), "{rows}");
    assert!(rows["reservation"]["error"].is_null() && rows["reservation"]["row"].is_null(), "{rows}");
    let stats = get(&client, "/stats").await?.json()?;
    let standing = stats["unfinished"].as_array().context("steps")?;
    assert!(standing.iter().any(|at| at["step"] == "PAYMENT_CHARGE" && at["sagas"] == 1), "{stats}");

    let mut events = Events::open(&client, &format!("/sagas/{saga_id}/events"), None).await?;
    events.read_until(|text| text.contains("order.created")).await?;
    services.start_again(Service::Payment).await?;
    let text = events.rest().await?;
    let expected = ["started", "order.created", "payment.charged", "inventory.reserved", "order.confirmed"];
    assert_eq!(data(&text, "input")?, expected);
    let resumed = Events::open(&client, &format!("/sagas/{saga_id}/events"), Some("3")).await?.rest().await?;
    assert_eq!(data(&resumed, "seq")?, [4, 5]);
    Ok(())
}

#[tokio::test]
async fn the_stream_of_all_tells_each_move_of_each_saga_once() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let mut events = Events::open(&client, "/events", None).await?;
    events.read_until(|text| text.contains("retry:")).await?;

    for answer in client.checkouts(5).join_all().await {
        assert_eq!(answer?.status, 200);
    }
    events.read_until(|text| text.matches("order.confirmed").count() == 5).await?;
    // Each of the five makes five moves.
    let mut moves = data(&events.text, "sagaId")?.into_iter().zip(data(&events.text, "seq")?).collect::<Vec<_>>();
    assert_eq!(moves.len(), 25, "{}", events.text);
    moves.sort_by_key(|(saga, seq)| (saga.to_string(), seq.as_i64()));
    moves.dedup();
    assert_eq!(moves.len(), 25, "{}", events.text);

    let stats = get(&client, "/stats?minutes=1").await?.json()?;
    assert_eq!(stats["recent"]["outcomes"], json!({"COMPLETED": 5}), "{stats}");
    assert!(stats["recent"]["duration"]["p50Ms"].as_f64() > Some(0.0), "{stats}");
    get(&client, "/stats?minutes=0").await?.is_problem(400, &["minutes"])?;
    let not_an_id = client.request(Service::Orchestrator, Method::GET, "/events").header("Last-Event-ID", "x");
    Answer::read(not_an_id.send().await?).await?.is_problem(400, &["Last-Event-ID"])
}

/// A move that changes an indexed column has a new entry put in every index of the table: docs/growth.md.
#[tokio::test]
async fn no_index_of_sagas_is_on_what_each_move_changes() -> Result<()> {
    let client = shared().await?;
    let pool = sqlx::PgPool::connect(&client.database_url(Service::Orchestrator)?).await?;
    let indexed: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT attname::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
         WHERE indrelid = 'sagas'::regclass ORDER BY 1",
    )
    .fetch_all(&pool)
    .await?;
    let set_once = [
        "cause",
        "created_at",
        "definition",
        "idempotency_key",
        "needs_attention_since",
        "order_id",
        "saga_id",
        "user_id",
    ];
    // Where it changes is told in the migration that made it.
    let seldom = ["awaits", "sweep_at"];
    let unexpected: Vec<_> =
        indexed.iter().filter(|c| !set_once.contains(&&***c) && !seldom.contains(&&***c)).collect();
    assert!(indexed.len() > 5 && unexpected.is_empty(), "{indexed:?}");
    Ok(())
}

#[tokio::test]
async fn too_many_streams_are_refused_and_an_ended_one_makes_room() -> Result<()> {
    let services = Services::start(&[("EVENT_STREAMS_MAX", "1")]).await?;
    let client = services.client()?;
    let first = Events::open(&client, "/events", None).await?;
    get(&client, "/events").await?.is_problem(503, &["EVENT_STREAMS_MAX"])?;
    drop(first);
    let opens = async || Ok(Events::open(&client, "/events", None).await.ok());
    e2e_tests::eventually("there is room again", SOON, opens).await?;
    Ok(())
}
