//! Orders: creates and confirms, as many in a request (`POST /batch`) as there are.

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::message::{Call, Message};
use crate::{batch, database};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (order_id uuid PRIMARY KEY, saga_id uuid, user_id text,
    total_amount numeric, status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)
    WITH (fillfactor = 80)";

type Waiting<T> = (T, oneshot::Sender<()>);

#[derive(Clone)]
struct Loops {
    creates: UnboundedSender<Waiting<Message>>,
    confirms: UnboundedSender<Waiting<Uuid>>,
}

pub async fn run(url: &str, port: u16) -> Result<()> {
    let (mut first, mut second) = (database::open(url, TABLES).await?, database::connect(url).await?);
    let ((creates, to_create), (confirms, to_confirm)) = (unbounded_channel(), unbounded_channel());
    let routes = Router::new().route("/batch", post(answer_all)).with_state(Loops { creates, confirms });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::try_join!(
        async { Ok(axum::serve(listener, routes).await?) },
        batch::run(to_create, async |batch: Vec<Waiting<Message>>| {
            insert(&mut first, &batch).await?;
            tell(batch)
        }),
        batch::run(to_confirm, async |batch: Vec<Waiting<Uuid>>| {
            update(&mut second, &batch).await?;
            tell(batch)
        }),
    )?;
    Ok(())
}

fn tell<T>(batch: Vec<Waiting<T>>) -> Result<()> {
    for (_, done) in batch {
        let _ = done.send(());
    }
    Ok(())
}

async fn answer_all(State(loops): State<Loops>, Json(calls): Json<Vec<Call>>) -> (StatusCode, Json<Vec<Value>>) {
    let asked = calls.into_iter().map(|call| {
        let (done, stored) = oneshot::channel();
        let (id, status) = match call {
            Call::Create(order) => {
                let id = order.order_id;
                let _ = loops.creates.send((order, done));
                (id, "PENDING")
            }
            Call::Confirm(order) => {
                let _ = loops.confirms.send((order.order_id, done));
                (order.order_id, "CONFIRMED")
            }
        };
        (stored, json!({"orderId": id, "status": status}))
    });
    let mut answers = Vec::new();
    for (stored, answer) in asked.collect::<Vec<_>>() {
        if stored.await.is_err() {
            return (StatusCode::INTERNAL_SERVER_ERROR, Json(Vec::new()));
        }
        answers.push(answer);
    }
    (StatusCode::OK, Json(answers))
}

async fn insert(connection: &mut PgConnection, batch: &[Waiting<Message>]) -> Result<()> {
    let orders = || batch.iter().map(|(order, _)| order);
    sqlx::query(
        "INSERT INTO orders (order_id, saga_id, user_id, total_amount, status, created_at, updated_at)
         SELECT order_id, saga_id, user_id, total_amount, 'PENDING', now(), now()
         FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id, UNNEST($3::text[]) AS user_id,
                      UNNEST($4::numeric[]) AS total_amount) AS new",
    )
    .bind(orders().map(|order| order.order_id).collect::<Vec<_>>())
    .bind(orders().map(|order| order.saga_id).collect::<Vec<_>>())
    .bind(orders().map(|order| order.payload.user_id.as_str()).collect::<Vec<_>>())
    .bind(orders().map(|order| order.payload.total_amount).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, batch: &[Waiting<Uuid>]) -> Result<()> {
    sqlx::query(
        "UPDATE orders SET status = 'CONFIRMED', updated_at = now()
         FROM UNNEST($1::uuid[]) AS wanted (order_id)
         WHERE orders.order_id = wanted.order_id AND status = 'PENDING'",
    )
    .bind(batch.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
