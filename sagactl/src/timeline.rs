//! A saga's moves as bars, drawn to scale. Pure: text from what the API told.

use crate::api::Entry;
use crate::paint::{Paint, duration, harmless};

/// The width of all bars together, in characters.
const BARS: usize = 48;

/// The moves, each with a bar for how long the saga stood there, drawn to scale.
pub fn timeline(history: &[Entry], paint: Paint) -> Vec<String> {
    let whole: f64 = history.iter().filter_map(|entry| entry.duration_ms).sum();
    let mut before = 0.0;
    let mut lines = Vec::new();
    for entry in history {
        let by = entry.by.as_deref().map(|by| format!(" by {}", harmless(by))).unwrap_or_default();
        let why = entry.reason.as_deref().map(|why| format!(": {}", harmless(why))).unwrap_or_default();
        let evidence =
            entry.evidence.as_deref().map(|text| format!(" (evidence: {})", harmless(text))).unwrap_or_default();
        let event = entry.event_id.map(|id| paint.dim(&format!("  {id}"))).unwrap_or_default();
        lines.push(format!(
            "{:>3}  {}  {}{by}{why}{evidence}{event}",
            entry.seq,
            entry.at.format("%H:%M:%S%.3f"),
            entry.input
        ));
        let Some(ms) = entry.duration_ms else {
            lines.push(format!("     {}", paint.state(&entry.status, &format!("{}/{}", entry.status, entry.step))));
            continue;
        };
        let (from, width) = bar(before, ms, whole);
        before += ms;
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(width));
        let effect = entry.effect.as_deref().map(|effect| format!("  {effect}")).unwrap_or_default();
        let id = entry.command_id.map(|id| paint.dim(&format!(" {id}"))).unwrap_or_default();
        lines.push(format!(
            "     {:<18} {} {:>9}{effect}{id}",
            entry.step,
            paint.state(&entry.status, &format!("{bar:<BARS$}")),
            duration(ms)
        ));
    }
    lines
}

/// Where a bar begins, and its width: at least one, and never past the end.
fn bar(before: f64, ms: f64, whole: f64) -> (usize, usize) {
    let scale = if whole > 0.0 { BARS as f64 / whole } else { 0.0 };
    let from = ((before * scale).floor() as usize).min(BARS - 1);
    let width = ((ms * scale).round() as usize).clamp(1, BARS - from);
    (from, width)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::paint::Color;

    use super::*;

    fn entry(seq: i64, ms: Option<f64>, input: &str, state: (&str, &str), more: serde_json::Value) -> Entry {
        let at = format!("2026-01-01T12:00:00.{:03}Z", seq * 10);
        let mut whole =
            json!({"seq": seq, "at": at, "durationMs": ms, "input": input, "status": state.0, "step": state.1});
        if let (Some(whole), serde_json::Value::Object(more)) = (whole.as_object_mut(), more) {
            whole.extend(more);
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_sold_out_checkout_is_drawn_to_scale_with_its_commands_and_events() {
        let (command, event) = ("01a1fcfc-71e1-5774-8bfb-889f9eb14880", "01a1fcfc-71e1-7774-8bfb-889f9eb14881");
        let sends = |topic: &str| json!({"effect": topic, "commandId": command, "eventId": event});
        let history = [
            entry(1, Some(5.0), "started", ("RUNNING", "ORDER_CREATE"), json!({"effect": "POST /orders"})),
            entry(2, Some(20.0), "order.created", ("RUNNING", "PAYMENT_CHARGE"), sends("payment.charge.command")),
            entry(
                3,
                Some(15.0),
                "payment.charged",
                ("RUNNING", "INVENTORY_RESERVE"),
                sends("inventory.reserve.command"),
            ),
            entry(
                4,
                Some(1250.0),
                "inventory.failed",
                ("COMPENSATING", "PAYMENT_REFUND"),
                json!({"effect": "payment.refund.command", "commandId": command, "reason": "out of \u{1b}stock"}),
            ),
            entry(5, Some(0.0), "payment.refunded", ("COMPENSATING", "ORDER_CANCEL"), json!({"by": "ann"})),
            entry(6, None, "order.cancelled", ("FAILED", "INVENTORY_FAILED"), json!({})),
        ];
        insta::assert_snapshot!(timeline(&history, Paint::new(Color::Never)).join("\n"));
    }

    #[test]
    fn bars_follow_one_another_to_scale_and_the_shortest_can_be_seen() {
        assert_eq!(bar(0.0, 50.0, 100.0), (0, 24));
        assert_eq!(bar(50.0, 50.0, 100.0), (24, 24));
        assert_eq!(bar(99.9, 0.1, 100.0), (47, 1));
        assert_eq!(bar(0.0, 0.0, 0.0), (0, 1));
    }
}
