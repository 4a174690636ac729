//! `stock`: what the shop sells and how many pieces of it there are, by the inventory service; and movements by hand.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use service_runtime::{Fatal, percent_encoded};
use uuid::Uuid;

use crate::acts::Act;
use crate::api::Api;
use crate::paint::{Paint, harmless, table};
use crate::sagas::print;

/// Where the inventory service is.
#[derive(Debug, Clone, Args)]
pub struct InventoryAddress {
    /// The inventory service's HTTP address
    #[arg(
        long,
        env = "INVENTORY_SERVICE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "http://localhost:4003",
        global = true
    )]
    pub inventory_url: String,
}

/// What the shop sells, and how many pieces of it there are
#[derive(Debug, Args)]
pub struct StockArguments {
    #[command(flatten)]
    pub inventory: InventoryAddress,
    /// Print the answer's JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: StockCommand,
}

#[derive(Debug, Subcommand)]
pub enum StockCommand {
    /// All products, or those whose SKU or name has a text
    List {
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// One product with its latest movements
    Show { sku: String },
    /// Create a product, or rename it
    Put {
        sku: String,
        #[arg(long)]
        name: String,
    },
    /// Record pieces that arrived
    ///
    /// Exit codes: 0 they count; 1 refused; 2 it could not be done.
    Receive(Moved),
    /// Correct the count, up or (below zero) down
    ///
    /// Exit codes: 0 it counts; 1 refused, such as for more pieces than are available; 2 it could not be done.
    Adjust(Moved),
}

/// A movement by hand.
#[derive(Debug, Args)]
pub struct Moved {
    pub sku: String,
    /// Pieces
    #[arg(allow_negative_numbers = true)]
    pub quantity: i64,
    /// An Idempotency-Key of 8 to 255 characters, such as delivery-4711: sent again under it, it counts once. A new one
    /// unless given
    #[arg(long)]
    pub key: Option<String>,
    #[command(flatten)]
    pub act: Act,
}

/// How many products a page has.
const PAGE: usize = 500;

/// Does it. Whether it was not refused.
///
/// # Errors
/// When the service can't be reached or fails.
pub async fn run(arguments: &StockArguments, paint: Paint, out: &mut dyn Write) -> Result<bool, Fatal> {
    let api = Api::of("the inventory service", "--inventory-url", &arguments.inventory.inventory_url)?;
    let as_json = arguments.json;
    match &arguments.command {
        StockCommand::List { search } => list(&api, search.as_deref(), as_json, paint, out).await.map(|()| true),
        StockCommand::Show { sku } => {
            let product: Value = api.get(&address(sku, "")).await?.ok()?;
            print(out, &if as_json { product.to_string() } else { shown(&product, paint) })?;
            Ok(true)
        }
        StockCommand::Put { sku, name } => {
            let told = api.put(&address(sku, ""), &json!({"name": name})).await?;
            match told.status.as_u16() {
                200 | 201 if as_json => print(out, &told.body.to_string())?,
                200 | 201 => print(out, &pieces(&told.body))?,
                422 => return refused(&told.refusal()),
                _ => return Err(told.refusal()),
            }
            Ok(true)
        }
        StockCommand::Receive(moved) => by_hand(&api, "receipts", moved, as_json, out).await,
        StockCommand::Adjust(moved) => by_hand(&api, "adjustments", moved, as_json, out).await,
    }
}

fn address(sku: &str, below: &str) -> String {
    format!("/products/{}{below}", percent_encoded(sku))
}

fn refused(why: &Fatal) -> Result<bool, Fatal> {
    eprintln!("sagactl: {why}");
    Ok(false)
}

async fn list(api: &Api, search: Option<&str>, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let search = search.map(|text| format!("&search={}", percent_encoded(text))).unwrap_or_default();
    let mut after = String::new();
    let mut rows = Vec::new();
    loop {
        let page: Value = api.get(&format!("/products?limit={PAGE}{search}{after}")).await?.ok()?;
        for product in page["products"].as_array().into_iter().flatten() {
            if as_json {
                print(out, &product.to_string())?;
            } else {
                rows.push(
                    ["sku", "available", "reserved", "committed", "name"].map(|field| cell(&product[field])).to_vec(),
                );
            }
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", percent_encoded(next)),
            None => break,
        }
    }
    if !as_json {
        print(
            out,
            &table(&["SKU", "AVAILABLE", "RESERVED", "COMMITTED", "NAME"], &rows, |row, column, text| {
                let is_sold_out = column == 1 && rows[row][1] == "0";
                if is_sold_out { paint.state("FAILED", &text) } else { text }
            }),
        )?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `blue-mug  Blue mug: 96 available, 3 reserved, 1 committed`
fn pieces(product: &Value) -> String {
    let [sku, name, available, reserved, committed] =
        ["sku", "name", "available", "reserved", "committed"].map(|field| cell(&product[field]));
    format!("{sku}  {name}: {available} available, {reserved} reserved, {committed} committed")
}

fn shown(product: &Value, paint: Paint) -> String {
    let movements = product["movements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = movements
        .iter()
        .map(|movement| {
            let why = match movement["orderId"].as_str() {
                Some(order) => format!("order {order}"),
                None => format!("{}: {}", cell(&movement["by"]), cell(&movement["reason"])),
            };
            vec![cell(&movement["at"]), cell(&movement["kind"]), cell(&movement["quantity"]), why]
        })
        .collect();
    let movements = table(&["AT", "KIND", "PIECES", "FOR"], &rows, |_, _, text| text);
    format!("{}\n\n{movements}", paint.bold(&pieces(product)))
}

async fn by_hand(api: &Api, kind: &str, moved: &Moved, as_json: bool, out: &mut dyn Write) -> Result<bool, Fatal> {
    let Moved { sku, quantity, key, act } = moved;
    let key = key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let body = json!({"quantity": quantity, "by": act.by, "reason": act.reason});
    let told = api.post(&address(sku, &format!("/{kind}")), &body, &[("Idempotency-Key", &key)]).await;
    // Whether it counts is not known: under its key it may be sent again.
    let told = told.map_err(|error| Fatal::new(format!("{error}. Send it again with --key {key}")))?;
    match told.status.as_u16() {
        200 | 201 if as_json => print(out, &told.body.to_string())?,
        status @ (200 | 201) => {
            let before = if status == 200 { "sent before: " } else { "" };
            print(out, &format!("{before}{}\nkey {}", pieces(&told.body["product"]), harmless(&key)))?;
        }
        // Whether it counts is not known, or it may be sent again.
        408 | 429 | 500.. => return Err(Fatal::new(format!("{}. Send it again with --key {key}", told.refusal()))),
        _ => return refused(&told.refusal()),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::paint::Color;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        stock: StockArguments,
    }

    #[test]
    fn fewer_pieces_are_a_number_and_no_option() {
        let line = ["stock", "adjust", "blue-mug", "-2", "--by", "ann", "--reason", "two were broken"];
        let StockCommand::Adjust(moved) = Line::try_parse_from(line).unwrap().stock.command else { panic!("{line:?}") };
        assert_eq!((moved.sku.as_str(), moved.quantity, moved.key), ("blue-mug", -2, None));
    }

    #[test]
    fn a_product_is_shown_with_who_moved_its_pieces() {
        let product = json!({"sku": "mug", "name": "Blue \u{1b}mug", "available": 7, "reserved": 0, "committed": 3, "movements": [
            {"kind": "COMMIT", "quantity": 3, "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "at": "2026-11-21T07:23:45.000000Z"},
            {"kind": "RECEIVE", "quantity": 10, "by": "ann", "reason": "delivery 4711", "at": "2026-11-21T07:22:45.000000Z"},
        ]});
        let text = shown(&product, Paint::new(Color::Never));
        for part in [
            "mug  Blue \u{fffd}mug: 7 available, 0 reserved, 3 committed",
            "COMMIT   3       order 01a1fcfc-71e1-7774-8bfb-88a030f9fbb9",
            "RECEIVE  10      ann: delivery 4711",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
