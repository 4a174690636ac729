//! `standalone` with the trip published on it, and the trip's participants.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Ran, Scratch, Service, Standalone, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use standalone::platform::KAFKA_FILE;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::participants::{Participants, examples};

/// By when a trip has ended whose participants had to be started again.
pub const END_LIMIT: Duration = Duration::from_secs(60);

/// A platform that runs trips.
pub struct Platform {
    // First: they end before their Kafka does.
    pub participants: Participants,
    pub standalone: Standalone,
    _scratch: Scratch,
}

/// The platform that all tests share which neither break nor configure anything.
pub async fn shared() -> Result<(&'static Platform, Client)> {
    static SHARED: OnceCell<Platform> = OnceCell::const_new();
    let platform = SHARED.get_or_try_init(Platform::start).await?;
    Ok((platform, platform.client()?))
}

/// A request that all accept; in some cities one has nothing left.
pub fn trip_to(city: &str) -> Value {
    json!({
        "traveller": "ann", "budget": "900.00", "from": "BER", "to": city, "out": "2027-05-01", "back": "2027-05-08",
    })
}

impl Platform {
    /// Starts one and publishes the trip; waits until its participants read.
    pub async fn start() -> Result<Self> {
        let mut platform = Self::start_unpublished().await?;
        platform.publish().await?;
        platform.participants.until_ready(&platform.client()?.kafka).await?;
        Ok(platform)
    }

    /// Starts one, and participants that have found no topics yet.
    pub async fn start_before_publishing() -> Result<Self> {
        let platform = Self::start_unpublished().await?;
        let misses = async || Ok(platform.participants.log("hotel").contains("not available").then_some(()));
        eventually("the hotel misses its topics", END_LIMIT, misses).await?;
        Ok(platform)
    }

    /// Starts one, and participants whose topics are not there yet.
    async fn start_unpublished() -> Result<Self> {
        // The topics have the names that the participants know.
        let standalone = Standalone::start(&[("KAFKA_TOPIC_PREFIX", "")]).await?;
        let scratch = Scratch::new()?;
        let kafka = standalone.data_dir().join(KAFKA_FILE);
        let kafka = kafka.to_str().context("a path in UTF-8")?;
        let participants = Participants::start("hotel car flight", kafka, scratch.path(), None).await?;
        Ok(Self { participants, standalone, _scratch: scratch })
    }

    /// Publishes `trip.v1.yaml` as it is.
    pub async fn publish(&mut self) -> Result<()> {
        let file = examples().join("trip.v1.yaml");
        let file = file.to_str().context("a path in UTF-8")?;
        let published = self.sagactl(&["flow", "publish", file, "--by", "ann", "--reason", "first try"]).await?;
        ensure!(published.code == 0, "{published:?}");
        Ok(())
    }

    pub fn client(&self) -> Result<Client> {
        self.standalone.quiet_client()
    }

    pub async fn sagactl(&self, arguments: &[&str]) -> Result<Ran> {
        self.client()?.sagactl(arguments).await
    }

    /// Whether `sagactl audit` finds nothing, of sagas that have just ended.
    pub async fn audit_is_clean(&self) -> Result<()> {
        let audit = self.sagactl(&["audit", "--grace", "0s", "--recheck", "1s"]).await?;
        ensure!(audit.code == 0, "{audit:?}");
        Ok(())
    }

    /// Waits until each of these trips has ended; answers them as `GET /sagas/{id}` shows them.
    pub async fn ends(&self, sagas: &[Uuid]) -> Result<Vec<Value>> {
        let client = self.client()?;
        let mut ended = Vec::new();
        for saga in sagas {
            client.end_of(&format!("/sagas/{saga}"), END_LIMIT).await?;
            ended.push(client.saga(*saga).await?);
        }
        Ok(ended)
    }

    /// The saga stands there.
    pub async fn stands_at(&self, saga: Uuid, step: &str) -> Result<()> {
        let client = self.client()?;
        eventually(&format!("{saga} is at {step}"), END_LIMIT, async || {
            Ok((client.saga(saga).await?["step"] == step).then_some(()))
        })
        .await
    }
}

/// `POST /flows/<flow>` with these headers.
pub async fn start(client: &Client, flow: &str, request: &Value, headers: &[(&str, &str)]) -> Result<Answer> {
    let post = client.request(Service::Orchestrator, Method::POST, &format!("/flows/{flow}")).json(request);
    let post = headers.iter().fold(post, |post, (name, value)| post.header(*name, *value));
    Answer::read(post.send().await?).await
}

/// Starts a trip without waiting for it.
pub async fn begin(client: &Client, request: &Value) -> Result<Uuid> {
    let answer = start(client, "trip", request, &[("Prefer", "respond-async")]).await?;
    ensure!(answer.status == 202, "{answer:?}");
    ensure!(!answer.header("retry-after").is_empty(), "{answer:?}");
    e2e_tests::id(&answer.json()?, "sagaId")
}

/// What has happened to a saga, by its history.
pub fn inputs(saga: &Value) -> Vec<&str> {
    let history = saga["history"].as_array().into_iter().flatten();
    history.map(|entry| entry["input"].as_str().unwrap_or_default()).collect()
}
