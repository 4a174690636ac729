//! What a client prefers (`Prefer`, RFC 7240): not to wait, or to wait only so long.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};

/// `respond-async` and `wait` of a request. What is unknown or malformed is passed over, as the RFC has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preferences {
    respond_async: bool,
    wait: Option<u32>,
}

impl Preferences {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            // Parameters, behind semicolons, have no meaning here.
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => found.respond_async = true,
                // Of one that is repeated the first counts.
                "wait" => found.wait = found.wait.or_else(|| value.trim().trim_matches('"').parse().ok()),
                _ => {}
            }
        }
        found
    }

    /// Whether the client asks for a wait.
    pub const fn waits(self) -> bool {
        self.wait.is_some()
    }

    /// How long the answer may take, where it may take up to `limit` otherwise.
    pub fn wait(self, limit: Duration) -> Duration {
        match self.wait {
            Some(seconds) => limit.min(Duration::from_secs(seconds.into())),
            None if self.respond_async => Duration::ZERO,
            None => limit,
        }
    }

    /// `Preference-Applied` of an answer of this status.
    pub fn applied(self, limit: Duration, status: StatusCode) -> Option<HeaderValue> {
        let respond_async = self.respond_async && status == StatusCode::ACCEPTED;
        let wait = self.wait.filter(|seconds| Duration::from_secs((*seconds).into()) <= limit);
        let applied =
            [respond_async.then(|| "respond-async".to_owned()), wait.map(|seconds| format!("wait={seconds}"))];
        let applied = applied.into_iter().flatten().collect::<Vec<_>>().join(", ");
        HeaderValue::try_from(applied).ok().filter(|applied| !applied.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn preferences(values: &[&'static str]) -> Preferences {
        let values = values.iter().map(|value| HeaderValue::from_static(value));
        Preferences::of(&values.map(|value| (axum::http::HeaderName::from_static("prefer"), value)).collect())
    }

    #[test]
    fn a_wait_is_honoured_up_to_the_limit() {
        for (values, seconds) in [
            (&[][..], 30),
            (&["return=minimal"], 30),
            (&["respond-async"], 0),
            (&["Respond-Async"], 0),
            (&["respond-async, wait=10"], 10),
            (&["wait=10", "respond-async"], 10),
            (&["wait = \"5\"; foo=bar"], 5),
            (&["wait=0"], 0),
            (&["wait=3, wait=7"], 3),
            (&["wait=600"], 30),
            (&["wait=soon"], 30),
            (&["wait=-1, respond-async"], 0),
        ] {
            assert_eq!(preferences(values).wait(LIMIT), Duration::from_secs(seconds), "{values:?}");
        }
    }

    #[test]
    fn an_answer_names_the_preferences_that_it_follows() {
        for (values, status, applied) in [
            (&[][..], StatusCode::ACCEPTED, None),
            (&["respond-async"], StatusCode::ACCEPTED, Some("respond-async")),
            (&["respond-async"], StatusCode::OK, None),
            (&["wait=10, respond-async"], StatusCode::ACCEPTED, Some("respond-async, wait=10")),
            (&["wait=10, respond-async"], StatusCode::OK, Some("wait=10")),
            (&["wait=31"], StatusCode::OK, None),
        ] {
            let given = preferences(values).applied(LIMIT, status);
            assert_eq!(given.as_ref().map(|value| value.to_str().unwrap()), applied, "{values:?} {status}");
        }
    }
}
