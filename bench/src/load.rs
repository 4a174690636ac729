//! The load generator: `oha`, another program, so that nothing of ours measures itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::process::Command;

/// How many different bodies there are; `oha` draws one for each request.
pub const BODIES: usize = 1000;

/// Connections of an open loop: more than are ever needed while the platform keeps up.
const OPEN_CONNECTIONS: u32 = 512;

/// How checkouts come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "loop")]
pub enum Load {
    /// So many clients, each of which sends its next checkout when it has its answer.
    Closed { concurrency: u32 },
    /// So many a second, whether answers come or not. Latency counts from the moment a checkout should have been sent.
    Open { per_second: f64 },
}

/// `16`, `400/s`.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency } => write!(f, "{concurrency}"),
            Self::Open { per_second } => write!(f, "{per_second:.0}/s"),
        }
    }
}

/// What clients saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    pub seconds: f64,
    /// By HTTP status.
    pub answers: BTreeMap<String, u64>,
    /// Requests without an answer, by what went wrong.
    pub errors: BTreeMap<String, u64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
}

impl Seen {
    /// Checkouts that were told their end: 200, 402 or 409.
    pub fn ended(&self) -> u64 {
        ["200", "402", "409"].iter().map(|status| self.status(status)).sum()
    }

    pub fn status(&self, status: &str) -> u64 {
        self.answers.get(status).copied().unwrap_or_default()
    }

    pub fn per_second(&self) -> f64 {
        self.ended() as f64 / self.seconds
    }
}

/// The bodies of the requests.
pub struct Generator {
    bodies: NamedTempFile,
}

impl Generator {
    /// `mix` is the share of checkouts whose payment is declined, and as many are out of stock.
    pub fn new(mix: f64) -> Result<Self> {
        Self::sending(bodies(mix))
    }

    /// One that sends so many different bodies, by their numbers.
    pub fn of(count: usize, body: impl Fn(usize) -> serde_json::Value) -> Result<Self> {
        Self::sending((0..count).map(body))
    }

    fn sending(bodies: impl Iterator<Item = serde_json::Value>) -> Result<Self> {
        let mut file = NamedTempFile::new()?;
        for body in bodies {
            writeln!(file, "{body}")?;
        }
        file.flush()?;
        Ok(Self { bodies: file })
    }

    /// Sends checkouts for so long, to all of these addresses, and waits for the last answer. Each connection stays
    /// with the address that it has drawn.
    pub async fn run(&self, urls: &[String], load: Load, time: Duration) -> Result<Seen> {
        let mut list = NamedTempFile::new()?;
        urls.iter().try_for_each(|url| writeln!(list, "{url}"))?;
        list.flush()?;
        let mut oha = Command::new("oha");
        oha.args(["--no-tui", "--output-format", "json", "-w", "-m", "POST", "-T", "application/json"]);
        oha.arg("-z").arg(format!("{}ms", time.as_millis())).arg("-Z").arg(self.bodies.path());
        match load {
            Load::Closed { concurrency } => oha.arg("-c").arg(concurrency.to_string()),
            Load::Open { per_second } => oha
                .args(["--latency-correction", "-q"])
                .arg(per_second.to_string())
                .arg("-c")
                .arg(OPEN_CONNECTIONS.to_string()),
        };
        oha.arg("--urls-from-file").arg(list.path()).kill_on_drop(true);
        let output = oha.output().await.context("cannot run oha (cargo install oha)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "oha ended with {}: {said}", output.status);
        parse(&output.stdout)
    }
}

fn bodies(mix: f64) -> impl Iterator<Item = serde_json::Value> {
    let failing = (mix * BODIES as f64).round() as usize;
    (0..BODIES).map(move |n| {
        let mut body = json!({"userId": format!("user-{n}"), "totalAmount": 100 + n});
        if n < failing {
            body["forcePaymentFail"] = json!(true);
        } else if n < 2 * failing {
            body["forceInventoryFail"] = json!(true);
        }
        body
    })
}

/// The JSON of `oha --output-format json`, as far as it is of interest. Times are in seconds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    summary: Summary,
    latency_percentiles: Percentiles,
    status_code_distribution: BTreeMap<String, u64>,
    error_distribution: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    total: f64,
}

/// Null where there was no answer at all.
#[derive(Deserialize)]
struct Percentiles {
    p50: Option<f64>,
    p99: Option<f64>,
    #[serde(rename = "p99.9")]
    p999: Option<f64>,
}

fn parse(output: &[u8]) -> Result<Seen> {
    let report: Report = serde_json::from_slice(output).context("oha's report is not as expected")?;
    let ms = |seconds: Option<f64>| seconds.context("no request was answered").map(|seconds| seconds * 1000.0);
    Ok(Seen {
        seconds: report.summary.total,
        p50_ms: ms(report.latency_percentiles.p50)?,
        p99_ms: ms(report.latency_percentiles.p99)?,
        p999_ms: ms(report.latency_percentiles.p999)?,
        answers: report.status_code_distribution,
        errors: report.error_distribution,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of oha 1.16.0, shortened and rounded.
    const REPORT: &str = r#"{
        "summary": {"successRate": 1.0, "total": 0.5, "slowest": 0.015883083, "requestsPerSec": 181.28},
        "latencyPercentiles": {"p10": 0.002865397, "p50": 0.0125, "p99": 0.25, "p99.9": 0.015883083},
        "rps": {"mean": null},
        "statusCodeDistribution": {"200": 4, "402": 1, "503": 2},
        "errorDistribution": {"Connection refused (os error 111)": 3}
    }"#;

    #[test]
    fn a_report_of_oha_is_read() {
        let seen = parse(REPORT.as_bytes()).unwrap();
        assert_eq!((seen.p50_ms, seen.p99_ms, seen.seconds), (12.5, 250.0, 0.5));
        assert_eq!((seen.status("503"), seen.ended()), (2, 5));
        assert_eq!(seen.per_second(), 10.0);
        assert_eq!(seen.errors["Connection refused (os error 111)"], 3);
    }

    #[test]
    fn a_report_without_any_answer_is_an_error() {
        let report = REPORT.replace("0.0125", "null");
        assert!(parse(report.as_bytes()).unwrap_err().to_string().contains("no request was answered"));
    }

    #[test]
    fn a_mix_has_its_share_of_both_failures() {
        let bodies: Vec<_> = bodies(0.05).collect();
        let with = |field: &str| bodies.iter().filter(|body| body[field] == json!(true)).count();
        assert_eq!((bodies.len(), with("forcePaymentFail"), with("forceInventoryFail")), (BODIES, 50, 50));
        assert!(
            !bodies.iter().any(|body| body["forcePaymentFail"].is_boolean() && body["forceInventoryFail"].is_boolean())
        );
        assert!(self::bodies(0.0).all(|body| body.as_object().unwrap().len() == 2));
    }
}
