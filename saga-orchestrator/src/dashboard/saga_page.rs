//! One saga: what happened in words and drawn to scale, what happens next, what each service has stored, and buttons.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Redirect;
use flow::WAITING;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use service_runtime::database::again_if_lost;
use service_runtime::http::{PathText, Problem};
use uuid::Uuid;

use super::flow_drawing::{Note, draw};
use super::format::{badge, date_time, duration, time};
use super::layout::{Place, dialog, page};
use super::{Dashboard, Page, flows, timeline};
use crate::outcome::parse_id;
use crate::saga::flows::{is_checkout, is_pay_first};
use crate::store::lists::{self, Filter};
use crate::views::saga::{self, HistoryBody, SagaBody};
use crate::views::services::{RowsBody, Told};

pub async fn show(State(dashboard): State<Dashboard>, id: Result<PathText, Problem>) -> Result<Page, Page> {
    let PathText(id) = id.map_err(Page::from)?;
    let saga_id = parse_id(&id).map_err(Page::from)?;
    let saga = saga::one(&dashboard.views, saga_id).await.map_err(Page::from)?;
    let rows = dashboard.views.participants.rows(saga_id, saga.order_id, &saga.flow).await;
    let body = html! {
        div id="saga" data-fresh data-step=(saga.step) data-ended[saga.pending.is_none()] {
            (head(&saga))
            (attention(&saga))
            @if !is_pay_first(&saga.flow) { (where_it_stands(&saga)) }
            section.card { h2 { "What happened" } ul.story { @for sentence in &saga.summary { li { (sentence) } } } }
            section.card { h2 { "Timeline" } div.scroll { (timeline::draw(&saga)) }
                p.legend { span.key.ahead { "forward" } span.key.back { "being undone" } "Drawn to scale; the shortest are widened." }
            }
            (pending(&saga))
            @if !is_pay_first(&saga.flow) { (known(&saga)) }
            (services(&rows))
            (history(&saga))
            (ignored(&saga))
        }
        (dialogs(&saga))
        p.raw { "Raw: " a href={ "/sagas/" (saga_id) } { "saga" } " · " a href={ "/sagas/" (saga_id) "/rows" } { "rows" }
            " · " code { "sagactl show " (saga_id) } }
    };
    let live = saga.pending.is_some().then(|| format!("/sagas/{saga_id}/events"));
    Ok(page(&format!("{} {saga_id}", saga.step), Place::Elsewhere, live.as_deref(), Some(&dashboard.gate), &body)
        .into())
}

#[derive(Deserialize)]
pub struct Wanted {
    id: String,
}

/// The saga that has this id, or whose order has it.
pub async fn find(
    State(dashboard): State<Dashboard>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Redirect, Page> {
    let wrong = |error: QueryRejection| Page::from(Problem::from(error));
    let Query(wanted) = wanted.map_err(wrong)?;
    let to = |saga_id: Uuid| Redirect::to(&format!("/dashboard/sagas/{saga_id}"));
    let id: Uuid = wanted.id.trim().parse().map_err(|_| {
        Page::from(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("{:?} is not the id of a saga or an order", wanted.id),
        ))
    })?;
    let filter = Filter { order_id: Some(id), ..Filter::default() };
    let of_order = again_if_lost(|| lists::list(&dashboard.views.pool, &filter, 1))
        .await
        .map_err(|error| Page::from(Problem::from(error)))?;
    Ok(to(of_order.first().map_or(id, |saga| saga.saga_id)))
}

fn head(saga: &SagaBody) -> Markup {
    html! {
        div.head {
            div {
                h1 { (badge(saga.status, saga.status)) " " (saga.step) }
                p.money { @if let Some(money) = saga.money() { (money) " · " } span.user { (saga.user_id) } }
            }
            div.buttons {
                @if saga.may_be_cancelled { button type="button" data-open="act-cancel" { "Cancel" } }
                @if saga.pending.is_some() { button type="button" data-open="act-retry" { "Retry now" } }
                @if saga.needs_attention.is_some() && saga.status == "COMPENSATING" {
                    button.danger type="button" data-open="act-resolve" { "Resolve by hand" }
                }
            }
        }
        dl.facts {
            div { dt { "Saga" } dd.id { (saga.saga_id) } }
            div { dt { @if is_checkout(&saga.flow) { "Order" } @else { (saga.subject) } } dd.id { (saga.order_id) } }
            div { dt { "Began (UTC)" } dd { (date_time(saga.created_at)) } }
            div { dt { @if saga.pending.is_some() { "Standing for" } @else { "Took" } } dd { (duration(saga.duration_ms)) } }
            div { dt { "Definition" } dd { @if is_pay_first(&saga.flow) { (saga.definition) } @else {
                a href=(flows::address(&saga.flow.name, saga.flow.version)) { (saga.definition) }
            } } }
            @if let Some(trace) = &saga.trace_id {
                div { dt { "Trace" } dd.id { (trace) } }
            }
        }
    }
}

