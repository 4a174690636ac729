//! Old finished orders are removed in every service; what has not ended, or is not settled, stays; and what was removed
//! is not done again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Command, Outsider, Service, Services, Standalone, eventually, id, shared};
use reqwest::Method;
use serde_json::{Value, json};
use service_runtime::retention::first_id_at;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(30);

/// Nothing moves: what looks wrong need not be looked at again.
const AT_REST: [&str; 6] = ["audit", "--grace", "0s", "--recheck", "0s", "--json"];

/// Where rows about an order stand.
const TABLES: [(Service, &str); 6] = [
    (Service::Order, "orders"),
    (Service::Payment, "payments"),
    (Service::Payment, "gateway_requests"),
    (Service::Payment, "gateway_ledger"),
    (Service::Inventory, "reservations"),
    (Service::Orchestrator, "sagas"),
];

/// The tables that have rows about the order.
async fn kept_in(client: &Client, order_id: Uuid) -> Result<Vec<&'static str>> {
    let mut kept = Vec::new();
    for (service, table) in TABLES {
        let sql = format!("SELECT count(*) FROM {table} WHERE order_id = '{order_id}'");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(client.databases.of(service)).await?;
        kept.extend((count > 0).then_some(table));
    }
    Ok(kept)
}

async fn is_everywhere(client: &Client, order_id: Uuid) -> Result<()> {
    let kept = kept_in(client, order_id).await?;
    ensure!(kept.len() == TABLES.len(), "of {order_id} only {kept:?} are left");
    Ok(())
}

/// Waits until nothing is left of an order.
async fn goes(client: &Client, order_id: Uuid) -> Result<()> {
    eventually(&format!("nothing is left of {order_id}"), LIMIT, async || {
        Ok(kept_in(client, order_id).await?.is_empty().then_some(()))
    })
    .await
}

/// A checkout that ended, as it would be so many days later: its order's id then, and its saga's.
async fn ended(client: &Client, days_ago: i64, extra: Value) -> Result<(Uuid, Uuid)> {
    let mut body = json!({"userId": "u1", "totalAmount": 5});
    body.as_object_mut().context("an object")?.extend(extra.as_object().cloned().unwrap_or_default());
    let answer = client.checkout(&body).await?.json()?;
    ensure!(matches!(answer["status"].as_str(), Some("COMPLETED" | "FAILED")), "{answer}");
    let (order_id, saga_id) = (id(&answer, "orderId")?, id(&answer, "sagaId")?);
    let order_id = if days_ago > 0 { client.age(order_id, days_ago).await? } else { order_id };
    Ok((order_id, saga_id))
}

/// The platform with a retention of a day: but its orchestrator has none before its next start, so that no horizon is
/// stored until a test has made its orders old.
async fn with_a_days_retention(settings: &[(&str, &str)]) -> Result<Services> {
    let mut services = Services::launch_none(settings).await?;
    services.set("RETENTION_DAYS", "1");
    for service in [Service::Order, Service::Payment, Service::Inventory] {
        services.start_again(service).await?;
    }
    services.set("RETENTION_DAYS", "0");
    services.start_again(Service::Orchestrator).await?;
    services.set("RETENTION_DAYS", "1");
    Ok(services)
}

/// Stops the orchestrator and starts it: it looks for old orders at its start.
async fn restart_orchestrator(services: &mut Services) -> Result<()> {
    services.stop(Service::Orchestrator).await?;
    services.start_again(Service::Orchestrator).await?;
    Ok(())
}

async fn audit(client: &Client) -> Result<Value> {
    let ran = client.sagactl(&AT_REST).await?;
    ensure!(ran.code == 0, "{ran:?}");
    ran.json()
}

async fn delete(client: &Client, service: Service, path: &str) -> Result<Answer> {
    Answer::read(client.request(service, Method::DELETE, path).send().await?).await
}

async fn run(pool: &PgPool, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?;
    Ok(())
}

