//! The rules of the order service: what may be repeated, what contradicts, and who may move an order.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e_tests::Service::Order;
use e2e_tests::{Answer, Client, Samples, Services, id, shared};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

fn order(order_id: Uuid) -> Value {
    json!({"orderId": order_id, "userId": "u1", "totalAmount": 19.90})
}

fn status_path(order_id: Uuid) -> String {
    format!("/orders/{order_id}/status")
}

/// The order's row in the database: its status, and the saga that it belongs to.
async fn row(client: &Client, order_id: Uuid) -> Result<Vec<(Value, Value)>> {
    let rows = client.databases.orders(order_id).await?;
    Ok(rows.iter().map(|row| (row["status"].clone(), row["saga_id"].clone())).collect())
}

#[tokio::test]
async fn a_new_order_is_answered_201_with_its_location_and_can_be_read_there() -> Result<()> {
    let client = shared().await?;

    let created = client.post(Order, "/orders", &json!({"userId": "u1", "totalAmount": 19.90})).await?;

    assert_eq!(created.status, 201, "{}", created.text);
    let order_id = id(&created.json()?, "orderId")?;
    assert_eq!(created.header("location"), format!("/orders/{order_id}"));
    let read = client.get(Order, created.header("location")).await?;
    assert_eq!((read.status, read.json()?), (200, created.json()?));
    assert_eq!(read.field("status")?, "PENDING");
    assert_eq!(row(&client, order_id).await?, [(json!("PENDING"), Value::Null)]);
    Ok(())
}

