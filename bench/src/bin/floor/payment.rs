//! Payment: CHARGING; then the gateway's request and ledger entry; then CHARGED, and the reply. Two loops, each with a
//! connection: one for the payments, whose inserts and updates share a statement, and one for the gateway.

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

/// A write of the payments' loop.
enum Write {
    Charging(Received),
    Charged(Received),
}

pub async fn run(kafka: &Kafka, url: &str) -> Result<()> {
    let (mut payments, mut gateway) = (database::open(url, TABLES).await?, database::connect(url).await?);
    let replies = Producer::open(kafka, "payment.charged")?;
    let (consumer, commands) = Consumer::open(kafka, "payment", &["payment.charge.command"])?;
    let ((writes, to_write), (calls, to_call)) = (unbounded_channel(), unbounded_channel());
    tokio::try_join!(
        receive(commands, &writes),
        batch::run(to_write, async |batch: Vec<Write>| {
            write(&mut payments, &batch).await?;
            let mut done = Vec::new();
            for one in batch {
                match one {
                    Write::Charging(one) => calls.send(one)?,
                    Write::Charged(one) => {
                        replies.send(&one.message)?;
                        done.push(one.place());
                    }
                }
            }
            consumer.store(&done)
        }),
        batch::run(to_call, async |batch: Vec<Received>| {
            charge(&mut gateway, &batch).await?;
            batch.into_iter().try_for_each(|one| Ok(writes.send(Write::Charged(one))?))
        }),
    )?;
    Ok(())
}

async fn receive(mut commands: UnboundedReceiver<Vec<Received>>, writes: &UnboundedSender<Write>) -> Result<()> {
    loop {
        let batch = commands.recv().await.context("the consumer has ended")?;
        batch.into_iter().try_for_each(|one| writes.send(Write::Charging(one)))?;
    }
}

async fn write(connection: &mut PgConnection, batch: &[Write]) -> Result<()> {
    let rows = || batch.iter().map(|(Write::Charging(one) | Write::Charged(one))| &one.message);
    sqlx::query(
        "WITH new AS (
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::numeric[], $5::bool[])
                  AS new (order_id, saga_id, user_id, amount, is_new)
         ), inserted AS (
             INSERT INTO payments (order_id, saga_id, user_id, amount, status, created_at, updated_at)
             SELECT order_id, saga_id, user_id, amount, 'CHARGING', now(), now() FROM new WHERE is_new
             ON CONFLICT (order_id) DO NOTHING
         )
         UPDATE payments SET status = 'CHARGED', updated_at = now()
         FROM new WHERE payments.order_id = new.order_id AND NOT is_new AND status = 'CHARGING'",
    )
    .bind(rows().map(|row| row.order_id).collect::<Vec<_>>())
    .bind(rows().map(|row| row.saga_id).collect::<Vec<_>>())
    .bind(rows().map(|row| row.payload.user_id.as_str()).collect::<Vec<_>>())
    .bind(rows().map(|row| row.payload.total_amount).collect::<Vec<_>>())
    .bind(batch.iter().map(|write| matches!(write, Write::Charging(_))).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn charge(connection: &mut PgConnection, batch: &[Received]) -> Result<()> {
    sqlx::query(
        "WITH decided AS (
             INSERT INTO gateway_requests (idempotency_key, order_id, kind, amount, outcome)
             SELECT order_id || ':charge', order_id, 'CHARGE', amount, 'APPROVED'
             FROM UNNEST($1::uuid[], $2::numeric[]) AS new (order_id, amount)
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
