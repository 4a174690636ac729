//! One run: a load for a while, and what it cost. A run counts only if every checkout was told its end, and the rows
//! agree with what was told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use e2e_tests::{Client, Databases, agreement, eventually};
use serde::Serialize;
use uuid::Uuid;

use crate::load::{Generator, Load, Seen};
use crate::platform::{Subject, load};
use crate::wal;

/// By when every saga has to have ended after the last answer.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Who was measured.
pub const OURS: &str = "ours";
pub const FLOOR: &str = "floor";
/// The platform without a past, beside one with `--preload`, or without sagas that wait, beside one with `--waiting`.
pub const EMPTY: &str = "empty";
/// Checkouts, beside the flow of `--wide` on the same platform.
pub const CHECKOUTS: &str = "checkouts";
/// The platform with what `--against-…` gives it.
pub const AGAINST: &str = "against";

/// What a run has shown. Costs are for one checkout.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// [`OURS`], [`FLOOR`], [`EMPTY`] or [`AGAINST`].
    pub who: &'static str,
    pub load: Load,
    pub per_second: f64,
    pub seen: Seen,
    /// By process, in the order of the columns; in ms of one core.
    pub cpu_ms: Vec<(&'static str, f64)>,
    pub wal_bytes: f64,
    pub wal_flushes: f64,
    /// Transactions, those that only read included, and what the services ask for when they are idle.
    pub commits: f64,
    /// The share of the moves of sagas that made no entry in an index.
    pub heap_only: f64,
    /// Why it does not count, if it does not.
    pub wrong: Option<String>,
}

impl Run {
    pub fn cpu_ms_sum(&self) -> f64 {
        self.cpu_ms.iter().map(|(_, ms)| ms).sum()
    }
}

/// How often rows of `sagas` were replaced, and how often without a new entry in an index.
#[derive(Debug, Clone, Copy)]
struct Moves {
    all: i64,
    heap_only: i64,
}

impl Moves {
    async fn read(databases: &Databases) -> Result<Self> {
        let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sagas'";
        let (all, heap_only) = sqlx::query_as(counts).fetch_one(&databases.orchestrator).await?;
        Ok(Self { all, heap_only })
    }

    fn heap_only_since(self, before: Self) -> f64 {
        (self.heap_only - before.heap_only) as f64 / (self.all - before.all).max(1) as f64
    }
}

/// Puts a load on something and measures. `wrong` is not judged yet.
pub async fn measure(
    who: &'static str,
    subject: &Subject,
    databases: &Databases,
    generator: &Generator,
    load: Load,
    time: Duration,
) -> Result<Run> {
    let moves = Moves::read(databases).await?;
    let (bytes, counts, cpu) = (wal::bytes(databases).await?, wal::Counts::read(databases).await?, cpu(subject)?);
    let seen = generator.run(&subject.urls, load, time).await?;
    let (cpu_after, bytes_after) = (self::cpu(subject)?, wal::bytes(databases).await?);
    tokio::time::sleep(wal::COUNTS_ARE_TOLD_AFTER).await;
    let counts = wal::Counts::read(databases).await? - counts;
    let heap_only = Moves::read(databases).await?.heap_only_since(moves);

    ensure!(seen.ended() > 0, "no checkout was told its end: {:?} {:?}", seen.answers, seen.errors);
    let checkouts = seen.ended() as f64;
    let cost = |before: &Duration, after: &Duration| (*after - *before).as_secs_f64() * 1000.0 / checkouts;
    Ok(Run {
        who,
        load,
        per_second: seen.per_second(),
        cpu_ms: cpu.iter().zip(&cpu_after).map(|((name, before), (_, after))| (*name, cost(before, after))).collect(),
        wal_bytes: (bytes_after - bytes) as f64 / checkouts,
        wal_flushes: counts.flushes as f64 / checkouts,
        commits: counts.commits as f64 / checkouts,
        heap_only,
        wrong: untold(&seen),
        seen,
    })
}

fn cpu(subject: &Subject) -> Result<Vec<(&'static str, Duration)>> {
    subject.groups.iter().chain([&load()]).map(|group| Ok((group.name, group.cpu()?))).collect()
}

/// Whether a checkout was not told its end.
fn untold(seen: &Seen) -> Option<String> {
    let others: BTreeMap<_, _> = seen.answers.iter().filter(|(status, _)| !is_end(status)).collect();
    let all_told = others.is_empty() && seen.errors.is_empty();
    (!all_told).then(|| format!("not every checkout was told its end: {others:?}, no answer: {:?}", seen.errors))
}

fn is_end(status: &str) -> bool {
    matches!(status, "200" | "402" | "409")
}

/// What is wrong with the sagas that were stored since `began`: each has to have ended as its client was told, and the
/// four databases have to agree about it.
pub async fn disagreement(client: &Client, began: DateTime<Utc>, seen: &Seen) -> Result<Option<String>> {
    let judged = async {
        // Those that wait for a signal are there before and after.
        eventually("no saga is RUNNING or COMPENSATING", END_LIMIT, async || {
            let moving = "SELECT count(*) FROM sagas WHERE status IN ('RUNNING', 'COMPENSATING')";
            let moving: i64 = sqlx::query_scalar(moving).fetch_one(&client.databases.orchestrator).await?;
            Ok((moving == 0).then_some(()))
        })
        .await?;
        let rows = "SELECT order_id, status FROM sagas WHERE created_at >= $1";
        let rows: Vec<(Uuid, String)> =
            sqlx::query_as(rows).bind(began).fetch_all(&client.databases.orchestrator).await?;
        let orders: Vec<Uuid> = rows.iter().map(|(order, _)| *order).collect();
        agreement::about(&client.databases, &orders).await?;
        let ended = |as_status| rows.iter().filter(|(_, status)| status == as_status).count() as u64;
        let told = (seen.status("200"), seen.status("402") + seen.status("409"));
        let stored = (ended("COMPLETED"), ended("FAILED"));
        ensure!(
            told == stored,
            "clients were told of {told:?} sagas that are COMPLETED and FAILED, stored are {stored:?}"
        );
        anyhow::Ok(())
    };
    Ok(judged.await.err().map(|error| format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(answers: &[(&str, u64)], errors: &[(&str, u64)]) -> Seen {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Seen { seconds: 1.0, answers: map(answers), errors: map(errors), p50_ms: 1.0, p99_ms: 1.0, p999_ms: 1.0 }
    }

    #[test]
    fn a_run_with_an_answer_that_is_no_end_does_not_count() {
        assert_eq!(untold(&seen(&[("200", 5), ("402", 1), ("409", 2)], &[])), None);
        for (answers, errors) in [
            (&[("200", 5), ("202", 1)][..], &[][..]),
            (&[("503", 1)], &[]),
            (&[("200", 5)], &[("connection closed", 1)]),
        ] {
            assert!(untold(&seen(answers, errors)).is_some(), "{answers:?} {errors:?}");
        }
    }
}
