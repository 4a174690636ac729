//! What the services have set aside on the dead-letter topics, and sending it back: `GET /dead-letters`,
//! `POST /dead-letters/{topic}/{letter}/redrive`. The rules are those of `sagactl dlq` ([`dead_letters`]).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use dead_letters::mailbox::{self, Filter};
use dead_letters::redrive::{Rules, Verdict, send};
use dead_letters::{Belongs, Letter, Marker, Place, Topics};
use messages::{SagaId, TimestampText};
use serde::{Deserialize, Serialize};
use service_runtime::Fatal;
use service_runtime::database::StoreError;
use service_runtime::http::description::{BodyProblems, DatabaseProblems, NotFound, PROBLEM_JSON, QueryProblems};
use service_runtime::http::{JsonBody, PathText, Problem};
use service_runtime::kafka::{KafkaSettings, Producer};
use sqlx::PgPool;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tracing::warn;
use utoipa::openapi::{ObjectBuilder, Type};
use utoipa::{IntoParams, OpenApi, ToSchema};

use crate::registry::Flows;
use service_runtime::http::act::Act;

/// By which name the broker knows the reader.
const CLIENT: &str = "saga-orchestrator-dead-letters";

/// How long reading the topics may take, those who read before included.
const LIMIT: Duration = Duration::from_secs(20);

/// So many may read the topics, or wait for it, at a time: an operator who sends a letter back waits behind no more.
const MAX_READERS: usize = 4;

/// How far back each partition is looked through, in records. `sagactl dlq` looks through all.
const LOOKED_THROUGH: i64 = 500;

/// How many letters are told: unless asked otherwise, and at most.
const LETTERS: (usize, usize) = (50, 500);

/// The dead-letter topics. Clones share it.
#[derive(Clone)]
pub struct DeadLetters {
    kafka: KafkaSettings,
    producer: Producer,
    pool: PgPool,
    flows: Arc<Flows>,
    /// One looks at a time: to read topics through is dear, and two must not send the same letter.
    reading: Arc<Mutex<()>>,
    /// Who reads or waits for it.
    readers: Arc<Semaphore>,
}

/// The query of `GET /dead-letters`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LettersQuery {
    /// Only letters that came from this topic.
    #[param(schema_with = topics)]
    topic: Option<String>,
    /// Only letters of this saga.
    saga_id: Option<SagaId>,
    /// How many, 1 to 500; 50 unless given.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
}

/// Which letter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct LetterPath {
    /// The topic that it came from.
    #[param(schema_with = topics)]
    topic: String,
    /// Its place on the dead-letter topic, as `PARTITION:OFFSET`.
    #[param(schema_with = place)]
    letter: String,
}

/// The newest letters, newest first, among the last 500 records of each partition.
#[derive(Serialize, ToSchema)]
pub struct LettersBody {
    pub letters: Vec<LetterBody>,
}

/// A record that was set aside.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LetterBody {
    /// The topic that it came from.
    #[schema(schema_with = topics)]
    pub topic: String,
    /// Where it stands on that topic's dead-letter topic, as `PARTITION:OFFSET`.
    pub letter: String,
    /// Where it stood on the topic that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside_at: Option<TimestampText>,
    /// Which saga it belongs to, where its body and key agree about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
    /// Why it was set aside.
    pub error: String,
    /// What is not UTF-8 in it is replaced.
    pub body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven: Option<RedrivenBody>,
}

/// That a letter was sent back.
#[derive(Serialize, ToSchema)]
pub struct RedrivenBody {
    pub by: String,
    pub reason: String,
    pub at: String,
}

/// A letter that was sent back now.
#[derive(Serialize, ToSchema)]
pub struct SentBody {
    #[schema(schema_with = topics)]
    pub topic: String,
    pub letter: String,
}

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(list, redrive))]
pub struct Described;

/// The topics that a letter may come from: the platform's, and of each published flow `<flow>.replies` and the topic of the
/// events that start its sagas.
fn topics() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).examples(["payment.charge.command", "trip.replies"])
}

fn place() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^\d{1,9}:\d{1,18}$")).examples(["0:17"])
}

impl DeadLetters {
    pub fn new(kafka: KafkaSettings, producer: Producer, pool: PgPool, flows: Arc<Flows>) -> Self {
        Self { kafka, producer, pool, flows, reading: Arc::default(), readers: Arc::new(Semaphore::new(MAX_READERS)) }
    }

    /// The topics that a letter may come from.
    fn topics(&self) -> Topics {
        Topics::with(self.flows.read_topics())
    }

    /// The letters that `query` asks for.
    ///
    /// # Errors
    /// 400 naming the parameter that is wrong; 429 while too many others read; 503 when Kafka can't be read.
    pub async fn newest(&self, query: &LettersQuery) -> Result<LettersBody, Problem> {
        let limit = query.limit.unwrap_or(LETTERS.0);
        if !(1..=LETTERS.1).contains(&limit) {
            let rule = format!("`limit` must be 1 to {}", LETTERS.1);
            return Err(Problem::new(StatusCode::BAD_REQUEST, rule).with_field("limit"));
        }
        let wrong =
            |why| Problem::new(StatusCode::BAD_REQUEST, format!("`topic` is unknown: {why}")).with_field("topic");
        let topics = self.topics();
        let topic = query.topic.as_deref().map(|name| topics.find(name)).transpose().map_err(wrong)?;
        let filter = Filter { topic, saga: query.saga_id, ..Filter::default() };
        let _reader = self.readers.try_acquire().map_err(|_| too_many_readers())?;
        let letters = timeout(LIMIT, async {
            let _reading = self.reading.lock().await;
            mailbox::newest(&self.kafka, CLIENT, &topics, &filter, LOOKED_THROUGH, limit).await
        });
        let letters = letters.await.map_err(|_| out_of_time())?.map_err(unreadable)?;
        Ok(LettersBody { letters: letters.into_iter().map(LetterBody::from).collect() })
    }

