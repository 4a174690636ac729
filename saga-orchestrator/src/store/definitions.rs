//! The SQL of `definitions`: which flows this installation's sagas were started by. A flow is noted as a text of its
//! steps, in words that no release changes: of two releases side by side each has to find its own there.

use std::fmt::Write as _;
use std::time::Duration;

use flow::{Action, Ask, Asked, Flow, Late, UndoStep};
use service_runtime::Fatal;
use service_runtime::database::{StoreError, within_limit};
use sqlx::PgPool;
use tracing::warn;

use crate::saga::flows;

/// How often a database that does not answer is asked, and how long between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Notes the flows that this release brings, and holds them against what is noted.
///
/// # Errors
/// When one was changed under its version, or the database can't tell.
pub async fn check_unchanged(pool: &PgPool) -> Result<(), Fatal> {
    let noted = patiently(|| note(pool)).await?;
    flows::built_in().iter().try_for_each(|built_in| unchanged(&built_in.flow, &noted))
}

/// Does what a start needs of a database that was there a moment ago: a busy one takes its time to connect.
///
/// # Errors
/// When it refuses, or does not answer for long.
pub async fn patiently<T, W: Future<Output = Result<T, StoreError>>>(work: impl Fn() -> W) -> Result<T, Fatal> {
    let mut tries = 0;
    loop {
        tries += 1;
        match within_limit(work()).await {
            Ok(done) => return Ok(done),
            Err(error) if tries == TRIES => return Err(Fatal::new(error.to_string())),
            Err(error @ StoreError::Refused(_)) => return Err(Fatal::new(error.to_string())),
            Err(error) => {
                warn!(%error, "the flows can't be looked up yet; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Notes those that are new; answers all.
async fn note(pool: &PgPool) -> Result<Vec<(String, i32, String)>, StoreError> {
    let built_in = || flows::built_in().iter().map(|built_in| &built_in.flow);
    sqlx::query(
        "INSERT INTO definitions (name, version, steps) SELECT UNNEST($1::text[]), UNNEST($2::int[]), UNNEST($3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(built_in().map(|flow| flow.name.as_str()).collect::<Vec<_>>())
    .bind(built_in().map(|flow| flow.version).collect::<Vec<_>>())
    .bind(built_in().map(|flow| describe(flow)).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(sqlx::query_as("SELECT name, version, steps FROM definitions").fetch_all(pool).await?)
}

fn unchanged(flow: &Flow, noted: &[(String, i32, String)]) -> Result<(), Fatal> {
    let Flow { name, version, .. } = flow;
    let is_it = |(of, number, _): &&(String, i32, String)| of == name && number == version;
    let Some((.., then)) = noted.iter().find(is_it) else { return Ok(()) };
    let now = describe(flow);
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

/// All that decides a saga's moves, a line for each step.
fn describe(flow: &Flow) -> String {
    let mut text = String::new();
    for step in &flow.steps {
        let asked = match &step.action {
            Action::Ask(ask) => asked(ask),
            Action::Wait(wait) => format!("wait for {}", wait.signal),
        };
        let limit = step.within.map_or("no limit".to_owned(), |limit| format!("{} s", limit.as_secs_f64()));
        let done: Vec<_> = step.done.iter().map(|done| done.event.as_str()).collect();
        // Into a string nothing fails to be written.
        let _ = write!(text, "{}: {asked}, {limit}; done by {}; ", step.name, done.join(" or "));
        for refused in &step.refused {
            let undoing = if refused.undo_this_step { ", undoing this step" } else { "" };
            let _ = write!(text, "refused by {} as {}{undoing}; ", refused.event, refused.cause);
        }
        match &step.late {
            Late::Undo(None) => {}
            Late::Undo(Some(cause)) => text += &format!("late as {cause}; "),
            Late::Attention => text += "late: attention; ",
            Late::GoOn => text += "late: go on; ",
        }
        text += &step.undo.as_ref().map_or("never undone".to_owned(), undone);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

fn undone(undo: &UndoStep) -> String {
    let done: Vec<_> = undo.done.iter().map(|done| done.event.as_str()).collect();
    format!("undone by {}: {}, done by {}", undo.name, asked(&undo.ask), done.join(" or "))
}

/// `payment.charge.command` is written `charge-payment`.
fn asked(ask: &Ask) -> String {
    let (Asked::Topic(name) | Asked::Action(name)) = &ask.of;
    let mut words: Vec<_> = name.strip_suffix(".command").unwrap_or(name).split('.').collect();
    words.reverse();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pay_first_is_noted_as_earlier_releases_note_it() {
        assert_eq!(
            describe(&flows::pay_first()),
            "ORDER_CREATE: create-order, 60 s; done by order.created; refused by order.create-refused as ORDER_REFUSED, undoing this step; undone by ORDER_CANCEL: cancel-order, done by order.cancelled
PAYMENT_CHARGE: charge-payment, 60 s; done by payment.charged; refused by payment.failed as PAYMENT_FAILED; undone by PAYMENT_REFUND: refund-payment, done by payment.refunded
INVENTORY_RESERVE: reserve-inventory, 60 s; done by inventory.reserved; refused by inventory.failed as INVENTORY_FAILED; undone by INVENTORY_RELEASE: release-inventory, done by inventory.released
ORDER_CONFIRM: confirm-order, no limit; done by order.confirmed; refused by order.confirm-refused as ORDER_REFUSED; never undone"
        );
    }

    #[test]
    fn a_definition_that_was_changed_under_its_version_is_named_with_the_step_that_differs() {
        let flow = flows::pay_first();
        let noted = |steps: String| vec![("pay-first".to_owned(), 1, steps)];
        assert!(unchanged(&flow, &[]).is_ok(), "a new one");
        assert!(unchanged(&flow, &noted(describe(&flow))).is_ok());
        let other_version = vec![("pay-first".to_owned(), 2, "another".to_owned())];
        assert!(unchanged(&flow, &other_version).is_ok());

        let patient = describe(&flow)
            .replace("INVENTORY_RESERVE: reserve-inventory, 60 s", "INVENTORY_RESERVE: reserve-inventory, 90 s");
        let error = unchanged(&flow, &noted(patient)).unwrap_err().to_string();
        assert!(error.contains("pay-first v1") && error.contains("a new version"), "{error}");
        assert!(error.contains("reserve-inventory, 90 s") && error.contains("reserve-inventory, 60 s"), "{error}");
        let longer = format!("{}\nORDER_SHIP: ship-order", describe(&flow));
        assert!(unchanged(&flow, &noted(longer)).unwrap_err().to_string().contains("number of steps"));
    }
}
