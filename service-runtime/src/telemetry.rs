//! Log lines: for people on a terminal, JSON for machines with `LOG_FORMAT=json`.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::settings::SettingsError;

/// The settings of the log.
#[derive(Debug, Clone, Deserialize)]
pub struct TelemetrySettings {
    log_format: LogFormat,
    rust_log: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    Auto,
    Text,
    Json,
}

/// Sends log lines to the standard error output, leaving the standard output to what a program prints.
pub fn init(settings: &TelemetrySettings) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(&settings.rust_log)
        .map_err(|error| SettingsError::Invalid { key: "rust_log", problem: error.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (several services in one process, tests) finds the first one's settings in force.
    let _ = match settings.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    Ok(())
}
