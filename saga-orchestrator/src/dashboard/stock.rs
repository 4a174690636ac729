//! What the shop sells and how many pieces of it there are, and buttons for what a person counts.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use maud::{Markup, html};
use messages::Sku;
use serde::Deserialize;
use serde_json::Value;
use service_runtime::http::{JsonBody, PathText, Problem};
use service_runtime::percent_encoded;

use super::format::{badge, date_time, short_id};
use super::layout::{Place, dialog, page};
use super::{Dashboard, Page};
use crate::stock::{ByHand, Movement, Product, Products};

/// With so few pieces a product is marked.
const LOW: i64 = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    search: String,
    after: String,
}

/// A movement by hand. Requests with the same `key` count once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Pieces, as they were typed in.
    quantity: String,
    by: String,
    reason: String,
    key: String,
}

pub async fn show(
    State(dashboard): State<Dashboard>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Page, Page> {
    let Query(wanted) = query.map_err(|rejection| Page::from(Problem::from(rejection)))?;
    let products = dashboard.stock.list(wanted.search.trim(), &wanted.after).await;
    let body = html! {
        h1 { "Stock" }
        p { "Pieces that a checkout with " code { "items" } " reserves, and that are handed over once it is paid. "
            "Received and adjusted = available + reserved + committed, for each product and at any moment." }
        form.filters action="/dashboard/stock" role="search" {
            label { "SKU or name" input name="search" type="search" value=(wanted.search) maxlength="64"; }
            button type="submit" { "Search" }
        }
        div id="stock" data-fresh {
            @match &products {
                Ok(products) => { (table(products, wanted.search.trim())) }
                Err(problem) => { p.alarm role="alert" { "Stock can't be read now: " (problem.detail()) } }
            }
        }
        p.hint { "A new product: " code { "sagactl stock put blue-mug --name 'Blue mug'" } }
    };
    Ok(page("Stock", Place::Stock, None, Some(&dashboard.gate), &body).into())
}

fn table(products: &Products, search: &str) -> Markup {
    html! {
        @if products.products.is_empty() {
            p.empty { @if products.next.is_some() { "None so far." } @else { "No matching products." } }
        } @else {
            div.scroll { table {
                thead { tr {
                    th { "SKU" } th { "Name" } th.right { "Available" } th.right { "Reserved" } th.right { "Committed" } th { "" }
                } }
                tbody { @for product in &products.products { tr {
                    td { a href=(address(&product.sku)) { (product.sku) } }
                    td { (product.name) }
                    td.right { (product.available) }
                    td.right { (product.reserved) }
                    td.right { (product.committed) }
                    td { (how_low(product)) }
                } } }
            } }
        }
        @if let Some(next) = &products.next {
            p { a href={ "/dashboard/stock?search=" (percent_encoded(search)) "&after=" (percent_encoded(next)) } { "More" } }
        }
    }
}

fn how_low(product: &Product) -> Markup {
    html! {
        @if product.available == 0 { (badge("FAILED", "sold out")) }
        @else if product.available <= LOW { (badge("EXPIRED", "low")) }
    }
}

fn address(sku: &str) -> String {
    format!("/dashboard/stock/{}", percent_encoded(sku))
}

pub async fn product(State(dashboard): State<Dashboard>, sku: Result<PathText, Problem>) -> Result<Page, Page> {
    let PathText(sku) = sku.map_err(Page::from)?;
    let product = dashboard.stock.product(&sku).await.map_err(Page::from)?;
    let body = html! {
        div id="product" data-fresh {
            h1 { (product.name) " " (how_low(&product)) }
            p { code { (product.sku) } }
            section.figures aria-label="Pieces" {
                div.figure { span.number id="available" { (product.available) } span.what { "available" } }
                div.figure { span.number id="reserved" { (product.reserved) } span.what { "reserved" } }
                div.figure { span.number id="committed" { (product.committed) } span.what { "committed" } }
            }
            div.buttons {
                button type="button" data-open="act-receive" { "Receive" }
                button type="button" data-open="act-adjust" { "Adjust" }
            }
            h2 { "Latest movements" }
            (movements(&product.movements))
            (by_hand("receive", "Receive", &product.sku, ByHand::Receipt, "Record pieces that were received."))
            (by_hand("adjust", "Adjust", &product.sku, ByHand::Adjustment,
                "A count found more pieces, or (below zero) fewer. Never below what is reserved."))
        }
        p { a href="/dashboard/stock" { "All products" } }
    };
    Ok(page(&product.sku, Place::Stock, None, Some(&dashboard.gate), &body).into())
}

fn by_hand(act: &str, title: &str, sku: &str, by_hand: ByHand, what: &str) -> Markup {
    let path = format!("{}/{}", address(sku), by_hand.path());
    // The script puts a new key in each time the dialog is opened: sent again from the same dialog, it counts once.
    dialog(act, title, &path, what, &[("quantity", "Pieces", ""), ("key", "Idempotency key", "dashboard")])
}

fn movements(movements: &[Movement]) -> Markup {
    html! {
        @if movements.is_empty() {
            p.empty { "No piece of it has come yet." }
        } @else {
            div.scroll { table {
                thead { tr { th { "At (UTC)" } th { "What" } th.right { "Pieces" } th { "Order" } th { "By" } th.why { "Why" } } }
                tbody { @for movement in movements { tr {
                    td { (date_time(movement.at)) }
                    td { (movement.kind) }
                    td.right { (movement.quantity) }
                    td { @if let Some(order_id) = movement.order_id {
                        a href={ "/dashboard/find?id=" (order_id) } { (short_id(order_id)) }
                    } }
                    td { (movement.by.as_deref().unwrap_or_default()) }
                    td.why { (movement.reason.as_deref().unwrap_or_default()) }
                } } }
            } }
        }
    }
}

pub async fn receive(
    dashboard: State<Dashboard>,
    sku: PathText,
    request: JsonBody<MoveRequest>,
) -> Result<Json<Value>, Problem> {
    move_by_hand(dashboard, sku, request, ByHand::Receipt).await
}

pub async fn adjust(
    dashboard: State<Dashboard>,
    sku: PathText,
    request: JsonBody<MoveRequest>,
) -> Result<Json<Value>, Problem> {
    move_by_hand(dashboard, sku, request, ByHand::Adjustment).await
}

/// Passes a movement on to the inventory service, and its answer back.
async fn move_by_hand(
    State(dashboard): State<Dashboard>,
    PathText(sku): PathText,
    JsonBody(request): JsonBody<MoveRequest>,
    by_hand: ByHand,
) -> Result<Json<Value>, Problem> {
    let sku = Sku::try_from(sku).map_err(|error| Problem::new(StatusCode::NOT_FOUND, error.to_string()))?;
    let MoveRequest { quantity, by, reason, key } = request;
    let pieces = quantity.trim().parse();
    let pieces = pieces
        .map_err(|_| Problem::invalid_field("quantity", format_args!("must be a whole number, not {quantity:?}")))?;
    dashboard.stock.move_by_hand((by_hand, sku.as_str(), &key), (pieces, &by, &reason)).await.map(Json)
}
