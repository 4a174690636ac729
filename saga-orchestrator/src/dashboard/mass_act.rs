//! What an operator may do to all sagas that fit a filter: which they are, and a form that does it page by page.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use maud::{Markup, html};
use service_runtime::http::Problem;

use super::format::badge;
use super::layout::{Place, page};
use super::overview::{filled_in, pairs, rows};
use super::{Dashboard, Page};
use crate::mass_acts::{MassAct, PlaceBody, PreviewBody, preview, sums};
use crate::views::list::ListQuery;

pub async fn retry(dashboard: State<Dashboard>, query: RawQuery) -> Result<Page, Page> {
    show(dashboard, query, MassAct::Retry).await
}

pub async fn cancel(dashboard: State<Dashboard>, query: RawQuery) -> Result<Page, Page> {
    show(dashboard, query, MassAct::Cancel).await
}

/// The page of an act on what a query asks for.
pub fn address(act: MassAct, query: &ListQuery) -> String {
    format!("/dashboard/{}?{}", act.name(), filters(query))
}

pub fn title(act: MassAct) -> &'static str {
    match act {
        MassAct::Retry => "Retry these",
        MassAct::Cancel => "Cancel these",
    }
}

/// A query without its page.
fn filters(query: &ListQuery) -> String {
    pairs(&ListQuery { limit: None, ..query.clone() }, None)
}

async fn show(State(dashboard): State<Dashboard>, RawQuery(query): RawQuery, act: MassAct) -> Result<Page, Page> {
    let query = filled_in(&query.unwrap_or_default())?;
    let views = &dashboard.views;
    if act.meant(&query, &views.flows)?.all {
        let rule = "choose a filter on the list first: without one all sagas would be meant";
        return Err(Problem::new(StatusCode::BAD_REQUEST, rule).into());
    }
    let query = ListQuery { before: None, ..query };
    let preview = preview(&views.pool, &views.flows, act, &query).await.map_err(Page::from)?;
    let filters = filters(&query);
    let body = html! {
        h1 { (title(act)) }
        p { "Those that fit " code { (filters) } " and " (whose(act)) }
        p.money id="permitted" { (count(&preview.places)) }
        @if !preview.places.is_empty() { (places(&preview.places)) }
        @if preview.permitted > 0 { (form(act, &filters, &preview)) }
        @if !preview.first.is_empty() { h2 { "The newest" } (rows(&preview.first, views.clock.now(), true)) }
        p { a href={ "/?" (filters) } { "Back to the list" } }
    };
    Ok(page(title(act), Place::Sagas, None, Some(&dashboard.gate), &body).into())
}

fn whose(act: MassAct) -> &'static str {
    match act {
        MassAct::Retry => {
            "that nobody has answered in time: what is pending was repeated, is due to be, or a person should look."
        }
        MassAct::Cancel => "that have not turned back: what they have done is undone, and they end FAILED.",
    }
}

fn count(places: &[PlaceBody]) -> String {
    let (sagas, permitted) = sums(places);
    let refused = sagas - permitted;
    let refused = if refused == 0 { String::new() } else { format!(", and {refused} for which it is refused") };
    let noun = if permitted == 1 { "saga" } else { "sagas" };
    format!("{permitted} {noun}{refused}")
}

fn places(places: &[PlaceBody]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th.right { "Sagas" } th { "Flow" } th { "State" } th { "" } } }
            tbody { @for place in places { tr {
                td.right { (place.sagas) }
                td { (place.definition) }
                td { (badge(&place.status, &place.step)) @if place.status == "WAITING" { " waits" } }
                td.why { @if let Some(why) = &place.refused { "refused: " (why) } }
            } } }
        } }
    }
}

/// Who, why and how many; the script sends it page by page.
fn form(act: MassAct, filters: &str, preview: &PreviewBody) -> Markup {
    html! {
        form.card data-acts={ "/sagas/" (act.name()) "?" (filters) "&" }
            data-permitted=(preview.permitted) data-before=[preview.before] {
            label { "Your name" input name="by" required maxlength="128" autocomplete="username"; }
            label { "Reason" input name="reason" required maxlength="1000"; }
            label { "At most" input name="limit" type="number" required min="1" max="10000" value="1000"; }
            p.hint { "This is the next request. Each one after it has next of the answer as its before." }
            pre data-request {}
            progress aria-label="Done" value="0" hidden {}
            p role="status" data-sums {}
            p.error role="alert" hidden {}
            div.buttons {
                button type="button" data-stop hidden { "Stop" }
                button.primary type="submit" { (title(act)) }
            }
        }
    }
}
