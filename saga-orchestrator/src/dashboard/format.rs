//! Numbers, times and states as people read them.

use maud::{Markup, html};
use messages::TimestampText;

/// `12 ms`, `1.25 s`, `3 min 5 s`, `2 h 10 min`, `4 d 2 h`.
pub fn duration(ms: f64) -> String {
    let seconds = (ms / 1000.0).round() as u64;
    match ms {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ if ms < 10_000.0 => format!("{:.2} s", ms / 1000.0),
        _ if seconds < 60 => format!("{:.1} s", ms / 1000.0),
        _ if seconds < 3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A time of day to the millisecond, with the whole of it for those who point at it.
pub fn time(at: TimestampText) -> Markup {
    html! { time datetime=(at) title=(at) { (at.0.format("%H:%M:%S%.3f")) } }
}

/// A date and a time of day.
pub fn date_time(at: TimestampText) -> Markup {
    html! { time datetime=(at) title=(at) { (at.0.format("%Y-%m-%d %H:%M:%S")) } }
}

/// The class that gives a status its colour.
pub fn tone(status: &str) -> &'static str {
    match status {
        "COMPLETED" | "CONFIRMED" | "CHARGED" | "RESERVED" | "COMMITTED" => "good",
        "FAILED" | "CANCELLED" => "bad",
        "COMPENSATING" | "REFUNDING" | "REFUNDED" | "RELEASED" | "VOIDED" | "EXPIRED" => "back",
        _ => "busy",
    }
}

/// A status as a coloured word.
pub fn badge(status: &str, text: &str) -> Markup {
    html! { span class={ "badge " (tone(status)) } { (text) } }
}

/// An id, short enough for a table; the whole of it can be copied.
pub fn short_id(id: impl ToString) -> Markup {
    let id = id.to_string();
    let tail = id.get(id.len().saturating_sub(12)..).unwrap_or(&id);
    html! { span.id title=(id) { "…" (tail) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_units_that_fit() {
        for (ms, text) in [
            (0.42, "0.4 ms"),
            (12.4, "12 ms"),
            (1250.0, "1.25 s"),
            (59_400.0, "59.4 s"),
            (185_000.0, "3 min 5 s"),
            (7_800_000.0, "2 h 10 min"),
            (352_800_000.0, "4 d 2 h"),
        ] {
            assert_eq!(duration(ms), text, "{ms}");
        }
    }

    #[test]
    fn what_a_customer_writes_stays_text() {
        let markup = badge("FAILED", "<script>alert(1)</script>").into_string();
        assert_eq!(markup, r#"<span class="badge bad">&lt;script&gt;alert(1)&lt;/script&gt;</span>"#);
        assert!(!short_id(r#""><img src=x onerror=y>"#).into_string().contains("<img"));
    }
}
