//! Traces: what was done for one request, in every service, as a tree of spans that OpenTelemetry's tools show.
//!
//! A trace begins with a checkout, or with the request's own `traceparent`, and goes along with HTTP requests and
//! records in that header. The saga's row keeps it, so a repetition after a crash is in the same trace. Off by default:
//! then every function here looks at one thread-local word, and does nothing.

mod collector;
mod requests;

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::Either;
use messages::TraceContext;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};
use serde::Deserialize;
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use self::collector::Collector;
use crate::Fatal;
use crate::settings::{Settings, SettingsError, Share};

pub use opentelemetry::trace::SpanKind as Kind;

pub(crate) use self::requests::serve;

/// How long the end of a service waits for its last spans to be taken.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Whether and where traces go. See `defaults/service.toml` for what each setting means.
#[derive(Debug, Clone, Deserialize)]
pub struct TraceSettings {
    otel_exporter_otlp_endpoint: String,
    otel_traces_sampler_arg: Share,
}

impl TryFrom<&Settings> for TraceSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        if !section.otel_exporter_otlp_endpoint.is_empty() {
            collector::check_endpoint(&section.otel_exporter_otlp_endpoint)
                .map_err(|problem| SettingsError::Invalid { key: "otel_exporter_otlp_endpoint", problem })?;
        }
        Ok(section)
    }
}

/// One service's spans. Clones share it.
#[derive(Clone)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    collector: Collector,
    share: Share,
}

impl Tracer {
    /// Spans of `service` go where the settings say. Nothing is sent yet.
    ///
    /// # Errors
    /// When no client of the collector can be made.
    pub fn open(settings: &TraceSettings, service: &'static str) -> Result<Self, Fatal> {
        if settings.otel_exporter_otlp_endpoint.is_empty() {
            return Ok(Self(None));
        }
        let collector = Collector::open(&settings.otel_exporter_otlp_endpoint, service)?;
        Ok(Self(Some(Arc::new(On { collector, share: settings.otel_traces_sampler_arg }))))
    }

    /// One that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether anything is recorded at all.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span under one that another process, or an earlier run of this one, began. None where that is not known, or
    /// its trace not recorded.
    pub fn span(&self, kind: Kind, parent: Option<TraceContext>, name: impl FnOnce() -> Cow<'static, str>) -> Span {
        self.span_with_id(random_id(), kind, parent, name)
    }

    /// The same with an id of the caller's, as [`known_id`] makes them.
    pub fn span_with_id(
        &self,
        span_id: u64,
        kind: Kind,
        parent: Option<TraceContext>,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Span {
        match (&self.0, parent) {
            (Some(on), Some(parent)) if parent.is_sampled => {
                Span::begin(on, kind, Some(parent.span_id), TraceContext { span_id, ..parent }, name())
            }
            _ => Span::none(),
        }
    }

    /// The first span of a new trace. None, and a context that says so, for the share that is not to be recorded.
    fn root(&self, name: impl FnOnce() -> Cow<'static, str>) -> (TraceContext, Span) {
        let Some(on) = &self.0 else { return (new_trace(true), Span::none()) };
        let context = new_trace(rand::random::<f64>() < on.share.get());
        let span = if context.is_sampled { Span::begin(on, Kind::Server, None, context, name()) } else { Span::none() };
        (context, span)
    }

    /// Sends what has not been sent yet, within a limit.
    pub async fn close(self) {
        let Some(on) = self.0 else { return };
        let closed = tokio::task::spawn_blocking(move || on.collector.close(CLOSE_LIMIT));
        let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
    }
}

/// Something that is being done. It has ended when this is dropped.
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Arc<Live>>);

/// What of a span its children need, and what is known of it so far; `None` once it has ended.
pub struct Live {
    on: Arc<On>,
    context: TraceContext,
    data: Mutex<Option<SpanData>>,
}

tokio::task_local! {
    static CURRENT: Arc<Live>;
}

impl Span {
    /// No span: nothing of it is recorded.
    pub const fn none() -> Self {
        Self(None)
    }

    /// `context` is the span's own.
    fn begin(on: &Arc<On>, kind: Kind, parent: Option<u64>, context: TraceContext, name: Cow<'static, str>) -> Self {
        let now = SystemTime::now();
        let data = SpanData {
            span_context: otel(context, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.to_be_bytes())),
            parent_span_is_remote: matches!(kind, SpanKind::Server | SpanKind::Consumer),
            span_kind: kind,
            name,
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: on.collector.scope(),
        };
        Self(Some(Arc::new(Live { on: on.clone(), context, data: Mutex::new(Some(data)) })))
    }

    /// Whether there is a span at all: else nothing about it needs to be put together.
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// What goes along with whatever is sent for this span.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|live| live.context)
    }

    /// Does `work` for this span: what is begun in there is its child.
    pub fn around<F: Future>(&self, work: F) -> Around<F> {
        within(self.0.clone(), work)
    }

    /// The same for what does not wait.
    pub fn around_sync<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(live) => CURRENT.sync_scope(live.clone(), work),
            None => work(),
        }
    }

    /// Tells something of the span, by a name of OpenTelemetry's semantic conventions where there is one.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(live) = &self.0 {
            live.change(|data| data.attributes.push(KeyValue::new(name, value)));
        }
    }

    /// The span failed.
    pub fn fail(&self, why: &str) {
        if let Some(live) = &self.0 {
            live.change(|data| data.status = Status::error(why.to_owned()));
        }
    }

    /// The span repeats, or goes on with, what another one did.
    pub fn link(&self, other: TraceContext) {
        if let Some(live) = &self.0 {
            let linked = otel(other, true);
            live.change(|data| data.links.links.push(Link::with_context(linked)));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(live) = self.0.take() else { return };
        let data = live.data.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut data) = data {
            data.end_time = SystemTime::now();
            live.on.collector.take(data);
        }
    }
}

