//! What a checkout costs does not depend on how many there were before.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Standalone, eventually};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

/// So few rows that Postgres would rather read all of them than look up a batch's: it did so with 50 to 300 (15.18).
const BEFORE: i64 = 150;
const AFTER: i64 = 30;

/// What looking up a checkout's row may take at most, for each table: its moves, and old entries beside the row's own.
const READS_PER_CHECKOUT: i64 = 20;

/// Backends tell what they did when they are idle, up to 10 s late.
const LIMIT: Duration = Duration::from_secs(30);

/// The tables whose rows move, and how often they do in a checkout that completes.
fn tables(client: &Client) -> [(&PgPool, &'static str, i64); 3] {
    let databases = &client.databases;
    [(&databases.orchestrator, "sagas", 4), (&databases.order, "orders", 1), (&databases.payment, "payments", 1)]
}

/// How many entries of the table's key have been read, once its rows are known to have moved so often.
async fn entries_read(pool: &PgPool, table: &str, moves: i64) -> Result<i64> {
    let told = format!(
        "SELECT n_tup_upd, (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = '{table}_pkey')
         FROM pg_stat_user_tables WHERE relname = '{table}'"
    );
    eventually(&format!("{table} have moved {moves} times"), LIMIT, async || {
        let (moved, read): (i64, i64) = sqlx::query_as(AssertSqlSafe(told.clone())).fetch_one(pool).await?;
        Ok((moved >= moves).then_some(read))
    })
    .await
}

async fn complete(client: &Client, checkouts: i64) -> Result<()> {
    for _ in 0..checkouts {
        let answer = client.checkout(&json!({"userId": "u1", "totalAmount": 5})).await?;
        ensure!(answer.status == 200, "{}", answer.text);
    }
    Ok(())
}

/// Statements are planned once. One that was planned while its table was small, and known to be, must not go on to read
/// all of it.
#[tokio::test]
async fn a_move_looks_up_its_row_even_by_a_plan_made_for_a_small_table() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    complete(&client, BEFORE).await?;
    let mut before = Vec::new();
    for (pool, table, moves) in tables(&client) {
        sqlx::query(AssertSqlSafe(format!("ANALYZE {table}"))).execute(pool).await?;
        before.push(entries_read(pool, table, moves * BEFORE).await?);
    }

    complete(&client, AFTER).await?;

    for ((pool, table, moves), before) in tables(&client).into_iter().zip(before) {
        let read = entries_read(pool, table, moves * (BEFORE + AFTER)).await? - before;
        ensure!(read <= READS_PER_CHECKOUT * AFTER, "{AFTER} checkouts read {read} entries of the key of {table}");
    }
    Ok(())
}
