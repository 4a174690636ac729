//! Products and their pieces: what comes in, what a count finds, and that the ledger and the rows say the same.

use anyhow::{Result, ensure};
use e2e_tests::Service::Inventory;
use e2e_tests::{Answer, Client, shared};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

/// A product of this test's own.
async fn product(client: &Client) -> Result<String> {
    let sku = format!("t-{}", Uuid::now_v7());
    let created = put(client, &sku, &json!({"name": "Blue mug"})).await?;
    ensure!(created.status == 201, "{}", created.text);
    Ok(sku)
}

async fn put(client: &Client, sku: &str, body: &Value) -> Result<Answer> {
    let request = client.request(Inventory, Method::PUT, &format!("/products/{sku}"));
    Answer::read(request.json(body).send().await?).await
}

async fn moved(client: &Client, sku: &str, what: &str, key: &str, quantity: i64) -> Result<Answer> {
    let request = client.request(Inventory, Method::POST, &format!("/products/{sku}/{what}"));
    let body = json!({"quantity": quantity, "by": "ann", "reason": "delivery 4711"});
    Answer::read(request.header("Idempotency-Key", key).json(&body).send().await?).await
}

async fn read(client: &Client, sku: &str) -> Result<Value> {
    client.get(Inventory, &format!("/products/{sku}")).await?.json()
}

/// What the ledger has of a product: all that came in, less all that went.
async fn ledger(client: &Client, sku: &str) -> Result<i64> {
    let sum = "SELECT COALESCE(sum(quantity), 0)::bigint FROM stock_movements WHERE sku = $1 AND kind IN ('RECEIVE', 'ADJUST')";
    Ok(sqlx::query_scalar(sum).bind(sku).fetch_one(client.databases.of(Inventory)).await?)
}

#[tokio::test]
async fn what_comes_in_counts_once_however_often_it_is_sent() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client).await?;

    let first = moved(&client, &sku, "receipts", "delivery-1", 100).await?;
    ensure!(first.status == 201, "{}", first.text);
    ensure!(first.json()?["product"]["available"] == 100, "{}", first.text);
    let again = moved(&client, &sku, "receipts", "delivery-1", 100).await?;
    assert_eq!((again.status, again.json()?), (200, first.json()?));

    moved(&client, &sku, "receipts", "delivery-1", 99).await?.is_problem(422, &["Idempotency-Key", "RECEIVE 100"])?;
    moved(&client, &sku, "adjustments", "delivery-1", 100).await?.is_problem(422, &["RECEIVE 100"])?;

    let request = client.request(Inventory, Method::POST, &format!("/products/{sku}/receipts"));
    let of_bob = json!({"quantity": 100, "by": "bob", "reason": "delivery 4711"});
    let of_bob = Answer::read(request.header("Idempotency-Key", "delivery-1").json(&of_bob).send().await?).await?;
    of_bob.is_problem(422, &["RECEIVE 100"])?;

    let shown = read(&client, &sku).await?;
    assert_eq!((&shown["available"], &shown["reserved"], &shown["committed"]), (&json!(100), &json!(0), &json!(0)));
    assert_eq!(shown["movements"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["movements"][0]["by"], "ann");
    assert_eq!(ledger(&client, &sku).await?, 100);
    Ok(())
}

#[tokio::test]
async fn of_many_counts_at_once_no_more_go_than_are_there() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client).await?;
    moved(&client, &sku, "receipts", "delivery-1", 20).await?;

    let mut counts = JoinSet::new();
    for n in 0..50 {
        let (client, sku) = (client.clone(), sku.clone());
        counts.spawn(async move { moved(&client, &sku, "adjustments", &format!("count-{n:03}"), -1).await });
    }
    let statuses: Vec<u16> =
        counts.join_all().await.into_iter().map(|answer| Ok(answer?.status)).collect::<Result<_>>()?;

    let of = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((of(201), of(409)), (20, 30));
    assert_eq!((read(&client, &sku).await?["available"].clone(), ledger(&client, &sku).await?), (json!(0), 0));
    Ok(())
}

