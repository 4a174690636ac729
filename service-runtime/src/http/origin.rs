//! Who may ask from a browser. There is no authentication, so a web page that reaches a port through its reader's browser
//! could do all that the port offers:
//!
//! - by DNS rebinding: a page's own name is made to lead here, and the browser takes this server for the page's. So
//!   requests name a host that is this server's: an IP address, which no name server hands out as a name, `localhost`, or
//!   one of `ALLOWED_HOSTS`.
//! - from another origin, where the browser says so (`Sec-Fetch-Site`, `Origin`). Following a link is allowed.
//!
//! Programs say neither, and pass. Probes and Prometheus ask by any name.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::warn;

use super::Problem;

/// How many refused names are logged, each once: a client can make up any number.
const MAX_LOGGED: usize = 16;

const SEC_FETCH_SITE: &str = "sec-fetch-site";
const SEC_FETCH_MODE: &str = "sec-fetch-mode";
const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `ALLOWED_HOSTS`: the names by which the server is asked, besides `localhost` and IP addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AllowedHosts {
    names: Vec<String>,
    /// What `*.` stood before.
    parents: Vec<String>,
}

impl FromStr for AllowedHosts {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, list) = match entry.strip_prefix("*.") {
                Some(parent) => (parent, &mut allowed.parents),
                None => (entry, &mut allowed.names),
            };
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !is_name {
                return Err(format!(
                    "{entry:?} is no host name: names go without a scheme or a port, `*.` may come first"
                ));
            }
            list.push(name.trim_end_matches('.').to_ascii_lowercase());
        }
        Ok(allowed)
    }
}

impl AllowedHosts {
    /// Whether no name was given.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.parents.is_empty()
    }

    /// Whether `host`, of a URL, is this server.
    fn has(&self, host: &str) -> bool {
        let is_address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok(),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_below = |parent: &String| {
            host.strip_suffix(parent.as_str())
                .and_then(|host| host.strip_suffix('.'))
                .is_some_and(|host| !host.is_empty())
        };
        is_address || host == "localhost" || self.names.contains(&host) || self.parents.iter().any(is_below)
    }
}

/// The rules, and which names were refused. Clones share it.
#[derive(Clone)]
pub(super) struct Guard {
    allowed: Arc<AllowedHosts>,
    refused: Arc<Mutex<HashSet<String>>>,
}

