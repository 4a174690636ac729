//! `sagactl audit`: silent about a platform that is right, also while it works; and it names the order of each fault
//! that somebody's SQL has planted.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Ran, Service, Services, Standalone, eventually};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

/// Nothing moves: what looks wrong need not be looked at again.
const AT_REST: [&str; 5] = ["audit", "--grace", "0s", "--recheck", "0s"];

const MIXED: [(&str, &str); 2] = [("PAYMENT_FAILURE_RATE", "0.25"), ("INVENTORY_FAILURE_RATE", "0.35")];

async fn run(pool: &PgPool, sql: impl Into<String>) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(pool).await?;
    Ok(())
}

/// The report of a run that has found something.
async fn violated(client: &Client) -> Result<Value> {
    let ran = client.sagactl(&[&AT_REST[..], &["--json"]].concat()).await?;
    ensure!(ran.code == 1, "expected exit code 1: {ran:?}");
    ran.json()
}

/// The orders that the report names for an invariant.
fn named<'a>(report: &'a Value, invariant: &str) -> Vec<&'a Value> {
    let violated = report["violated"].as_array().into_iter().flatten();
    let of_invariant = violated.filter(|violated| violated["invariant"] == invariant);
    of_invariant.flat_map(|violated| violated["first"].as_array().into_iter().flatten()).collect()
}

/// A new order that was paid, reserved and confirmed, and its saga.
async fn completed(client: &Client) -> Result<(Uuid, Uuid)> {
    let answer = client.checkout(&json!({"userId": "audited", "totalAmount": 5})).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    Ok((answer.field("orderId")?.parse()?, answer.field("sagaId")?.parse()?))
}

/// A fault: in which database, the SQL that plants it, the invariant that it violates, and what is at risk.
struct Fault {
    database: Service,
    sql: &'static str,
    invariant: &'static str,
    at_risk: Value,
}

/// In the SQL `$order` and `$saga` stand for the ids.
fn faults() -> Vec<Fault> {
    let fault = |database, sql, invariant, at_risk| Fault { database, sql, invariant, at_risk };
    vec![
        fault(
            Service::Payment,
            "INSERT INTO gateway_ledger (idempotency_key, order_id, kind, amount, currency)
             VALUES ('$order:charge:2', '$order', 'CHARGE', 5, 'USD')",
            "money_moves_once",
            json!({"USD": "5"}),
        ),
        fault(
            Service::Payment,
            "INSERT INTO gateway_ledger (idempotency_key, order_id, kind, amount, currency)
             VALUES ('$order:refund', '$order', 'REFUND', 7, 'USD')",
            "money_moves_once",
            json!({"USD": "2"}),
        ),
        fault(
            Service::Order,
            "UPDATE orders SET status = 'PENDING' WHERE order_id = '$order'",
            "ends_agree",
            json!({"USD": "5"}),
        ),
        fault(
            Service::Inventory,
            "DELETE FROM reservations WHERE order_id = '$order'",
            "ends_agree",
            json!({"USD": "5"}),
        ),
        fault(
            Service::Payment,
            "UPDATE payments SET amount = 6 WHERE order_id = '$order'",
            "amounts_agree",
            json!({"USD": "1"}),
        ),
        fault(
            Service::Payment,
            "UPDATE payments SET status = 'VOIDED' WHERE order_id = '$order'",
            "tombstones_hold",
            json!({"USD": "5"}),
        ),
        fault(Service::Payment, "DELETE FROM gateway_requests WHERE order_id = '$order'", "gateway_agrees", json!({})),
        fault(
            Service::Orchestrator,
            "DELETE FROM saga_events WHERE saga_id = '$saga' AND seq = 3",
            "history_is_whole",
            json!({}),
        ),
        fault(
            Service::Orchestrator,
            "UPDATE sagas SET status = 'RUNNING', step = 'ORDER_CONFIRM', next_attempt_at = now() + interval '1 day'
             WHERE saga_id = '$saga'",
            "every_saga_ends",
            json!({"USD": "5"}),
        ),
        // The other direction: what no saga knows of.
        fault(
            Service::Orchestrator,
            "DELETE FROM sagas WHERE saga_id = '$saga'",
            "all_know_the_saga",
            json!({"USD": "5"}),
        ),
    ]
}