fn attention(saga: &SagaBody) -> Markup {
    html! {
        @if let Some(attention) = &saga.needs_attention {
            p.alarm role="alert" { "A person should look at it since " (date_time(attention.since)) ": " (attention.reason) ". "
                @if waits_for_a_signal(saga) { "It goes on waiting." } @else { "It is still repeated." } }
        }
        @if saga.resolved_by_hand { p.alarm { "A compensation was settled by hand: "
            @if is_checkout(&saga.flow) { "the rows below may still hold money or goods." } @else { "participants may still hold something." } } }
    }
}

/// A signal is not asked for: nothing has been sent for it.
fn waits_for_a_signal(saga: &SagaBody) -> bool {
    saga.status == WAITING && saga.pending.as_ref().is_some_and(|pending| pending.effect.command_id.is_none())
}

fn pending(saga: &SagaBody) -> Markup {
    html! {
        @if let Some(pending) = &saga.pending {
            @let is_signal = waits_for_a_signal(saga);
            section.card { h2 { "What happens next" }
                dl.facts {
                    div { dt { @if is_signal { "Waits for" } @else { "Asked for" } } dd { code { (pending.effect.effect) } } }
                    div { dt { @if is_signal { "Looked for" } @else { "Repeated" } } dd { (pending.attempts) " times" } }
                    div { dt { "Again at (UTC)" } dd { (time(pending.next_attempt_at)) " " span.countdown data-until=(pending.next_attempt_at) {} } }
                    div { dt { "Times out (UTC)" } dd { @match pending.deadline_at {
                        // Days away, perhaps.
                        Some(at) if saga.status == WAITING => { (date_time(at)) }
                        Some(at) => { (time(at)) }
                        None if is_signal => { "never: it waits until the signal comes" }
                        None => { "never: it is repeated until it is done" }
                    } } }
                }
                @if let Some(message) = &pending.message { details { summary { "The command as it is sent" } pre { (pretty(message.get())) } } }
            }
        }
    }
}

/// The flow as a picture, with how long the saga stood at each place.
fn where_it_stands(saga: &SagaBody) -> Markup {
    let notes = |status: &str, step: &str| {
        let stood = saga.history.iter().filter(|entry| entry.status == status && entry.step == step);
        let ms: Vec<f64> = stood.filter_map(|entry| entry.duration_ms).collect();
        let is_now = saga.status == status && saga.step == step;
        let text = format!("{}{}", duration(ms.iter().sum()), if is_now { " …" } else { "" });
        if ms.is_empty() { Vec::new() } else { vec![Note { text, tone: if is_now { "busy" } else { "dim" } }] }
    };
    html! {
        section.card { h2 { "Where it stands" } div.scroll { (draw(&saga.flow, notes, Some((saga.status, &saga.step)))) } }
    }
}

/// What it was started with, and what is kept of replies.
fn known(saga: &SagaBody) -> Markup {
    html! {
        section.services aria-label="What the saga knows" {
            @for (title, json) in [("Input", &saga.input), ("Kept of replies", &saga.kept)] {
                @if let Some(json) = json { section.card { h2 { (title) } pre { (pretty(json.get())) } } }
            }
            @if let Some(answer) = &saga.answer {
                section.card { h2 { "Answer to its client: " (answer.status) } pre { (pretty(answer.body.get())) } }
            }
        }
    }
}

fn pretty(json: &str) -> String {
    let value: Option<Value> = serde_json::from_str(json).ok();
    value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| json.to_owned())
}

/// Each service's row, side by side.
fn services(rows: &RowsBody) -> Markup {
    if [&rows.order, &rows.payment, &rows.reservation].iter().all(|row| row.is_none()) {
        return html! {};
    }
    html! {
        section.services aria-label="What each service has stored" {
            @for (title, name, told) in [("Order", "order-service", &rows.order), ("Payment", "payment-service", &rows.payment),
                                         ("Reservation", "inventory-service", &rows.reservation)] {
                @if let Some(told) = told { (service(title, name, told)) }
            }
        }
    }
}

fn service(title: &str, name: &str, told: &Told) -> Markup {
    let row: Option<Value> = told.row.as_ref().and_then(|row| serde_json::from_str(row.get()).ok());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        section.card {
            h2 { (title) " " @if let Some(status) = row.as_ref().and_then(|row| row["status"].as_str()) { (badge(status, status)) } }
            @if let Some(error) = &told.error {
                p.error { (name) " can't be asked: " (error) }
            } @else if let Some(row) = row.as_ref().and_then(Value::as_object) {
                dl.facts.small {
                    @for (key, value) in row.iter().filter(|(key, value)| !value.is_null() && !value.is_array() && *key != "status") {
                        div { dt { (key) } dd { (text(value)) } }
                    }
                }
                @if let Some(ledger) = row.get("ledger").and_then(Value::as_array) { (gateway(ledger)) }
                (goods(row.get("items"), row.get("short")))
            } @else { p.empty { (name) " has no row." } }
        }
    }
}

