//! The SQL of `definitions`: which flows this installation's sagas were started by.

use std::time::Duration;

use service_runtime::Fatal;
use service_runtime::database::{StoreError, within_limit};
use sqlx::PgPool;
use tracing::warn;

use crate::saga::Definition;
use crate::saga::definition::DEFINITIONS;

/// How often a database that does not answer is asked, and how long between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Notes the definitions that this release knows, and holds them against what is noted.
///
/// # Errors
/// When one was changed under its version, or the database can't tell.
pub async fn check_unchanged(pool: &PgPool) -> Result<(), Fatal> {
    let mut tries = 0;
    let noted = loop {
        tries += 1;
        match within_limit(note(pool)).await {
            Ok(noted) => break noted,
            Err(error) if tries == TRIES => return Err(Fatal::new(error.to_string())),
            Err(error @ StoreError::Refused(_)) => return Err(Fatal::new(error.to_string())),
            // It was there a moment ago: a busy one takes its time to connect.
            Err(error) => {
                warn!(%error, "the definitions can't be looked up yet; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    DEFINITIONS.iter().try_for_each(|definition| unchanged(definition, &noted))
}

/// Notes those that are new; answers all.
async fn note(pool: &PgPool) -> Result<Vec<(String, i32, String)>, StoreError> {
    sqlx::query(
        "INSERT INTO definitions (name, version, steps) SELECT UNNEST($1::text[]), UNNEST($2::int[]), UNNEST($3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(DEFINITIONS.map(|definition| definition.name))
    .bind(DEFINITIONS.map(|definition| definition.version))
    .bind(DEFINITIONS.map(Definition::describe))
    .execute(pool)
    .await?;
    Ok(sqlx::query_as("SELECT name, version, steps FROM definitions").fetch_all(pool).await?)
}

fn unchanged(definition: &Definition, noted: &[(String, i32, String)]) -> Result<(), Fatal> {
    let Definition { name, version, .. } = definition;
    let is_it = |(of, number, _): &&(String, i32, String)| of == name && number == version;
    let Some((.., then)) = noted.iter().find(is_it) else { return Ok(()) };
    let now = definition.describe();
    let mut pairs = then.lines().zip(now.lines());
    let differs = pairs.find(|(then, now)| then != now).unwrap_or(("another number of steps", "this release's"));
    if *then == now {
        return Ok(());
    }
    Err(Fatal::new(format!(
        "the definition {name} v{version} is not the one that sagas were started by: a changed flow needs a new \
         version. It was `{}`, and is `{}` in this release",
        differs.0, differs.1
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::definition::PAY_FIRST;

    #[test]
    fn a_definition_that_was_changed_under_its_version_is_named_with_the_step_that_differs() {
        let noted = |steps: String| vec![(PAY_FIRST.name.to_owned(), PAY_FIRST.version, steps)];
        assert!(unchanged(&PAY_FIRST, &[]).is_ok(), "a new one");
        assert!(unchanged(&PAY_FIRST, &noted(PAY_FIRST.describe())).is_ok());
        let other_version = vec![(PAY_FIRST.name.to_owned(), PAY_FIRST.version + 1, "another".to_owned())];
        assert!(unchanged(&PAY_FIRST, &other_version).is_ok());

        let patient = PAY_FIRST
            .describe()
            .replace("INVENTORY_RESERVE: reserve-inventory, 60 s", "INVENTORY_RESERVE: reserve-inventory, 90 s");
        let error = unchanged(&PAY_FIRST, &noted(patient)).unwrap_err().to_string();
        assert!(error.contains("pay-first v1") && error.contains("a new version"), "{error}");
        assert!(error.contains("reserve-inventory, 90 s") && error.contains("reserve-inventory, 60 s"), "{error}");
        let longer = format!("{}\nORDER_SHIP: ship-order", PAY_FIRST.describe());
        assert!(unchanged(&PAY_FIRST, &noted(longer)).unwrap_err().to_string().contains("number of steps"));
    }
}
