//! Clients of other services.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};

use crate::Fatal;

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A client of the service at `url`, and where its `resource` is. `variable` names the setting in the error.
///
/// # Errors
/// When it is no URL of HTTP.
pub fn client(variable: &str, url: &str, resource: &str) -> Result<(ClientBuilder, Url), Fatal> {
    // The URL itself is not repeated: it may hold a password.
    let invalid = |why: &str| Fatal::of_settings(format!("{variable} is not usable: {why}"));
    let url = format!("{}/{resource}", url.trim_end_matches('/'));
    let url = Url::parse(&url).map_err(|error| invalid(&error.to_string()))?;
    let builder = match url.scheme() {
        // Without TLS there is no need of the system's certificates, which a small image may lack.
        "http" => Client::builder().tls_certs_only([]),
        "https" => Client::builder(),
        _ => return Err(invalid("must be an http:// or https:// URL")),
    };
    // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A service never redirects: whatever listens there must not send orders elsewhere.
    let builder = builder.redirect(Policy::none()).no_proxy();
    Ok((builder.connect_timeout(CONNECT_LIMIT), url))
}
