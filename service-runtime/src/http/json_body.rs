//! A JSON request body, read strictly: what is wrong with it is said by name.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use messages::object::Object;
use serde::de::DeserializeOwned;

use super::bodies::GivenUp;
use super::{MAX_BODY, Problem};

/// The body, a JSON object, as a `T`. Answers 415 (not declared as JSON, or compressed), 413 (larger than [`MAX_BODY`]),
/// 408 (not there after 10 s), 400
/// (not JSON) or 422 (JSON of another shape, with the field's name) by itself.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let JsonText::<MAX_BODY>(body) = JsonText::from_request(request, state).await?;
        parse(&body).map(Self)
    }
}

/// A whole body that is declared as JSON, which a page of another site can't do without being asked for leave (CORS).
/// Answers 415, 413 and 408 as [`JsonBody`] does. `LIMIT` is what its route takes, in bytes.
pub struct JsonText<const LIMIT: usize = MAX_BODY>(pub Bytes);

/// A whole body that is declared as YAML, likewise; up to [`MAX_BODY`].
pub struct YamlText(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for YamlText {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let wanted = "the body must be YAML, with the header `Content-Type: application/yaml`";
        whole(request, state, MAX_BODY, is_yaml, wanted).await.map(Self)
    }
}

impl<S: Send + Sync, const LIMIT: usize> FromRequest<S> for JsonText<LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let wanted = "the body must be JSON, with the header `Content-Type: application/json`";
        whole(request, state, LIMIT, is_json, wanted).await.map(Self)
    }
}

/// Reads a body that is declared as `is_wanted` has it, else answers with `wanted`.
async fn whole<S: Send + Sync>(
    request: Request,
    state: &S,
    limit: usize,
    is_wanted: fn(&HeaderMap) -> bool,
    wanted: &str,
) -> Result<Bytes, Problem> {
    refuse_idempotency_key(request.headers())?;
    if let Some(coding) = content_coding(request.headers()) {
        let detail = format!("the body must not be compressed: `Content-Encoding: {coding}` is not supported");
        // RFC 9110, section 15.5.16.
        let refused = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
        return Err(refused.with_header(header::ACCEPT_ENCODING, "identity"));
    }
    if !is_wanted(request.headers()) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, wanted));
    }
    let body = Bytes::from_request(request, state).await;
    body.map_err(|rejection| match (GivenUp::problem(&rejection), rejection.status()) {
        // It was waited for as long as the server's limits allow.
        (Some(problem), _) => problem,
        (None, StatusCode::PAYLOAD_TOO_LARGE) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
        }
        (None, status) => Problem::new(status, "the body could not be read: it broke off, or is malformed"),
    })
}

/// Refuses an `Idempotency-Key` (400): a route that uses it has taken it from the headers before, and a client must not
/// believe that a repetition is safe where it is not.
pub fn refuse_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.contains_key("idempotency-key") {
        false => Ok(()),
        true => {
            let detail = "`Idempotency-Key` has no effect on this request: leave it out";
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// How a body is encoded, if it is.
fn content_coding(headers: &HeaderMap) -> Option<String> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings: Vec<_> = codings.map(|coding| String::from_utf8_lossy(coding.as_bytes())).collect();
    let codings = codings.join(", ");
    let plain =
        codings.split(',').map(str::trim).all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity"));
    (!plain).then_some(codings)
}

/// The byte order mark that a text begins with: JSON has none (RFC 8259, section 8.1).
fn byte_order_mark(body: &[u8]) -> Option<&'static str> {
    match body {
        [0xef, 0xbb, 0xbf, ..] => Some("UTF-8"),
        [0xfe, 0xff, ..] => Some("UTF-16, big endian"),
        [0xff, 0xfe, ..] => Some("UTF-16, little endian"),
        _ => None,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = essence(headers);
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// `application/yaml` (RFC 9512), or a name that was common before it.
fn is_yaml(headers: &HeaderMap) -> bool {
    let names = ["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];
    names.contains(&essence(headers).as_str())
}

/// The declared type of a body, without parameters.
fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if let Some(encoding) = byte_order_mark(body) {
        let detail = format!(
            "the body is not valid JSON: it begins with a byte order mark ({encoding}); send UTF-8 without one"
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return Problem::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON: {inner}"));
        }
        // The path of an unknown or missing field is the object around it: serde names the field in the message.
        match path.as_str() {
            "." | "?" => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, inner.to_string()),
            field if inner.to_string().starts_with("unknown field") => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, inner.to_string()).with_field(field)
            }
            field => Problem::invalid_field(field, format_args!("is not valid: {inner}")),
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not one JSON value: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use messages::AmountText;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only its type matters")]
        user_id: String,
        total_amount: AmountText,
    }

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), header::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_compressed_body_is_known_by_its_coding() {
        let coding = |values: &[&'static str]| content_coding(&headers(header::CONTENT_ENCODING, values));
        assert_eq!(coding(&[]), None);
        assert_eq!(coding(&["identity"]), None);
        assert_eq!(coding(&["gzip"]).as_deref(), Some("gzip"));
        assert_eq!(coding(&["identity", "br"]).as_deref(), Some("identity, br"));
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let problem = parse::<Body>(b"\xff\xfe{\0}\0").unwrap_err();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        assert!(problem.detail().contains("UTF-16, little endian"), "{}", problem.detail());
    }

    fn refused(body: &str) -> (u16, String) {
        let problem = parse::<Body>(body.as_bytes()).unwrap_err();
        (problem.clone().into_response().status().as_u16(), serde_json::to_string(&problem).unwrap())
    }

    #[test]
    fn amounts_keep_what_was_written() {
        let body: Body = parse(br#"{"userId":"u","totalAmount":1e400}"#).unwrap();
        assert_eq!(body.total_amount.0.to_lowercase().replace('+', ""), "1e400");
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        for (body, status, name) in [
            ("{", 400, "not valid JSON"),
            ("{} {}", 422, "userId"),
            (r#"{"userId":"u","totalAmount":5} x"#, 400, "not one JSON value"),
            (r#"{"userId":5,"totalAmount":5}"#, 422, "`userId`"),
            (r#"{"userId":"u"}"#, 422, "totalAmount"),
            (r#"{"userId":"u","totalAmount":[]}"#, 422, "`totalAmount`"),
            (r#"{"userId":"u","totalAmount":5,"forcePaymentFial":true}"#, 422, "forcePaymentFial"),
            ("[]", 422, "expected a JSON object"),
            (r#"["u",5]"#, 422, "expected a JSON object"),
            ("null", 422, "expected a JSON object"),
            ("\u{feff}{}", 400, "byte order mark (UTF-8)"),
            (r#"{"userId":"u","totalAmount":{"$serde_json::private::Number":"5"}}"#, 422, "`totalAmount`"),
        ] {
            let (answered, text) = refused(body);
            assert_eq!(answered, status, "{body}: {text}");
            assert!(text.contains(name), "{body}: {text}");
        }
    }
}
