//! An HTTP answer, read whole.

use anyhow::{Context as _, Result, ensure};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn read(response: Response) -> Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await? })
    }

    /// A header's text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("not JSON: {} {}", self.status, self.text))
    }

    /// A field of the body that is a string.
    pub fn field(&self, name: &str) -> Result<String> {
        let value = self.json()?[name].as_str().map(str::to_owned);
        value.with_context(|| format!("no {name} in {} {}", self.status, self.text))
    }

    /// Checks that this is an RFC 9457 problem with that status, whose detail holds each of `words`.
    pub fn is_problem(&self, status: u16, words: &[&str]) -> Result<()> {
        let kind = self.header("content-type");
        ensure!(self.status == status, "expected {status}, got {} {}", self.status, self.text);
        ensure!(kind == "application/problem+json", "its content type is {kind:?}: {}", self.text);
        let (detail, body) = (self.field("detail")?, self.json()?);
        ensure!(body["status"] == status, "its status says otherwise: {}", self.text);
        ensure!(body["title"].is_string() && body["type"].is_string(), "not a whole problem: {}", self.text);
        for word in words {
            ensure!(detail.contains(word), "the detail does not say {word:?}: {}", self.text);
        }
        Ok(())
    }
}
