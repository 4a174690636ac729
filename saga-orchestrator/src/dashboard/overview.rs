//! The first page: how many stand where, how the newest fared, and a list of sagas that can be narrowed down.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Query, RawQuery, State};
use axum::http::StatusCode;
use flow::Flow;
use maud::{Markup, html};
use messages::Timestamp;
use service_runtime::http::Problem;
use service_runtime::percent_encoded;
use uuid::Uuid;

use super::format::{badge, date_time, duration, short_id};
use super::layout::{Place, page};
use super::{Dashboard, Page, charts, mass_act};
use crate::mass_acts::MassAct;
use crate::registry::Flows;
use crate::saga::flows::is_checkout;
use crate::views::list::{self, ListBody, ListQuery, ListedBody, known_steps};
use crate::views::stats::StatsBody;

/// How far the figures look back.
const MINUTES: i64 = 15;

pub async fn show(State(dashboard): State<Dashboard>, RawQuery(query): RawQuery) -> Result<Page, Page> {
    let query = filled_in(&query.unwrap_or_default())?;
    let stats = dashboard.views.figures.of(MINUTES).await.map_err(|error| Page::from(Problem::from(error)))?;
    let sagas = list::page(&dashboard.views.pool, &dashboard.views.flows, &query).await.map_err(Page::from)?;
    let attention = query.needs_attention == Some(true);
    let flows = dashboard.views.flows.all();
    let body = html! {
        @if !attention { (figures(&stats)) }
        h1 { @if attention { "Needs attention" } @else { "Sagas" } }
        @if attention {
            p { "Their compensation or confirmation does not succeed and is still repeated, or they have waited for longer than their limit. A person should look why." }
        }
        (filters(&query, &flows))
        (acts(&query, &dashboard.views.flows))
        (table(&sagas, &query, stats.at.0, has_more(&flows)))
    };
    // Pages further back do not change under the reader.
    let live = query.before.is_none().then_some("/events");
    let place = if attention { Place::Attention } else { Place::Sagas };
    Ok(page(if attention { "Needs attention" } else { "Sagas" }, place, live, Some(&dashboard.gate), &body).into())
}

/// The query without the fields of the form that were left blank.
pub fn filled_in(query: &str) -> Result<ListQuery, Problem> {
    let pairs: Vec<&str> = query.split('&').filter(|pair| !pair.ends_with('=')).collect();
    let wrong = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let uri = format!("/?{}", pairs.join("&")).parse().map_err(|_| wrong("the query is not one".to_owned()))?;
    let Query(query) = Query::try_from_uri(&uri).map_err(|error| wrong(error.body_text()))?;
    Ok(query)
}

/// Links to what an operator may do to all that fit.
fn acts(query: &ListQuery, flows: &Flows) -> Markup {
    let acts: Vec<MassAct> = MassAct::ALL.into_iter().filter(|act| act.is_for(query, flows)).collect();
    html! {
        @if !acts.is_empty() {
            nav.pages aria-label="What can be done to all that fit" {
                @for act in acts { a.button href=(mass_act::address(act, query)) { (mass_act::title(act)) } }
            }
        }
    }
}

fn figures(stats: &StatsBody) -> Markup {
    let standing =
        |status: &str| stats.unfinished.iter().filter(|at| at.status == status).map(|at| at.sagas).sum::<i64>();
    let ended = |outcome: &str| stats.recent.outcomes.get(outcome).copied().unwrap_or_default();
    let failures: Vec<_> = stats.recent.outcomes.iter().filter(|(name, _)| !is_no_failure(name)).collect();
    let oldest = stats.unfinished.iter().map(|at| at.oldest_age_seconds).fold(0.0, f64::max);
    let since = stats.recent.since.0;
    html! {
        section.figures id="figures" data-fresh aria-label="Figures" {
            a.figure href="/?status=RUNNING" {
                span.number { (standing("RUNNING")) } span.what { "running" }
                span.more { @if oldest > 0.0 { "the oldest unfinished for " (duration(oldest * 1000.0)) } @else { "nothing is unfinished" } }
            }
            a.figure href="/?status=COMPENSATING" {
                span.number { (standing("COMPENSATING")) } span.what { "being undone" }
                span.more { (steps(stats, "COMPENSATING")) }
            }
            a.figure.alarm[stats.needing_attention > 0] href="/?needsAttention=true" {
                span.number { (stats.needing_attention) } span.what { "need attention" }
                span.more { @if stats.needing_attention > 0 { "a person should look" } @else { "all is well" } }
            }
            a.figure href="/?status=COMPLETED" {
                span.number { (ended("COMPLETED")) } span.what { "completed" }
                span.more { "since " (since.format("%H:%M")) " UTC" }
            }
            a.figure href="/?status=FAILED" {
                span.number { (failures.iter().map(|(_, count)| **count).sum::<u64>()) } span.what { "failed" }
                span.more {
                    @if failures.is_empty() { "since " (since.format("%H:%M")) " UTC" }
                    @for ((name, count), at) in failures.iter().zip(0..) { @if at > 0 { ", " } (count) " " (name) }
                }
            }
            div.charts { (charts::throughput(&stats.recent)) (charts::latency(&stats.recent)) }
        }
    }
}

