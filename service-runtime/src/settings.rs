//! Configuration: the defaults embedded in a binary < the file given with `--config` < the environment.
//!
//! The embedded defaults name every setting that exists, so they also tell which keys are known: an unknown key
//! in the file stops the start. A setting's environment variable is its name in capitals.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use config::{Config, Environment, File, FileFormat};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The defaults of the settings that every service has.
pub const SERVICE_DEFAULTS: &str = include_str!("../defaults/service.toml");
/// The defaults of the settings of services that use Kafka.
pub const KAFKA_DEFAULTS: &str = include_str!("../defaults/kafka.toml");

/// libpq's variables that describe a connection: they count where no `DATABASE_URL` is set.
const LIBPQ: [&str; 5] = ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"];

/// A setting that is wrong. Never holds the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("configuration: {0}")]
    Config(#[from] config::ConfigError),
    #[error("configuration: {file}: {problem}")]
    File { file: String, problem: String },
    #[error("configuration: unknown key `{key}` in {file} (known: {known})")]
    UnknownKey { key: String, file: String, known: String },
    #[error("configuration: {key}: {problem}")]
    Invalid { key: &'static str, problem: String },
}

/// All settings of one process. Sections of it are read into structs.
#[derive(Debug, Clone)]
pub struct Settings {
    config: Config,
}

impl Settings {
    /// Reads the layers. `environment` is usually [`environment`].
    pub fn load(
        defaults: &[&str],
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut builder = Config::builder();
        for text in defaults {
            builder = builder.add_source(File::from_str(text, FileFormat::Toml));
        }
        let known: Vec<String> = keys(&builder.build_cloned()?)?;
        let mut environment: HashMap<String, String> =
            environment.map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();

        if let Some(path) = file {
            let layer = Config::builder().add_source(File::from(path).format(FileFormat::Toml)).build();
            let layer = layer.map_err(|error| SettingsError::File {
                file: path.display().to_string(),
                problem: without_source_lines(&error.to_string()),
            })?;
            if let Some(key) = keys(&layer)?.into_iter().find(|key| !known.contains(key)) {
                let file = path.display().to_string();
                return Err(SettingsError::UnknownKey { key, file, known: known.join(", ") });
            }
            if layer.get_string("database_url").is_ok() {
                // The file's URL is more specific than a stray PGHOST.
                LIBPQ.iter().for_each(|name| drop(environment.remove(&name.to_ascii_lowercase())));
            }
            builder = builder.add_source(layer);
        }
        if !environment.contains_key("database_url") {
            for name in LIBPQ.map(str::to_ascii_lowercase) {
                if let Some(value) = environment.get(&name) {
                    builder = builder.set_override(name, value.clone())?;
                }
            }
        }
        environment.retain(|key, _| known.contains(key));
        let environment = Environment::default().source(Some(environment));
        Ok(Self { config: builder.add_source(environment).build()? })
    }

    /// The same settings with one of them replaced.
    pub fn with(self, key: &str, value: impl Into<config::Value>) -> Result<Self, SettingsError> {
        Ok(Self { config: Config::builder().add_source(self.config).set_override(key, value.into())?.build()? })
    }

    /// Reads the settings that `T` has fields for.
    pub fn section<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        Ok(self.config.clone().try_deserialize()?)
    }
}

/// A TOML error shows the line that it is about, which may hold a password.
fn without_source_lines(error: &str) -> String {
    error.lines().filter(|line| !line.contains('|')).collect::<Vec<_>>().join(": ")
}

/// Checks a rule about a setting.
pub fn require(key: &'static str, holds: bool, rule: &str) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(SettingsError::Invalid { key, problem: rule.to_owned() }) }
}

/// Checks that a number is within bounds: below or above them the service would not do its work, or harm others.
pub fn require_within<N: PartialOrd + fmt::Display>(
    key: &'static str,
    value: N,
    bounds: RangeInclusive<N>,
) -> Result<(), SettingsError> {
    require(key, bounds.contains(&value), &format!("must be {} to {}", bounds.start(), bounds.end()))
}

/// The longest time that a setting in ms may be, unless it says otherwise: an hour.
pub const HOUR_MS: u64 = 3_600_000;

/// The process's environment, less what is not UTF-8: no setting of ours is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn keys(config: &Config) -> Result<Vec<String>, config::ConfigError> {
    let mut keys: Vec<String> =
        config.clone().try_deserialize::<HashMap<String, config::Value>>()?.into_keys().collect();
    keys.sort();
    Ok(keys)
}

/// A value that is not shown: a password.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A share between 0 and 1, such as a failure rate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

impl Share {
    pub const HALF: Self = Self(0.5);

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(format!("{value} is not between 0 and 1")) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const DEFAULTS: &str = "port = 4001\nfailure_rate = 0.0\ndatabase_url = \"postgres://a@b/c\"\n";

    #[derive(Debug, Deserialize)]
    struct Section {
        port: u16,
        failure_rate: Share,
    }

    fn load(file: Option<&str>, environment: &[(&str, &str)]) -> Result<Section, SettingsError> {
        let file = file.map(|text| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Settings::load(&[DEFAULTS], file.as_ref().map(|f| f.path()), environment)?.section()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        assert_eq!(load(None, &[]).unwrap().port, 4001);
        assert_eq!(load(Some("port = 5000"), &[]).unwrap().port, 5000);
        assert_eq!(load(Some("port = 5000"), &[("PORT", "6000")]).unwrap().port, 6000);
        assert_eq!(load(None, &[("FAILURE_RATE", "0.25")]).unwrap().failure_rate.get(), 0.25);
    }

    #[test]
    fn a_broken_file_is_named_and_its_lines_are_not_shown() {
        let error = load(Some("database_url = \"postgres://u:secret@h/d\nport = 5"), &[]).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named() {
        let error = load(Some("prot = 5000"), &[]).unwrap_err().to_string();
        assert!(error.contains("unknown key `prot`"), "{error}");
    }

    #[test]
    fn a_bad_value_is_refused_with_the_name_of_its_key() {
        for (name, value) in [("PORT", "http"), ("PORT", "70000"), ("FAILURE_RATE", "1.5")] {
            let error = load(None, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&name.to_lowercase()), "{error}");
        }
    }
}