#[tokio::test]
async fn old_finished_orders_go_from_all_databases_and_young_ones_and_open_ones_made_by_hand_stay() -> Result<()> {
    let mut services = with_a_days_retention(&[]).await?;
    let client = services.client()?;
    let mut old = Vec::new();
    for extra in [json!({}), json!({"forcePaymentFail": true}), json!({"forceInventoryFail": true})] {
        old.push(ended(&client, 3, extra).await?);
    }
    let (young, young_saga) = ended(&client, 0, json!({})).await?;
    let mut by_hand = Vec::new();
    for status in ["PENDING", "CONFIRMED"] {
        let order = client.post(Service::Order, "/orders", &json!({"userId": "u1", "totalAmount": 5})).await?.json()?;
        let order_id = id(&order, "orderId")?;
        if status != "PENDING" {
            client.patch(Service::Order, &format!("/orders/{order_id}/status"), &json!({"status": status})).await?;
        }
        by_hand.push(client.age(order_id, 3).await?);
    }
    ensure!(audit(&client).await?["sagas"] == 4);

    restart_orchestrator(&mut services).await?;

    for (order_id, saga_id) in &old {
        goes(&client, *order_id).await?;
        let found = client.get(Service::Orchestrator, &format!("/sagas/{saga_id}")).await?;
        found.is_problem(404, &["there is no saga"])?;
    }
    let sql = "SELECT count(*) FROM saga_events WHERE saga_id <> $1";
    let history: i64 = sqlx::query_scalar(sql).bind(young_saga).fetch_one(&client.databases.orchestrator).await?;
    assert_eq!(history, 0, "histories of removed sagas");
    is_everywhere(&client, young).await?;
    assert_eq!(kept_in(&client, by_hand[0]).await?, ["orders"], "PENDING, and made by hand");
    assert_eq!(kept_in(&client, by_hand[1]).await?, [""; 0], "CONFIRMED, and made by hand");
    let report = audit(&client).await?;
    ensure!(report["sagas"] == 1 && report["kept_from"].is_string(), "{report}");
    client.agree_about(&[young_saga]).await
}

#[tokio::test]
async fn commands_about_a_removed_order_are_set_aside_and_not_sent_back() -> Result<()> {
    let mut services = with_a_days_retention(&[]).await?;
    let client = services.client()?;
    let (order_id, saga_id) = ended(&client, 3, json!({})).await?;
    restart_orchestrator(&mut services).await?;
    goes(&client, order_id).await?;

    let mut outsider = Outsider::new(&client.kafka);
    (outsider.order_id, outsider.saga_id) = (order_id, saga_id);
    let commands: [(&str, Command); 4] = [
        ("payment.charge.command", outsider.charge()),
        ("payment.refund.command", outsider.refund()),
        ("inventory.reserve.command", outsider.reserve()),
        ("inventory.release.command", outsider.release()),
    ];
    for (topic, command) in &commands {
        let letter = client.kafka.dead_letter(topic, command.publish(topic).await?).await?;

        let why = letter.headers.get("dlq_error").context("a letter says why")?;
        ensure!(why.contains("below the retention horizon"), "{topic}: {why}");
        let redriven = client.sagactl(&["dlq", "redrive", "--topic", topic]).await?;
        ensure!(redriven.code == 1 && redriven.stdout.contains("ended longer than RETENTION_DAYS ago"), "{redriven:?}");
    }
    assert_eq!(kept_in(&client, order_id).await?, [""; 0]);
    // A participant that never heard of the order, nor of a horizon above it, takes the command.
    let newer = Outsider::new(&client.kafka);
    newer.charge().publish("payment.charge.command").await?;
    eventually("the new order is charged", LIMIT, async || {
        Ok((client.databases.ledger(newer.order_id).await?.len() == 1).then_some(()))
    })
    .await
}

