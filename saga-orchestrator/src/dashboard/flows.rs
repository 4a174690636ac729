//! The flows that sagas run by: all of them, and a form that publishes one.

use axum::extract::State;
use maud::{Markup, html};

use super::format::date_time;
use super::layout::{Place, page};
use super::{Dashboard, Page};
use crate::publishing::FlowBody;

pub async fn show(State(dashboard): State<Dashboard>) -> Result<Page, Page> {
    let (flows, _) = dashboard.publisher.read().await.map_err(Page::from)?;
    let body = html! {
        div.head {
            h1 { "Flows" }
            div.buttons { a.button.primary href="/dashboard/publish" { "Publish a flow" } }
        }
        p { "A flow is a file: its steps, and what undoes each of them. New sagas start by the version that is ACTIVE; those that run keep their own." }
        div id="list" data-fresh {
            div.scroll { table {
                thead { tr { th { "Flow" } th { "State" } th { "Published by" } th { "Why" } th { "Published (UTC)" } th.right { "Running" } th { "" } } }
                tbody { @for flow in &flows { (row(flow)) } }
            } }
        }
    };
    Ok(page("Flows", Place::Flows, Some("/events"), Some(&dashboard.gate), &body).into())
}

fn row(flow: &FlowBody) -> Markup {
    html! {
        tr {
            td { a href=(address(&flow.name, flow.version)) { (flow.name) " v" (flow.version) } }
            td { (state(flow.state)) }
            td.user { (flow.published_by) }
            td.why { (flow.reason) }
            td { (date_time(flow.published_at)) }
            td.right { (flow.unfinished) }
            td { a href={ "/?flow=" (flow.name) } { "sagas" } }
        }
    }
}

/// Where a version has its page. A flow's name needs no escaping.
pub fn address(name: &str, version: i32) -> String {
    format!("/dashboard/flows/{name}/{version}")
}

/// A version's state as a coloured word.
pub fn state(state: &str) -> Markup {
    let tone = match state {
        "ACTIVE" => "good",
        "RETIRED" => "bad",
        _ => "busy",
    };
    html! { span class={ "badge " (tone) } { (state) } }
}

pub async fn publish(State(dashboard): State<Dashboard>) -> Page {
    let body = html! {
        h1 { "Publish a flow" }
        p { "The file is checked first. If it breaks a rule, nothing is stored, and each finding stands at its line. What is published is never changed: another file is another version." }
        form.card data-publish {
            div.row.even {
                label { "Your name" input name="by" required maxlength="128" autocomplete="username"; }
                label { "Reason" input name="reason" required maxlength="1000"; }
            }
            label { "A file" input type="file" accept=".yaml,.yml" data-into="file"; }
            label { "The flow" textarea.source name="file" required rows="20" spellcheck="false" {} }
            label.option { input type="checkbox" name="activate" value="true" checked; "New sagas start by it at once" }
            p.hint { "This is what is sent, with the file:" }
            pre data-request {}
            p.error role="alert" hidden {}
            div.buttons { button.primary type="submit" { "Publish" } }
            ol.findings data-findings aria-label="Findings" {}
        }
    };
    page("Publish a flow", Place::Flows, None, Some(&dashboard.gate), &body).into()
}
