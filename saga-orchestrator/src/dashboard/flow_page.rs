//! One version of a flow: its picture with what goes on at each step, its file, what was done with it, and buttons. And a
//! form that starts a saga of it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use flow::Flow;
use flow::shape::{Shape, ShapeKind};
use maud::{Markup, html};
use service_runtime::database::again_if_lost;
use service_runtime::http::{PathText, Problem};

use super::flow_drawing::{Note, draw};
use super::flows::{address, state};
use super::format::{date_time, duration};
use super::layout::{Place, dialog, page};
use super::{Dashboard, Page};
use crate::publishing::FlowBody;
use crate::saga::flows::{CHECKOUTS, PAY_FIRST, is_checkout};
use crate::store::flows::{Changed, waiting};
use crate::store::lists::StepFigures;
use crate::views::step_figures::{MAX_SAGAS, MINUTES};

/// The page of a flow without a version is that of the one that new sagas start by, or else of the newest.
pub async fn newest(State(dashboard): State<Dashboard>, name: Result<PathText, Problem>) -> Result<Response, Page> {
    let PathText(name) = name.map_err(Page::from)?;
    let (flows, _) = dashboard.publisher.read().await.map_err(Page::from)?;
    let own = || flows.iter().filter(|flow| flow.name == name);
    let found = own().find(|flow| flow.state == "ACTIVE").or_else(|| own().next());
    let found = found.ok_or_else(|| no_such_flow(&name))?;
    Ok(Redirect::to(&address(&found.name, found.version)).into_response())
}

fn no_such_flow(name: &str) -> Page {
    let name: String = name.chars().take(80).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is no flow {name:?}")).into()
}

/// How many sagas stand there now: RUNNING or COMPENSATING, the step, the count. Those that wait are RUNNING here.
type Here<'a> = (&'a str, &'a str, i64);

pub async fn show(
    State(dashboard): State<Dashboard>,
    place: Result<PathText<(String, i32)>, Problem>,
) -> Result<Page, Page> {
    let PathText((name, version)) = place.map_err(Page::from)?;
    let shown = dashboard.publisher.one(&name, version, true).await.map_err(Page::from)?;
    let (flows, changes) = dashboard.publisher.read().await.map_err(Page::from)?;
    let views = &dashboard.views;
    let away = |error| Page::from(Problem::from(error));
    let stats = views.figures.of(MINUTES).await.map_err(away)?;
    let figures = views.flow_figures.of(&name, version).await.map_err(away)?;
    let standing = stats.unfinished.iter().filter(|at| at.flow == name && at.version == version);
    let mut standing: Vec<Here<'_>> = standing.map(|at| (at.status.as_str(), at.step.as_str(), at.sagas)).collect();
    let flow = views.flows.find(&name, version);
    // They are not among the unfinished ones that are always counted.
    let waiting = match flow.as_ref().is_some_and(|flow| flow.may_wait()) {
        true => again_if_lost(|| waiting(&dashboard.publisher.pool, &name, version)).await.map_err(away)?,
        false => Vec::new(),
    };
    standing.extend(waiting.iter().map(|(step, sagas)| ("RUNNING", step.as_str(), *sagas)));
    let body = html! {
        div id="flow" data-fresh {
            (head(&shown, &flows))
            @match &flow {
                Some(flow) => { (picture(flow, &standing, &figures)) }
                None => { p.alarm { "A newer release has published it, and this one can't run it: its sagas wait for that release." } }
            }
            (history(&changes, &name))
        }
        (dialogs(&shown))
        section.card { details { summary { "The file, as it was published" } pre { (shown.source.as_deref().unwrap_or_default()) } } }
        p.raw { "Raw: " a href={ "/flows/" (name) "/" (version) } { "flow" } }
    };
    Ok(page(&format!("{name} v{version}"), Place::Flows, Some("/events"), Some(&dashboard.gate), &body).into())
}

