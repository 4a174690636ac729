//! An OpenTelemetry collector: takes spans by OTLP over HTTP as the services send them, and shows a trace as a tree.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The parent of a trace's first span, in hex.
pub const NO_PARENT: &str = "";

/// A span, with what its resource says.
#[derive(Debug, Clone)]
pub struct Collected {
    pub service: String,
    pub span: Span,
}

type Spans = Arc<Mutex<Vec<Collected>>>;

/// Collects until it is dropped.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    serving: AbortHandle,
}

impl Collector {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, spans) = (listener.local_addr()?, Spans::default());
        let app = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Ok(Self { address, spans, serving })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Collected> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace, told by its id in hex.
    pub fn trace(&self, trace_id: &str) -> Vec<Collected> {
        let mut spans = self.spans();
        spans.retain(|one| hex(&one.span.trace_id) == trace_id);
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(spans): State<Spans>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut all = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = text(&attributes, "service.name").unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        all.extend(spans.map(|span| Collected { service: service.clone(), span }));
    }
    StatusCode::OK
}

impl Collected {
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// An attribute that is a text.
    pub fn attribute(&self, name: &str) -> Option<String> {
        text(&self.span.attributes, name)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        _ => None,
    }
}

/// A trace's spans below `root`, two blanks a level, those of one parent in the order in which they began:
/// `payment-service: process payment.charge.command`.
///
/// # Errors
/// When a span's parent is neither `root` nor one of the spans, and when two have one id.
pub fn tree(spans: &[Collected], root: &str) -> Result<String> {
    let ids: BTreeSet<String> = spans.iter().map(Collected::id).collect();
    anyhow::ensure!(ids.len() == spans.len(), "{} spans have {} ids", spans.len(), ids.len());
    let lost = spans.iter().find(|one| one.parent() != root && !ids.contains(&one.parent()));
    if let Some(lost) = lost {
        anyhow::bail!("the parent {} of {}: {} is missing", lost.parent(), lost.service, lost.span.name);
    }
    let mut text = String::new();
    below(spans, root, 0, &mut text).context("the spans are no tree")?;
    Ok(text)
}

fn below(spans: &[Collected], parent: &str, level: usize, text: &mut String) -> Result<()> {
    anyhow::ensure!(level <= spans.len(), "a circle");
    let mut children: Vec<&Collected> = spans.iter().filter(|one| one.parent() == parent).collect();
    children.sort_by_key(|one| one.span.start_time_unix_nano);
    for child in children {
        text.push_str(&format!("{:width$}{}: {}\n", "", child.service, child.span.name, width = 2 * level));
        below(spans, &child.id(), level + 1, text)?;
    }
    Ok(())
}

/// An id as people write it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
