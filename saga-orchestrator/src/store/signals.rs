//! The SQL of `signals`: what happened outside, and which saga has taken it.

use std::collections::HashMap;
use std::time::Duration;

use messages::{SagaId, Timestamp};
use service_runtime::batch::{Answers, Batch, Batcher};
use service_runtime::conditional::{ConditionalWrites, Outcome, Table};
use service_runtime::database::{Session, StoreError, again_if_lost};
use service_runtime::metrics::Metrics;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Row as _};
use uuid::Uuid;

use super::milliseconds;

/// So many sagas are offered a signal, and so many signals are looked at for a saga: all but the first do not fit.
const CANDIDATES: i64 = 100;

/// A row of `signals`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredSignal {
    pub signal_id: Uuid,
    pub kind: String,
    /// The sender's own id of it.
    pub id: String,
    /// What it names.
    #[sqlx(rename = "match")]
    pub matched: String,
    /// A JSON object.
    pub payload: String,
    pub received_at: Timestamp,
    /// The saga that has taken it.
    pub saga_id: Option<Uuid>,
    /// At which of its steps.
    pub step: Option<String>,
    pub matched_at: Option<Timestamp>,
}

/// A signal that comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSignal {
    /// Made here. Of two that come at the same moment the one with the smaller id is the older one.
    pub signal_id: Uuid,
    pub kind: String,
    pub id: String,
    pub matched: String,
    pub payload: String,
}

/// Signals that come in, each stored once: one that is there already is found.
struct NewSignals(Session);

impl Table for NewSignals {
    type Key = (String, String);
    type Row = StoredSignal;
    type Write = NewSignal;
    const NAME: &'static str = "signals";

    fn key(new: &NewSignal) -> Self::Key {
        (new.kind.clone(), new.id.clone())
    }

    async fn compare_and_set(&self, new: &[&NewSignal]) -> Result<HashMap<Self::Key, StoredSignal>, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO signals (signal_id, kind, id, match, payload)
             SELECT signal_id, kind, id, match, payload::json
             FROM (SELECT UNNEST($1::uuid[]) AS signal_id, UNNEST($2::text[]) AS kind, UNNEST($3::text[]) AS id,
                          UNNEST($4::text[]) AS match, UNNEST($5::text[]) AS payload) AS new
             ON CONFLICT DO NOTHING
             RETURNING signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at",
        )
        .bind(new.iter().map(|new| new.signal_id).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.kind.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.id.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.matched.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.payload.as_str()).collect::<Vec<_>>());
        by_key(&self.0.rows(insert).await?)
    }

    async fn read(&self, keys: Vec<Self::Key>) -> Result<HashMap<Self::Key, StoredSignal>, StoreError> {
        let select = sqlx::query(
            "SELECT signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at
             FROM signals JOIN (SELECT UNNEST($1::text[]) AS kind, UNNEST($2::text[]) AS id) AS wanted USING (kind, id)",
        )
        .bind(keys.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>());
        by_key(&self.0.rows(select).await?)
    }
}

fn by_key(rows: &[PgRow]) -> Result<HashMap<(String, String), StoredSignal>, StoreError> {
    let row = |row| {
        let signal = StoredSignal::from_row(row)?;
        Ok(((signal.kind.clone(), signal.id.clone()), signal))
    };
    rows.iter().map(row).collect()
}

/// The sagas that wait for what a signal names (see [`crate::saga::Awaited::key`]): those that began first before the
/// others, at most [`CANDIDATES`].
struct Waiting(Session);

impl Batch for Waiting {
    type Item = String;
    type Answer = Vec<SagaId>;
    const NAME: &'static str = "sagas that wait";
    const KIND: &'static str = "read";

    async fn run(&self, keys: &[String]) -> Answers<Vec<SagaId>> {
        let select = || {
            let select = sqlx::query(
                "SELECT key, saga_id FROM (SELECT DISTINCT UNNEST($1::text[]) AS key) AS wanted
                 CROSS JOIN LATERAL (SELECT saga_id FROM sagas WHERE awaits = key ORDER BY saga_id LIMIT $2) AS waiting",
            );
            self.0.rows(select.bind(keys).bind(CANDIDATES))
        };
        let mut found: HashMap<String, Vec<SagaId>> = HashMap::new();
        for row in again_if_lost(select).await? {
            found.entry(row.try_get("key")?).or_default().push(row.try_get::<Uuid, _>("saga_id")?.into());
        }
        found.values_mut().for_each(|sagas| sagas.sort_unstable());
        Ok(keys.iter().map(|key| Ok(found.get(key).cloned().unwrap_or_default())).collect())
    }
}

