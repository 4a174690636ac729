//! What a person does by hand: who does it, and why.

use messages::{schema, text};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::ObjectBuilder;

use super::Problem;

/// The most characters of a name, and of a reason or evidence.
const MOST: (usize, usize) = (128, 1000);

/// Who, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    #[schema(schema_with = name)]
    pub by: String,
    #[schema(schema_with = words)]
    pub reason: String,
}

impl Act {
    /// 422 for a name or reason that is blank, too long, or holds what can't be seen.
    pub fn validated(self) -> Result<Self, Problem> {
        check_name("by", &self.by)?;
        check_words("reason", &self.reason)?;
        Ok(self)
    }
}

/// Who does it, as it is described.
pub fn name() -> ObjectBuilder {
    schema::name(MOST.0)
}

/// A reason, likewise.
pub fn words() -> ObjectBuilder {
    schema::prose(MOST.1)
}

/// # Errors
/// 422 for a name that is blank, too long, or holds what can't be seen.
pub fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    text::check_name(name, MOST.0).map_err(|error| Problem::invalid_field(field, error))
}

/// # Errors
/// 422 for a reason that is blank, too long, or holds what can't be seen.
pub fn check_words(field: &str, words: &str) -> Result<(), Problem> {
    text::check_prose(words, MOST.1).map_err(|error| Problem::invalid_field(field, error))
}
