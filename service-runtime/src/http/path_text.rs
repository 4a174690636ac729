//! What a path holds, decoded.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Problem;

/// As axum's [`Path`], for text. What is not UTF-8 once it is decoded (`%ff`) is refused as a [`Problem`].
pub struct PathText<T = String>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathText<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => {
                let path = parts.uri.path();
                Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("the path {path} is not valid: {}", rejection.body_text()),
                ))
            }
        }
    }
}
