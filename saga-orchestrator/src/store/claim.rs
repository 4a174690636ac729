//! Claims sagas whose effect is due to be repeated.

use std::sync::Arc;

use flow::{Flow, Repeat};
use messages::Timestamp;
use service_runtime::database::{Session, StoreError};
use sqlx::Row as _;

use super::{AT_ITS_LIMIT, Stored, WAITING_REPETITION, from_row, milliseconds};
use crate::registry::Flows;

/// Which sagas are looked for. Each has an index of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Those whose participants answer at once, mostly.
    Running,
    /// Those of them whose step has timed out.
    Late,
    /// Those that may wait for days. A command is repeated each five minutes, less up to a quarter; one that waits for a signal
    /// is looked at when its limit has passed.
    Waiting,
}

macro_rules! claim {
    ($statuses:literal, $which:literal) => {
        concat!(
            "WITH known AS (
             SELECT UNNEST($3::int[]) AS definition_version, UNNEST($4::float8[]) AS first, UNNEST($5::float8[]) AS most,
                    UNNEST($6::int[]) AS attention_after
         ), early AS (
             -- They have moved since they were noted to be looked at now.
             SELECT saga_id FROM sagas
             WHERE status IN ",
            $statuses,
            " AND sweep_at <= now() AND next_attempt_at > now()
               AND definition = $2
             LIMIT 10000
             FOR UPDATE SKIP LOCKED
         ), put_off AS (
             UPDATE sagas SET sweep_at = next_attempt_at FROM early WHERE sagas.saga_id = early.saga_id
         ), due AS (
             SELECT saga_id, definition_version, attempts + 1 AS tries, deadline_at, awaits
             FROM sagas
             WHERE status IN ",
            $statuses,
            " AND sweep_at <= now() AND next_attempt_at <= now()
               AND definition = $2 AND definition_version = ANY($3)",
            $which,
            "
             ORDER BY sweep_at LIMIT $1
             FOR UPDATE SKIP LOCKED
         ), spaced AS (
             SELECT saga_id, tries, -- One that waits for a signal is looked at for days: a limit of its flow calls a person.
                    tries >= attention_after AND deadline_at IS NULL AND awaits IS NULL AS is_remarkable, LEAST(
                 now() + CASE
                     WHEN awaits IS NULL
                     THEN LEAST(first * power(2, LEAST(tries, 20)), most) * (1 - 0.25 * random())
                     ELSE $7::float8 END * interval '1 ms',
                 CASE WHEN deadline_at > now() THEN deadline_at WHEN deadline_at <= now() THEN now() + interval '10 s' END
             ) AS again_at
             FROM due JOIN known USING (definition_version)
         )
         UPDATE sagas
         SET attempts = tries, next_attempt_at = again_at, sweep_at = again_at,
             needs_attention_since = CASE
                 WHEN is_remarkable THEN COALESCE(needs_attention_since, now())
                 ELSE needs_attention_since END,
             attention_reason = CASE
                 WHEN is_remarkable
                 THEN COALESCE(attention_reason, format('%s was repeated %s times without success', step, tries))
                 ELSE attention_reason END
         FROM spaced WHERE sagas.saga_id = spaced.saga_id
         RETURNING sagas.saga_id, order_id, user_id, total_amount, currency, status, step, cause, reason,
                   force_payment_fail, force_inventory_fail, definition, definition_version, version, deadline_at,
                   expires_at, needs_attention_since, attention_reason, resolved_by_hand, traceparent, created_at,
                   updated_at, input::text, kept::text, progressed, answered_at, answer_status, answer::text,
                   COALESCE(deadline_at <= now(), false) AS deadline_passed,
                   COALESCE(needs_attention_since = now(), false) AS newly_needs_attention, now() AS now"
        )
    };
}

impl Sweep {
    /// Written out: a partial index is used only where its condition stands in the statement.
    const fn statement(self) -> &'static str {
        match self {
            Self::Running => claim!("('RUNNING', 'COMPENSATING')", ""),
            Self::Late => claim!("('RUNNING', 'COMPENSATING')", " AND deadline_at <= now()"),
            Self::Waiting => claim!("('WAITING')", ""),
        }
    }
}

/// A saga whose effect is due to be repeated.
pub struct Due {
    pub saga: Stored,
    /// A person should look at it, from now on.
    pub newly_needs_attention: bool,
    /// Its pending step has timed out, by the database's clock.
    pub deadline_passed: bool,
    /// The database's clock.
    pub now: Timestamp,
}

/// Claims up to `limit` due sagas of one flow, by these versions of it: notes the attempt and when the next one is due, so
/// that no other instance repeats the same. All by the database's clock. Sagas of a version that this release does not
/// know are left to a release that does. A claimed row that can't be read is an error of its own.
pub async fn claim_due(
    session: &Session,
    flows: &Flows,
    sweep: Sweep,
    limit: i64,
    versions: &[Arc<Flow>],
) -> Result<Vec<Result<Due, StoreError>>, StoreError> {
    let Some(name) = versions.first().map(|flow| flow.name.as_str()) else { return Ok(Vec::new()) };
    let repeat = |flow: &Arc<Flow>| match sweep {
        Sweep::Running | Sweep::Late => flow.repeat,
        Sweep::Waiting => Repeat { first: WAITING_REPETITION, most: WAITING_REPETITION, ..flow.repeat },
    };
    let claim = sqlx::query(sweep.statement())
        .bind(limit)
        .bind(name)
        .bind(versions.iter().map(|flow| flow.version).collect::<Vec<_>>())
        .bind(versions.iter().map(|flow| milliseconds(repeat(flow).first)).collect::<Vec<_>>())
        .bind(versions.iter().map(|flow| milliseconds(repeat(flow).most)).collect::<Vec<_>>())
        .bind(
            versions
                .iter()
                .map(|flow| repeat(flow).attention_after.try_into().unwrap_or(i32::MAX))
                .collect::<Vec<i32>>(),
        )
        .bind(milliseconds(AT_ITS_LIMIT));
    let due = session.rows(claim).await?;
    let due = due.iter().map(|row| {
        Ok(Due {
            saga: from_row(flows, row)?,
            newly_needs_attention: row.try_get("newly_needs_attention")?,
            deadline_passed: row.try_get("deadline_passed")?,
            now: row.try_get("now")?,
        })
    });
    Ok(due.collect())
}