/// The table, for whoever stores signals and looks for them.
pub struct SignalStore {
    new: Batcher<ConditionalWrites<NewSignals>>,
    waiting: Batcher<Waiting>,
    session: Session,
    /// For what may take long.
    looking: Session,
}

impl SignalStore {
    pub fn open(pool: &PgPool, metrics: &Metrics) -> Self {
        let session = || Session::beside(pool);
        Self {
            new: Batcher::start(ConditionalWrites::to(NewSignals(session())), metrics),
            waiting: Batcher::start(Waiting(session()), metrics),
            session: session(),
            looking: session(),
        }
    }

    /// Stores a signal, once: the row as it stands, and whether it is new. Stored twice it is stored once.
    pub async fn store(&self, new: &NewSignal) -> Result<(StoredSignal, bool), StoreError> {
        let gone = || StoreError::NotSent("a signal was removed while it was sent again".into());
        match again_if_lost(|| self.new.submit(new.clone())).await? {
            Outcome::Stored(signal) => Ok((signal, true)),
            Outcome::Found(found) => {
                let found = found.ok_or_else(gone)?;
                // An earlier try, whose answer was lost.
                let is_new = found.signal_id == new.signal_id;
                Ok((found, is_new))
            }
        }
    }

    /// The sagas that wait for what has this [key](crate::saga::Awaited::key), those that began first before the others.
    pub async fn waiting_for(&self, key: String) -> Result<Vec<SagaId>, StoreError> {
        self.waiting.submit(key).await
    }

    /// The signal of this kind and id.
    pub async fn find(&self, kind: &str, id: &str) -> Result<Option<StoredSignal>, StoreError> {
        let select = sqlx::query(
            "SELECT signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at
             FROM signals WHERE kind = $1 AND id = $2",
        );
        let rows = self.session.rows(select.bind(kind).bind(id)).await?;
        Ok(rows.first().map(StoredSignal::from_row).transpose()?)
    }

    /// The oldest signals of this kind that name this and that no saga has taken, at most [`CANDIDATES`].
    pub async fn unmatched(&self, kind: &str, matched: &str) -> Result<Vec<StoredSignal>, StoreError> {
        let select = sqlx::query(
            "SELECT signal_id, kind, id, match, payload::text, received_at, saga_id, step, matched_at
             FROM signals WHERE kind = $1 AND match = $2 AND saga_id IS NULL ORDER BY received_at, signal_id LIMIT $3",
        );
        let rows = self.session.rows(select.bind(kind).bind(matched).bind(CANDIDATES)).await?;
        rows.iter().map(|row| Ok(StoredSignal::from_row(row)?)).collect()
    }

    /// Sagas that wait for a signal that is stored and that no saga has taken, at most `limit`, of more than that any. Each
    /// of these signals costs one probe of an index.
    pub async fn apart(&self, limit: i64) -> Result<Vec<SagaId>, StoreError> {
        let select = sqlx::query(
            "SELECT saga_id FROM (SELECT DISTINCT kind || ' ' || match AS key FROM signals WHERE saga_id IS NULL) AS free
             JOIN sagas ON sagas.awaits = free.key ORDER BY random() LIMIT $1",
        );
        // Planned for what is there now: both may be few or very many.
        let rows = self.looking.rows(select.bind(limit).persistent(false)).await?;
        rows.iter().map(|row| Ok(row.try_get::<Uuid, _>("saga_id")?.into())).collect()
    }
}

/// Removes up to `limit` signals that came longer than `kept` ago; answers how many it were.
pub async fn forget_signals(pool: &PgPool, kept: Duration, limit: i64) -> Result<u64, StoreError> {
    let forgotten = sqlx::query(
        "DELETE FROM signals
         WHERE signal_id IN (SELECT signal_id FROM signals WHERE received_at < now() - $1 * interval '1 ms'
                             ORDER BY received_at LIMIT $2
                             FOR UPDATE SKIP LOCKED)",
    );
    Ok(forgotten.bind(milliseconds(kept)).bind(limit).execute(pool).await?.rows_affected())
}
