//! `GET /metrics` of a service, read as Prometheus would.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use crate::{Client, Service};

/// What a service shows: values by sample, labels and all, as in `up{job="x"}`.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    pub async fn of(client: &Client, service: Service) -> Result<Self> {
        let answer = client.get(service, "/metrics").await?;
        ensure!(answer.status == 200, "{service:?}: {} {}", answer.status, answer.text);
        Self::parse(&answer.text)
    }

    /// Reads the text format. Its comments are passed over.
    pub fn parse(text: &str) -> Result<Self> {
        let sample = |line: &str| {
            // A label's value may have blanks in it, a number has none.
            let (sample, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line:?}"))?;
            Ok((sample.to_owned(), value.parse().with_context(|| format!("no number: {line:?}"))?))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(Self(lines.map(sample).collect::<Result<_>>()?))
    }

    /// One sample's value. Labels stand in the order of their names.
    pub fn value(&self, sample: &str) -> Result<f64> {
        self.0.get(sample).copied().with_context(|| format!("no {sample} in {:#?}", self.0))
    }

    /// The sum of the samples that begin so.
    pub fn sum(&self, start: &str) -> f64 {
        self.0.iter().filter(|(sample, _)| sample.starts_with(start)).map(|(_, value)| value).sum()
    }

    /// How many samples begin so.
    pub fn count(&self, start: &str) -> usize {
        self.0.keys().filter(|sample| sample.starts_with(start)).count()
    }

    /// The names, as a query would name them: a histogram by its `_bucket`, `_sum` and `_count`.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(|sample| sample.split('{').next().unwrap_or(sample)).collect()
    }
}
