//! The `Idempotency-Key` of a request (IETF draft-ietf-httpapi-idempotency-key-header): a client that got no answer sends
//! the same request again under the same key, and gets the outcome of the first one.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};

use super::Problem;

/// The header.
const NAME: &str = "idempotency-key";

/// The most characters that a key may have: as at Stripe.
const MOST: usize = 255;

/// The fewest that a new one may have. Shorter ones are counters and the like, which two clients of a user both choose:
/// one would get the other's outcome. Earlier releases took them, and what was stored under them is still found.
const FEWEST: usize = 8;

/// What a client chose to tell its requests apart: 8 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key that a request carries, if it carries one. The quotes of a structured-field string (as in the
    /// draft) do not count: `"abc"` and `abc` are the same key.
    ///
    /// # Errors
    /// 400 for more than one key, an empty one, one that is too long, or one of other characters.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let invalid = |why: &str| Problem::new(StatusCode::BAD_REQUEST, format!("`Idempotency-Key` {why}"));
        let mut values = headers.get_all(NAME).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(invalid("must be sent once"));
        }
        let text = value.to_str().map_err(|_| invalid("must consist of visible ASCII characters"))?.trim();
        let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let text = quoted.unwrap_or(text);
        match text.len() {
            0 => Err(invalid("must not be empty")),
            1..=MOST => Ok(Some(Self(text.to_owned()))),
            _ => Err(invalid("must have at most 255 characters")),
        }
    }

    /// Whether a new request may have it.
    ///
    /// # Errors
    /// 400 for one that is too short.
    pub fn check_new(&self) -> Result<(), Problem> {
        match self.0.len() {
            0..FEWEST => {
                let detail = format!(
                    "`Idempotency-Key` must have at least {FEWEST} characters: send a random one, such as a UUID"
                );
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
            _ => Ok(()),
        }
    }

    /// A key as it was stored.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of a request, taken out of its headers: one that is left there is refused with the body.
pub struct TakenKey(pub Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for TakenKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = IdempotencyKey::of(&parts.headers)?;
        parts.headers.remove(NAME);
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, value.parse().unwrap());
        }
        IdempotencyKey::of(&headers).map(|key| key.map(|key| key.0))
    }

    #[test]
    fn a_key_is_taken_as_it_is_but_for_the_quotes_of_the_draft() {
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&["8e03978e-40d5"]).unwrap().as_deref(), Some("8e03978e-40d5"));
        assert_eq!(key(&["\"8e03978e-40d5\""]).unwrap().as_deref(), Some("8e03978e-40d5"));
        assert_eq!(key(&[&"k".repeat(255)]).unwrap().unwrap().len(), 255);
    }

    #[test]
    fn a_new_key_has_at_least_eight_characters() {
        let check = |key: &str| IdempotencyKey::stored(key.to_owned()).check_new();
        assert!(check("12345678").is_ok());
        let problem = check("1234567").unwrap_err();
        assert!(problem.status() == StatusCode::BAD_REQUEST && problem.detail().contains("at least 8"), "{problem:?}");
    }

    #[test]
    fn an_empty_long_or_repeated_key_is_refused() {
        let (long, repeated) = ("k".repeat(256), ["a", "a"]);
        for (values, why) in [
            (&[""][..], "empty"),
            (&["\"\""], "empty"),
            (&["  "], "empty"),
            (&[long.as_str()], "255"),
            (&repeated, "once"),
        ] {
            let problem = serde_json::to_string(&key(values).unwrap_err()).unwrap();
            assert!(problem.contains(why) && problem.contains("400"), "{problem}");
        }
    }
}
