//! The orchestrator: `POST /checkout`; a row that is inserted and moved four times, one step after each commit. Two
//! loops, each with a connection: one inserts, one moves. A third one calls the orders, with all that wait at once.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::kafka::{Consumer, Producer, Received};
use crate::message::{Call, Checkout, Message};
use crate::{Kafka, batch, database};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS sagas (saga_id uuid PRIMARY KEY, order_id uuid NOT NULL UNIQUE, user_id text NOT NULL,
        total_amount numeric NOT NULL, status text NOT NULL, step text NOT NULL, version bigint NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE IF NOT EXISTS saga_events (saga_id uuid NOT NULL, seq bigint NOT NULL, input text NOT NULL,
        step text NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (saga_id, seq))";

/// A saga on its way, with the client that waits for it.
struct Running {
    message: Message,
    client: oneshot::Sender<()>,
}

/// Something has happened: the saga moves to this version.
struct Move {
    message: Message,
    version: i64,
    /// The record that told, if it was one.
    place: Option<(usize, i64)>,
}

/// By version, from 2 on: what has happened, and what is pending then.
const STEPS: [(&str, &str); 4] = [
    ("order.created", "PAYMENT_CHARGE"),
    ("payment.charged", "INVENTORY_RESERVE"),
    ("inventory.reserved", "ORDER_CONFIRM"),
    ("order.confirmed", "COMPLETED"),
];

/// What follows a commit.
struct Effects {
    charges: Producer,
    reserves: Producer,
    calls: UnboundedSender<Call>,
    moves: UnboundedSender<Move>,
    clients: RefCell<HashMap<Uuid, oneshot::Sender<()>>>,
}

/// The orders service.
struct Orders {
    http: reqwest::Client,
    url: String,
}

pub async fn run(kafka: &Kafka, url: &str, port: u16, orders: &str) -> Result<()> {
    // rustls asks each process to choose its cryptography, though nothing here is encrypted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut inserting, mut moving) = (database::open(url, TABLES).await?, database::connect(url).await?);
    let (consumer, replies) = Consumer::open(kafka, "orchestrator", &["payment.charged", "inventory.reserved"])?;
    let ((new, to_insert), (moves, to_move), (calls, to_call)) =
        (unbounded_channel(), unbounded_channel(), unbounded_channel());
    let effects = Effects {
        charges: Producer::open(kafka, "payment.charge.command")?,
        reserves: Producer::open(kafka, "inventory.reserve.command")?,
        calls,
        moves,
        clients: RefCell::default(),
    };
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let orders = Orders { http, url: format!("{orders}/batch") };
    let routes = Router::new().route("/checkout", post(checkout)).with_state(new);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::try_join!(
        async { Ok(axum::serve(listener, routes).await?) },
        receive(replies, &effects.moves),
        batch::run(to_insert, async |batch: Vec<Running>| {
            insert(&mut inserting, &batch).await?;
            batch.into_iter().try_for_each(|Running { message, client }| {
                effects.clients.borrow_mut().insert(message.saga_id, client);
                Ok(effects.calls.send(Call::Create(message))?)
            })
        }),
        batch::run(to_move, async |batch: Vec<Move>| {
            update(&mut moving, &batch).await?;
            let places: Vec<_> = batch.iter().filter_map(|one| one.place).collect();
            batch.into_iter().try_for_each(|one| follow(&effects, one))?;
            consumer.store(&places)
        }),
        batch::run(to_call, async |batch: Vec<Call>| {
            orders.call(&batch).await?;
            batch.into_iter().try_for_each(|call| {
                let (message, version) = match call {
                    Call::Create(message) => (message, 2),
                    Call::Confirm(message) => (message, 5),
                };
                Ok(effects.moves.send(Move { message, version, place: None })?)
            })
        }),
    )?;
    Ok(())
}

async fn checkout(
    State(new): State<UnboundedSender<Running>>,
    Json(checkout): Json<Checkout>,
) -> (StatusCode, Json<Value>) {
    let (message, (client, ended)) = (Message::new(checkout), oneshot::channel());
    let answer = json!({
        "sagaId": message.saga_id, "orderId": message.order_id, "status": "COMPLETED", "step": "COMPLETED",
        "userId": message.payload.user_id, "totalAmount": message.payload.total_amount, "currency": "USD",
        "createdAt": message.timestamp,
    });
    let _ = new.send(Running { message, client });
    match ended.await {
        Ok(()) => (StatusCode::OK, Json(answer)),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Json(Value::Null)),
    }
}

