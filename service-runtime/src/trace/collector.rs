//! Where spans go: an OpenTelemetry collector, by OTLP over HTTP, in batches and from a thread of their own. A collector
//! that is away or slow costs spans, never a checkout.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::Uri;
use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor as _};
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use tracing::{info, warn};

use crate::Fatal;

/// How long the collector may take for a batch.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// Spans that wait to be sent, at most: about a second of a thousand checkouts. Beyond it they are dropped, with a
/// line in the log.
const QUEUE: usize = 32_768;

/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);

pub(super) struct Collector {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// `OTEL_EXPORTER_OTLP_ENDPOINT` is a base URL: the path of the traces is put behind it.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let uri: Uri = endpoint.parse().map_err(|error| format!("not a URL: {error}"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(
            "must hold no user or password, which the log would tell: OTEL_EXPORTER_OTLP_HEADERS takes them".to_owned()
        );
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => Err("must be an http:// or https:// URL, as http://localhost:4318".to_owned()),
    }
}

/// An exporter that tells once that its collector is away, and once that it is back.
#[derive(Debug)]
struct Told {
    inner: SpanExporter,
    endpoint: String,
    is_away: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, endpoint) = (batch.len(), &self.endpoint);
        match self.inner.export(batch).await {
            Ok(()) if self.is_away.swap(false, Ordering::Relaxed) => info!(endpoint, "traces are taken again"),
            Err(error) if !self.is_away.swap(true, Ordering::Relaxed) => {
                warn!(endpoint, spans, %error, "traces are not taken: they are lost until they are");
            }
            _ => {}
        }
        // Else the processor tells of each batch that is lost.
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(limit)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl Collector {
    pub(super) fn open(endpoint: &str, service: &'static str) -> Result<Self, Fatal> {
        let failed = |why: &dyn std::fmt::Display| Fatal::new(format!("traces can't be sent to {endpoint}: {why}"));
        let plain = endpoint.starts_with("http://");
        // The blocking client makes a runtime of its own, which must not be made within another one.
        let client = std::thread::spawn(move || {
            // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client = Client::builder().redirect(Policy::none()).timeout(EXPORT_LIMIT);
            // Without TLS there is no need of the system's certificates, which a small image may lack.
            if plain { client.tls_certs_only([]) } else { client }.build()
        });
        let client = client.join().map_err(|_| failed(&"its client panicked"))?.map_err(|error| failed(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_LIMIT)
            .build()
            .map_err(|error| failed(&error))?;
        let exporter = Told { inner: exporter, endpoint: endpoint.to_owned(), is_away: AtomicBool::new(false) };
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(DELAY).build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let version = env!("CARGO_PKG_VERSION");
        let attributes = [opentelemetry::KeyValue::new("service.version", version)];
        processor.set_resource(&Resource::builder().with_service_name(service).with_attributes(attributes).build());
        let scope = InstrumentationScope::builder("order-checkout").with_version(version).build();
        Ok(Self { processor, scope })
    }

    pub(super) fn scope(&self) -> InstrumentationScope {
        self.scope.clone()
    }

    pub(super) fn take(&self, span: SpanData) {
        self.processor.on_end(span);
    }

    pub(super) fn close(&self, limit: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(limit) {
            warn!(%error, "the last spans were not sent");
        }
    }
}
