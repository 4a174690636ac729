//! Publishes events to Kafka for other systems: at least once, and in order for each id.
//!
//! A change leaves an entry in the table `outbox`, in the very statement that makes it. Here the entries are sent, by one
//! instance at a time, and removed once Kafka has their records. So nothing is published that was not stored, and nothing that was
//! stored is lost, whichever process dies and however long Kafka is down.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::time::Duration;

use faults::Bug;
use futures::future::join_all;
use messages::OutgoingRecord;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use crate::CancellationToken;
use crate::database::{Session, StoreError, within_limit};
use crate::kafka::Producer;
use crate::looking::{Backlog, keep_looking};
use crate::metrics::Metrics;

/// The poll interval: an event is sent up to this long after its change.
const EVERY: Duration = Duration::from_millis(100);

/// Pause where nothing could be sent: Kafka is down.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// How long an id is passed over whose record could not be sent while others could, or whose row can't be read.
const PUT_OFF: Duration = Duration::from_secs(5);

/// With so many ids put off the others wait as well.
const MOST_PUT_OFF: usize = 10_000;

/// Entries that are read at a time.
const AT_ONCE: usize = 500;

/// At most this many entries are counted.
const MOST_COUNTED: i64 = 10_000;

/// How long a lease lasts: when the sender dies, another instance takes over after that.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is renewed.
const RENEWED: Duration = Duration::from_secs(1);

/// So much earlier than in the database the lease ends for its holder, who may be on its way with a statement.
const MARGIN: Duration = Duration::from_secs(2);

/// How long giving up the lease may take at the end.
const RESIGN_LIMIT: Duration = Duration::from_millis(500);

/// Why nothing is sent is logged this often.
const LOGGED: Duration = Duration::from_secs(60);

const LEAD: &str = "INSERT INTO outbox_sender (instance, until) VALUES ($1, now() + $2 * interval '1 ms')
     ON CONFLICT (only_one) DO UPDATE SET instance = EXCLUDED.instance, until = EXCLUDED.until
     WHERE outbox_sender.instance = EXCLUDED.instance OR outbox_sender.until < now()
     RETURNING only_one";

const RESIGN: &str = "DELETE FROM outbox_sender WHERE instance = $1";

const COUNT: &str = "SELECT count(*), coalesce(extract(epoch FROM now() - min(at)), 0)::float8
     FROM (SELECT at FROM outbox ORDER BY seq LIMIT $1) AS first";

// From the start each time: an entry with a lower number may have become visible later.
const FIRST: &str = "SELECT seq, id, what FROM outbox WHERE id <> ALL($1) ORDER BY seq LIMIT $2";

const SENT: &str = "DELETE FROM outbox WHERE seq = ANY($1)";

/// A change that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    seq: i64,
    /// What has changed. Its entries are sent in their order, each when Kafka has the one before.
    pub id: Uuid,
    /// What it has become.
    pub what: String,
}

