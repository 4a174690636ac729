//! The program `sagactl`, run to its end beside a running platform.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Client, Service, kafka_security, program};

/// What a run has said, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Result<Self> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().context("it was killed")?;
        Ok(Self { code, stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    /// Whether it has ended with this code and printed all these words, to one of its outputs.
    ///
    /// # Errors
    /// With all that it has printed.
    pub fn says(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "{self:?}");
        for word in words {
            ensure!(self.stdout.contains(word) || self.stderr.contains(word), "no {word:?} in {self:?}");
        }
        Ok(())
    }

    /// Its output as one JSON value.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }
}

impl Client {
    /// Runs `sagactl` on this platform's databases and Kafka.
    pub async fn sagactl(&self, arguments: &[&str]) -> Result<Ran> {
        self.sagactl_with(arguments, &[]).await
    }

    /// The same with other environment variables beside, or instead of, the platform's.
    pub async fn sagactl_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Ran> {
        let mut command = Command::new(program("sagactl")?);
        command.args(arguments).env_clear();
        for service in Service::ALL {
            let variable = format!("{}_DATABASE_URL", service.database().to_uppercase());
            command.env(variable, self.database_url(service)?);
        }
        command.env("ORCHESTRATOR_URL", format!("http://127.0.0.1:{}", self.ports.orchestrator));
        command.env("INVENTORY_SERVICE_URL", format!("http://127.0.0.1:{}", self.ports.inventory));
        command.envs(kafka_security());
        command.env("KAFKA_BOOTSTRAP_SERVERS", self.kafka.address()).env("KAFKA_TOPIC_PREFIX", self.kafka.prefix());
        command.envs(environment.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        Ran::of(output)
    }
}