fn head(shown: &FlowBody, flows: &[FlowBody]) -> Markup {
    let others = || flows.iter().filter(|flow| flow.name == shown.name && flow.version != shown.version);
    let is_checkout = CHECKOUTS.contains(&shown.name.as_str());
    html! {
        div.head {
            h1 { (shown.name) " v" (shown.version) " " (state(shown.state)) }
            div.buttons {
                @if shown.state == "ACTIVE" {
                    a.button.primary href={ @if is_checkout { "/dashboard/new" } @else { "/dashboard/start/" (shown.name) } } { "Start a saga" }
                } @else { button type="button" data-open="act-activate" { "Activate" } }
                @if shown.state != "RETIRED" && shown.name != PAY_FIRST { button type="button" data-open="act-retire" { "Retire" } }
            }
        }
        dl.facts {
            div { dt { "Published by" } dd { (shown.published_by) } }
            div { dt { "Why" } dd { (shown.reason) } }
            div { dt { "Published (UTC)" } dd { (date_time(shown.published_at)) } }
            div { dt { "Running" } dd { a href={ "/?flow=" (shown.name) "&status=RUNNING,WAITING,COMPENSATING" } { (shown.unfinished) } } }
            div { dt { "SHA-256 of the file" } dd.id { (shown.digest) } }
            @if others().next().is_some() {
                div { dt { "Other versions" } dd { @for other in others() { a href=(address(&other.name, other.version)) { "v" (other.version) } " " } } }
            }
        }
    }
}