/// What the handler of a late charge finds when the order's rows go after its first question: a row of its own making.
#[tokio::test]
async fn no_money_is_moved_for_a_payment_below_the_horizon() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let days_ago = |days| first_id_at(service_runtime::now() - chrono::TimeDelta::days(days));
    let mut outsider = Outsider::new(&client.kafka);
    outsider.order_id = days_ago(3);
    let (order_id, saga_id, horizon) = (outsider.order_id, outsider.saga_id, days_ago(1));
    let payment = format!(
        "INSERT INTO retention_horizon (order_id) VALUES ('{horizon}');
         INSERT INTO payments (order_id, saga_id, user_id, amount, currency, status, force_fail, created_at, updated_at)
         VALUES ('{order_id}', '{saga_id}', 'outsider', 500, 'USD', 'CHARGING', false, now(), now())"
    );
    run(&client.databases.payment, payment).await?;

    let topic = "payment.charge.command";
    let letter = client.kafka.dead_letter(topic, outsider.charge().publish(topic).await?).await?;

    let why = letter.headers.get("dlq_error").context("a letter says why")?;
    ensure!(why.contains("no money is moved for it again"), "{why}");
    assert_eq!(client.databases.ledger(order_id).await?, [json!(null); 0]);
    Ok(())
}

#[tokio::test]
async fn an_unfinished_saga_keeps_itself_and_what_came_later_and_money_that_is_not_settled_stays() -> Result<()> {
    let settings = [("PAYMENT_REFUND_REFUSAL_RATE", "1"), ("ATTENTION_AFTER", "1"), ("RESEND_FIRST_MS", "2000")];
    let mut services = with_a_days_retention(&settings).await?;
    let client = services.client()?;
    let (before, _) = ended(&client, 5, json!({})).await?;
    let body = json!({"userId": "u1", "totalAmount": 7, "forceInventoryFail": true});
    let location = client.checkout_async(&body).await?.header("location").to_owned();
    let saga = eventually("its refund is refused", LIMIT, async || {
        let saga = client.get(Service::Orchestrator, &location).await?.json()?;
        Ok((!saga["needsAttention"].is_null()).then_some(saga))
    })
    .await?;
    let (later, _) = ended(&client, 3, json!({})).await?;
    services.stop(Service::Orchestrator).await?;
    let stuck = client.age(id(&saga, "orderId")?, 4).await?;

    services.start_again(Service::Orchestrator).await?;
    goes(&client, before).await?;
    eventually("the log names what holds the horizon", LIMIT, async || {
        let says = |line: &str| line.contains("an unfinished saga") && line.contains(&stuck.to_string());
        Ok(client.log().lines().any(says).then_some(()))
    })
    .await?;
    is_everywhere(&client, stuck).await?;
    is_everywhere(&client, later).await?;

    // It ends by an operator's hand, and is as old as the others then.
    let settlement = json!({"by": "ann", "reason": "card closed", "step": "PAYMENT_REFUND", "evidence": "transfer 1"});
    let resolved = client.post(Service::Orchestrator, &format!("{location}/resolve"), &settlement).await?;
    ensure!(resolved.status == 202, "{} {}", resolved.status, resolved.text);
    client.end_of(&location, LIMIT).await?;
    for (service, table) in [(Service::Orchestrator, "sagas"), (Service::Order, "orders")] {
        let sql = format!("UPDATE {table} SET updated_at = now() - interval '3 days' WHERE order_id = '{stuck}'");
        run(client.databases.of(service), sql).await?;
    }
    restart_orchestrator(&mut services).await?;
    goes(&client, later).await?;
    assert_eq!(kept_in(&client, stuck).await?, ["payments", "gateway_requests", "gateway_ledger", "sagas"]);
    assert_eq!(client.databases.payments(stuck).await?[0]["status"], "REFUNDING");
    // Who settled it, and what proves it.
    let sql = "SELECT actor, evidence FROM saga_events WHERE input = 'operator.resolved'";
    let kept: (String, String) = sqlx::query_as(sql).fetch_one(&client.databases.orchestrator).await?;
    assert_eq!(kept, ("ann".to_owned(), "transfer 1".to_owned()));
    audit(&client).await?;
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_away_gets_it_later_and_the_orchestrators_rows_wait_for_it() -> Result<()> {
    let mut services = with_a_days_retention(&[]).await?;
    let client = services.client()?;
    let (order_id, _) = ended(&client, 3, json!({})).await?;
    services.stop(Service::Inventory).await?;

    restart_orchestrator(&mut services).await?;
    eventually("the others have removed it", LIMIT, async || {
        Ok((kept_in(&client, order_id).await? == ["reservations", "sagas"]).then_some(()))
    })
    .await?;
    // It is out of the audit's sight already.
    ensure!(audit(&client).await?["sagas"] == 0);

    services.start_again(Service::Inventory).await?;
    goes(&client, order_id).await?;
    audit(&client).await?;
    Ok(())
}

#[tokio::test]
async fn a_service_refuses_to_remove_what_its_own_retention_keeps() -> Result<()> {
    let paths = [(Service::Order, "/orders"), (Service::Payment, "/payments"), (Service::Inventory, "/reservations")];
    let of_days_ago = |days| first_id_at(service_runtime::now() - chrono::TimeDelta::days(days));
    let keeps_all = shared().await?;
    let standalone = Standalone::start(&[("RETENTION_DAYS", "10")]).await?;
    let client = standalone.client()?;
    eventually("the orchestrator's horizon has moved", LIMIT, async || {
        let answer = client.get(Service::Orchestrator, "/retention").await?.json()?;
        Ok(answer["horizon"].is_string().then_some(()))
    })
    .await?;
    let (order_id, _) = ended(&client, 9, json!({})).await?;
    for (service, path) in paths {
        let ask =
            async |client: &Client, before: String| delete(client, service, &format!("{path}?before={before}")).await;
        let old = of_days_ago(11).to_string();

        ask(&keeps_all, old.clone()).await?.is_problem(409, &["RETENTION_DAYS", "0"])?;
        ask(&client, of_days_ago(9).to_string()).await?.is_problem(409, &["RETENTION_DAYS=10"])?;
        ask(&client, Uuid::nil().to_string()).await?.is_problem(422, &["before"])?;
        ask(&client, "yesterday".to_owned()).await?.is_problem(400, &["before"])?;
        delete(&client, service, path).await?.is_problem(400, &["before"])?;
        let permitted = ask(&client, old).await?;
        ensure!(permitted.status == 200 && permitted.json()? == json!({"removed": 0}), "{}", permitted.text);
    }
    is_everywhere(&client, order_id).await
}

#[tokio::test]
async fn what_a_saga_that_has_not_ended_needs_is_not_removed_whoever_asks() -> Result<()> {
    let mut services = with_a_days_retention(&[]).await?;
    let client = services.client()?;
    services.stop(Service::Inventory).await?;
    let begun = client.checkout_async(&json!({"userId": "u1", "totalAmount": 7})).await?;
    let location = begun.header("location").to_owned();
    eventually("it is charged", LIMIT, async || {
        let saga = client.get(Service::Orchestrator, &location).await?.json()?;
        Ok((saga["step"] == "INVENTORY_RESERVE").then_some(()))
    })
    .await?;
    // Days later its refund is still pending, and not repeated for a while.
    services.stop(Service::Orchestrator).await?;
    let order_id = client.age(id(&begun.json()?, "orderId")?, 4).await?;
    let refund = |at: &str| {
        format!(
            "UPDATE sagas SET status = 'COMPENSATING', step = 'PAYMENT_REFUND', cause = 'CANCELLED', deadline_at = NULL,
                    next_attempt_at = {at}, sweep_at = {at}
             WHERE order_id = '{order_id}'"
        )
    };
    run(&client.databases.orchestrator, refund("now() + interval '1 hour'")).await?;
    let before = first_id_at(service_runtime::now() - chrono::TimeDelta::days(2));
    let by_hand = async |status: u16, word: &str| -> Result<()> {
        for (service, path) in [(Service::Order, "/orders"), (Service::Payment, "/payments")] {
            delete(&client, service, &format!("{path}?before={before}")).await?.is_problem(status, &[word])?;
        }
        assert_eq!(client.databases.payments(order_id).await?[0]["status"], "CHARGED");
        assert_eq!(client.databases.ledger(order_id).await?.len(), 1);
        Ok(())
    };

    // Whether its saga has ended can't be known while the orchestrator is away.
    by_hand(503, "ORCHESTRATOR_URL").await?;
    services.start_again(Service::Orchestrator).await?;
    eventually("the horizon has come to it", LIMIT, async || {
        let answer = client.get(Service::Orchestrator, "/retention").await?.json()?;
        Ok((answer["horizon"] == json!(order_id)).then_some(()))
    })
    .await?;
    by_hand(409, "may not have ended").await?;

    run(&client.databases.orchestrator, refund("now()")).await?;
    let saga = client.end_of(&location, LIMIT).await?;
    assert_eq!((&saga["status"], &saga["step"]), (&json!("FAILED"), &json!("CANCELLED")), "{saga}");
    assert_eq!(client.databases.payments(order_id).await?[0]["status"], "REFUNDED");
    Ok(())
}

#[tokio::test]
async fn nothing_is_removed_while_a_service_keeps_everything_and_the_log_says_which() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let (order_id, _) = ended(&client, 3, json!({})).await?;
    services.set("RETENTION_DAYS", "1");

    restart_orchestrator(&mut services).await?;

    eventually("the refusal is told", LIMIT, async || {
        let says =
            |line: &str| line.contains("the order service does not remove") && line.contains("RETENTION_DAYS is 0");
        Ok(client.log().lines().any(says).then_some(()))
    })
    .await?;
    is_everywhere(&client, order_id).await
}