#[tokio::test]
async fn the_same_delivery_sent_by_many_at_once_counts_once() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client).await?;
    let mut deliveries = JoinSet::new();
    for _ in 0..20 {
        let (client, sku) = (client.clone(), sku.clone());
        deliveries.spawn(async move { moved(&client, &sku, "receipts", "delivery-1", 7).await });
    }
    let statuses: Vec<u16> =
        deliveries.join_all().await.into_iter().map(|answer| Ok(answer?.status)).collect::<Result<_>>()?;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 19, "{statuses:?}");
    assert_eq!((read(&client, &sku).await?["available"].clone(), ledger(&client, &sku).await?), (json!(7), 7));
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_movement_is_named_and_nothing_moves() -> Result<()> {
    let client = shared().await?;
    let sku = product(&client).await?;
    let key = "delivery-1";
    for quantity in [0, -1, 1_000_000_001] {
        moved(&client, &sku, "receipts", key, quantity).await?.is_problem(422, &["quantity"])?;
    }
    for quantity in [0, -1_000_000_001] {
        moved(&client, &sku, "adjustments", key, quantity).await?.is_problem(422, &["quantity"])?;
    }
    moved(&client, &sku, "adjustments", key, -1).await?.is_problem(409, &[&sku, "0 available"])?;
    moved(&client, "no-such", "receipts", key, 1).await?.is_problem(404, &["no-such"])?;
    moved(&client, &"s".repeat(200), "receipts", key, 1).await?.is_problem(400, &["1 to 64"])?;
    moved(&client, "a%01b", "receipts", key, 1).await?.is_problem(400, &["no SKU"])?;
    moved(&client, &sku, "receipts", "short", 1).await?.is_problem(400, &["Idempotency-Key"])?;

    let path = format!("/products/{sku}/receipts");
    let without_key = client.post(Inventory, &path, &json!({"quantity": 1, "by": "ann", "reason": "x"})).await?;
    without_key.is_problem(400, &["Idempotency-Key"])?;
    let request = client.request(Inventory, Method::POST, &path).header("Idempotency-Key", key);
    let half = Answer::read(request.json(&json!({"quantity": 1.5, "by": "ann", "reason": "x"})).send().await?).await?;
    half.is_problem(422, &["quantity"])?;
    put(&client, &sku, &json!({"name": " "})).await?.is_problem(422, &["name"])?;
    assert_eq!((read(&client, &sku).await?["available"].clone(), ledger(&client, &sku).await?), (json!(0), 0));
    Ok(())
}

#[tokio::test]
async fn products_are_found_by_a_part_of_their_name_page_by_page() -> Result<()> {
    let client = shared().await?;
    let mark = Uuid::now_v7().simple().to_string();
    for n in 0..5 {
        put(&client, &format!("{mark}-{n}"), &json!({"name": format!("Mug {n}")})).await?;
    }
    let renamed = put(&client, &format!("{mark}-4"), &json!({"name": "100% wool"})).await?;
    assert_eq!((renamed.status, renamed.field("name")?), (200, "100% wool".to_owned()));

    let (mut after, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let search = mark.to_uppercase();
        let page = client.get(Inventory, &format!("/products?search={search}&limit=2{after}")).await?.json()?;
        found.extend(page["products"].as_array().into_iter().flatten().map(|one| one["sku"].clone()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((pages, found), (3, (0..5).map(|n| json!(format!("{mark}-{n}"))).collect()));
    let wool = client.get(Inventory, "/products?search=0%25%20w").await?.json()?;
    ensure!(wool["products"].as_array().is_some_and(|found| found.iter().any(|one| one["sku"] == format!("{mark}-4"))));
    for query in ["limit=0", "limit=501", "after=", "page=2", "search=", "search=%00"] {
        client.get(Inventory, &format!("/products?{query}")).await?.is_problem(400, &[])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_person_sees_and_moves_pieces_in_the_terminal() -> Result<()> {
    let client = shared().await?;
    let sku = format!("t-{}", Uuid::now_v7());
    let moved = |what: &'static str, quantity: &'static str| {
        let sku = sku.clone();
        async move {
            let line =
                ["stock", what, &sku, quantity, "--by", "ann", "--reason", "a count", "--key", "the-count-of-may"];
            shared().await?.sagactl(&line).await
        }
    };
    client.sagactl(&["stock", "put", &sku, "--name", "Blue mug"]).await?.says(0, &["Blue mug: 0 available"])?;
    let receive = ["stock", "receive", &sku, "10", "--by", "ann", "--reason", "delivery 4711"];
    client.sagactl(&receive).await?.says(0, &["10 available", "key "])?;
    moved("adjust", "-2").await?.says(0, &["8 available", "key the-count-of-may"])?;
    moved("adjust", "-2").await?.says(0, &["sent before:", "8 available"])?;
    moved("adjust", "-3").await?.says(1, &["422", "ADJUST -2"])?;
    let too_many = ["stock", "adjust", &sku, "-9", "--by", "ann", "--reason", "a count"];
    client.sagactl(&too_many).await?.says(1, &["409", "8 available pieces"])?;

    let bought = ["checkout", "--user", "ann", "--amount", "25", "--item", &format!("{sku}=3")];
    client.sagactl(&bought).await?.says(0, &["COMPLETED"])?;

    client.sagactl(&["stock", "list", "--search", &sku]).await?.says(0, &["AVAILABLE", "Blue mug", "5"])?;
    let shown = client.sagactl(&["stock", "show", &sku]).await?;
    shown.says(0, &["5 available, 0 reserved, 3 committed", "COMMIT", "ADJUST", "ann: a count"])?;
    client.sagactl(&["stock", "show", "no-such"]).await?.says(2, &["404"])?;
    let nowhere = [("INVENTORY_SERVICE_URL", "http://127.0.0.1:9")];
    let away = client.sagactl_with(&["stock", "list"], &nowhere).await?;
    away.says(2, &["the inventory service can't be reached", "--inventory-url"])
}