#[tokio::test]
async fn the_same_order_again_answers_the_stored_one_also_after_it_moved() -> Result<()> {
    let client = shared().await?;
    let order_id = Uuid::now_v7();
    let created = client.post(Order, "/orders", &order(order_id)).await?;

    let repeated = client.post(Order, "/orders", &order(order_id)).await?;
    assert_eq!((repeated.status, repeated.json()?), (200, created.json()?));

    client.patch(Order, &status_path(order_id), &json!({"status": "CONFIRMED"})).await?;
    let repeated = client.post(Order, "/orders", &order(order_id)).await?;
    assert_eq!((repeated.status, repeated.field("status")?), (200, "CONFIRMED".to_owned()));
    assert_eq!(row(&client, order_id).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_same_id_with_another_body_is_answered_409_and_changes_nothing() -> Result<()> {
    let client = shared().await?;
    let order_id = Uuid::now_v7();
    let created = client.post(Order, "/orders", &order(order_id)).await?;

    for (field, value) in [
        ("userId", json!("u2")),
        ("totalAmount", json!(20)),
        ("currency", json!("EUR")),
        ("sagaId", json!(Uuid::now_v7())),
    ] {
        let mut other = order(order_id);
        other[field] = value;
        let answer = client.post(Order, "/orders", &other).await?;
        answer.is_problem(409, &[&order_id.to_string(), "other contents"])?;
    }

    assert_eq!(client.get(Order, &format!("/orders/{order_id}")).await?.json()?, created.json()?);
    Ok(())
}

#[tokio::test]
async fn a_transition_may_be_repeated_and_a_contradicting_one_is_answered_409_with_both_states() -> Result<()> {
    let client = shared().await?;
    for (to, other) in [("CONFIRMED", "CANCELLED"), ("CANCELLED", "CONFIRMED")] {
        let order_id = Uuid::now_v7();
        client.post(Order, "/orders", &order(order_id)).await?;
        for _ in 0..2 {
            let moved = client.patch(Order, &status_path(order_id), &json!({"status": to})).await?;
            assert_eq!((moved.status, moved.field("status")?), (200, to.to_owned()));
        }

        let refused = client.patch(Order, &status_path(order_id), &json!({"status": other})).await?;

        refused.is_problem(409, &[to, other])?;
        assert_eq!(row(&client, order_id).await?, [(json!(to), Value::Null)]);
    }
    Ok(())
}

#[tokio::test]
async fn only_a_request_that_names_its_saga_moves_an_order() -> Result<()> {
    let client = shared().await?;
    let (order_id, saga_id) = (Uuid::now_v7(), Uuid::now_v7());
    let mut body = order(order_id);
    body["sagaId"] = json!(saga_id);
    client.post(Order, "/orders", &body).await?;

    for other in [Value::Null, json!(Uuid::now_v7())] {
        let by_hand = json!({"status": "CONFIRMED", "sagaId": other});
        client.patch(Order, &status_path(order_id), &by_hand).await?.is_problem(409, &["saga"])?;
    }
    assert_eq!(row(&client, order_id).await?, [(json!("PENDING"), json!(saga_id))]);

    let by_its_saga = json!({"status": "CONFIRMED", "sagaId": saga_id});
    assert_eq!(client.patch(Order, &status_path(order_id), &by_its_saga).await?.status, 200);
    assert_eq!(row(&client, order_id).await?, [(json!("CONFIRMED"), json!(saga_id))]);
    Ok(())
}

#[tokio::test]
async fn a_sagas_cancel_that_overtakes_its_create_leaves_a_cancelled_row_and_the_create_is_answered_409() -> Result<()>
{
    let client = shared().await?;
    let (order_id, saga_id) = (Uuid::now_v7(), Uuid::now_v7());
    let cancel = json!({"status": "CANCELLED", "sagaId": saga_id});

    for _ in 0..2 {
        let cancelled = client.patch(Order, &status_path(order_id), &cancel).await?;
        assert_eq!((cancelled.status, cancelled.field("status")?), (200, "CANCELLED".to_owned()));
    }

    let mut late = order(order_id);
    late["sagaId"] = json!(saga_id);
    client.post(Order, "/orders", &late).await?.is_problem(409, &[&order_id.to_string(), "CANCELLED"])?;
    assert_eq!(row(&client, order_id).await?, [(json!("CANCELLED"), json!(saga_id))]);
    Ok(())
}

#[tokio::test]
async fn any_other_request_about_an_unknown_order_is_answered_404_and_leaves_no_row() -> Result<()> {
    let client = shared().await?;
    let order_id = Uuid::now_v7();
    for body in [
        json!({"status": "CANCELLED"}),
        json!({"status": "CONFIRMED"}),
        json!({"status": "CONFIRMED", "sagaId": Uuid::now_v7()}),
    ] {
        let answer = client.patch(Order, &status_path(order_id), &body).await?;
        answer.is_problem(404, &[&order_id.to_string()])?;
    }
    let read = client.get(Order, &format!("/orders/{order_id}")).await?;
    read.is_problem(404, &[&order_id.to_string()])?;
    assert!(row(&client, order_id).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn invalid_requests_about_orders_are_answered_with_the_field_and_the_rule() -> Result<()> {
    let client = shared().await?;
    let order_id = Uuid::now_v7();
    client.post(Order, "/orders", &order(order_id)).await?;

    for status in ["SHIPPED", "PENDING"] {
        let answer = client.patch(Order, &status_path(order_id), &json!({"status": status})).await?;
        answer.is_problem(422, &["status", status, "CONFIRMED"])?;
    }
    let answer = client.patch(Order, &status_path(order_id), &json!({})).await?;
    answer.is_problem(422, &["status", "missing"])?;
    client.patch(Order, "/orders/7/status", &json!({"status": "CONFIRMED"})).await?.is_problem(400, &["order id"])?;
    client.get(Order, "/orders/not-a-uuid").await?.is_problem(400, &["order id"])?;
    for (field, value, words) in [
        ("orderId", json!("7"), ["orderId", "valid"]),
        ("userId", json!(" "), ["userId", "blank"]),
        ("totalAmount", json!(0), ["totalAmount", "greater than 0"]),
        ("currency", json!("dollars"), ["currency", "ISO 4217"]),
        ("totalAmuont", json!(5), ["totalAmuont", "unknown"]),
    ] {
        let mut body = order(Uuid::now_v7());
        body[field] = value;
        client.post(Order, "/orders", &body).await?.is_problem(422, &words)?;
    }
    Ok(())
}

/// How many connections of its pool the order service uses.
async fn pool_in_use(client: &Client) -> Result<f64> {
    Samples::of(client, Order).await?.value(r#"database_pool_connections{state="in_use"}"#)
}

#[tokio::test]
async fn a_large_batch_leaves_the_pool_to_others() -> Result<()> {
    let services = Services::start(&[]).await?;
    let client = services.client()?;
    let orders: Vec<Uuid> = (0..500).map(|_| Uuid::now_v7()).collect();
    let insert = "INSERT INTO orders (order_id, saga_id, status, created_at, updated_at)
                  SELECT id, id, 'CANCELLED', now(), now() FROM UNNEST($1::uuid[]) AS id";
    let read = |id: &Uuid| json!({"method": "GET", "path": format!("/orders/{id}"), "body": null});
    let cancel = |id: &Uuid| {
        let body = json!({"status": "CANCELLED", "sagaId": id});
        json!({"method": "PATCH", "path": status_path(*id), "body": body})
    };
    // The statements of each batch wait: the reads for a lock on the table, the cancels for others' rows that are not
    // committed. Rolled back, the latter are not there.
    for (lock, batch, status) in [
        ("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE", orders.iter().map(read).collect::<Value>(), 404),
        (insert, orders.iter().map(cancel).collect(), 200),
    ] {
        let mut other = client.databases.order.begin().await?;
        let held = sqlx::query(lock);
        if lock == insert { held.bind(&orders) } else { held }.execute(&mut *other).await?;
        let answers = tokio::spawn({
            let client = client.clone();
            async move { client.post(Order, "/batch", &batch).await }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;

        let (in_use, is_waiting) = (pool_in_use(&client).await?, !answers.is_finished());

        other.rollback().await?;
        assert!(is_waiting && in_use <= 1.0, "{lock}: {in_use} of the pool's connections are in use");
        let answers = answers.await??.json()?;
        let answers = answers.as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(answers.len(), orders.len());
        assert!(answers.iter().all(|answer| answer["status"] == status), "{:?}", answers.first());
    }
    Ok(())
}

/// A column that an index names, if only in its condition, can't change without a new entry in every index: docs/growth.md.
#[tokio::test]
async fn no_index_of_orders_names_what_each_order_changes() -> Result<()> {
    let client = shared().await?;
    let indexes = sqlx::query_scalar("SELECT indexdef FROM pg_indexes WHERE tablename = 'orders'");
    let indexes: Vec<String> = indexes.fetch_all(&client.databases.order).await?;
    let unexpected = |index: &&String| ["status", "updated_at", "failure"].iter().any(|column| index.contains(column));
    assert_eq!((indexes.len(), indexes.iter().find(unexpected)), (4, None), "{indexes:?}");
    Ok(())
}

#[tokio::test]
async fn a_users_orders_are_listed_newest_first_page_by_page() -> Result<()> {
    let client = shared().await?;
    let user = format!("lister-{}", Uuid::now_v7());
    let mut newest_first = Vec::new();
    for _ in 0..3 {
        let created = client.post(Order, "/orders", &json!({"userId": user, "totalAmount": 5})).await?;
        newest_first.insert(0, created.json()?["orderId"].clone());
    }
    let page = async |query: String| -> Result<(Vec<Value>, Value)> {
        let page = client.get(Order, &format!("/orders?userId={user}{query}")).await?.json()?;
        let ids = page["orders"].as_array().into_iter().flatten().map(|order| order["orderId"].clone());
        Ok((ids.collect(), page["next"].clone()))
    };

    assert_eq!(page(String::new()).await?, (newest_first.clone(), Value::Null));
    let (first, next) = page("&limit=2".to_owned()).await?;
    assert_eq!((&first[..], &next), (&newest_first[..2], &newest_first[1]));
    let (second, next) = page(format!("&limit=2&before={}", next.as_str().unwrap_or_default())).await?;
    assert_eq!((&second[..], next), (&newest_first[2..], Value::Null));
    for (query, words) in [
        ("", "userId"),
        ("?userId=u1&limit=0", "`limit` must be 1 to 500"),
        ("?userId=u1&limit=501", "`limit` must be 1 to 500"),
        ("?userId=%20", "userId"),
        ("?userId=u1&before=7", "before"),
        ("?userId=u1&page=2", "page"),
    ] {
        client.get(Order, &format!("/orders{query}")).await?.is_problem(400, &[words])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_may_wait_for_an_orders_end_and_no_longer_than_it_wants() -> Result<()> {
    let client = shared().await?;
    let order_id = Uuid::now_v7();
    client.post(Order, "/orders", &order(order_id)).await?;
    let read = async |prefer: &'static str| {
        let began = Instant::now();
        let request = client.request(Order, Method::GET, &format!("/orders/{order_id}")).header("Prefer", prefer);
        let answer = Answer::read(request.send().await?).await?;
        Ok::<_, anyhow::Error>((answer, began.elapsed()))
    };

    let (pending, waited) = read("wait=1").await?;
    assert_eq!((pending.field("status")?.as_str(), pending.header("preference-applied")), ("PENDING", "wait=1"));
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    let (waiting, cancelled) = tokio::join!(read("wait=20"), async {
        // The wait is what this test is about.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let why = "?reason=CHANGED_MIND&detail=no%20longer%20wanted";
        client.patch(Order, &format!("{}{why}", status_path(order_id)), &json!({"status": "CANCELLED"})).await
    });
    let (ended, waited) = waiting?;
    assert_eq!(ended.json()?, cancelled?.json()?);
    assert!((Duration::from_millis(500)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
    assert_eq!(
        (ended.field("status")?, ended.field("failureReason")?),
        ("CANCELLED".to_owned(), "CHANGED_MIND".to_owned())
    );
    assert_eq!(ended.field("failureDetail")?, "no longer wanted");
    // What is no more than a wish is passed over.
    let (at_once, _) = read("wait=soon").await?;
    assert_eq!((at_once.status, at_once.header("preference-applied")), (200, ""));
    Ok(())
}