/// The pieces that an order or a reservation is of, and those that were short.
fn goods(items: Option<&Value>, short: Option<&Value>) -> Markup {
    let entries = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let (items, short) = (entries(items), entries(short));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        @if !items.is_empty() { table.ledger { tbody { @for line in &items {
            tr { td.right { (text(&line["qty"])) " ×" } td { (text(&line["sku"])) } }
        } } } }
        @if !short.is_empty() { table.ledger { tbody { @for line in &short {
            tr { td { (text(&line["sku"])) } td { (text(&line["wanted"])) " wanted, " (text(&line["available"])) " available" } }
        } } } }
    }
}

/// The gateway's own entries.
fn gateway(ledger: &[Value]) -> Markup {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        h3 { "The gateway's ledger" }
        @if ledger.is_empty() { p.empty { "No money moved." } } @else {
            table.ledger { tbody { @for entry in ledger {
                tr { td { (text(&entry["kind"])) } td.right { @if entry["kind"] == "REFUND" { "−" } (text(&entry["amount"])) " " (text(&entry["currency"])) }
                    td { (text(&entry["createdAt"]).replace('T', " ").get(..19).unwrap_or_default().to_owned()) } }
            } } }
        }
    }
}

fn history(saga: &SagaBody) -> Markup {
    html! {
        section.card { h2 { "History" }
            div.scroll { table {
                thead { tr { th { "#" } th { "At (UTC)" } th { "What happened" } th { "Led to" } th.right { "Stood for" } th { "Asked for then" } } }
                tbody { @for entry in &saga.history { (moved(entry)) } }
            } }
        }
    }
}

fn moved(entry: &HistoryBody) -> Markup {
    html! {
        tr {
            td { (entry.seq) }
            td { (time(entry.at)) }
            td { code { (entry.input) } @if let Some(by) = &entry.by { " by " b { (by) } } @if let Some(reason) = &entry.reason { div.why { (reason) } }
                @if let Some(evidence) = &entry.evidence { div.why { "evidence: " (evidence) } }
                @if let Some(id) = entry.event_id { div.id { (id) } } }
            td { (badge(&entry.status, &entry.step)) }
            td.right { @if let Some(ms) = entry.duration_ms { (duration(ms)) } }
            td { @if let Some(effect) = &entry.effect { code { (effect) } @if let Some(id) = entry.command_id { div.id { (id) } } } }
        }
    }
}

fn ignored(saga: &SagaBody) -> Markup {
    html! {
        @if !saga.ignored.is_empty() {
            section.card { h2 { "What did not count" } p.hint { "It came late, or twice." }
                div.scroll { table {
                    thead { tr { th { "What" } th { "While it was" } th.right { "Times" } th { "Last at (UTC)" } } }
                    tbody { @for one in &saga.ignored { tr { td { code { (one.input) } } td { (one.state) } td.right { (one.count) } td { (time(one.last_at)) } } } }
                } }
            }
        }
    }
}

/// Beside what is kept fresh: a dialog must not go away while somebody writes in it.
fn dialogs(saga: &SagaBody) -> Markup {
    let path = |act: &str| format!("/sagas/{}/{act}", saga.saga_id);
    let (cancel, what) = match is_checkout(&saga.flow) {
        true => (
            "Cancel the checkout",
            "What was done is undone: money goes back, goods are released, the order is cancelled.",
        ),
        false => ("Cancel the saga", "What was done is undone, the last first."),
    };
    let what = format!("{what} It ends FAILED, CANCELLED. What is being undone already goes on, with its first cause.");
    let settled = if is_checkout(&saga.flow) {
        "the money or the goods are really settled"
    } else {
        "what it would undo is really settled"
    };
    let resolved = format!(
        "The pending compensation counts as done, by you, outside of this system. Do so only once {settled}: the audit goes on listing it."
    );
    html! {
        @if saga.pending.is_some() {
            (dialog("cancel", cancel, &path("cancel"), &what, &[]))
            (dialog("retry", "Retry now", &path("retry"), "What is pending is asked for now, instead of at its next attempt.", &[]))
            (dialog("resolve", "Resolve by hand", &path("resolve"), &resolved, &[("step", "Compensation", &saga.step), ("evidence", "Evidence, such as a bank transfer's number", "")]))
        }
    }
}
