//! Whether new checkouts are taken: not while an operator has paused them, and not while too many sagas are
//! unfinished. What operators decide stands in `intake_changes`, so that every instance obeys, after a restart too.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use messages::{Timestamp, TimestampText};
use serde::Serialize;
use service_runtime::CancellationToken;
use service_runtime::database::{Session, StoreError, again_if_lost, within_limit};
use service_runtime::http::Check;
use service_runtime::looking::keep_looking;
use service_runtime::metrics::{Gauge, Metrics};
use sqlx::Row as _;
use tracing::{info, warn};
use utoipa::ToSchema;

/// How often an instance looks whether another one was told to pause, and how many sagas are unfinished.
const LOOK: Duration = Duration::from_millis(500);

/// What was last seen. Between two looks an instance may take a few checkouts too many.
pub struct Gate {
    session: Session,
    max_unfinished: i64,
    seen: RwLock<Seen>,
    is_open: Gauge,
}

/// What `GET /intake` shows.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = IntakeBody)]
pub struct Seen {
    /// How often it was opened or closed: a look that began before a change must not undo it.
    #[serde(skip)]
    changes: i64,
    /// Whether new checkouts are taken, as far as operators say.
    open: bool,
    /// Who opened or closed it last, why, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<TimestampText>,
    /// Sagas that have not ended; counted up to the limit.
    unfinished: i64,
    max_unfinished: i64,
    /// Sagas that a person should look at.
    needing_attention: i64,
}

impl Seen {
    fn refusal(&self) -> Option<String> {
        if self.open && self.unfinished < self.max_unfinished {
            return None;
        }
        Some(match (self.open, &self.reason) {
            (false, Some(reason)) => format!("new checkouts are paused ({reason})"),
            (false, None) => "new checkouts are paused".to_owned(),
            (true, _) => format!("{} checkouts are unfinished", self.unfinished),
        })
    }
}

impl Gate {
    /// The gate as it stands in the database.
    pub async fn at(session: Session, max_unfinished: u32, metrics: &Metrics) -> Result<Self, StoreError> {
        let max_unfinished = max_unfinished.into();
        let seen = look(&session, max_unfinished).await?;
        let is_open =
            metrics.gauge("intake_open", "Whether new checkouts are taken, as far as operators say: 1, or 0.");
        is_open.set(seen.open.into());
        Ok(Self { session, max_unfinished, seen: RwLock::new(seen), is_open })
    }

    /// Keeps looking until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let look = || async move {
            self.note(within_limit(look(&self.session, self.max_unfinished)).await?);
            Ok(())
        };
        keep_looking(LOOK, "whether checkouts are paused", stop, look).await;
    }

    /// Opens or closes it, for all instances.
    pub async fn change(&self, open: bool, by: &str, reason: &str) -> Result<Seen, StoreError> {
        // Twice the same change does no harm.
        let change = || {
            let change = sqlx::query("INSERT INTO intake_changes (open, actor, reason) VALUES ($1, $2, $3)");
            self.session.rows(change.bind(open).bind(by).bind(reason))
        };
        within_limit(again_if_lost(change)).await?;
        let seen = within_limit(again_if_lost(|| look(&self.session, self.max_unfinished))).await?;
        self.note(seen.clone());
        Ok(seen)
    }

    /// Why a new checkout is not taken now, if it is not.
    pub fn refusal(&self) -> Option<String> {
        self.seen().refusal()
    }

    /// Lets in a saga that no client waits for. It counts at once: thousands of events may come between two looks.
    ///
    /// # Errors
    /// Why it is not let in now.
    pub fn admit(&self) -> Result<(), String> {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        match seen.refusal() {
            Some(why) => Err(why),
            None => {
                seen.unfinished += 1;
                Ok(())
            }
        }
    }

    /// Whether an operator has closed it.
    pub fn is_paused(&self) -> bool {
        !self.seen().open
    }

    /// For readiness: a load balancer sends checkouts elsewhere, or nowhere.
    pub fn check(&self) -> Check {
        let seen = self.seen();
        match (seen.open, seen.by, seen.reason) {
            (true, ..) => Check::Ok,
            (false, by, reason) => {
                Check::Closed(format!("paused by {}: {}", by.unwrap_or_default(), reason.unwrap_or_default()))
            }
        }
    }

    pub fn seen(&self) -> Seen {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, new: Seen) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if new.changes < seen.changes {
            return;
        }
        let (by, reason) = (new.by.as_deref().unwrap_or_default(), new.reason.as_deref().unwrap_or_default());
        match (seen.open, new.open) {
            (true, false) => warn!(by, reason, "new checkouts are paused"),
            (false, true) => info!(by, reason, "new checkouts are taken again"),
            _ => {}
        }
        self.is_open.set(new.open.into());
        *seen = new;
    }
}

async fn look(session: &Session, max_unfinished: i64) -> Result<Seen, StoreError> {
    let latest = sqlx::query(
        "SELECT COALESCE(change_id, 0) AS changes, open, actor, reason, at,
                (SELECT count(*) FROM (SELECT FROM sagas WHERE status IN ('RUNNING', 'COMPENSATING') LIMIT $1) AS unended)
                    AS unfinished,
                (SELECT count(*) FROM sagas WHERE needs_attention_since IS NOT NULL) AS needing_attention
         FROM (SELECT) AS one_row
         LEFT JOIN (SELECT * FROM intake_changes ORDER BY change_id DESC LIMIT 1) AS latest ON true",
    )
    .bind(max_unfinished);
    let rows = session.rows(latest).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Seen {
        changes: row.try_get("changes")?,
        open: row.try_get::<Option<bool>, _>("open")?.unwrap_or(true),
        by: row.try_get("actor")?,
        reason: row.try_get("reason")?,
        since: row.try_get::<Option<Timestamp>, _>("at")?.map(TimestampText),
        unfinished: row.try_get("unfinished")?,
        max_unfinished,
        needing_attention: row.try_get("needing_attention")?,
    })
}
