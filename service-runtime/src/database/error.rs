//! What a failed statement means to its caller, by the SQLSTATE of the error.

use super::{LOCK_NOT_AVAILABLE, STANDBY};
use crate::Cause;

/// What a failed statement means to its caller. Displayed, it holds none of the database's words: those are its
/// [cause](Self::cause).
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database can't do it now. The statement was not sent.
    #[error("the database is not available")]
    NotSent(Cause),
    /// The database failed meanwhile. Whether the statement took effect is not known.
    #[error("the database is not available")]
    Unavailable(Cause),
    /// Another transaction holds what the statement needs, and kept it for longer than
    /// [`Session::impatient_of_locks`](super::Session::impatient_of_locks) waits. Nothing was done.
    #[error("another transaction holds the row")]
    Locked(Cause),
    /// The database refused it for no reason of its own: what was to be stored is at fault.
    #[error("the database refused")]
    Refused(Cause),
}

impl StoreError {
    /// Why, for the log.
    pub const fn cause(&self) -> &Cause {
        let (Self::NotSent(cause) | Self::Unavailable(cause) | Self::Locked(cause) | Self::Refused(cause)) = self;
        cause
    }

    /// The error with its cause, for a line of the log.
    pub fn for_log(&self) -> String {
        format!("{self}: {} ({})", self.cause().text(), self.cause())
    }

    /// Logs the cause. The error with the id under which the log has it, for what is no answer of HTTP.
    pub fn reported(&self) -> String {
        self.cause().log(&self.to_string());
        format!("{self} ({})", self.cause())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let cause = Cause::from(&error);
        match &error {
            sqlx::Error::Database(e) if e.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => Self::Locked(cause),
            sqlx::Error::Database(e) if !is_environments(e.code().as_deref()) => Self::Refused(cause),
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Self::Refused(cause),
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::NotSent(cause),
            _ => Self::Unavailable(cause),
        }
    }
}

impl From<&sqlx::Error> for Cause {
    fn from(error: &sqlx::Error) -> Self {
        Self::with_hint(error.to_string(), hint(error))
    }
}

/// What everybody may know of it: no text of the database, which may quote rows.
fn hint(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Database(error) => {
            let constraint = error.constraint().map_or_else(String::new, |name| format!(", constraint {name}"));
            Some(format!("SQLSTATE {}{constraint}", error.code()?))
        }
        sqlx::Error::Protocol(text) if text == STANDBY => Some(STANDBY.to_owned()),
        _ => None,
    }
}

/// SQLSTATEs (PostgreSQL, appendix A) that tell of the database's own trouble, and of no record's: it passes by
/// itself or once somebody mends it, and nothing must be set aside meanwhile. By class, or in full where its class
/// is mixed.
const ENVIRONMENT: [&str; 17] = [
    "08",    // connection
    "0A",    // not supported: a statement prepared before a migration ("cached plan must not change result type")
    "25",    // transaction state: a standby, a failed-over primary is read-only
    "26",    // a prepared statement that the server does not know: another one answers now
    "28",    // login
    "3D",    // no such database
    "3F",    // no such schema
    "40",    // serialization failure, deadlock
    "42",    // a table or column that is not there, a lost grant
    "53",    // disk full, out of memory, too many connections
    "55",    // a lock that is not to be had
    "57",    // shutdown, a cancelled statement
    "58",    // I/O
    "72",    // a snapshot too old
    "F0",    // configuration file
    "XX001", // a corrupted table
    "XX002", // a corrupted index
];

/// Whether an error is the database's own. All others count against the record, once it has failed alone: the data
/// errors (22, 23), and what a trigger raises (P0001) or nobody has heard of, or one such record would be tried for
/// ever.
fn is_environments(code: Option<&str>) -> bool {
    code.is_none_or(|code| ENVIRONMENT.iter().any(|start| code.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_cause_only_to_the_log() {
        let error = StoreError::from(sqlx::Error::Configuration("relation \"orders\" does not exist".into()));
        assert_eq!(error.to_string(), "the database is not available");
        let reported = error.reported();
        assert!(reported.contains(error.cause().id()) && !reported.contains("relation"), "{reported}");
        assert!(error.for_log().contains("relation") && error.for_log().contains(error.cause().id()));
        let standby = StoreError::from(sqlx::Error::Protocol(STANDBY.to_owned()));
        assert!(standby.reported().contains("it is a standby"), "{}", standby.reported());
    }

    #[test]
    fn the_databases_own_trouble_counts_against_no_record() {
        for code in [
            "08006", "25006", "28P01", "3D000", "3F000", "40001", "40P01", "42501", "42P01", "53100", "53300", "55P03",
            "57014", "57P01", "58030", "XX001", "XX002",
        ] {
            assert!(is_environments(Some(code)), "{code}");
        }
        assert!(is_environments(None), "an answer without a code says nothing of the record");
    }

    #[test]
    fn data_errors_and_unknown_ones_count_against_the_record() {
        for code in ["22003", "23505", "23514", "P0001", "XX000", "54000", "21000", "44000", "ZZ999"] {
            assert!(!is_environments(Some(code)), "{code}");
        }
    }
}