#[tokio::test]
async fn a_platform_after_mixed_checkouts_passes_and_each_planted_fault_is_named_with_its_order() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    client.checkouts(20).join_all().await;
    for fail in ["forcePaymentFail", "forceInventoryFail"] {
        client.checkout(&json!({"userId": "audited", "totalAmount": 7, fail: true})).await?;
    }
    let ran = client.sagactl(&AT_REST).await?;
    ensure!(ran.code == 0 && ran.stdout.contains("all 10 invariants hold"), "{ran:?}");

    let mut planted = Vec::new();
    for fault in faults() {
        let (order_id, saga_id) = completed(&client).await?;
        let sql = fault.sql.replace("$order", &order_id.to_string()).replace("$saga", &saga_id.to_string());
        run(client.databases.of(fault.database), sql).await?;
        planted.push((order_id.to_string(), fault));
    }
    // A payment of nobody, with nothing else about it.
    let orphan = Uuid::now_v7();
    let sql = format!(
        "INSERT INTO payments (order_id, saga_id, amount, currency, status, force_fail, created_at, updated_at)
         VALUES ('{orphan}', gen_random_uuid(), 5, 'USD', 'CHARGING', false, now(), now())"
    );
    run(&client.databases.payment, sql).await?;
    // Pieces from nowhere, a movement that nobody made, and goods that are held for an order behind the product's back.
    let goods = |sku: &str| json!({"userId": "audited", "totalAmount": 5, "items": [{"sku": sku, "qty": 2}]});
    let mut counted = Vec::new();
    for sku in ["blue-mug", "poster", "teapot"] {
        let answer = client.checkout(&goods(sku)).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        counted.push(answer.field("orderId")?);
    }
    let stock = "UPDATE products SET available = available + 1 WHERE sku = 'blue-mug';
                 DELETE FROM stock_movements WHERE sku = 'poster' AND kind = 'COMMIT';
                 UPDATE reservations SET holds = true
                 WHERE order_id IN (SELECT order_id FROM reservation_items WHERE sku = 'teapot')";
    run(client.databases.of(Service::Inventory), stock).await?;

    let report = violated(&client).await?;
    let astray: Vec<&Value> = named(&report, "stock_is_conserved").iter().map(|item| &item["sku"]).collect();
    assert_eq!(astray, ["blue-mug", "poster", "teapot"], "{report}");
    let poster = named(&report, "ends_agree").into_iter().find(|item| item["order_id"] == counted[1].as_str());
    let what = poster.context("an order whose goods never left is named")?["what"].to_string();
    ensure!(what.contains("its order is of 2 x poster, handed over were nothing"), "{what}");
    for (order_id, fault) in &planted {
        let of_order = named(&report, fault.invariant).into_iter().find(|item| item["order_id"] == json!(order_id));
        let found = of_order.with_context(|| format!("{} is not named for {order_id}: {report}", fault.invariant))?;
        ensure!(found["at_risk"] == fault.at_risk, "{}: {found}", fault.sql);
    }
    let unknown = named(&report, "all_know_the_saga");
    ensure!(unknown.iter().any(|item| item["order_id"] == json!(orphan.to_string())), "{report}");

    // Two orders of one idempotency key, once nothing forbids them any more.
    let sharing = [completed(&client).await?.0, completed(&client).await?.0];
    let [one, other] = sharing;
    let sql = format!(
        "DROP INDEX sagas_by_idempotency_key;
         UPDATE sagas SET idempotency_key = 'once' WHERE order_id IN ('{one}', '{other}')"
    );
    run(&client.databases.orchestrator, sql).await?;
    let report = violated(&client).await?;
    let named_for_key: Vec<&Value> = named(&report, "one_order_per_key").iter().map(|item| &item["order_id"]).collect();
    ensure!(sharing.iter().all(|order_id| named_for_key.contains(&&json!(order_id))), "{report}");

    // Nothing else is named, and the text names them as well.
    let text = client.sagactl(&AT_REST).await?;
    let known: Vec<String> = planted
        .into_iter()
        .map(|(order_id, _)| order_id)
        .chain([orphan, one, other].map(|id| id.to_string()))
        .chain(counted)
        .collect();
    for violated in report["violated"].as_array().into_iter().flatten() {
        for item in violated["first"].as_array().into_iter().flatten() {
            let Some(order_id) = item["order_id"].as_str() else { continue };
            ensure!(known.iter().any(|known| known == order_id), "{order_id} is right: {violated}");
            ensure!(text.stdout.contains(order_id), "{order_id} is not in the text: {}", text.stdout);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_needs_no_right_but_select() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    completed(&client).await?;
    let mut urls = Vec::new();
    for service in Service::ALL {
        // An embedded server lets in its service's role only, and only its superuser makes another.
        let server = services.database(service)?;
        server.stop().await;
        let sql = "CREATE ROLE auditor LOGIN PASSWORD 'auditor';\n\n\
                   GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor;\n\n";
        server.administer(sql).await?;
        let hba = services.data_dir().join(service.database()).join("pg_hba.conf");
        let mut hba = std::fs::File::options().append(true).open(hba)?;
        hba.write_all(b"host all auditor 127.0.0.1/32 scram-sha-256\n")?;
        server.start().await?;
        let (_, place) = client
            .database_url(service)?
            .split_once('@')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .context("a URL")?;
        urls.push((
            format!("{}_DATABASE_URL", service.database().to_uppercase()),
            format!("postgres://auditor:auditor@{place}"),
        ));
    }
    let urls: Vec<(&str, &str)> = urls.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();

    let ran = client.sagactl_with(&AT_REST, &urls).await?;

    ensure!(ran.code == 0 && ran.stdout.contains("1 sagas (1 COMPLETED"), "{ran:?}");
    // That role is really all it has.
    let url = urls.iter().map(|(_, url)| url).next().context("four URLs")?;
    let refused = run(&PgPool::connect(url).await?, "UPDATE orders SET status = status").await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("permission denied")), "it may write");
    Ok(())
}

