//! The SQL that removes old rows, and that knows of what was removed. What is removed stands below the horizon, which the
//! table `retention_horizon` has; it is stored in the statement that removes.

use messages::Timestamp;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::{AT_ONCE, Removed};
use crate::database::StoreError;

/// A table whose key is `order_id`, and which has a column `updated_at`. All of it is SQL, and stands in the source.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub name: &'static str,
    /// Which of its old rows may be removed: a condition.
    pub may_be_removed: &'static str,
    /// What is removed with its rows, which it finds in `removed`: further parts of the statement, each with a comma before
    /// it.
    pub removed_with: &'static str,
}

/// A batch of rows to be looked at: those with `after` < id < `before`, the lowest [`AT_ONCE`] of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removal {
    /// The horizon.
    pub before: Uuid,
    pub after: Uuid,
    /// Rows that changed later stay.
    pub unchanged_since: Timestamp,
}

/// The rows of a table.
#[derive(Clone)]
pub struct Rows {
    pool: PgPool,
    table: Table,
}

impl Rows {
    pub fn of(pool: &PgPool, table: Table) -> Self {
        Self { pool: pool.clone(), table }
    }

    /// Stores the horizon and removes, in one statement, what of the batch nobody needs any more.
    pub(super) async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        let Table { name, may_be_removed, removed_with } = self.table;
        let remove = format!(
            "WITH horizon AS (
                 INSERT INTO retention_horizon (order_id) VALUES ($1)
                 ON CONFLICT (only_one) DO UPDATE SET order_id = EXCLUDED.order_id, moved_at = now()
                 WHERE retention_horizon.order_id < EXCLUDED.order_id
             ), old AS (
                 SELECT order_id FROM {name} WHERE order_id > $2 AND order_id < $1 ORDER BY order_id LIMIT $4
             ), removed AS (
                 DELETE FROM {name} USING old
                 WHERE {name}.order_id = old.order_id AND {name}.updated_at < $3 AND ({may_be_removed})
                 RETURNING {name}.order_id
             ){removed_with}
             SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM old),
                    (SELECT order_id FROM old ORDER BY order_id DESC LIMIT 1)"
        );
        let (removed, looked_at, last) = sqlx::query_as(AssertSqlSafe(remove))
            .bind(removal.before)
            .bind(removal.after)
            .bind(removal.unchanged_since)
            .bind(AT_ONCE)
            .fetch_one(&self.pool)
            .await?;
        Ok(Removed::of(removed, looked_at, last))
    }

    /// Whether this id is below the horizon and has no row: what was done for it has ended, and would be done anew.
    pub async fn was_removed(&self, id: Uuid) -> Result<bool, StoreError> {
        let name = self.table.name;
        let removed = format!(
            "SELECT EXISTS (SELECT FROM retention_horizon WHERE order_id > $1)
                AND NOT EXISTS (SELECT FROM {name} WHERE order_id = $1)"
        );
        Ok(sqlx::query_scalar(AssertSqlSafe(removed)).bind(id).fetch_one(&self.pool).await?)
    }

    /// Whether this id is below the horizon. Asked once its row stands, it can't be missed: the horizon is stored before
    /// anything below it is removed.
    pub async fn is_below_horizon(&self, id: Uuid) -> Result<bool, StoreError> {
        let below = sqlx::query_scalar("SELECT EXISTS (SELECT FROM retention_horizon WHERE order_id > $1)");
        Ok(below.bind(id).fetch_one(&self.pool).await?)
    }
}