async fn receive(mut replies: UnboundedReceiver<Vec<Received>>, moves: &UnboundedSender<Move>) -> Result<()> {
    loop {
        for one in replies.recv().await.context("the consumer has ended")? {
            let (version, place) = (if one.topic == 0 { 3 } else { 4 }, Some(one.place()));
            moves.send(Move { message: one.message, version, place })?;
        }
    }
}

/// Does what the version asks for that has just been stored.
fn follow(effects: &Effects, done: Move) -> Result<()> {
    match done.version {
        2 => effects.charges.send(&done.message)?,
        3 => effects.reserves.send(&done.message)?,
        4 => effects.calls.send(Call::Confirm(done.message))?,
        _ => {
            if let Some(client) = effects.clients.borrow_mut().remove(&done.message.saga_id) {
                let _ = client.send(());
            }
        }
    }
    Ok(())
}

impl Orders {
    /// One request for all.
    async fn call(&self, calls: &[Call]) -> Result<()> {
        let answer = self.http.post(&self.url).json(calls).send().await?.error_for_status()?;
        let answers: Vec<Value> = serde_json::from_slice(&answer.bytes().await?)?;
        ensure!(answers.len() == calls.len(), "{} calls got {} answers", calls.len(), answers.len());
        Ok(())
    }
}

async fn insert(connection: &mut PgConnection, batch: &[Running]) -> Result<()> {
    let new = || batch.iter().map(|one| &one.message);
    sqlx::query(
        "WITH stored AS (
             INSERT INTO sagas (saga_id, order_id, user_id, total_amount, status, step, version, created_at, updated_at)
             SELECT saga_id, order_id, user_id, total_amount, 'RUNNING', 'ORDER_CREATE', 1, now(), now()
             FROM (SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::uuid[]) AS order_id,
                          UNNEST($3::text[]) AS user_id, UNNEST($4::numeric[]) AS total_amount) AS new
             RETURNING saga_id
         )
         INSERT INTO saga_events (saga_id, seq, input, step, at)
         SELECT saga_id, 1, 'started', 'ORDER_CREATE', now() FROM stored",
    )
    .bind(new().map(|message| message.saga_id).collect::<Vec<_>>())
    .bind(new().map(|message| message.order_id).collect::<Vec<_>>())
    .bind(new().map(|message| message.payload.user_id.as_str()).collect::<Vec<_>>())
    .bind(new().map(|message| message.payload.total_amount).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, batch: &[Move]) -> Result<()> {
    let step = |one: &Move| STEPS[one.version as usize - 2];
    sqlx::query(
        "WITH moved AS (
             UPDATE sagas SET version = new.version, step = new.step, updated_at = now(),
                 status = CASE WHEN new.step = 'COMPLETED' THEN 'COMPLETED' ELSE 'RUNNING' END
             FROM (SELECT UNNEST($1::uuid[]) AS saga_id, UNNEST($2::bigint[]) AS version,
                          UNNEST($3::text[]) AS input, UNNEST($4::text[]) AS step) AS new
             WHERE sagas.saga_id = new.saga_id AND sagas.version = new.version - 1
             RETURNING new.*
         )
         INSERT INTO saga_events (saga_id, seq, input, step, at)
         SELECT saga_id, version, input, step, now() FROM moved",
    )
    .bind(batch.iter().map(|one| one.message.saga_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| one.version).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| step(one).0).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| step(one).1).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
