//! How far sagas have ended, as the orchestrator knows it. A participant can't tell from its own row whether its saga has
//! ended (a CHARGED payment is the end of one saga and is about to be refunded by another), and whoever asks it to remove
//! rows may be mistaken. So it asks.

use std::time::Duration;

use axum::http::StatusCode;
use messages::object::Object;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Fatal;
use crate::http::{Problem, client};
use crate::settings::Secret;

/// How long the answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// `ORCHESTRATOR_URL`. It may hold a password.
#[derive(Debug, Clone, Deserialize)]
pub struct OrchestratorSettings {
    orchestrator_url: Secret,
}

/// What the orchestrator answers to `GET /retention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Horizon {
    /// Every order with a smaller id has a saga that has ended, longer than `RETENTION_DAYS` ago. Null: there is none such.
    pub horizon: Option<Uuid>,
}

/// The orchestrator.
#[derive(Clone)]
pub struct Orchestrator {
    client: Client,
    url: Url,
}

impl Orchestrator {
    /// Prepares the client; nothing is asked yet.
    ///
    /// # Errors
    /// When `ORCHESTRATOR_URL` is no URL of HTTP.
    pub fn connect(settings: &OrchestratorSettings) -> Result<Self, Fatal> {
        let (builder, url) = client("ORCHESTRATOR_URL", settings.orchestrator_url.get(), "retention")?;
        let client = builder.timeout(LIMIT).build();
        let client = client.map_err(|error| Fatal::new(format!("the HTTP client can't be made: {error}")))?;
        Ok(Self { client, url })
    }

    /// 409 unless all sagas of orders below `before` have ended; 503 when that can't be known now.
    pub(super) async fn permits(&self, before: Uuid) -> Result<(), Problem> {
        let horizon = self.horizon().await.map_err(|why| {
            let detail = "nothing was removed: the orchestrator can't be asked whether the sagas have ended";
            Problem::unavailable(format!("{detail} (ORCHESTRATOR_URL)"), 5).with_cause(&why.into())
        })?;
        permit(before, horizon)
    }

    async fn horizon(&self) -> Result<Horizon, String> {
        let without_url = |error: reqwest::Error| error.without_url().to_string();
        let answer = self.client.get(self.url.clone()).send().await.map_err(without_url)?;
        match answer.status() {
            reqwest::StatusCode::OK => answer.json().await.map(|Object(horizon)| horizon).map_err(without_url),
            reqwest::StatusCode::NOT_FOUND => Err("it is of an older release, which does not know".to_owned()),
            status => Err(format!("it answers {status}")),
        }
    }
}

fn permit(before: Uuid, Horizon { horizon }: Horizon) -> Result<(), Problem> {
    match horizon {
        Some(horizon) if before <= horizon => Ok(()),
        Some(horizon) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("sagas of orders from {horizon} on may not have ended, or ended lately: nothing was removed"),
        )),
        None => {
            let detail = "the orchestrator knows of no sagas that ended long enough ago: nothing was removed";
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_orchestrators_horizon_is_permitted() {
        let id = |n| Uuid::from_u128(n);
        let status = |before, horizon| permit(id(before), Horizon { horizon }).map_err(|problem| problem.status());
        assert_eq!(status(5, Some(id(5))), Ok(()));
        assert_eq!(status(4, Some(id(5))), Ok(()));
        assert_eq!(status(6, Some(id(5))), Err(StatusCode::CONFLICT));
        assert_eq!(status(1, None), Err(StatusCode::CONFLICT));
    }
}
