//! `show`: one saga for people: what happened in words, its steps drawn to scale, what happens next, and what each
//! service has stored about its order.

use std::io::Write;

use chrono::Utc;
use messages::Timestamp;
use serde_json::{Value, json};
use service_runtime::Fatal;
use uuid::Uuid;

use crate::api::{Api, Saga};
use crate::paint::{Paint, harmless};
use crate::sagas::print;
use crate::timeline::timeline;

/// Prints all about the saga that has this id, or whose order has it.
///
/// # Errors
/// When there is none, or the orchestrator can't be asked.
pub async fn show(api: &Api, id: Uuid, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let page: Value = api.get(&format!("/sagas?orderId={id}&limit=1")).await?.ok()?;
    let saga_id = page["sagas"][0]["sagaId"].as_str().and_then(|saga| saga.parse().ok()).unwrap_or(id);
    let body: Value = api.get(&format!("/sagas/{saga_id}")).await?.ok()?;
    let rows: Value = api.get(&format!("/sagas/{saga_id}/rows")).await?.ok()?;
    if as_json {
        return print(out, &json!({"saga": body, "rows": rows}).to_string());
    }
    let summary: Vec<String> =
        body["summary"].as_array().into_iter().flatten().filter_map(Value::as_str).map(harmless).collect();
    let saga: Saga = serde_json::from_value(body)
        .map_err(|error| Fatal::new(format!("an answer that is not understood: {error}")))?;
    print(out, &text(&saga, &summary, paint))?;
    for service in ["order", "payment", "reservation"] {
        // What a user's flow does not ask of the platform has no row.
        let is_of_it = saga.is_checkout() || !rows[service]["row"].is_null() || !rows[service]["error"].is_null();
        if is_of_it {
            print(out, &stored(service, &rows[service], paint))?;
        }
    }
    Ok(())
}

/// All but the services' rows.
fn text(saga: &Saga, summary: &[String], paint: Paint) -> String {
    let mut lines = vec![
        format!(
            "{}{}  user {}",
            paint.state(&saga.status, &paint.bold(&format!("{}/{}", saga.status, saga.step))),
            saga.total_amount
                .iter()
                .zip(&saga.currency)
                .map(|(amount, currency)| format!("  {amount} {currency}"))
                .collect::<String>(),
            harmless(&saga.user_id)
        ),
        paint.dim(&format!(
            "saga {}  {} {}  began {}",
            saga.saga_id,
            if saga.is_checkout() { "order" } else { &saga.definition },
            saga.order_id,
            saga.created_at.format("%Y-%m-%d %H:%M:%S%.3f UTC")
        )),
        paint.dim(&format!("trace {}", saga.trace_id.as_deref().map_or_else(|| "-".to_owned(), harmless))),
        String::new(),
    ];
    lines.extend(summary.iter().map(|sentence| format!("  {sentence}")));
    if let Some(attention) = &saga.needs_attention {
        let since = attention.since.format("%Y-%m-%d %H:%M:%S UTC");
        lines.push(
            paint.state(
                "FAILED",
                &format!("  A person should look at it since {since}: {}", harmless(&attention.reason)),
            ),
        );
    }
    if saga.resolved_by_hand {
        lines.push(paint.state("FAILED", "  A compensation was settled by hand: money or goods may still be held."));
    }
    lines.push(String::new());
    lines.extend(timeline(&saga.history, paint));
    if let Some(pending) = &saga.pending {
        let id = pending.command_id.map(|id| format!(" {id}")).unwrap_or_default();
        let deadline = pending.deadline_at.map_or_else(|| "never".to_owned(), |at| time(at, Utc::now()));
        // A signal is not asked for.
        let is_signal = saga.status == "WAITING" && pending.command_id.is_none();
        lines.push(format!(
            "\npending: {}{id}, {} {} times, again at {}, times out {deadline}",
            pending.effect,
            if is_signal { "looked for" } else { "repeated" },
            pending.attempts,
            pending.next_attempt_at.format("%H:%M:%S UTC"),
        ));
    }
    for ignored in &saga.ignored {
        lines.push(paint.dim(&format!("ignored: {} in {}, {} times", ignored.input, ignored.state, ignored.count)));
    }
    lines.join("\n")
}

/// A time of day, with its date where it is a day away or more: a saga may wait for weeks.
fn time(at: Timestamp, now: Timestamp) -> String {
    let format = if (at - now).num_days() > 0 { "%Y-%m-%d %H:%M:%S UTC" } else { "%H:%M:%S UTC" };
    at.format(format).to_string()
}

/// What a service has stored, as it tells it.
fn stored(title: &str, told: &Value, paint: Paint) -> String {
    if let Some(error) = told["error"].as_str() {
        return format!("\n{}: can't be asked ({})", paint.bold(title), harmless(error));
    }
    let Some(row) = told["row"].as_object() else { return format!("\n{}: no row", paint.bold(title)) };
    let status = row.get("status").and_then(Value::as_str).unwrap_or_default();
    let mut lines = vec![format!("\n{}: {}", paint.bold(title), paint.state(status, status))];
    let plain = |value: &Value| harmless(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let fields = row.iter().filter(|(key, value)| !value.is_null() && !value.is_array() && key.as_str() != "status");
    lines.extend(fields.map(|(key, value)| format!("  {key:<12} {}", plain(value))));
    for entry in row.get("ledger").and_then(Value::as_array).into_iter().flatten() {
        let at: String = plain(&entry["createdAt"]).replace('T', " ").chars().take(23).collect();
        lines.push(format!(
            "  ledger       {at}  {} {} {}",
            plain(&entry["kind"]),
            plain(&entry["amount"]),
            plain(&entry["currency"])
        ));
    }
    let entries = |field: &str| row.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    lines.extend(
        entries("items").iter().map(|line| format!("  item         {} x {}", plain(&line["qty"]), plain(&line["sku"]))),
    );
    lines.extend(entries("short").iter().map(|short| {
        let [sku, wanted, available] = ["sku", "wanted", "available"].map(|field| plain(&short[field]));
        format!("  short        {sku}: {wanted} wanted, {available} available")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use crate::paint::Color;

    use super::*;

    #[test]
    fn a_limit_that_is_days_away_has_its_date() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let limit = at("2027-05-14T09:30:00Z");
        assert_eq!(time(limit, at("2027-05-14T09:00:00Z")), "09:30:00 UTC");
        assert_eq!(time(limit, at("2027-05-01T09:00:00Z")), "2027-05-14 09:30:00 UTC");
    }

    #[test]
    fn a_service_that_is_away_or_has_no_row_is_told_as_such() {
        let paint = Paint::new(Color::Never);
        assert_eq!(
            stored("payment", &json!({"error": "refused", "row": null}), paint),
            "\npayment: can't be asked (refused)"
        );
        assert_eq!(stored("payment", &json!({"row": null}), paint), "\npayment: no row");
        let ledger =
            json!([{"kind": "CHARGE", "amount": 5, "currency": "USD", "createdAt": "2026-01-01T00:00:00.123456Z"}]);
        let told = stored("payment", &json!({"row": {"status": "CHARGED", "amount": 5, "ledger": ledger}}), paint);
        assert_eq!(told, "\npayment: CHARGED\n  amount       5\n  ledger       2026-01-01 00:00:00.123  CHARGE 5 USD");
    }
}
