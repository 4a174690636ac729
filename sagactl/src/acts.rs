//! What changes something: a checkout, the operator's hand on a saga, the intake.

use std::io::Write;

use clap::Args;
use messages::Item;
use serde_json::{Value, json};
use service_runtime::Fatal;
use uuid::Uuid;

use crate::api::{Api, Told};
use crate::paint::{Paint, harmless};
use crate::sagas::print;

/// A checkout to be sent.
#[derive(Debug, Args)]
pub struct CheckoutRequest {
    #[arg(long)]
    pub user: String,
    /// As a decimal number: 500 or 19.90
    #[arg(long)]
    pub amount: String,
    #[arg(long, default_value = "USD")]
    pub currency: String,
    /// Pieces of a product that is counted, as SKU or SKU=PIECES; may be given several times
    #[arg(long = "item", value_name = "SKU[=PIECES]", value_parser = item)]
    pub items: Vec<Item>,
    /// Have the payment declined
    #[arg(long)]
    pub force_payment_fail: bool,
    /// Have the goods out of stock: what was done is undone
    #[arg(long)]
    pub force_inventory_fail: bool,
    /// An Idempotency-Key: the same checkout however often it is sent
    #[arg(long)]
    pub key: Option<String>,
    /// Do not wait for the outcome
    #[arg(long)]
    pub no_wait: bool,
}

fn item(text: &str) -> Result<Item, String> {
    let (sku, pieces) = text.split_once('=').unwrap_or((text, "1"));
    let sku = sku.to_owned().try_into().map_err(|error| format!("a SKU {error}"))?;
    let qty = pieces.parse().map_err(|_| format!("{pieces:?} is no number of pieces"))?;
    Ok(Item { sku, qty })
}

/// Who does it, and why.
#[derive(Debug, Args)]
pub struct Act {
    /// Why, for the history
    #[arg(long)]
    pub reason: String,
    /// Who, for the history
    #[arg(long, env = "USER")]
    pub by: String,
}

/// What a person does about a saga.
#[derive(Debug)]
pub enum StepIn {
    /// As an operator, or as its owner.
    Cancel {
        as_owner: bool,
    },
    Retry,
    Resolve {
        step: String,
        evidence: String,
    },
}

/// What is to become of the intake.
#[derive(Debug, Clone, Copy)]
pub enum Intake {
    Pause,
    Resume,
}

/// How a checkout went, as an exit code tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    Completed,
    Failed,
    Running,
}

/// Sends a checkout and prints its outcome.
///
/// # Errors
/// When the orchestrator can't be reached, or stored nothing.
pub async fn checkout(
    api: &Api,
    checkout: &CheckoutRequest,
    as_json: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<Went, Fatal> {
    let mut body = json!({
        "userId": checkout.user,
        "totalAmount": checkout.amount,
        "currency": checkout.currency,
        "forcePaymentFail": checkout.force_payment_fail,
        "forceInventoryFail": checkout.force_inventory_fail,
    });
    if !checkout.items.is_empty() {
        body["items"] = json!(checkout.items);
    }
    let mut headers = Vec::new();
    headers.extend(checkout.key.as_deref().map(|key| ("Idempotency-Key", key)));
    headers.extend(checkout.no_wait.then_some(("Prefer", "respond-async")));
    let told = api.post("/checkout", &body, &headers).await?;
    let went = match told.status.as_u16() {
        200 => Went::Completed,
        202 => Went::Running,
        402 | 409 => Went::Failed,
        _ => return Err(told.refusal()),
    };
    outcome(&told, as_json, paint, out)?;
    Ok(went)
}

/// Does something about a saga. Whether it was done: a refusal that the saga's state explains is printed.
///
/// # Errors
/// When the orchestrator can't be reached, or there is no such saga.
pub async fn step_in(
    api: &Api,
    saga: Uuid,
    what: &StepIn,
    act: &Act,
    as_json: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let mut body = json!({"by": act.by, "reason": act.reason});
    let name = match what {
        StepIn::Cancel { as_owner } => {
            if *as_owner {
                body["as"] = json!("owner");
            }
            "cancel"
        }
        StepIn::Retry => "retry",
        StepIn::Resolve { step, evidence } => {
            body["step"] = json!(step);
            body["evidence"] = json!(evidence);
            "resolve"
        }
    };
    done(&api.post(&format!("/sagas/{saga}/{name}"), &body, &[]).await?, as_json, paint, out)
}

/// Prints whether new checkouts are taken, after changing it if that is wanted.
///
/// # Errors
/// When the orchestrator can't be reached, or refuses.
pub async fn intake(
    api: &Api,
    change: Option<(Intake, &Act)>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Fatal> {
    let told = match change {
        None => api.get("/intake").await?,
        Some((to, act)) => {
            let name = match to {
                Intake::Pause => "pause",
                Intake::Resume => "resume",
            };
            api.post(&format!("/intake/{name}"), &json!({"by": act.by, "reason": act.reason}), &[]).await?
        }
    };
    let seen: Value = told.ok()?;
    if as_json {
        return print(out, &seen.to_string());
    }
    let who = match (seen["by"].as_str(), seen["reason"].as_str()) {
        (Some(by), Some(reason)) => format!(", by {}: {}", harmless(by), harmless(reason)),
        _ => String::new(),
    };
    let open = if seen["open"] == true { "open" } else { "paused" };
    print(
        out,
        &format!(
            "intake {open}{who}; {} of at most {} unfinished, {} need attention",
            seen["unfinished"], seen["maxUnfinished"], seen["needingAttention"]
        ),
    )
}

fn done(told: &Told, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<bool, Fatal> {
    match told.status.as_u16() {
        202 => outcome(told, as_json, paint, out).map(|()| true),
        409 => {
            eprintln!("sagactl: {}", told.refusal());
            Ok(false)
        }
        _ => Err(told.refusal()),
    }
}

fn outcome(told: &Told, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    if as_json {
        return print(out, &told.body.to_string());
    }
    let text = |field: &str| harmless(told.body[field].as_str().unwrap_or_default());
    let why = told.body["reason"].as_str().map(|why| format!(": {}", harmless(why))).unwrap_or_default();
    let state = paint.state(&text("status"), &format!("{}/{}", text("status"), text("step")));
    print(out, &format!("{state}{why}\nsaga {}  order {}", text("sagaId"), text("orderId")))
}