fn is_no_failure(outcome: &str) -> bool {
    matches!(outcome, "COMPLETED" | "RUNNING" | "WAITING" | "COMPENSATING")
}

fn steps(stats: &StatsBody, status: &str) -> String {
    let at = stats.unfinished.iter().filter(|at| at.status == status);
    let steps: Vec<String> = at.map(|at| format!("{} {}", at.sagas, at.step)).collect();
    if steps.is_empty() { "nothing".to_owned() } else { steps.join(", ") }
}

/// Whether there are flows beside those of the checkouts: without them a list says nothing of flows.
fn has_more(flows: &[Arc<Flow>]) -> bool {
    flows.iter().any(|flow| !is_checkout(flow))
}

fn filters(query: &ListQuery, flows: &[Arc<Flow>]) -> Markup {
    let field = |value: Option<String>| value.unwrap_or_default();
    let (status, step) = (query.status.as_deref().unwrap_or_default(), query.step.as_deref().unwrap_or_default());
    let wanted = query.flow.as_deref().unwrap_or_default();
    let names: BTreeSet<&str> = flows.iter().map(|flow| flow.name.as_str()).collect();
    let of_flow: Vec<Arc<Flow>> =
        flows.iter().filter(|flow| wanted.is_empty() || flow.name == wanted).cloned().collect();
    let mut steps: Vec<_> = known_steps(&of_flow).into_iter().map(|(name, _)| name).collect();
    steps.dedup();
    let statuses = [
        ("", "any status"),
        ("RUNNING,WAITING,COMPENSATING", "unfinished"),
        ("RUNNING", "RUNNING"),
        ("WAITING", "WAITING"),
        ("COMPENSATING", "COMPENSATING"),
        ("COMPLETED", "COMPLETED"),
        ("FAILED", "FAILED"),
    ];
    html! {
        form.filters method="get" action="/" {
            label { "Status" select name="status" {
                @for (value, text) in statuses { option value=(value) selected[value.eq_ignore_ascii_case(status)] { (text) } }
            } }
            @if has_more(flows) {
                label { "Flow" select name="flow" {
                    option value="" { "any flow" }
                    @for name in names { option value=(name) selected[name == wanted] { (name) } }
                } }
            }
            label { "Step" select name="step" {
                option value="" { "any step" }
                @for name in &steps { option value=(name.as_str()) selected[name.eq_ignore_ascii_case(step)] { (name.as_str()) } }
            } }
            label { "User" input name="userId" value=(field(query.user_id.clone())); }
            label { "Order" input name="orderId" value=(field(query.order_id.map(|id| id.to_string()))); }
            label { "Since (UTC)" input name="since" placeholder="2026-01-31T12:00:00Z" value=(field(query.since.map(text))); }
            label { "Until (UTC)" input name="until" placeholder="2026-01-31T13:00:00Z" value=(field(query.until.map(text))); }
            label.option { input type="checkbox" name="needsAttention" value="true" checked[query.needs_attention == Some(true)]; "Needs attention" }
            div.buttons { button.primary type="submit" { "Show" } a.button href="/" { "All" } }
        }
    }
}

