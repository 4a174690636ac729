//! What was set aside, why, and a button that sends it back.

use axum::extract::State;
use maud::{Markup, html};
use service_runtime::http::Problem;

use super::format::{date_time, short_id};
use super::layout::{Place, dialog, page};
use super::{Dashboard, Page};
use crate::dead_letters::{LetterBody, LettersBody, LettersQuery};

pub async fn show(State(dashboard): State<Dashboard>) -> Page {
    let letters = dashboard.letters.newest(&LettersQuery::default()).await;
    let body = html! {
        h1 { "Dead letters" }
        p { "A record that can't be handled is set aside on " code { "<topic>.dlq" } " with the reason; its neighbours go on. "
            "Mend the cause, then send it back to where it came from. A command is refused unless its saga waits for its reply." }
        div id="letters" data-fresh {
            @match &letters {
                Ok(letters) => { (table(letters)) }
                Err(problem) => { (away(problem)) }
            }
        }
        details {
            summary { "Many at once, older ones, and those of no saga: in a terminal" }
            ol.steps {
                li { "What is there:" pre { "sagactl dlq list --error SQLSTATE --since 2h" } }
                li { "What would be sent back (a dry run):" pre { "sagactl dlq redrive --topic payment.charge.command" } }
                li { "Send it back:" pre { "sagactl dlq redrive --topic payment.charge.command --execute --by ann --reason \"it is mended\"" } }
            }
        }
    };
    page("Dead letters", Place::DeadLetters, None, Some(&dashboard.gate), &body).into()
}

fn away(problem: &Problem) -> Markup {
    html! { p.alarm role="alert" { "They can't be read now: " (problem.detail()) } }
}

fn table(body: &LettersBody) -> Markup {
    html! {
        @if body.letters.is_empty() {
            p.empty { "Nothing was set aside lately." }
        } @else {
            div.scroll { table {
                thead { tr { th { "Set aside (UTC)" } th { "Topic" } th { "Letter" } th { "Saga" } th { "Why" } th { "Record" } th { "" } } }
                tbody { @for letter in &body.letters { (row(letter)) } }
            } }
            @for letter in body.letters.iter().filter(|letter| letter.redriven.is_none()) {
                @let (topic, place) = (&letter.topic, &letter.letter);
                (dialog(&act(letter), "Send back", &format!("/dead-letters/{topic}/{place}/redrive"),
                        &format!("The record goes back to {topic}, with its key, body and headers. Is what made it fail mended?"), &[]))
            }
        }
    }
}

fn row(letter: &LetterBody) -> Markup {
    html! {
        tr {
            td { @if let Some(at) = letter.set_aside_at { (date_time(at)) } }
            td { (letter.topic) }
            td { (letter.letter) }
            td { @match letter.saga_id {
                Some(saga_id) => { a href={ "/dashboard/sagas/" (saga_id) } { (short_id(saga_id)) } }
                None => { "of none" }
            } }
            td.why { (letter.error) }
            td { details { summary { "body" } pre { (letter.body) } } }
            td { @match &letter.redriven {
                Some(redriven) => { "sent back by " (redriven.by) ": " (redriven.reason) }
                None => { button type="button" data-open={ "act-" (act(letter)) } { "Send back" } }
            } }
        }
    }
}

/// What tells its dialog from the others'.
fn act(letter: &LetterBody) -> String {
    format!("redrive-{}-{}", letter.topic, letter.letter).replace(['.', ':'], "-")
}