impl Live {
    fn change(&self, change: impl FnOnce(&mut SpanData)) {
        if let Some(data) = self.data.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            change(data);
        }
    }
}

/// The span that the work at hand is done for.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|live| live.context).ok()
}

/// A child of the current span, if there is one.
pub fn child(kind: Kind, name: impl FnOnce() -> Cow<'static, str>) -> Span {
    let begin = |live: &Arc<Live>| {
        let context = TraceContext { span_id: random_id(), ..live.context };
        Span::begin(&live.on, kind, Some(live.context.span_id), context, name())
    };
    CURRENT.try_with(begin).unwrap_or(Span::none())
}

/// A span's id that whoever knows `uuid` and `number` knows too: a repetition, by whichever process, can link to it.
pub fn known_id(uuid: Uuid, number: i64) -> u64 {
    let (high, low) = uuid.as_u64_pair();
    // Both halves, since an id may have its randomness in either. The multiplier (the golden ratio's, as 64 bits) keeps
    // the numbers of one id far apart.
    ((high.rotate_left(17) ^ low).wrapping_add((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))).max(1)
}

/// Tells something of the current span.
pub fn set(name: &'static str, value: impl FnOnce() -> Value) {
    let _ = CURRENT.try_with(|live| live.change(|data| data.attributes.push(KeyValue::new(name, value()))));
}

/// `work`, for the span that is the current one now: for work that is given to a task of its own.
pub fn carried<F: Future>(work: F) -> Around<F> {
    within(CURRENT.try_with(Arc::clone).ok(), work)
}

/// Work as it is, or within a span. Without one it is no larger than before: it is moved often.
pub type Around<F> = Either<F, Pin<Box<TaskLocalFuture<Arc<Live>, F>>>>;

fn within<F: Future>(live: Option<Arc<Live>>, work: F) -> Around<F> {
    match live {
        Some(live) => Either::Right(Box::pin(CURRENT.scope(live, work))),
        None => Either::Left(work),
    }
}

fn otel(context: TraceContext, is_remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        if context.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED },
        is_remote,
        TraceState::NONE,
    )
}

/// A trace context that nobody gave: of a request that came without one.
pub fn new_trace(is_sampled: bool) -> TraceContext {
    TraceContext { trace_id: rand::random::<u128>().max(1), span_id: random_id(), is_sampled }
}

fn random_id() -> u64 {
    rand::random::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans go to a port where nobody listens.
    fn tracer(share: f64) -> Tracer {
        let settings = TraceSettings {
            otel_exporter_otlp_endpoint: "http://127.0.0.1:9".to_owned(),
            otel_traces_sampler_arg: share.try_into().unwrap(),
        };
        Tracer::open(&settings, "test").unwrap()
    }

    #[tokio::test]
    async fn what_is_begun_within_a_span_is_its_child_in_a_task_of_its_own_too() {
        let tracer = tracer(1.0);
        let (context, root) = tracer.root(|| "root".into());
        assert_eq!(current(), None);
        let (here, there) = root
            .around(async {
                let there = tokio::spawn(carried(async { current() })).await.unwrap();
                (current(), there)
            })
            .await;
        assert_eq!((here, there), (Some(context), Some(context)));
        let child = root.around_sync(|| child(Kind::Internal, || "child".into()));
        let context = child.context().unwrap();
        assert_eq!((context.trace_id, context.is_sampled), (root.context().unwrap().trace_id, true));
        assert_ne!(context.span_id, root.context().unwrap().span_id);
    }

    #[tokio::test]
    async fn a_trace_that_is_not_sampled_and_a_tracer_that_is_off_record_nothing() {
        let (context, root) = tracer(0.0).root(|| "root".into());
        assert!(!root.is_recorded() && !context.is_sampled);
        let asked = tracer(0.0).span(Kind::Server, Some(new_trace(true)), || "asked for".into());
        assert!(asked.is_recorded(), "its client says that it is recorded");
        let refused = tracer(1.0).span(Kind::Server, Some(new_trace(false)), || "refused".into());
        assert!(!refused.is_recorded());
        let off = Tracer::off().span(Kind::Server, Some(new_trace(true)), || unreachable!("no name is made"));
        assert!(!off.is_recorded() && off.around_sync(current).is_none());
        assert!(!child(Kind::Internal, || unreachable!("no name is made")).is_recorded());
    }

    #[test]
    fn a_known_id_is_the_same_for_the_same_step_only() {
        let (saga, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut ids = vec![known_id(saga, 1), known_id(saga, 2), known_id(other, 1), known_id(other, 2)];
        assert_eq!(ids[0], known_id(saga, 1));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused() {
        for (endpoint, is_valid) in [
            ("http://localhost:4318", true),
            ("https://c.example/otlp", true),
            ("localhost:4318", false),
            ("ftp://a", false),
            ("https://user:token@c.example", false),
        ] {
            assert_eq!(collector::check_endpoint(endpoint).is_ok(), is_valid, "{endpoint}");
        }
    }
}
