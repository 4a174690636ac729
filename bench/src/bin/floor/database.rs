//! Connections of one's own, one for each loop.

use std::str::FromStr as _;

use anyhow::Result;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

/// Connects. Statements are prepared, and planned once.
pub async fn connect(url: &str) -> Result<PgConnection> {
    let planning = [
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("cpu_index_tuple_cost", "10"),
        ("search_path", "floor"),
    ];
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging().options(planning);
    Ok(options.connect().await?)
}

/// Makes the tables, and connects.
pub async fn open(url: &str, tables: &'static str) -> Result<PgConnection> {
    let mut connection = connect(url).await?;
    sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS floor").execute(&mut connection).await?;
    sqlx::raw_sql(tables).execute(&mut connection).await?;
    Ok(connection)
}
