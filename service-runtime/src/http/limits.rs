//! How much of a server its clients may take, and what was refused to them because of it.

use std::time::Duration;

use serde::Deserialize;

use super::clients::TrustedProxies;
use crate::metrics::{Count, Metrics};
use crate::settings::{Settings, SettingsError, require};

/// How long the head of a request may take, from its first byte on.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long the body of a request may take, from the moment on in which the server waits for it.
pub(super) const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may read nothing of an answer.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may be behind with an answer before its connection has to make room for another one. A phone may lose
/// a packet in that time.
pub(super) const BEHIND_GRACE: Duration = Duration::from_secs(2);

/// The largest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// The most that is buffered of a connection in each direction, in bytes.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// The limits that settings decide.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Limits {
    pub http_max_connections: usize,
    pub http_idle_timeout_ms: u64,
    pub http_answer_timeout_ms: u64,
    pub http_bodies_max_bytes: usize,
    pub http2: bool,
    pub trusted_proxies: TrustedProxies,
}

impl Limits {
    pub(super) fn checked(settings: &Settings) -> Result<Self, SettingsError> {
        let limits: Self = settings.section()?;
        let within = |key, value: u64, least: u64, most: u64| {
            require(key, (least..=most).contains(&value), &format!("must be {least} to {most}"))
        };
        within("http_max_connections", limits.http_max_connections as u64, 16, 1_000_000)?;
        within("http_idle_timeout_ms", limits.http_idle_timeout_ms, 1000, 24 * 3_600_000)?;
        within("http_answer_timeout_ms", limits.http_answer_timeout_ms, 1000, 24 * 3_600_000)?;
        within("http_bodies_max_bytes", limits.http_bodies_max_bytes as u64, 4 << 20, 1 << 40)?;
        Ok(limits)
    }

    /// How long a connection without a request is kept.
    pub(super) const fn idle(&self) -> Duration {
        Duration::from_millis(self.http_idle_timeout_ms)
    }

    /// How long a client may be behind with an answer.
    pub(super) const fn answer(&self) -> Duration {
        Duration::from_millis(self.http_answer_timeout_ms)
    }
}

/// Why a connection or a body was refused, or closed, for the sake of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shed {
    /// No connection could be closed to make room for another one.
    Connections,
    /// Likewise, among those of one client.
    ClientConnections,
    /// It was idle, or slow, while another client needed its place.
    Evicted,
    /// Its request's head did not come in time.
    SlowHead,
    /// It did not read its answer, or too slowly.
    SlowReader,
    /// It did not come in time.
    SlowBody,
    /// It was the slowest while all bodies together were too large.
    Bodies,
    /// It was the slowest of one client's bodies, which were too large together.
    ClientBodies,
}

impl Shed {
    const ALL: [Self; 8] = [
        Self::Connections,
        Self::ClientConnections,
        Self::Evicted,
        Self::SlowHead,
        Self::SlowReader,
        Self::SlowBody,
        Self::Bodies,
        Self::ClientBodies,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ClientConnections => "client_connections",
            Self::Evicted => "evicted",
            Self::SlowHead => "slow_head",
            Self::SlowReader => "slow_reader",
            Self::SlowBody => "slow_body",
            Self::Bodies => "bodies",
            Self::ClientBodies => "client_bodies",
        }
    }
}

/// Counts what was shed. Clones share the counts.
#[derive(Clone)]
pub(super) struct ShedCounts([Count; Shed::ALL.len()]);

impl ShedCounts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let help = "Connections and bodies that were refused or closed for the sake of the others, by why.";
        Self(metrics.counts("http_shed_total", help, "reason", Shed::ALL.map(Shed::name)))
    }

    pub(super) fn note(&self, why: Shed) {
        self.0[why as usize].inc();
    }
}