/// What an entry is published as.
#[derive(Debug)]
pub enum Announcement {
    /// The same record each time.
    Record(OutgoingRecord),
    /// Nothing, for this reason: the row was removed, say. The entry is dropped.
    Nothing(&'static str),
    /// This release can't read the row. The entry stays until a release sends it that can.
    Unknown,
}

/// A service's events.
pub trait Announced {
    /// That of each of these entries, in their order.
    fn of(&self, entries: &[Entry]) -> impl Future<Output = Result<Vec<Announcement>, StoreError>>;
}

/// What became of some entries.
#[derive(Default)]
struct Outcome {
    done: Vec<i64>,
    /// Kafka did not take these.
    failed: Vec<Uuid>,
    unknown: Vec<Uuid>,
    /// Why the last of them was not sent.
    why: Option<String>,
}

/// Sends the entries of the table, until `stop`.
pub async fn send(
    pool: &PgPool,
    producer: &Producer,
    metrics: &Metrics,
    backlog: &Backlog,
    announced: &impl Announced,
    stop: CancellationToken,
) {
    let instance = Uuid::now_v7();
    // Until when this instance sends.
    let lease = StdMutex::new(Instant::now());
    let leads = || *lease.lock().unwrap_or_else(PoisonError::into_inner) > Instant::now();
    let put_off = Mutex::new(HashMap::<Uuid, Instant>::new());
    let logged = StdMutex::new(None::<Instant>);
    let log = |why: Option<String>| {
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.filter(|_| logged.is_none_or(|at| at.elapsed() > LOGGED)) {
            *logged = Some(Instant::now());
            warn!(%why, "events can't be sent; will retry");
        }
    };
    let (leading, sending) = (Session::beside(pool), Session::beside(pool));
    let count = metrics.gauge("outbox_entries", "Changes that are not published yet; at most 10,000 are counted.");
    let oldest = metrics.seconds("outbox_oldest_seconds", "For how long the first of them has waited; 0: none does.");
    let sent = metrics.count("outbox_sent_total", "Changes that were published.");
    let lead = async || {
        let asked_at = Instant::now();
        let asked = leading.rows(sqlx::query(LEAD).bind(instance).bind(LEASE.as_millis() as f64));
        let asked = within_limit(asked).await?;
        let until = if asked.is_empty() { asked_at } else { asked_at + LEASE - MARGIN };
        *lease.lock().unwrap_or_else(PoisonError::into_inner) = until;
        let rows = within_limit(leading.rows(sqlx::query(COUNT).bind(MOST_COUNTED))).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let waited = Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or_default();
        let waiting = row.try_get(0)?;
        count.set(waiting);
        oldest.set(waited.as_secs_f64());
        backlog.note(waiting, waited);
        Ok(())
    };
    let look = async || {
        let mut put_off = put_off.lock().await;
        put_off.retain(|_, until| *until > Instant::now());
        while leads() && put_off.len() <= MOST_PUT_OFF {
            let but_for: Vec<Uuid> = put_off.keys().copied().collect();
            let rows = sending.rows(sqlx::query(FIRST).bind(but_for).bind(AT_ONCE as i64));
            let entries = within_limit(rows).await?.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            let all = entries.len();
            let first = first_of_each(entries);
            if first.is_empty() {
                break;
            }
            if faults::planted(Bug::RemovedBeforeSent) {
                let all: Vec<i64> = first.iter().map(|entry| entry.seq).collect();
                within_limit(sending.rows(sqlx::query(SENT).bind(all))).await?;
            }
            let outcome = announce(producer, announced, &first).await?;
            sent.inc_by(outcome.done.len() as u64);
            faults::reached("outbox.sent", "ENTRIES");
            within_limit(sending.rows(sqlx::query(SENT).bind(&outcome.done))).await?;
            log(outcome.why);
            if outcome.done.is_empty() && !outcome.failed.is_empty() {
                sleep(AFTER_A_FAILURE).await;
                break;
            }
            let until = Instant::now() + PUT_OFF;
            put_off.extend(outcome.failed.into_iter().chain(outcome.unknown).map(|id| (id, until)));
            if all < AT_ONCE && first.len() == all {
                break;
            }
        }
        Ok(())
    };
    tokio::join!(
        keep_looking(RENEWED, "the lease of the outbox", stop.clone(), lead),
        keep_looking(EVERY, "the outbox", stop.clone(), look),
    );
    if leads() {
        // So that another instance can take over at once.
        let _ = timeout(RESIGN_LIMIT, leading.rows(sqlx::query(RESIGN).bind(instance))).await;
    }
}

/// The first entry of each id.
fn first_of_each(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen = HashSet::new();
    entries.retain(|entry| seen.insert(entry.id));
    entries
}

/// Sends the records of entries that have different ids.
async fn announce(producer: &Producer, announced: &impl Announced, entries: &[Entry]) -> Result<Outcome, StoreError> {
    let announcements = within_limit(announced.of(entries)).await?;
    let sent = announcements.iter().map(async |announcement| match announcement {
        Announcement::Record(record) => producer.send(record).acknowledged().await,
        Announcement::Nothing(_) | Announcement::Unknown => Ok(()),
    });
    let sent = join_all(sent).await;
    let mut outcome = Outcome::default();
    for ((entry, announcement), sent) in entries.iter().zip(&announcements).zip(sent) {
        match (announcement, sent) {
            (Announcement::Unknown, _) => {
                outcome.unknown.push(entry.id);
                outcome.why = Some(format!("this release can't read the row of {}", entry.id));
            }
            (Announcement::Nothing(why), _) => {
                warn!(id = %entry.id, what = entry.what, why, "nothing is published of this change");
                outcome.done.push(entry.seq);
            }
            (Announcement::Record(_), Ok(())) => outcome.done.push(entry.seq),
            (Announcement::Record(_), Err(error)) => {
                outcome.failed.push(entry.id);
                outcome.why = Some(error);
            }
        }
    }
    Ok(outcome)
}

fn entry(row: &PgRow) -> Result<Entry, StoreError> {
    Ok(Entry { seq: row.try_get("seq")?, id: row.try_get("id")?, what: row.try_get("what")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_id_the_first_entry_is_sent() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let entry = |seq, id| Entry { seq, id, what: "PENDING".to_owned() };
        let first = first_of_each(vec![entry(3, one), entry(4, other), entry(5, one), entry(6, other)]);
        assert_eq!(first, [entry(3, one), entry(4, other)]);
    }
}