#[tokio::test]
async fn the_audit_looks_at_no_row_below_the_horizon_and_at_each_above() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let plant = async |days_ago| -> Result<Vec<Uuid>> {
        let mut orders = Vec::new();
        for (service, sql) in [
            (Service::Order, "UPDATE orders SET status = 'PENDING'"),
            (Service::Payment, "UPDATE payments SET amount = 6"),
            (Service::Payment, "DELETE FROM payments"),
            (Service::Payment, "DELETE FROM gateway_requests"),
            (Service::Inventory, "DELETE FROM reservations"),
            (Service::Orchestrator, "DELETE FROM sagas"),
        ] {
            let (order_id, _) = ended(&client, days_ago, json!({})).await?;
            run(client.databases.of(service), format!("{sql} WHERE order_id = '{order_id}'")).await?;
            orders.push(order_id);
        }
        Ok(orders)
    };
    let (below, above) = (plant(3).await?, plant(1).await?);
    let named = async || -> Result<Vec<Uuid>> {
        let ran = client.sagactl(&AT_REST).await?;
        ensure!(ran.code == 1, "{ran:?}");
        let report = ran.json()?;
        let violated = report["violated"].as_array().cloned().unwrap_or_default();
        let items = violated.iter().flat_map(|violated| violated["first"].as_array().into_iter().flatten());
        let mut orders = items.map(|item| id(item, "order_id")).collect::<Result<Vec<_>>>()?;
        orders.sort();
        orders.dedup();
        Ok(orders)
    };
    assert_eq!(named().await?, [below, above.clone()].concat(), "without a horizon, in the order of their ids");

    let horizon = above[0];
    run(&client.databases.orchestrator, format!("INSERT INTO retention_horizon (order_id) VALUES ('{horizon}')"))
        .await?;

    assert_eq!(named().await?, above);
    Ok(())
}
