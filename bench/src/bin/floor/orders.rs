//! Orders: `POST /orders` and `PATCH /orders/{id}/status`.

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::message::Message;
use crate::{batch, database};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (order_id uuid PRIMARY KEY, saga_id uuid, user_id text,
    total_amount numeric, status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)";

type Waiting<T> = (T, oneshot::Sender<()>);

#[derive(Clone)]
struct Loops {
    creates: UnboundedSender<Waiting<Message>>,
    confirms: UnboundedSender<Waiting<Uuid>>,
}

pub async fn run(url: &str, port: u16) -> Result<()> {
    let (mut first, mut second) = (database::open(url, TABLES).await?, database::connect(url).await?);
    let ((creates, to_create), (confirms, to_confirm)) = (unbounded_channel(), unbounded_channel());
    let routes = Router::new()
        .route("/orders", post(create))
        .route("/orders/{id}/status", patch(confirm))
        .with_state(Loops { creates, confirms });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::try_join!(
        async { Ok(axum::serve(listener, routes).await?) },
        batch::run(to_create, async |batch: Vec<Waiting<Message>>| {
            insert(&mut first, &batch).await?;
            answer_all(batch)
        }),
        batch::run(to_confirm, async |batch: Vec<Waiting<Uuid>>| {
            update(&mut second, &batch).await?;
            answer_all(batch)
        }),
    )?;
    Ok(())
}

fn answer_all<T>(batch: Vec<Waiting<T>>) -> Result<()> {
    for (_, done) in batch {
        let _ = done.send(());
    }
    Ok(())
}

async fn create(State(loops): State<Loops>, Json(order): Json<Message>) -> (StatusCode, Json<Value>) {
    let (id, (done, stored)) = (order.order_id, oneshot::channel());
    let _ = loops.creates.send((order, done));
    answer(stored, StatusCode::CREATED, id, "PENDING").await
}

async fn confirm(State(loops): State<Loops>, Path(id): Path<Uuid>, Json(_): Json<Value>) -> (StatusCode, Json<Value>) {
    let (done, stored) = oneshot::channel();
    let _ = loops.confirms.send((id, done));
    answer(stored, StatusCode::OK, id, "CONFIRMED").await
}

async fn answer(stored: oneshot::Receiver<()>, code: StatusCode, id: Uuid, status: &str) -> (StatusCode, Json<Value>) {
    match stored.await {
        Ok(()) => (code, Json(json!({"orderId": id, "status": status}))),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Json(Value::Null)),
    }
}

async fn insert(connection: &mut PgConnection, batch: &[Waiting<Message>]) -> Result<()> {
    let orders = || batch.iter().map(|(order, _)| order);
    sqlx::query(
        "INSERT INTO orders (order_id, saga_id, user_id, total_amount, status, created_at, updated_at)
         SELECT order_id, saga_id, user_id, total_amount, 'PENDING', now(), now()
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::numeric[])
              AS new (order_id, saga_id, user_id, total_amount)",
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
