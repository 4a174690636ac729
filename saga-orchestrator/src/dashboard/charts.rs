//! Checkouts and their duration over time, as drawings that need no script.

use maud::{Markup, html};

use super::format::duration;
use crate::views::stats::{PartBody, RecentBody};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// The next round number (1, 2, 5, 10, ...) above.
fn top(most: f64) -> f64 {
    let power = 10f64.powf(most.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= most).unwrap_or(most)
}

/// Checkouts a second that completed, failed, or have not ended, by when they began.
pub fn throughput(recent: &RecentBody) -> Markup {
    let rate = |count: u64, part: &PartBody| count as f64 / part.seconds.max(0.001);
    let all = |part: &PartBody| rate(part.completed + part.failed + part.unfinished, part);
    let top = top(recent.parts.iter().map(all).fold(0.0, f64::max).max(0.01));
    let width = WIDTH / recent.parts.len().max(1) as f64;
    let bar = |part: &PartBody, at: f64| {
        let mut y = HEIGHT;
        let mut bars = Vec::new();
        for (count, tone) in [(part.completed, "good"), (part.failed, "bad"), (part.unfinished, "busy")] {
            let height = rate(count, part) / top * HEIGHT;
            y -= height;
            bars.push((at * width + 1.0, y, height, tone));
        }
        bars
    };
    let per_second = |value: f64| if value < 10.0 { format!("{value:.1}/s") } else { format!("{value:.0}/s") };
    let label = format!("Checkouts a second: {} on average", per_second(recent.per_second));
    html! {
        figure.chart {
            figcaption { "Checkouts a second" span.now { (per_second(recent.per_second)) " on average" } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + 18.0) } role="img" aria-label=(label) {
                (grid(&per_second(top)))
                @for (part, at) in recent.parts.iter().zip(0..) {
                    g {
                        title { (part.from.0.format("%H:%M:%S")) ": " (part.completed) " completed, " (part.failed) " failed, "
                            (part.unfinished) " unfinished" }
                        @for (x, y, height, tone) in bar(part, f64::from(at)) {
                            rect class=(tone) x=(format!("{x:.1}")) y=(format!("{y:.1}")) width=(format!("{:.1}", width - 2.0))
                                height=(format!("{height:.1}")) {}
                        }
                    }
                }
                (axis(recent))
            }
        }
    }
}

/// The median and the slowest hundredth, by when they began.
pub fn latency(recent: &RecentBody) -> Markup {
    let most = recent.parts.iter().filter_map(|part| part.duration).map(|duration| duration.p99_ms).fold(0.0, f64::max);
    let top = top(most.max(1.0));
    let width = WIDTH / recent.parts.len().max(1) as f64;
    let points = |of: fn(&PartBody) -> Option<f64>| -> String {
        let known = recent.parts.iter().zip(0..).filter_map(|(part, at)| Some((f64::from(at), of(part)?)));
        let points = known.map(|(at, ms)| format!("{:.1},{:.1}", (at + 0.5) * width, HEIGHT - ms / top * HEIGHT));
        points.collect::<Vec<_>>().join(" ")
    };
    let dots = |of: fn(&PartBody) -> Option<f64>| -> Vec<(f64, f64, String)> {
        let known = recent.parts.iter().zip(0..).filter_map(|(part, at)| Some((part, f64::from(at), of(part)?)));
        known
            .map(|(part, at, ms)| {
                let text = format!("{}: {}", part.from.0.format("%H:%M:%S"), duration(ms));
                ((at + 0.5) * width, HEIGHT - ms / top * HEIGHT, text)
            })
            .collect()
    };
    let p50 = |part: &PartBody| part.duration.map(|duration| duration.p50_ms);
    let p99 = |part: &PartBody| part.duration.map(|duration| duration.p99_ms);
    let now = recent.duration.map(|all| format!("p50 {}, p99 {}", duration(all.p50_ms), duration(all.p99_ms)));
    let now = now.unwrap_or_else(|| "none has ended".to_owned());
    html! {
        figure.chart {
            figcaption { "From request to outcome" span.now { (now) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + 18.0) } role="img" aria-label={ "Duration: " (now) } {
                (grid(&duration(top)))
                @for (class, of) in [("p99", p99 as fn(&PartBody) -> Option<f64>), ("p50", p50)] {
                    polyline class={ "line " (class) } points=(points(of)) {}
                    @for (x, y, text) in dots(of) {
                        circle class=(class) cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="2.5" { title { (class) " at " (text) } }
                    }
                }
                (axis(recent))
            }
        }
    }
}

fn grid(top: &str) -> Markup {
    html! {
        line.grid x1="0" x2=(WIDTH) y1="0.5" y2="0.5" {}
        line.grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
        line.grid x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
        text.tick x="2" y="11" { (top) }
    }
}

fn axis(recent: &RecentBody) -> Markup {
    html! {
        text.tick x="0" y=(HEIGHT + 14.0) { (recent.since.0.format("%H:%M:%S")) }
        text.tick x=(WIDTH) y=(HEIGHT + 14.0) text-anchor="end" { "now (UTC)" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number_above() {
        for (most, expected) in [(0.03, 0.05), (1.0, 1.0), (1.1, 2.0), (37.0, 50.0), (501.0, 1000.0)] {
            assert!((top(most) - expected).abs() < expected * 1e-9, "{most}: {}", top(most));
        }
    }
}