/// Makes what has ended a day older, as if it had stood there for long: so it is judged at once, while the others run. A
/// grace that this test could wait for is no limit for a checkout on a busy machine, where thirty at a time wait for one
/// another.
async fn age_what_has_ended(client: &Client) -> Result<()> {
    let sql = "UPDATE sagas SET updated_at = updated_at - interval '1 day'
               WHERE status IN ('COMPLETED', 'FAILED') AND updated_at > now() - interval '12 hours'";
    run(&client.databases.orchestrator, sql).await
}

/// What a person would look at first: how the sagas that the report names got where they are, and which consumers were made
/// anew meanwhile.
async fn why(client: &Client, ran: &Ran) -> Result<String> {
    let report = ran.json().unwrap_or_default();
    let violated = report["violated"].as_array().into_iter().flatten();
    let orders = violated.flat_map(|violated| violated["first"].as_array().into_iter().flatten());
    let orders = orders.filter_map(|item| item["order_id"].as_str()?.parse().ok()).take(5).collect::<Vec<Uuid>>();
    let sql = "SELECT order_id || ' ' || string_agg(e.at::time || ' ' || e.status || '/' || e.step, ', ' ORDER BY seq)
               FROM sagas JOIN saga_events e USING (saga_id) WHERE order_id = ANY($1) GROUP BY order_id";
    let histories: Vec<String> = sqlx::query_scalar(sql).bind(orders).fetch_all(&client.databases.orchestrator).await?;
    let log = client.log();
    let renewals = log.lines().filter(|line| line.contains("is made anew") || line.contains("no Kafka broker"));
    Ok(format!("{histories:#?}; {:#?}", renewals.collect::<Vec<_>>()))
}

