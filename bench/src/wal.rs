//! What the four databases have written: write-ahead log and its flushes to disk.

use std::ops::Sub;
use std::time::Duration;

use anyhow::Result;
use e2e_tests::Databases;
use sqlx::PgPool;

/// A backend tells its counts when it has been idle for so long (`PGSTAT_IDLE_INTERVAL` in Postgres' `pgstat.c`), or
/// at most once a second while it is busy.
pub const COUNTS_ARE_TOLD_AFTER: Duration = Duration::from_millis(10_500);

/// How much log all servers have inserted since they were initialised, in bytes. Exact at any moment.
pub async fn bytes(databases: &Databases) -> Result<u64> {
    let mut bytes = 0;
    for pool in pools(databases) {
        let inserted: i64 =
            sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").fetch_one(pool).await?;
        bytes += u64::try_from(inserted)?;
    }
    Ok(bytes)
}

/// What the servers have counted. Complete only [`COUNTS_ARE_TOLD_AFTER`] the last statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// fsyncs of the log: a lone commit needs one, commits at the same time share one.
    pub flushes: i64,
    pub commits: i64,
}

impl Counts {
    pub async fn read(databases: &Databases) -> Result<Self> {
        let mut all = Self { flushes: 0, commits: 0 };
        for pool in pools(databases) {
            let version: i32 =
                sqlx::query_scalar("SELECT current_setting('server_version_num')::int4").fetch_one(pool).await?;
            let flushes = match version {
                180_000.. => "SELECT sum(fsyncs)::int8 FROM pg_stat_io WHERE object = 'wal'",
                _ => "SELECT wal_sync FROM pg_stat_wal",
            };
            all.flushes += sqlx::query_scalar::<_, i64>(flushes).fetch_one(pool).await?;
            let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
            all.commits += sqlx::query_scalar::<_, i64>(commits).fetch_one(pool).await?;
        }
        Ok(all)
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { flushes: self.flushes - before.flushes, commits: self.commits - before.commits }
    }
}

fn pools(databases: &Databases) -> [&PgPool; 4] {
    [&databases.order, &databases.payment, &databases.inventory, &databases.orchestrator]
}