    async fn redrive(&self, topic: String, place: Place, act: &Act) -> Result<SentBody, Problem> {
        let found = timeout(LIMIT, async {
            let reading = self.reading.lock().await;
            (reading, mailbox::find(&self.kafka, CLIENT, &topic, place).await)
        });
        let (_reading, found) = found.await.map_err(|_| out_of_time())?;
        let Some((letter, marker)) = found.map_err(unreadable)? else {
            let none = format!("there is no letter {place} on {topic}.dlq");
            return Err(Problem::new(StatusCode::NOT_FOUND, none));
        };
        let verdict = Rules::default().judge(&self.pool, &letter, marker.as_ref()).await;
        match verdict.map_err(StoreError::from)? {
            Verdict::Skip(why) | Verdict::Refuse(why) => Err(Problem::new(StatusCode::CONFLICT, why)),
            Verdict::Send => {
                send(&self.producer, &letter, &act.by, &act.reason)
                    .await
                    // Kafka may have it. Handlers are idempotent, so it may be sent once more.
                    .map_err(|why| {
                        let problem = Problem::outcome_unknown("Kafka does not take it now").retry_after(1);
                        problem.with_cause(&why.into())
                    })?;
                let (by, reason) = (&act.by, &act.reason);
                warn!(topic, letter = %place, by, reason, "a dead letter is sent back");
                Ok(SentBody { letter: place.to_string(), topic })
            }
        }
    }
}

fn too_many_readers() -> Problem {
    let why = "too many others read the dead-letter topics now";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, why).retry_after(1)
}

fn out_of_time() -> Problem {
    Problem::unavailable(
        format!("the dead-letter topics could not be read within {LIMIT:?}; `sagactl dlq` has no limit"),
        5,
    )
}

fn unreadable(error: Fatal) -> Problem {
    Problem::unavailable("the dead-letter topics can't be read now", 5).with_cause(&error.to_string().into())
}

pub fn router(letters: DeadLetters) -> Router {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{topic}/{letter}/redrive", post(redrive))
        .with_state(letters)
}

#[utoipa::path(
    get, path = "/dead-letters", operation_id = "listDeadLetters", tag = "Dead letters", summary = "What was set aside lately",
    params(LettersQuery),
    responses(
        (status = 200, description = "The newest first, of the last 500 records of each partition; fewer than `limit` where their bodies are more than 4 MiB", body = LettersBody), QueryProblems,
        (status = 429, description = "Too many others read the topics now", body = Problem, content_type = PROBLEM_JSON, headers(("retry-after" = i64, description = "In how many seconds to try again"))),
        (status = 503, description = "Kafka can't be read", body = Problem, content_type = PROBLEM_JSON, headers(("retry-after" = i64, description = "In how many seconds to try again"))),
    ),
)]
/// 200 with the newest letters; 400 for a query that makes no sense; 429 while four others read; 503 while Kafka can't be read.
async fn list(
    State(letters): State<DeadLetters>,
    query: Result<Query<LettersQuery>, QueryRejection>,
) -> Result<Json<LettersBody>, Problem> {
    let Query(query) = query?;
    letters.newest(&query).await.map(Json)
}

#[utoipa::path(
    post, path = "/dead-letters/{topic}/{letter}/redrive", operation_id = "redriveDeadLetter", tag = "Dead letters",
    summary = "Send a letter back to where it came from",
    params(LetterPath),
    request_body(content = Act, example = json!({"by": "ann", "reason": "the constraint is gone"})),
    responses(
        BodyProblems, NotFound, DatabaseProblems,
        (status = 200, description = "Kafka has it", body = SentBody),
        (status = 409, description = "It was sent back before, or is a command that its saga does not wait for", body = Problem, content_type = PROBLEM_JSON),
    ),
)]
/// 200: it is back on the topic that it came from. 409 for one that was sent back before, and for a command that its
/// saga does not wait for; 404 where there is no such letter.
async fn redrive(
    State(letters): State<DeadLetters>,
    PathText(LetterPath { topic: name, letter: place }): PathText<LetterPath>,
    JsonBody(act): JsonBody<Act>,
) -> Result<Json<SentBody>, Problem> {
    let act = act.validated()?;
    let topic = letters.topics().find(&name).map_err(|why| Problem::new(StatusCode::NOT_FOUND, why))?;
    let wrong = |why| Problem::new(StatusCode::BAD_REQUEST, format!("{place:?} is no letter: {why}"));
    let place = place.parse().map_err(wrong)?;
    letters.redrive(topic, place, &act).await.map(Json)
}

impl From<(Letter, Option<Marker>)> for LetterBody {
    fn from((letter, marker): (Letter, Option<Marker>)) -> Self {
        Self {
            letter: letter.place.to_string(),
            origin: letter.origin().map(|origin| origin.to_string()),
            set_aside_at: letter.at().map(TimestampText),
            saga_id: match letter.belongs() {
                Belongs::To(saga_id) => Some(saga_id),
                Belongs::Unknown | Belongs::Contradictory => None,
            },
            error: letter.error().to_owned(),
            body: String::from_utf8_lossy(&letter.record.body).into_owned(),
            redriven: marker.map(|Marker { by, reason, at, .. }| RedrivenBody { by, reason, at }),
            topic: letter.topic,
        }
    }
}