impl Guard {
    pub(super) fn new(allowed: AllowedHosts) -> Self {
        Self { allowed: Arc::new(allowed), refused: Arc::default() }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let Some(host) = named_host(request)? else { return Ok(()) };
        let path = request.uri().path();
        let asked_by_any_name = path == "/metrics" || path.starts_with("/health/");
        if !asked_by_any_name && !self.allowed.has(host.host()) {
            self.note(host.host());
            let detail =
                format!("this server is not {:?}: ALLOWED_HOSTS has the names by which it is asked", host.host());
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        match is_from_elsewhere(request, &host) {
            false => Ok(()),
            true => Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin may not ask this")),
        }
    }

    fn note(&self, host: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < MAX_LOGGED && refused.insert(host.to_owned()) {
            warn!(host, "refused a request for a host that is not in ALLOWED_HOSTS");
        }
    }
}

/// Refuses what a page of another site may not ask, and has every answer say that it is nobody else's.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CORP, HeaderValue::from_static("same-origin"));
    // What may be kept says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The host that a request is meant for: `Host`, or the target's own (HTTP/2, and a target of absolute form). `None`:
/// HTTP/1.0 needs none, and no browser speaks it.
///
/// # Errors
/// 400 where it is missing, is named twice, or is no host (RFC 9112, section 3.2).
fn named_host(request: &Request) -> Result<Option<Authority>, Problem> {
    let refused = |why: &str| Problem::new(StatusCode::BAD_REQUEST, format!("the request {why}"));
    let mut headers = request.headers().get_all(header::HOST).iter();
    let by_header = match (headers.next(), headers.next()) {
        (Some(_), Some(_)) => return Err(refused("has more than one `Host`")),
        (Some(host), None) => {
            let host = Authority::try_from(host.as_bytes()).ok().filter(|host| !host.as_str().contains('@'));
            Some(host.ok_or_else(|| refused("has a `Host` that is none"))?)
        }
        (None, _) => None,
    };
    match (request.uri().authority().cloned(), by_header) {
        (Some(target), Some(host)) if target != host => {
            Err(refused("names one host as its target and another as `Host`"))
        }
        (Some(host), _) | (None, Some(host)) => Ok(Some(host)),
        (None, None) if request.version() < Version::HTTP_11 => Ok(None),
        (None, None) => Err(refused("has no `Host`")),
    }
}

/// Whether a page of another origin sent it. A link or an address that was typed is not that.
fn is_from_elsewhere(request: &Request, host: &Authority) -> bool {
    let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let is_navigation =
        || matches!(*request.method(), Method::GET | Method::HEAD) && text(SEC_FETCH_MODE) == Some("navigate");
    match (text(SEC_FETCH_SITE), text(header::ORIGIN.as_str())) {
        (Some("same-origin" | "none"), _) => false,
        (Some(_), _) => !is_navigation(),
        // Browsers leave the first out where the connection is not encrypted, and the address not this machine's.
        (None, Some(origin)) => !is_origin_of(origin, host),
        (None, None) => false,
    }
}

/// Whether `origin` (RFC 6454, section 6.1) is that of `host`, over whichever scheme: a proxy may encrypt.
fn is_origin_of(origin: &str, host: &Authority) -> bool {
    let (authority, default_port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, 80),
        Some(("https", authority)) => (authority, 443),
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    Authority::from_str(authority)
        .is_ok_and(|origin| origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::super::HttpSettings;
    use super::*;
    use crate::settings::{SERVICE_DEFAULTS, Settings};

    async fn answer(request: axum::http::request::Builder) -> Response {
        let guard_with = Guard::new("ops.example, *.shop.example".parse().unwrap());
        let thing = get(async || "thing").post(async || "done");
        let kept = get(async || ([(header::CACHE_CONTROL, "max-age=3600")], "style"));
        let routes = Router::new().route("/thing", thing).route("/kept", kept).route("/health/live", get(async || ""));
        let routes = routes.layer(middleware::from_fn_with_state(guard_with, guard));
        let Ok(response) = routes.oneshot(request.body(Body::empty()).unwrap()).await;
        response
    }

    async fn status(method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        answer(request).await.status().as_u16()
    }

    #[tokio::test]
    async fn only_a_host_that_is_this_server_is_served() {
        for host in [
            "localhost",
            "LOCALHOST:4000",
            "localhost.:4000",
            "127.0.0.1:4000",
            "10.1.2.3",
            "[::1]:4000",
            "ops.example:443",
            "a.b.shop.example",
        ] {
            assert_eq!(status("GET", "/thing", &[("host", host)]).await, 200, "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:4000",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "xops.example",
            "shop.example",
            "evilshop.example",
            "[::g]",
            "0x7f.1",
        ] {
            assert!([400, 421].contains(&status("GET", "/thing", &[("host", host)]).await), "{host}");
            assert!([400, 421].contains(&status("POST", "/thing", &[("host", host)]).await), "{host}");
        }
        assert_eq!(status("GET", "/thing", &[("host", "evil.test")]).await, 421);
        assert_eq!(status("GET", "/health/live", &[("host", "evil.test")]).await, 200, "probes ask by any name");
    }

    #[tokio::test]
    async fn a_request_names_its_host_once() {
        assert_eq!(status("GET", "/thing", &[]).await, 400);
        assert_eq!(status("GET", "/thing", &[("host", "localhost"), ("host", "localhost")]).await, 400);
        for none in ["", "a b", "user@localhost", "localhost/x", "http://localhost"] {
            assert_eq!(status("GET", "/thing", &[("host", none)]).await, 400, "{none:?}");
        }
        // A target of absolute form, and HTTP/2.
        assert_eq!(status("GET", "http://localhost/thing", &[]).await, 200);
        assert_eq!(status("GET", "http://evil.test/thing", &[]).await, 421);
        assert_eq!(status("GET", "http://evil.test/thing", &[("host", "localhost")]).await, 400);
        let old = answer(Request::get("/thing").version(Version::HTTP_10)).await;
        assert_eq!(old.status(), StatusCode::OK, "HTTP/1.0 has no Host");
    }

    #[tokio::test]
    async fn a_page_of_another_origin_changes_nothing_and_reads_nothing() {
        let sent = async |method, more: &[(&'static str, &'static str)]| {
            status(method, "/thing", &[&[("host", "ops.example:8080")], more].concat()).await
        };
        for method in ["GET", "POST"] {
            for (headers, expected) in [
                (&[][..], 200),
                (&[("origin", "http://ops.example:8080")], 200),
                (&[("origin", "http://OPS.example:8080"), (SEC_FETCH_SITE, "same-origin")], 200),
                (&[(SEC_FETCH_SITE, "none")], 200),
                (&[("origin", "http://evil.test")], 403),
                (&[("origin", "http://ops.example")], 403),
                (&[("origin", "null")], 403),
                (&[("origin", "")], 403),
                (&[(SEC_FETCH_SITE, "cross-site")], 403),
                (&[(SEC_FETCH_SITE, "same-site"), ("origin", "http://ops.example:9090")], 403),
            ] {
                assert_eq!(sent(method, headers).await, expected, "{method} {headers:?}");
            }
        }
        let link = [(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "navigate")];
        assert_eq!(sent("GET", &link).await, 200, "a link leads here");
        assert_eq!(sent("POST", &link).await, 403, "a form of another site does not");
        let behind_a_proxy = [("host", "ops.example"), ("origin", "https://ops.example")];
        assert_eq!(status("POST", "/thing", &behind_a_proxy).await, 200);
    }

    #[tokio::test]
    async fn every_answer_is_for_its_reader_only() {
        for (path, host) in
            [("/thing", "localhost"), ("/nothing", "localhost"), ("/thing", "evil.test"), ("/kept", "localhost")]
        {
            let response = answer(Request::get(path).header("host", host)).await;
            let value = |name: &str| response.headers()[name].to_str().unwrap();
            assert_eq!(value("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(value("cross-origin-resource-policy"), "same-origin", "{path}");
            let kept = if path == "/kept" { "max-age=3600" } else { "no-store" };
            assert_eq!(value("cache-control"), kept, "{path}");
        }
    }

    #[test]
    fn what_is_no_list_of_names_is_refused() {
        for list in ["http://ops.example", "ops.example:80", "*", "*.", "ops example", "a,*.b.*"] {
            assert!(list.parse::<AllowedHosts>().unwrap_err().contains("is no host name"), "{list}");
        }
        assert!(" , ".parse::<AllowedHosts>().unwrap().is_empty());
        let environment = [("ALLOWED_HOSTS".to_owned(), "ops.example:80".to_owned())].into_iter();
        let settings = Settings::load(&[SERVICE_DEFAULTS, "port = 4000"], None, environment).unwrap();
        let error = HttpSettings::try_from(&settings).unwrap_err().to_string();
        assert!(error.contains("allowed_hosts") && error.contains("ops.example:80"), "{error}");
    }
}
