//! The plumbing that every service shares: configuration, telemetry, the program around a service, Postgres, Kafka
//! loops, the HTTP server. It knows nothing of orders, payments or sagas.

pub mod batch;
mod cause;
pub mod conditional;
pub mod database;
pub mod http;
pub mod kafka;
pub mod looking;
pub mod metrics;
pub mod outbox;
mod percent;
pub mod pgpass;
pub mod program;
pub mod retention;
pub mod settings;
pub mod telemetry;
pub mod trace;

pub use cause::Cause;
pub use percent::percent_encoded;
pub use tokio_util::sync::CancellationToken;

/// Of every program that links this crate: a checkout is a few hundred small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The present time by this machine's clock, in whole microseconds: what Postgres stores, so that a stored time reads
/// back equal. What is compared with times of other machines is taken from a [`database::DatabaseClock`].
pub fn now() -> messages::Timestamp {
    use chrono::SubsecRound as _;
    (chrono::Utc::now() + chrono::TimeDelta::milliseconds(faults::clock_skew_ms())).trunc_subsecs(6)
}

/// Why a service could not start, or stopped by itself: one line that says what, where, and what mends it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fatal {
    what: String,
    exit_code: u8,
}

impl Fatal {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), exit_code: 1 }
    }

    /// A setting that is wrong.
    pub fn of_settings(what: impl Into<String>) -> Self {
        Self { exit_code: 2, ..Self::new(what) }
    }

    /// What the process ends with: 2 for settings that are wrong, else 1.
    pub const fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<settings::SettingsError> for Fatal {
    fn from(error: settings::SettingsError) -> Self {
        Self::of_settings(error.to_string())
    }
}