#[tokio::test]
async fn an_audit_beside_running_checkouts_never_takes_one_in_flight_for_a_fault() -> Result<()> {
    // No saga stands for longer than this.
    const GRACE: &str = "10m";
    let settings = [&MIXED[..], &[("PAYMENT_PROCESSING_MS", "300"), ("INVENTORY_PROCESSING_MS", "200")]].concat();
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let (began, mut waves, mut judged, mut in_flight) = (Instant::now(), VecDeque::new(), 0, 0);
    let has_seen_both = |judged: u64, in_flight: u64| judged > 0 && in_flight > 0;
    // On a busy machine it takes longer until the first ones have ended.
    let until = |judged, in_flight| Duration::from_secs(if has_seen_both(judged, in_flight) { 16 } else { 90 });
    while began.elapsed() < until(judged, in_flight) {
        waves.push_back(client.checkouts(30));
        // As many at a time as the machine gets done: what is sent faster only waits.
        if waves.len() > 3 {
            waves.pop_front().context("a wave")?.join_all().await;
        }
        age_what_has_ended(&client).await?;

        let ran = client.sagactl(&["audit", "--grace", GRACE, "--recheck", "200ms", "--json"]).await?;

        ensure!(ran.code == 0, "{ran:?}: {}", why(&client, &ran).await?);
        let number = |report: &Value, field: &str| report[field].as_u64().unwrap_or_default();
        let report = ran.json()?;
        in_flight += number(&report, "in_flight");
        judged += number(&report, "sagas") - number(&report, "in_flight");
    }
    for wave in waves {
        wave.join_all().await;
    }
    ensure!(has_seen_both(judged, in_flight), "{judged} sagas were judged, {in_flight} were in flight");
    client.all_end_in_agreement(Duration::from_secs(60)).await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_down_is_named_in_one_line_and_nothing_is_said_about_the_rest() -> Result<()> {
    let services = Services::launch_none(&[]).await?;
    let client = services.client()?;
    services.database(Service::Inventory)?.stop().await;

    let Ran { code, stdout, stderr } = client.sagactl(&AT_REST).await?;

    ensure!(code == 2 && stdout.is_empty(), "{code} {stdout} {stderr}");
    ensure!(
        stderr.lines().count() == 1 && stderr.contains("the inventory database inventory_user@127.0.0.1"),
        "{stderr}"
    );
    Ok(())
}

#[tokio::test]
async fn a_saga_that_waits_for_a_person_or_was_resolved_by_one_is_listed_and_is_no_violation() -> Result<()> {
    let limit = Duration::from_secs(30);
    let settings = [("PAYMENT_REFUND_REFUSAL_RATE", "1"), ("ATTENTION_AFTER", "1"), ("RESEND_FIRST_MS", "200")];
    let standalone = Standalone::start(&settings).await?;
    let client = standalone.client()?;
    let body = json!({"userId": "audited", "totalAmount": 7, "forceInventoryFail": true});
    let location = client.checkout_async(&body).await?.header("location").to_owned();
    eventually("it needs attention", limit, async || {
        let saga = client.get(Service::Orchestrator, &location).await?.json()?;
        Ok((!saga["needsAttention"].is_null()).then_some(()))
    })
    .await?;
    let listed = async |list: &str| -> Result<Value> {
        let ran = client.sagactl(&[&AT_REST[..], &["--json"]].concat()).await?;
        ensure!(ran.code == 0, "{ran:?}");
        Ok(ran.json()?[list].clone())
    };

    let waits = listed("need_attention").await?;
    ensure!(waits["count"] == 1 && waits["at_risk"] == json!({"USD": "7"}), "{waits}");
    ensure!(waits["first"][0]["what"].as_str().is_some_and(|what| what.contains("PAYMENT_REFUND")), "{waits}");

    let settlement =
        json!({"by": "ann", "reason": "card closed", "step": "PAYMENT_REFUND", "evidence": "bank transfer 4711"});
    let resolved = client.post(Service::Orchestrator, &format!("{location}/resolve"), &settlement).await?;
    ensure!(resolved.status == 202, "{} {}", resolved.status, resolved.text);
    client.end_of(&location, limit).await?;
    let by_hand = listed("resolved_by_hand").await?;
    ensure!(by_hand["count"] == 1 && by_hand["at_risk"] == json!({"USD": "7"}), "{by_hand}");
    assert_eq!(listed("need_attention").await?["count"], 0);
    Ok(())
}
