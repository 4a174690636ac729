//! Payment: CHARGING; then the gateway's request and ledger entry; then CHARGED, and the reply. Three loops, each
//! with a connection: one inserts payments, one moves them, and one is the gateway's.

use anyhow::{Context as _, Result};
use sqlx::PgConnection;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::kafka::{Consumer, Producer, Received};
use crate::{Kafka, batch, database};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS payments (order_id uuid PRIMARY KEY, saga_id uuid NOT NULL, user_id text,
        amount numeric NOT NULL, status text NOT NULL, created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL) WITH (fillfactor = 80);
    CREATE TABLE IF NOT EXISTS gateway_requests (idempotency_key text PRIMARY KEY, order_id uuid NOT NULL,
        kind text NOT NULL, amount numeric NOT NULL, outcome text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE IF NOT EXISTS gateway_ledger (entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        idempotency_key text NOT NULL UNIQUE, order_id uuid NOT NULL, kind text NOT NULL, amount numeric NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX IF NOT EXISTS gateway_ledger_by_order ON gateway_ledger (order_id)";

pub async fn run(kafka: &Kafka, url: &str) -> Result<()> {
    let (mut inserting, mut moving) = (database::open(url, TABLES).await?, database::connect(url).await?);
    let mut gateway = database::connect(url).await?;
    let replies = Producer::open(kafka, "payment.charged")?;
    let (consumer, commands) = Consumer::open(kafka, "payment", &["payment.charge.command"])?;
    let ((new, to_insert), (calls, to_call), (moves, to_move)) =
        (unbounded_channel(), unbounded_channel(), unbounded_channel());
    tokio::try_join!(
        receive(commands, &new),
        batch::run(to_insert, async |batch: Vec<Received>| {
            insert(&mut inserting, &batch).await?;
            batch.into_iter().try_for_each(|one| Ok(calls.send(one)?))
        }),
        batch::run(to_call, async |batch: Vec<Received>| {
            charge(&mut gateway, &batch).await?;
            batch.into_iter().try_for_each(|one| Ok(moves.send(one)?))
        }),
        batch::run(to_move, async |batch: Vec<Received>| {
            update(&mut moving, &batch).await?;
            batch.iter().try_for_each(|one| replies.send(&one.message))?;
            consumer.store(&batch.iter().map(Received::place).collect::<Vec<_>>())
        }),
    )?;
    Ok(())
}

async fn receive(mut commands: UnboundedReceiver<Vec<Received>>, new: &UnboundedSender<Received>) -> Result<()> {
    loop {
        let batch = commands.recv().await.context("the consumer has ended")?;
        batch.into_iter().try_for_each(|one| new.send(one))?;
    }
}

async fn insert(connection: &mut PgConnection, batch: &[Received]) -> Result<()> {
    let rows = || batch.iter().map(|one| &one.message);
    sqlx::query(
        "INSERT INTO payments (order_id, saga_id, user_id, amount, status, created_at, updated_at)
         SELECT UNNEST($1::uuid[]), UNNEST($2::uuid[]), UNNEST($3::text[]), UNNEST($4::numeric[]), 'CHARGING', now(),
                now()
         ON CONFLICT (order_id) DO NOTHING",
    )
    .bind(rows().map(|row| row.order_id).collect::<Vec<_>>())
    .bind(rows().map(|row| row.saga_id).collect::<Vec<_>>())
    .bind(rows().map(|row| row.payload.user_id.as_str()).collect::<Vec<_>>())
    .bind(rows().map(|row| row.payload.total_amount).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, batch: &[Received]) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET status = 'CHARGED', updated_at = now()
         FROM UNNEST($1::uuid[]) AS new (order_id)
         WHERE payments.order_id = new.order_id AND status = 'CHARGING'",
    )
    .bind(batch.iter().map(|one| one.message.order_id).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn charge(connection: &mut PgConnection, batch: &[Received]) -> Result<()> {
    sqlx::query(
        "WITH decided AS (
             INSERT INTO gateway_requests (idempotency_key, order_id, kind, amount, outcome)
             SELECT order_id || ':charge', order_id, 'CHARGE', amount, 'APPROVED'
             FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::numeric[]) AS amount) AS new
             ON CONFLICT (idempotency_key) DO NOTHING
             RETURNING *
         )
         INSERT INTO gateway_ledger (idempotency_key, order_id, kind, amount)
         SELECT idempotency_key, order_id, kind, amount FROM decided",
    )
    .bind(batch.iter().map(|one| one.message.order_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| one.message.payload.total_amount).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
