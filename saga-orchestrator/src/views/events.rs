//! Server-sent events: the moves of one saga, or of all, as they happen.
//!
//! One task reads them for all streams of this process, twice a second while there are any, so a thousand readers cost
//! the database as much as one. A stream of one saga is complete, and ends with it. The stream of all is for looking:
//! where more happens than a person can read, it says that it has left some out.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta};
use futures::stream::{self, Stream, StreamExt as _};
use messages::{SagaId, Timestamp, TimestampText};
use serde::Serialize;
use service_runtime::CancellationToken;
use service_runtime::database::{DatabaseClock, StoreError, again_if_lost, within_limit};
use service_runtime::http::description::{DatabaseProblems, IdProblems, PROBLEM_JSON, QueryProblems};
use service_runtime::http::{Caller, PathText, Problem};
use sqlx::PgPool;
use tokio::sync::{Notify, broadcast, mpsc};
use uuid::Uuid;

use super::Views;
use super::streams::{Place, Places};
use crate::outcome::parse_id;
use crate::store;
use crate::store::lists::{self, Move};

/// How often moves are read.
const TICK: Duration = Duration::from_millis(500);

/// The most moves that the stream of all tells in a tick.
const MOST: usize = 100;

/// How late a move may become visible after the time that it bears, in the stream of all.
const LATE: TimeDelta = TimeDelta::seconds(2);

/// How many ticks a slow reader may be behind before it misses some.
const BEHIND: usize = 16;

/// How often something is sent where nothing happens, so that a dead connection is found.
const QUIET: Duration = Duration::from_secs(15);

/// Likewise, where the client has closed its sending side: most such clients are gone.
const QUIET_WHEN_SENDING_ENDED: Duration = Duration::from_secs(1);

/// An event, for the description.
fn example() -> &'static str {
    r#"id: 2
event: move
data: {"sagaId":"01a1fcfc-71e1-7774-8bfb-889f9eb14880","seq":2,"at":"2026-11-21T07:22:45.100000Z","input":"order.created","status":"RUNNING","step":"PAYMENT_CHARGE","reason":null}

"#
}

/// Follows the moves. Clones share it.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    clock: DatabaseClock,
    all: broadcast::Sender<Bytes>,
    /// Who follows which saga: what is known of it, and where the rest goes.
    followed: Mutex<HashMap<u64, Follower>>,
    someone: Notify,
    places: Places,
    stop: CancellationToken,
}

struct Follower {
    saga_id: Uuid,
    known: i64,
    tell: mpsc::Sender<Bytes>,
}

impl Feed {
    /// Starts the task that reads, until `stop`.
    pub fn start(pool: PgPool, clock: DatabaseClock, places: Places, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            pool,
            clock,
            all: broadcast::channel(BEHIND).0,
            followed: Mutex::default(),
            someone: Notify::new(),
            places,
            stop,
        });
        tokio::spawn(shared.clone().read());
        Self { shared }
    }
}