fn text(at: Timestamp) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn table(page: &ListBody, query: &ListQuery, now: Timestamp, with_flow: bool) -> Markup {
    html! {
        div id="list" data-fresh {
            @if page.sagas.is_empty() {
                p.empty { "No saga fits. " a href="/dashboard/new" { "Send a checkout" } }
            } @else { (rows(&page.sagas, now, with_flow)) }
            nav.pages aria-label="Pages of the list" {
                @if query.before.is_some() { a.button href=(link(query, None)) { "Newest" } }
                @if let Some(next) = page.next { a.button href=(link(query, Some(next))) { "Older" } }
            }
        }
    }
}

/// Sagas, a row each.
pub fn rows(sagas: &[ListedBody], now: Timestamp, with_flow: bool) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Saga" } th { "State" } @if with_flow { th { "Flow" } } th { "User" } th.right { "Amount" } th { "Began (UTC)" } th.right { "Took" } th { "Why" } } }
            tbody { @for saga in sagas { (row(saga, now, with_flow)) } }
        } }
    }
}

fn row(saga: &ListedBody, now: Timestamp, with_flow: bool) -> Markup {
    let ended = matches!(saga.status.as_str(), "COMPLETED" | "FAILED");
    let to = if ended { saga.updated_at.0 } else { now };
    let ms = (to - saga.created_at.0).num_microseconds().unwrap_or_default().max(0) as f64 / 1000.0;
    let why = saga.needs_attention.as_ref().map(|attention| attention.reason.as_str()).or(saga.reason.as_deref());
    html! {
        tr {
            td { a href={ "/dashboard/sagas/" (saga.saga_id) } { (short_id(saga.saga_id)) } }
            td { (badge(&saga.status, &saga.step)) @if saga.needs_attention.is_some() { " " span.badge.alarm { "attention" } } }
            @if with_flow { td { (saga.definition) } }
            td.user { (saga.user_id) }
            td.right { (saga.money().unwrap_or_default()) }
            td { (date_time(saga.created_at)) }
            td.right { (duration(ms)) @if !ended { " …" } }
            td.why { (why.unwrap_or_default()) }
        }
    }
}

/// The same list, from another saga on.
fn link(query: &ListQuery, before: Option<Uuid>) -> String {
    let pairs = pairs(query, before);
    if pairs.is_empty() { "/".to_owned() } else { format!("/?{pairs}") }
}

/// A query, from another saga on.
pub fn pairs(query: &ListQuery, before: Option<Uuid>) -> String {
    let mut pairs = Vec::new();
    let mut pair = |name: &str, value: Option<String>| {
        pairs.extend(value.map(|value| format!("{name}={}", percent_encoded(&value))))
    };
    pair("status", query.status.clone());
    pair("step", query.step.clone());
    pair("needsAttention", query.needs_attention.map(|needs| needs.to_string()));
    pair("flow", query.flow.clone());
    pair("userId", query.user_id.clone());
    pair("orderId", query.order_id.map(|id| id.to_string()));
    pair("since", query.since.map(text));
    pair("until", query.until.map(text));
    pair("limit", query.limit.map(|limit| limit.to_string()));
    pair("before", before.map(|id| id.to_string()));
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_fields_of_the_form_do_not_count_and_wrong_ones_are_named() {
        let query = filled_in("status=FAILED&step=&orderId=&since=&needsAttention=true").unwrap();
        assert_eq!((query.status.as_deref(), query.step, query.order_id), (Some("FAILED"), None, None));
        let problem = filled_in("orderId=seven").map(|_| ()).unwrap_err();
        assert!(problem.detail().contains("orderId"), "{}", problem.detail());
    }

    #[test]
    fn a_link_keeps_what_was_asked_for() {
        let query = ListQuery {
            status: Some("FAILED".to_owned()),
            user_id: Some("a&b=ü".to_owned()),
            since: Some("2026-01-31T12:00:00Z".parse().unwrap()),
            ..ListQuery::default()
        };
        let expected = "/?status=FAILED&userId=a%26b%3D%C3%BC&since=2026-01-31T12%3A00%3A00Z";
        assert_eq!(link(&query, None), expected);
        assert_eq!(link(&query, Some(Uuid::nil())), format!("{expected}&before={}", Uuid::nil()));
    }
}
