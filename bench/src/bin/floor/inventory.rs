//! Inventory: one commit, and the reply.

use anyhow::{Context as _, Result};

use crate::kafka::{Consumer, Producer, Received};
use crate::{Kafka, database};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS reservations (order_id uuid PRIMARY KEY, saga_id uuid NOT NULL,
    status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)";

pub async fn run(kafka: &Kafka, url: &str) -> Result<()> {
    let mut connection = database::open(url, TABLES).await?;
    let replies = Producer::open(kafka, "inventory.reserved")?;
    let (consumer, mut batches) = Consumer::open(kafka, "inventory", &["inventory.reserve.command"])?;
    loop {
        let mut batch = batches.recv().await.context("the consumer has ended")?;
        while let Ok(more) = batches.try_recv() {
            batch.extend(more);
        }
        sqlx::query(
            "INSERT INTO reservations (order_id, saga_id, status, created_at, updated_at)
             SELECT order_id, saga_id, 'RESERVED', now(), now()
             FROM (SELECT UNNEST($1::uuid[]) AS order_id, UNNEST($2::uuid[]) AS saga_id) AS new
             ON CONFLICT (order_id) DO NOTHING",
        )
        .bind(batch.iter().map(|one| one.message.order_id).collect::<Vec<_>>())
        .bind(batch.iter().map(|one| one.message.saga_id).collect::<Vec<_>>())
        .execute(&mut connection)
        .await?;
        for one in &batch {
            replies.send(&one.message)?;
        }
        consumer.store(&batch.iter().map(Received::place).collect::<Vec<_>>())?;
    }
}