impl Shared {
    async fn read(self: Arc<Self>) {
        let mut seen = Seen::from(self.clock.now());
        loop {
            if self.places.are_free() {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.someone.notified() => seen = Seen::from(self.clock.now()),
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            // What can't be read now is read later: nothing was told of it yet.
            let _ = within_limit(self.tell_followers()).await;
            if self.all.receiver_count() > 0 {
                let _ = within_limit(self.tell_all(&mut seen)).await;
            } else {
                seen = Seen::from(self.clock.now());
            }
        }
    }

    async fn tell_followers(&self) -> Result<(), StoreError> {
        // One question for a saga that many follow, from what the last of them knows.
        let mut wanted: HashMap<Uuid, i64> = HashMap::new();
        for follower in self.followed().values() {
            let known = wanted.entry(follower.saga_id).or_insert(follower.known);
            *known = (*known).min(follower.known);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let moves = lists::moves_of(&self.pool, &wanted.into_iter().collect::<Vec<_>>()).await?;
        let mut by_saga: HashMap<Uuid, Vec<(i64, Bytes)>> = HashMap::new();
        for m in &moves {
            by_saga.entry(m.saga_id).or_default().push((m.seq, text(m, &m.seq.to_string()).into()));
        }
        let ended: HashSet<Uuid> = moves.iter().filter(|m| is_end(m)).map(|m| m.saga_id).collect();
        self.followed().retain(|_, follower| {
            for (seq, text) in by_saga.get(&follower.saga_id).into_iter().flatten() {
                // A full queue: its reader is slow. What it has not got is read again.
                if *seq > follower.known && follower.tell.try_send(text.clone()).is_ok() {
                    follower.known = *seq;
                } else if *seq > follower.known {
                    return !follower.tell.is_closed();
                }
            }
            // Dropping its sender ends the stream once all of it is read.
            !ended.contains(&follower.saga_id) && !follower.tell.is_closed()
        });
        Ok(())
    }

    async fn tell_all(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let moves = lists::moves_since(&self.pool, seen.newest - LATE, 5 * MOST as i64).await?;
        let tick = seen.new_of(moves, self.clock.now());
        if !tick.is_empty() {
            let _ = self.all.send(tick);
        }
        Ok(())
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<u64, Follower>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which moves of late were told.
struct Seen {
    /// What happened before is not told.
    from: Timestamp,
    /// The newest one's time.
    newest: Timestamp,
    told: HashMap<(Uuid, i64), Timestamp>,
}

impl Seen {
    fn from(now: Timestamp) -> Self {
        Self { from: now, newest: now, told: HashMap::new() }
    }

    /// What is new among the newest moves, as the stream of all tells it. They come newest first.
    fn new_of(&mut self, moves: Vec<Move>, now: Timestamp) -> Bytes {
        let is_new = |m: &Move| m.at >= self.from && !self.told.contains_key(&(m.saga_id, m.seq));
        let mut new: Vec<Move> = moves.into_iter().filter(is_new).collect();
        // Of a clock that is ahead nothing is learned: else what the others do would be overlooked until then.
        let newest = new.iter().map(|m| m.at).fold(self.newest, Timestamp::max);
        self.newest = newest.min(now);
        self.told.extend(new.iter().map(|m| ((m.saga_id, m.seq), m.at)));
        self.told.retain(|_, at| *at >= self.newest - LATE);
        let skipped = new.len().saturating_sub(MOST);
        new.truncate(MOST);
        let mut tick = String::new();
        if skipped > 0 {
            let _ = write!(tick, "event: skipped\ndata: {{\"moves\":{skipped}}}\n\n");
        }
        for m in new.iter().rev() {
            tick += &text(m, &m.at.timestamp_micros().to_string());
        }
        tick.into()
    }
}

/// The data of an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MoveBody<'a> {
    saga_id: Uuid,
    seq: i64,
    at: TimestampText,
    input: &'a str,
    status: &'a str,
    step: &'a str,
    reason: Option<&'a str>,
}

/// A move in the format of the HTML standard, section 9.2.6.
fn text(m: &Move, id: &str) -> String {
    let body = MoveBody {
        saga_id: m.saga_id,
        seq: m.seq,
        at: m.at.into(),
        input: &m.input,
        status: &m.status,
        step: &m.step,
        reason: m.reason.as_deref(),
    };
    // JSON has no line breaks of its own: strings escape them.
    format!("id: {id}\nevent: move\ndata: {}\n\n", serde_json::to_string(&body).unwrap_or_default())
}

fn is_end(m: &Move) -> bool {
    matches!(m.status.as_str(), "COMPLETED" | "FAILED")
}

#[utoipa::path(
    get, path = "/sagas/{id}/events", operation_id = "followSaga", tag = "Streams", summary = "A saga's moves as they happen, until its end",
    params(
        ("id" = SagaId, Path, description = "The saga's id"),
        ("Last-Event-ID" = Option<i64>, Header, description = "The `id` of the last event that was read: goes on after it", minimum = 0),
    ),
    responses(
        IdProblems, DatabaseProblems,
        (status = 200, description = "Server-sent events, one per move; ends with the saga", body = String, content_type = "text/event-stream", example = example),
        (status = 204, description = "The saga has ended, and `Last-Event-ID` is its last event: nothing more comes, don't ask again"),
        (status = 429, description = "Too many streams of this client are open", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
        (status = 503, description = "Too many streams are open, or the database can't be reached", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
    ),
)]
/// The moves of one saga, from the first, or from the one after `Last-Event-ID` (its `seq`). Ends with the saga's end;
/// 204 for who has read it to its end. 404 for an unknown saga; 429 or 503 when there are too many streams.
pub async fn of_saga(
    State(views): State<Views>,
    PathText(id): PathText,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let saga_id = parse_id(&id)?;
    let known = last_event_id(&headers)?.unwrap_or(0);
    if again_if_lost(|| store::read(&views.pool, &views.flows, saga_id)).await?.is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no saga {saga_id}")));
    }
    let shared = views.feed.shared.clone();
    let place = shared.places.take(&caller)?;
    let (tell, told) = mpsc::channel(64);
    let (mut first, from_the_first) = (Vec::new(), [(saga_id.as_uuid(), 0)]);
    let (mut known, mut ended) = (known, false);
    for m in again_if_lost(|| lists::moves_of(&views.pool, &from_the_first)).await? {
        ended |= is_end(&m);
        if m.seq > known {
            known = m.seq;
            first.push(Bytes::from(text(&m, &m.seq.to_string())));
        }
    }
    if ended && first.is_empty() {
        // An EventSource asks again after each end of the stream, until it is answered 204 (HTML standard, 9.2.2).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if !ended {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        shared.followed().insert(number, Follower { saga_id: saga_id.into(), known, tell });
        shared.someone.notify_one();
    }
    let told = stream::unfold(told, async |mut told| told.recv().await.map(|text| (text, told)));
    let live = live(told, Open { place, caller, stop: shared.stop.clone() });
    Ok(event_stream(stream::iter(first).chain(live)))
}

#[utoipa::path(
    get, path = "/events", operation_id = "followAll", tag = "Streams", summary = "The moves of all sagas as they happen",
    params(("Last-Event-ID" = Option<i64>, Header, description = "The `id` of the last event that was read: goes on after it", minimum = 0)),
    responses(
        QueryProblems, DatabaseProblems,
        (status = 200, description = "Server-sent events, at most 100 moves every half second; that some were left out is told as `event: skipped`, with at least how many",
            body = String, content_type = "text/event-stream", example = example),
        (status = 429, description = "Too many streams of this client are open", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
        (status = 503, description = "Too many streams are open, or the database can't be reached", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
    ),
)]
/// The moves of all sagas from now on, or from `Last-Event-ID` (a time in microseconds since 1970) on as far as they
/// are the newest 100. 429 or 503 when there are too many streams.
pub async fn of_all(State(views): State<Views>, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
    let last = last_event_id(&headers)?;
    let shared = views.feed.shared.clone();
    let place = shared.places.take(&caller)?;
    let told = shared.all.subscribe();
    shared.someone.notify_one();
    let mut first = Bytes::from_static(b"retry: 1000\n\n");
    // It may have come from an instance whose clock is ahead.
    let last = last.and_then(DateTime::from_timestamp_micros).map(|after| after.min(views.clock.now()));
    if let Some(after) = last {
        let mut missed = again_if_lost(|| lists::moves_since(&views.pool, after, MOST as i64)).await?;
        missed.reverse();
        first = missed.iter().map(|m| text(m, &m.at.timestamp_micros().to_string())).collect::<String>().into();
    }
    let told = stream::unfold(told, async |mut told| match told.recv().await {
        Ok(tick) => Some((tick, told)),
        Err(broadcast::error::RecvError::Lagged(ticks)) => {
            Some((Bytes::from(format!("event: skipped\ndata: {{\"ticks\":{ticks}}}\n\n")), told))
        }
        Err(broadcast::error::RecvError::Closed) => None,
    });
    let live = live(told, Open { place, caller, stop: shared.stop.clone() });
    Ok(event_stream(stream::iter([first]).chain(live)))
}

/// What an open stream holds, and what ends it.
struct Open {
    #[expect(dead_code, reason = "it is held until the stream ends")]
    place: Place,
    caller: Caller,
    stop: CancellationToken,
}

/// What is told until it ends, the service stops or the client is gone; with a sign of life where nothing happens.
fn live(told: impl Stream<Item = Bytes> + Send + 'static, open: Open) -> impl Stream<Item = Bytes> + Send {
    stream::unfold((Box::pin(told), open, QUIET), async |(mut told, open, quiet)| {
        let sign_of_life = Some(Bytes::from_static(b": quiet\n\n"));
        let (bytes, quiet) = tokio::select! {
            () = open.stop.cancelled() => (None, quiet),
            bytes = told.next() => (bytes, quiet),
            () = tokio::time::sleep(quiet) => (sign_of_life, quiet),
            // It may be gone: what is sent now is refused then, and what is sent next ends the stream.
            () = open.caller.sending_ended(), if quiet == QUIET => (sign_of_life, QUIET_WHEN_SENDING_ENDED),
        };
        bytes.map(|bytes| (bytes, (told, open, quiet)))
    })
}

fn event_stream(bytes: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(bytes.map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // For proxies that would collect the answer first (nginx).
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// 400 for what is no id of ours.
fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.parse().ok()).filter(|number| *number >= 0);
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, "`Last-Event-ID` must be the id of an event of this stream");
    number.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(saga: u128, seq: i64, ms: i64) -> Move {
        let at = DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap();
        let (input, status, step) = ("payment.charged".into(), "RUNNING".into(), "INVENTORY_RESERVE".into());
        Move { saga_id: Uuid::from_u128(saga), seq, at, input, status, step, reason: Some("line\nbreak".into()) }
    }

    fn from(ms: i64) -> Seen {
        Seen::from(a_move(0, 0, ms).at)
    }

    fn late() -> Timestamp {
        a_move(0, 0, 1_000_000).at
    }

    fn told(tick: &Bytes) -> Vec<String> {
        let text = std::str::from_utf8(tick).unwrap();
        text.lines().filter(|line| line.starts_with("data: ")).map(str::to_owned).collect()
    }

    #[test]
    fn each_move_is_told_once_also_one_that_becomes_visible_late() {
        let mut seen = from(0);
        let first = seen.new_of(vec![a_move(2, 1, 20), a_move(1, 1, 10), a_move(9, 1, -500)], late());
        assert_eq!(told(&first).len(), 2, "what was before the stream is not told: {first:?}");
        assert!(told(&first)[0].contains("00000001\""), "oldest first: {first:?}");
        let second = seen.new_of(vec![a_move(2, 1, 20), a_move(3, 1, 15), a_move(1, 1, 10)], late());
        assert_eq!(told(&second).len(), 1, "{second:?}");
        assert!(told(&second)[0].contains("00000003\""));
        assert!(seen.new_of(vec![a_move(3, 1, 15)], late()).is_empty());
    }

    #[test]
    fn what_is_too_much_is_left_out_and_counted() {
        let mut seen = from(0);
        let tick = seen.new_of((0..130).rev().map(|n| a_move(n, 1, n as i64)).collect(), late());
        let lines = told(&tick);
        assert_eq!((lines.len(), lines[0].as_str()), (MOST + 1, r#"data: {"moves":30}"#));
    }

    #[test]
    fn what_was_told_long_ago_is_forgotten() {
        let mut seen = from(0);
        for n in 0..100 {
            seen.new_of(vec![a_move(n, 1, n as i64 * 1000)], late());
        }
        assert!(seen.told.len() <= 3, "{}", seen.told.len());
    }

    #[test]
    fn a_line_break_in_a_reason_does_not_break_the_stream() {
        let text = text(&a_move(1, 7, 0), "7");
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.starts_with("id: 7\nevent: move\ndata: {"), "{text}");
    }
}