fn picture(flow: &Flow, standing: &[Here<'_>], figures: &[StepFigures]) -> Markup {
    let notes = |status: &str, step: &str| {
        let here = |(of, at, _): &&Here<'_>| (*of, *at) == (status, step);
        let now = standing.iter().filter(here).map(|(.., sagas)| sagas).sum::<i64>();
        let recent = figures.iter().find(|of| of.status == status && of.step == step);
        let mut notes = Vec::new();
        let passed = recent.map_or(0, |of| of.passed);
        let failed = recent.map_or(0, |of| of.failed);
        let mut text = if now > 0 { format!("{now} here · {passed} passed") } else { format!("{passed} passed") };
        if failed > 0 {
            text += &format!(" · {failed} failed");
        }
        notes.push(Note {
            text,
            tone: if failed > 0 {
                "bad"
            } else if now > 0 {
                "busy"
            } else {
                "dim"
            },
        });
        if let Some([p50, p99]) = recent.and_then(|of| of.quantiles.as_deref()) {
            notes.push(Note { text: format!("p50 {} · p99 {}", duration(*p50), duration(*p99)), tone: "dim" });
        }
        notes
    };
    html! {
        section.card { h2 { "Steps" } div.scroll { (draw(flow, notes, None)) }
            p.legend { span.key.ahead { "forward" } span.key.back { "being undone" }
                "“here”: sagas that stand there now. The other figures are of the sagas that began in the last " (MINUTES)
                " minutes, of the newest " (MAX_SAGAS) " at most." }
        }
    }
}

fn history(changes: &[Changed], name: &str) -> Markup {
    html! {
        section.card { h2 { "What was done with it" }
            div.scroll { table {
                thead { tr { th { "At (UTC)" } th { "Version" } th { "What" } th { "By" } th { "Why" } } }
                tbody { @for change in changes.iter().rev().filter(|change| change.name == name) {
                    tr { td { (date_time(change.at.into())) } td { "v" (change.version) } td { (change.change) } td { (change.actor) } td.why { (change.reason) } }
                } }
            } }
        }
    }
}

fn dialogs(shown: &FlowBody) -> Markup {
    let path = |act: &str| format!("/flows/{}/{}/{act}", shown.name, shown.version);
    html! {
        (dialog("activate", "Activate", &path("activate"), "New sagas start by this version, on all instances within a second. Those that run go on by their own.", &[]))
        (dialog("retire", "Retire", &path("retire"), "No new saga starts by this version. Those that run go on to their end. An older version does not come back by itself.", &[]))
    }
}

/// A form made of the flow's input.
pub async fn start(State(dashboard): State<Dashboard>, name: Result<PathText, Problem>) -> Result<Page, Page> {
    let PathText(name) = name.map_err(Page::from)?;
    let flow: Arc<Flow> = dashboard.views.flows.active(&name).ok_or_else(|| no_such_flow(&name))?;
    if is_checkout(&flow) {
        return Ok(super::new_checkout::show(State(dashboard)).await);
    }
    let body = html! {
        h1 { "Start a saga of " a href=(address(&flow.name, flow.version)) { (flow.name) " v" (flow.version) } }
        form.card.narrow data-start={ "/flows/" (flow.name) } {
            @for (name, shape) in &flow.start.input { (field(name, shape)) }
            p.hint { "This is what is sent:" }
            pre data-request {}
            p.error role="alert" hidden {}
            div.buttons { button.primary type="submit" { "Start" } }
        }
    };
    Ok(page(&format!("New {name}"), Place::Flows, None, Some(&dashboard.gate), &body).into())
}

/// The longest text that a field takes unless it says otherwise.
const MAX_TEXT: usize = 255;

fn field(name: &str, shape: &Shape) -> Markup {
    let required = !shape.is_optional && shape.default.is_none();
    let default = shape.default.as_ref().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let default = default.unwrap_or_default();
    let kind = shape.kind.name();
    let pattern = shape.pattern.as_ref().map(|pattern| pattern.as_str());
    html! {
        label {
            (name) " (" (kind) @if !required { ", optional" } ")"
            @match shape.kind {
                ShapeKind::Boolean => { select name=(name) data-type="json" required[required] {
                    @for value in ["", "true", "false"] { option value=(value) selected[value == default] { (value) } }
                } }
                ShapeKind::Date => { input type="date" name=(name) data-type="text" required[required] value=(default); }
                ShapeKind::Count => { input type="number" name=(name) data-type="json" required[required] min="0" max=[shape.most] value=(default); }
                ShapeKind::Amount => { input name=(name) data-type="text" required[required] inputmode="decimal" pattern="[0-9]+(\\.[0-9]+)?" value=(default); }
                ShapeKind::Currency => { input name=(name) data-type="text" required[required] pattern="[A-Z]{3}" size="4" value=(default); }
                ShapeKind::Email => { input type="email" name=(name) data-type="text" required[required] value=(default); }
                ShapeKind::Text | ShapeKind::UserId | ShapeKind::Sku => {
                    input name=(name) data-type="text" required[required] maxlength=(shape.max.unwrap_or(MAX_TEXT)) pattern=[pattern] value=(default);
                }
                ShapeKind::Money | ShapeKind::Address | ShapeKind::List | ShapeKind::Record | ShapeKind::Json => {
                    textarea.source name=(name) data-type="json" required[required] rows="4" spellcheck="false" placeholder=(example(shape)) { (default) }
                }
            }
        }
    }
}

/// The form of a value, for those who write it as JSON.
fn example(shape: &Shape) -> String {
    let fields = || {
        let fields: Vec<String> = shape.of.iter().map(|(name, of)| format!("\"{name}\": {}", example(of))).collect();
        format!("{{{}}}", fields.join(", "))
    };
    match shape.kind {
        ShapeKind::Money => "{\"amount\": 5, \"currency\": \"EUR\"}".to_owned(),
        ShapeKind::Count => "1".to_owned(),
        ShapeKind::Boolean => "true".to_owned(),
        ShapeKind::Record | ShapeKind::Address => fields(),
        ShapeKind::List => format!("[{}]", fields()),
        _ => format!("\"{}\"", shape.kind.name()),
    }
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;

    #[test]
    fn a_form_has_a_field_for_each_of_the_input_with_its_rules() {
        let flow = check(include_str!("../../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        let form: String = flow.start.input.iter().map(|(name, shape)| field(name, shape).into_string()).collect();
        for part in [
            r#"name="traveller" data-type="text" required maxlength="128""#,
            r#"name="budget" data-type="text" required inputmode="decimal""#,
            r#"name="currency" data-type="text" pattern="[A-Z]{3}" size="4" value="EUR""#,
            r#"name="from" data-type="text" required maxlength="255" pattern="[A-Z]{3}""#,
            r#"type="date" name="out" data-type="text" required"#,
        ] {
            assert!(form.contains(part), "no {part} in {form}");
        }
    }

    #[test]
    fn a_value_that_is_written_as_json_has_an_example() {
        let text = Shape::of_kind(ShapeKind::Text);
        let record = Shape { of: vec![("street".to_owned(), text)], ..Shape::of_kind(ShapeKind::List) };
        assert_eq!(example(&record), r#"[{"street": "text"}]"#);
    }
}
