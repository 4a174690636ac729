//! Errors as HTTP answers: `application/problem+json` (RFC 9457).

use std::any::Any;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::description::PROBLEM_JSON;
use crate::Cause;
use crate::batch::panic_text;
use crate::database::StoreError;

/// The detail of a 500. What went wrong is for the log.
pub const INTERNAL: &str = "internal error: the server's log has its cause under the `errorId`";

/// An error answer. `detail` says what was wrong and which rule it broke; `field` names the request's field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says it all.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    status: StatusCode,
    /// What was wrong, and which rule it broke.
    detail: String,
    /// The request's field that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// The saga that it is about.
    #[schema(nullable = false)]
    #[serde(rename = "sagaId", skip_serializing_if = "Option::is_none")]
    saga_id: Option<String>,
    /// The id under which the server's log has the cause.
    #[schema(nullable = false, value_type = Option<String>)]
    #[serde(rename = "errorId", skip_serializing_if = "Option::is_none", serialize_with = "as_id")]
    cause: Option<Cause>,
    /// All that is wrong with a text that was sent, in its order.
    #[schema(nullable = false, value_type = Option<Vec<Finding>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Findings>,
    #[serde(skip)]
    headers: Vec<(header::HeaderName, String)>,
}

/// Something wrong in a text that was sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Finding {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The rule that is broken, by its stable name.
    pub rule: &'static str,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// In a box of its own: a problem is the error of every handler, and few have findings.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::box_collection, reason = "a thin pointer keeps the other problems small")]
struct Findings(Box<Vec<Finding>>);

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

fn as_id<S: serde::Serializer>(cause: &Option<Cause>, serializer: S) -> Result<S::Ok, S::Error> {
    cause.as_ref().map(Cause::id).serialize(serializer)
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status,
            detail: detail.into(),
            field: None,
            saga_id: None,
            cause: None,
            findings: None,
            headers: Vec::new(),
        }
    }

    /// 422: the field `name` breaks a rule. The detail names both.
    pub fn invalid_field(name: &str, rule: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("`{name}` {rule}")).with_field(name)
    }

    /// 400: a parameter of the query breaks a rule.
    pub fn invalid_parameter(name: &str, rule: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("`{name}` {rule}")).with_field(name)
    }

    /// 500: a fault of this service, whose cause goes to the log.
    pub fn internal(cause: &Cause) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL).with_cause(cause)
    }

    /// 503: can't be done now, and it is certain that nothing was done; worth another try after `seconds`.
    pub fn unavailable(detail: impl Into<String>, seconds: u32) -> Self {
        Self::outcome_unknown(detail).retry_after(seconds)
    }

    /// 503: whether it was done can't be known now. The detail says how it will be known, or that it may be repeated.
    pub fn outcome_unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// The same request may be sent again after so long.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.to_string())
    }

    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Names all that is wrong with the text that was sent.
    #[must_use]
    pub fn with_findings(self, findings: Vec<Finding>) -> Self {
        Self { findings: Some(Findings(Box::new(findings))), ..self }
    }

    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// What was wrong, in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Names the request's field that the problem is about.
    #[must_use]
    pub fn with_field(self, name: &str) -> Self {
        Self { field: Some(name.to_owned()), ..self }
    }

    /// Logs why, and names the id under which the log has it.
    #[must_use]
    pub fn with_cause(self, cause: &Cause) -> Self {
        cause.log(&self.detail);
        Self { cause: Some(cause.clone()), ..self }
    }

    /// The id under which the server's log has the cause, if it has.
    pub fn error_id(&self) -> Option<&str> {
        self.cause.as_ref().map(Cause::id)
    }

    /// Names the saga that the problem is about.
    #[must_use]
    pub fn with_saga(self, saga_id: impl ToString) -> Self {
        Self { saga_id: Some(saga_id.to_string()), ..self }
    }
}

/// 503 for a database that is away, 500 for one that refused. For requests that may be repeated: one that is not
/// idempotent has to say more of an unknown outcome.
/// 400: a query that can't be read.
impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotSent(cause) | StoreError::Unavailable(cause) | StoreError::Locked(cause) => {
                Self::outcome_unknown(error.to_string()).retry_after(1).with_cause(cause)
            }
            StoreError::Refused(cause) => Self::internal(cause),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// A handler that panicked: the client gets a 500 without the details, the log gets them.
pub(super) fn from_panic(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let cause = Cause::new(format!("a request handler panicked: {}", panic_text(&*panic)));
    Problem::internal(&cause).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_named_by_its_id_and_not_told() {
        let cause = Cause::new("card 4111111111111111 of ann");
        for error in
            [StoreError::NotSent(cause.clone()), StoreError::Unavailable(cause.clone()), StoreError::Refused(cause)]
        {
            let id = error.cause().id().to_owned();
            let body = serde_json::to_value(Problem::from(error)).unwrap();
            assert_eq!(body["errorId"], *id, "{body}");
            assert!(!body.to_string().contains("4111"), "{body}");
        }
        assert!(!serde_json::to_string(&Problem::unavailable("no", 1)).unwrap().contains("errorId"));
    }
}
